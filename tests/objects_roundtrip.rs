//! Every object primitive that was ever recorded decodes and encodes back to the same JSON.
//!
//! The fixtures are made by `tests/fixtures/collect.py`. `HYPERNOVA_OBJECTS=DIRECTORY` takes the
//! primitives of another directory instead, such as all that were recorded.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use hypernova::model::object::{self, ObjectError, VersionedObject};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn there_and_back<T: VersionedObject>(primitive: &Value) -> Result<Value, ObjectError> {
    T::from_primitive(primitive).map(|object| object.to_primitive())
}

struct Class {
    name: &'static str,
    version: &'static str,
    there_and_back: fn(&Value) -> Result<Value, ObjectError>,
    field_names: fn() -> &'static [&'static str],
}

/// A table of classes by name: every class that this build knows.
macro_rules! classes {
    ($($class:ident)*) => {
        const CLASSES: &[Class] = &[$(Class {
            name: object::$class::NAME,
            version: object::$class::VERSION,
            there_and_back: there_and_back::<object::$class>,
            field_names: object::$class::field_names,
        }),*];

        fn manifest_of(class: &str) -> Option<Value> {
            match class {
                $(stringify!($class) => Some(json!(object::manifest::<object::$class>())),)*
                _ => None,
            }
        }
    };
}

classes! {
    Aggregate AggregateList BlockDeviceMapping BlockDeviceMappingList BuildRequest CellMapping
    ComputeNode ComputeNodeList ConsoleAuthToken CpuDiagnostics Destination DeviceBus
    DeviceMetadata Diagnostics DiskDiagnostics DiskMetadata EC2Ids Flavor FlavorList HVSpec
    IDEDeviceBus ImageMeta ImageMetaProps Instance InstanceAction InstanceActionEvent
    InstanceActionEventList InstanceActionList InstanceDeviceMetadata InstanceExternalEvent
    InstanceFault InstanceFaultList InstanceGroup InstanceGroupList InstanceInfoCache InstanceList
    InstanceNUMACell InstanceNUMATopology InstancePCIRequest InstancePCIRequests KeyPair
    KeyPairList LibvirtLiveMigrateBDMInfo LibvirtLiveMigrateData LibvirtLiveMigrateNUMAInfo
    LibvirtVPMEMDevice MemoryDiagnostics Migration MigrationContext MigrationList MonitorMetric
    MonitorMetricList NUMACell NUMAPagesTopology NUMATopology NUMATopologyLimits
    NetworkInterfaceMetadata NetworkMetadata NetworkRequest NetworkRequestList NicDiagnostics
    PCIDeviceBus PciDevice PciDeviceList PciDevicePool PciDevicePoolList RequestGroup
    RequestLevelParams RequestSpec Resource ResourceList ResourceMetadata SCSIDeviceBus
    SchedulerLimits SchedulerRetries SecurityGroup SecurityGroupList Selection Service ServiceList
    ShareMapping ShareMappingList ShareMetadata Tag TagList TaskLog TaskLogList TrustedCerts
    USBDeviceBus VIFMigrateData VirtCPUFeature VirtCPUModel VirtCPUTopology VirtualInterface
    VirtualInterfaceList VolumeUsage XenDeviceBus
}

/// Fields that are sets: their order on the wire means nothing.
const SETS: &[&str] = &[
    "cell_pins",
    "cpu_pins",
    "cpuset",
    "cpuset_reserved",
    "dst_cpu_shared_set_info",
    "emulator_pins",
    "forbidden_aggregates",
    "forbidden_traits",
    "pcpuset",
    "physnets",
    "pinned_cpus",
    "required_traits",
    "root_forbidden",
    "root_required",
    "sched_vcpus",
    "siblings",
    "nova_object.changes",
];

/// Sorts what has no order.
fn normal(value: &Value, in_a_set: bool) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), normal(value, SETS.contains(&key.as_str()))))
            .collect(),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| normal(item, in_a_set)).collect();
            if in_a_set && items.iter().all(|item| item.is_number() || item.is_string()) {
                items.sort_by_key(|item| (item.as_i64(), item.to_string()));
            }
            Value::Array(items)
        }
        other => other.clone(),
    }
}

/// (class, line number, primitive) of every primitive there is.
fn recorded() -> Vec<(String, usize, Value)> {
    let directory = std::env::var_os("HYPERNOVA_OBJECTS")
        .map_or_else(|| fixtures().join("objects"), PathBuf::from);
    let mut primitives = vec![];
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let class = path.file_stem().unwrap().to_str().unwrap();
        for (i, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            primitives.push((class.to_owned(), i + 1, serde_json::from_str(line).unwrap()));
        }
    }
    assert!(primitives.len() > 300, "only {} in {}", primitives.len(), directory.display());
    primitives
}

fn class(name: &str) -> &'static Class {
    CLASSES.iter().find(|class| class.name == name).unwrap_or_else(|| panic!("no class {name}"))
}

#[test]
fn every_recorded_primitive_comes_back_as_it_was() {
    let mut problems = vec![];
    for (name, line, primitive) in recorded() {
        match (class(&name).there_and_back)(&primitive) {
            Ok(back) if normal(&back, false) == normal(&primitive, false) => {}
            Ok(back) => problems.push(format!("{name}:{line}: {primitive}\nis now {back}")),
            Err(error) => problems.push(format!("{name}:{line}: {error}")),
        }
    }
    assert!(problems.is_empty(), "{}:\n{}", problems.len(), problems.join("\n"));
}

/// Nothing known stays unread: a recorded field that this build takes for unknown is a typo here.
#[test]
fn every_recorded_field_is_one_of_its_class() {
    for (name, line, primitive) in recorded() {
        let known = (class(&name).field_names)();
        for field in primitive["nova_object.data"].as_object().unwrap().keys() {
            assert!(known.contains(&field.as_str()), "{name}:{line}: {field}");
        }
    }
}

#[test]
fn an_object_without_anything_set_is_one_without_anything_set() {
    for class in CLASSES {
        let primitive = json!({
            "nova_object.name": class.name, "nova_object.namespace": "nova",
            "nova_object.version": class.version, "nova_object.data": {},
        });
        assert_eq!((class.there_and_back)(&primitive), Ok(primitive.clone()), "{}", class.name);
    }
}

#[test]
fn manifests_are_those_that_nova_compute_sends() {
    let text = fs::read_to_string(fixtures().join("manifests.json")).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    for (class, versions) in recorded.as_object().unwrap() {
        assert_eq!(manifest_of(class).as_ref(), Some(versions), "{class}");
    }
}
