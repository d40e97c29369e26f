use serde_json::Value;

use super::*;
use crate::hypervisor::host::{HostCell, HostCpu, HostPages, HostThread, MaxPhysAddr};
use crate::model::object::VersionedObject;

/// `ComputeNode.save` as nova-compute 33.0.2 sent it after its first audit.
const RECORDED: &str = include_str!("../../../tests/fixtures/node/compute_node_save.json");

const GIB: u64 = 1 << 30;

pub fn settings() -> NodeSettings {
    NodeSettings {
        uuid: "9b5da800-500f-4ba0-aaed-75c181776f9d".parse().unwrap(),
        host: "compute1".into(),
        node: "compute1".into(),
        my_ip: "10.66.0.11".into(),
        reserved_cpus: 0,
        reserved_memory_mib: 512,
        reserved_disk_mib: 0,
        cpu_ratio: Ratio { configured: None, initial: 4.0 },
        memory_ratio: Ratio { configured: None, initial: 1.0 },
        disk_ratio: Ratio { configured: None, initial: 1.0 },
    }
}

/// The host of the recording.
fn host() -> HostView {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let cpu_info = recorded["nova_object.data"]["cpu_info"].as_str().unwrap();
    let cpu_info: Value = serde_json::from_str(cpu_info).unwrap();
    let features: Vec<String> = serde_json::from_value(cpu_info["features"].clone()).unwrap();
    let pages = [(4, 2_447_923), (2048, 0), (1_048_576, 0)];
    let thread = |id| HostThread { id, socket: Some(0), siblings: [id].into() };
    let guest = |architecture: &str| GuestKind {
        os_type: "hvm".into(),
        architecture: architecture.into(),
        domain_types: vec!["qemu".into(), "kvm".into()],
        ..GuestKind::default()
    };
    HostView {
        state: HostState {
            node: "compute1".into(),
            memory_mib: 9562,
            present_cpus: 2,
            online_cpus: [0, 1].into(),
            hypervisor_type: "QEMU".into(),
            hypervisor_version: 10_000_002,
            library_version: 11_003_000,
        },
        capabilities: Arc::new(Capabilities {
            host_uuid: None,
            cpu: HostCpu {
                architecture: "x86_64".into(),
                model: Some("Skylake-Server-v1".into()),
                vendor: Some("Intel".into()),
                topology: Some([1, 2, 1]),
                max_phys_addr: Some(MaxPhysAddr { mode: "emulate".into(), bits: Some(48) }),
                features: features.into_iter().collect(),
            },
            cells: vec![HostCell {
                id: 0,
                memory_kib: 9_791_692,
                pages: pages.map(|(size_kib, total)| HostPages { size_kib, total }).to_vec(),
                cpus: vec![thread(0), thread(1)],
            }],
            guests: vec![guest("i686"), guest("x86_64")],
        }),
        shared: [0, 1].into(),
        dedicated: CpuSet::new(),
        pinnable: [0, 1].into(),
        disk: DiskSpace { total: 251 * GIB + 7, free: 74 * GIB, over_committed: GIB / 2 },
        cached_gib: 0,
        uptime: " 23:03:42 up  2:32,  0 user,  load average: 1.45, 1.18, 1.09\n".into(),
    }
}

/// Texts that hold JSON are opened, and lists that are sets to Python are put in order.
fn comparable(value: &Value) -> Value {
    match value {
        Value::String(text) if text.starts_with(['{', '[']) => {
            serde_json::from_str(text).map_or(value.clone(), |inner: Value| comparable(&inner))
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(comparable).collect();
            if items.iter().all(Value::is_string) {
                items.sort_by_key(Value::to_string);
            }
            Value::Array(items)
        }
        Value::Object(items) => {
            items.iter().map(|(key, item)| (key.clone(), comparable(item))).collect()
        }
        other => other.clone(),
    }
}

