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

/// A table of classes by name: every class that this build knows.
macro_rules! classes {
    ($($class:ident)*) => {
        const CLASSES: &[(&str, fn(&Value) -> Result<Value, ObjectError>)] =
            &[$((stringify!($class), there_and_back::<object::$class>)),*];

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

#[test]
fn every_recorded_primitive_comes_back_as_it_was() {
    let directory = std::env::var_os("HYPERNOVA_OBJECTS")
        .map_or_else(|| fixtures().join("objects"), PathBuf::from);
    let mut checked = 0;
    let mut problems = vec![];
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let class = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let Some((_, there_and_back)) = CLASSES.iter().find(|(name, _)| *name == class) else {
            problems.push(format!("{class}: no such class"));
            continue;
        };
        for (i, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let primitive: Value = serde_json::from_str(line).unwrap();
            match there_and_back(&primitive) {
                Ok(back) if normal(&back, false) == normal(&primitive, false) => {}
                Ok(back) => problems.push(format!("{class}:{}: {primitive}\nis now {back}", i + 1)),
                Err(error) => problems.push(format!("{class}:{}: {error}", i + 1)),
            }
            checked += 1;
        }
    }
    assert!(problems.is_empty(), "{} of {checked}:\n{}", problems.len(), problems.join("\n"));
    assert!(checked > 300, "only {checked} primitives in {}", directory.display());
}

/// Nothing known stays unread: a recorded field that this build takes for unknown is a typo here.
#[test]
fn every_recorded_field_of_a_known_version_is_known() {
    let objects = fixtures().join("objects");
    let text = fs::read_to_string(objects.join("Instance.jsonl")).unwrap();
    for line in text.lines() {
        let primitive: Value = serde_json::from_str(line).unwrap();
        let instance = object::Instance::from_primitive(&primitive).unwrap();
        assert!(instance.extra.unknown.is_empty(), "{:?}", instance.extra);
    }
    for (class, there_and_back) in CLASSES {
        let primitive = json!({
            "nova_object.name": class, "nova_object.namespace": "nova",
            "nova_object.version": if class.starts_with("Instance") && (*class == "Instance" || *class == "InstanceList") { "2.0" } else { "1.0" },
            "nova_object.data": {},
        });
        assert_eq!(there_and_back(&primitive), Ok(primitive.clone()), "{class}");
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