#[test]
fn a_new_record_is_what_nova_has_after_its_first_audit() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let mut node = ComputeNode::default();
    describe(&mut node, &settings(), Some(4), &host(), &Accounts::default());
    let ours = comparable(&node.to_primitive()["nova_object.data"]);
    let recorded = comparable(&recorded["nova_object.data"]);
    // What only the database adds.
    let added = ["id", "mapped", "created_at", "updated_at", "deleted_at", "deleted"];
    for (name, value) in recorded.as_object().unwrap() {
        if !added.contains(&name.as_str()) {
            assert_eq!(&ours[name], value, "{name}");
        }
    }
    assert_eq!(ours.as_object().unwrap().len() + added.len(), recorded.as_object().unwrap().len());
}

#[test]
fn nothing_is_marked_as_changed_that_stays_as_nova_wrote_it() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let mut node = ComputeNode::from_primitive(&recorded).unwrap();
    node.reset_changes();
    let mut host = host();
    describe(&mut node, &settings(), Some(4), &host, &Accounts::default());
    // nova's texts list the same things in another order, with other white space.
    let texts = ["cpu_info", "numa_topology"].map(str::to_owned);
    assert_eq!(node.what_changed(), texts.into());
    node.reset_changes();
    describe(&mut node, &settings(), Some(4), &host, &Accounts::default());
    assert!(node.what_changed().is_empty());
    host.uptime = "later".to_owned();
    describe(&mut node, &settings(), None, &host, &Accounts::default());
    assert_eq!(node.what_changed(), ["stats".to_owned()].into());
}

#[test]
fn what_is_set_aside_is_not_free() {
    let usage = |vcpus, memory_mib, disk_gib| Usage { vcpus, memory_mib, disk_gib, numa: None };
    let instance = Tracked {
        usage: usage(2, 1000, 30),
        volume_backed: false,
        vm_state: None,
        task_state: Some(crate::model::state::TaskState::Rebooting),
        os_type: None,
        project_id: None,
    };
    let accounts =
        Accounts { instances: vec![instance], moves: vec![usage(1, 24, 1)], failed_builds: 2 };
    let settings = NodeSettings { reserved_cpus: 1, reserved_disk_mib: 2047, ..settings() };
    let mut node = ComputeNode::default();
    describe(&mut node, &settings, None, &host(), &accounts);
    assert_eq!((node.vcpus.get(), node.vcpus_used.get()), (Some(&2), Some(&4)));
    assert_eq!((node.memory_mb_used.get(), node.free_ram_mb.value()), (Some(&1536), Some(&8026)));
    assert_eq!((node.local_gb_used.get(), node.free_disk_gb.value()), (Some(&32), Some(&219)));
    assert_eq!((node.running_vms.value(), node.current_workload.value()), (Some(&1), Some(&1)));
    assert!(!node.service_id.is_set());
    let offer = offer(&settings, &HostView { cached_gib: 3, ..host() });
    assert_eq!((offer.reserved_disk_gib, offer.reserved_vcpus), (2 + 3, 1));
}

#[test]
fn a_ratio_stays_as_the_record_has_it_unless_it_is_configured() {
    let mut node = ComputeNode::default();
    node.cpu_allocation_ratio.load(Number::from_f64(16.0));
    node.ram_allocation_ratio.load(Number::from_f64(1.5));
    let ratio = |configured| Ratio { configured, initial: 9.0 };
    let settings =
        NodeSettings { cpu_ratio: ratio(Some(0.0)), memory_ratio: ratio(Some(2.0)), ..settings() };
    describe(&mut node, &settings, None, &host(), &Accounts::default());
    let of = |field: &Field<Number>| field.get().and_then(Number::as_f64);
    assert_eq!(of(&node.cpu_allocation_ratio), Some(16.0));
    assert_eq!(of(&node.ram_allocation_ratio), Some(2.0));
    assert_eq!(of(&node.disk_allocation_ratio), Some(1.0));
}
