//! Diagnostics of a running guest: the object of today and the dict of old, of plain counters.
//!
//! nova: virt/libvirt/driver.py, `get_instance_diagnostics` and `get_diagnostics`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::model::object::{
    CpuDiagnostics, Diagnostics, DiskDiagnostics, Field, MemoryDiagnostics, NicDiagnostics,
};
use crate::model::state::PowerState;
use crate::model::time::Timestamp;

/// What the hypervisor and the records say of a running guest.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestCounters {
    pub power_state: PowerState,
    /// `[libvirt] virt_type`
    pub virt_type: String,
    pub config_drive: bool,
    pub launched_at: Option<Timestamp>,
    pub now: Timestamp,
    pub memory_max_kib: u64,
    pub memory_used_kib: u64,
    /// The balloon's figures under libvirt's names (`actual`, `rss`, …), KiB but for the faults.
    pub memory_stats: BTreeMap<String, u64>,
    /// Nanoseconds, by number of the virtual CPU.
    pub vcpu_times_ns: Vec<u64>,
    pub disks: Vec<DiskCounters>,
    pub nics: Vec<NicCounters>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct DiskCounters {
    /// `vda`
    pub target: String,
    pub read_requests: u64,
    pub read_bytes: u64,
    pub write_requests: u64,
    pub write_bytes: u64,
    /// -1 where the hypervisor doesn't count them, as QEMU.
    pub errors: i64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct NicCounters {
    pub mac_address: Option<String>,
    /// The device on the host and its counters; `None` for a NIC without one, such as a
    /// passed-through function.
    pub device: Option<DeviceCounters>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceCounters {
    /// `tapef5d45c6-7c`
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_drop: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_drop: u64,
}

/// The answer to `get_instance_diagnostics`.
///
/// Memory is in MiB, as the API says. nova-compute divides KiB as if they were bytes, and so reports
/// 0 for a guest of less than 1 GiB.
pub fn diagnostics(guest: &GuestCounters) -> Diagnostics {
    let mut answer = Diagnostics::default();
    answer.state.set(guest.power_state.name().to_owned());
    answer.driver.set("libvirt".to_owned());
    answer.hypervisor.set(Some(guest.virt_type.clone()));
    answer.hypervisor_os.set(Some("linux".to_owned()));
    let uptime = guest.launched_at.map(|start| guest.now.as_second() - start.as_second());
    answer.uptime.set(uptime);
    answer.config_drive.set(guest.config_drive);

    let mut memory = MemoryDiagnostics::default();
    count(&mut memory.maximum, guest.memory_max_kib / 1024);
    count(&mut memory.used, guest.memory_used_kib / 1024);
    answer.memory_details.set(memory);

    let cpus: Vec<_> = (0_u64..).zip(&guest.vcpu_times_ns).map(cpu).collect();
    let nics: Vec<_> = guest.nics.iter().map(nic).collect();
    let disks: Vec<_> = guest.disks.iter().map(disk).collect();
    answer.num_cpus.set(clamp(cpus.len() as u64));
    answer.num_nics.set(clamp(nics.len() as u64));
    answer.num_disks.set(clamp(disks.len() as u64));
    answer.cpu_details.set(cpus);
    answer.nic_details.set(nics);
    answer.disk_details.set(disks);
    answer
}

/// The answer to `get_diagnostics`, for API versions before 2.48.
pub fn legacy_diagnostics(guest: &GuestCounters) -> Map<String, Value> {
    let mut answer = Map::new();
    for (id, time) in guest.vcpu_times_ns.iter().enumerate() {
        answer.insert(format!("cpu{id}_time"), json!(time));
    }
    for disk in &guest.disks {
        let mut put = |what: &str, value| answer.insert(format!("{}_{what}", disk.target), value);
        put("read_req", json!(disk.read_requests));
        put("read", json!(disk.read_bytes));
        put("write_req", json!(disk.write_requests));
        put("write", json!(disk.write_bytes));
        put("errors", json!(disk.errors));
    }
    for device in guest.nics.iter().filter_map(|nic| nic.device.as_ref()) {
        let mut put = |what: &str, value: u64| {
            answer.insert(format!("{}_{what}", device.name), json!(value));
        };
        put("rx", device.rx_bytes);
        put("rx_packets", device.rx_packets);
        put("rx_errors", device.rx_errors);
        put("rx_drop", device.rx_drop);
        put("tx", device.tx_bytes);
        put("tx_packets", device.tx_packets);
        put("tx_errors", device.tx_errors);
        put("tx_drop", device.tx_drop);
    }
    answer.insert("memory".to_owned(), json!(guest.memory_max_kib));
    for (name, value) in &guest.memory_stats {
        answer.insert(format!("memory-{name}"), json!(value));
    }
    answer
}

fn cpu((id, time): (u64, &u64)) -> CpuDiagnostics {
    let mut cpu = CpuDiagnostics::default();
    count(&mut cpu.id, id);
    count(&mut cpu.time, *time);
    cpu.utilisation.set(None);
    cpu
}

fn disk(counters: &DiskCounters) -> DiskDiagnostics {
    let mut disk = DiskDiagnostics::default();
    count(&mut disk.read_bytes, counters.read_bytes);
    count(&mut disk.read_requests, counters.read_requests);
    count(&mut disk.write_bytes, counters.write_bytes);
    count(&mut disk.write_requests, counters.write_requests);
    disk.errors_count.set(Some(counters.errors));
    disk
}

fn nic(counters: &NicCounters) -> NicDiagnostics {
    let mut nic = NicDiagnostics::default();
    nic.mac_address.set(counters.mac_address.clone());
    let device = counters.device.as_ref();
    let put = |field: &mut Field<Option<i64>>, value: fn(&DeviceCounters) -> u64| {
        field.set(device.map(value).map(clamp));
    };
    put(&mut nic.rx_octets, |device| device.rx_bytes);
    put(&mut nic.rx_errors, |device| device.rx_errors);
    put(&mut nic.rx_drop, |device| device.rx_drop);
    put(&mut nic.rx_packets, |device| device.rx_packets);
    put(&mut nic.tx_octets, |device| device.tx_bytes);
    put(&mut nic.tx_errors, |device| device.tx_errors);
    put(&mut nic.tx_drop, |device| device.tx_drop);
    put(&mut nic.tx_packets, |device| device.tx_packets);
    // libvirt counts, it doesn't measure.
    nic.rx_rate.set(None);
    nic.tx_rate.set(None);
    nic
}

fn count(field: &mut Field<Option<i64>>, value: u64) {
    field.set(Some(clamp(value)));
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::VersionedObject;

    /// The guest of the recorded answer, beside its memory.
    fn guest() -> GuestCounters {
        GuestCounters {
            power_state: PowerState::Running,
            virt_type: "qemu".to_owned(),
            config_drive: false,
            launched_at: Timestamp::parse("2026-11-20T22:00:52Z"),
            now: Timestamp::parse("2026-11-20T22:01:10Z").unwrap(),
            memory_max_kib: 196_608,
            memory_used_kib: 196_608,
            memory_stats: BTreeMap::from([("rss".to_owned(), 7)]),
            vcpu_times_ns: vec![5_020_000_000],
            disks: vec![DiskCounters {
                target: "vda".to_owned(),
                read_requests: 530,
                read_bytes: 16_148_480,
                write_requests: 20,
                write_bytes: 22_528,
                errors: -1,
            }],
            nics: vec![NicCounters {
                mac_address: Some("fa:16:3e:18:7d:cf".to_owned()),
                device: Some(DeviceCounters {
                    name: "tapef5d45c6-7c".to_owned(),
                    rx_bytes: 1312,
                    rx_packets: 10,
                    tx_bytes: 1340,
                    tx_packets: 10,
                    ..DeviceCounters::default()
                }),
            }],
        }
    }

    /// The data alone: the order of changes means nothing.
    fn data(value: &Value) -> Value {
        match value {
            Value::Object(map) => match map.get("nova_object.data") {
                Some(inner) => data(inner),
                None => map.iter().map(|(key, value)| (key.clone(), data(value))).collect(),
            },
            Value::Array(items) => items.iter().map(data).collect(),
            other => other.clone(),
        }
    }

    #[test]
    fn the_object_is_the_recorded_one_but_for_the_memory() {
        let text = include_str!("../../tests/fixtures/rpc/get_instance_diagnostics.reply.json");
        let recorded: Value = serde_json::from_str(text).unwrap();
        let ours = diagnostics(&guest()).to_primitive();
        let mut expected = data(&recorded["result"]);
        expected["memory_details"] = json!({"maximum": 192, "used": 192});
        assert_eq!(data(&ours), expected);
        let mut fields: Vec<_> = Diagnostics::field_names().to_vec();
        fields.sort_unstable();
        assert_eq!(ours["nova_object.changes"], json!(fields), "all are new");
    }

    #[test]
    fn a_nic_without_a_device_has_no_counters() {
        let mut guest = guest();
        guest.nics[0].device = None;
        guest.launched_at = None;
        let answer = diagnostics(&guest);
        let nic = &answer.nic_details.get().unwrap()[0];
        assert!(nic.mac_address.value().is_some() && nic.rx_octets.get() == Some(&None));
        assert_eq!(answer.uptime.get(), Some(&None));
        assert!(!legacy_diagnostics(&guest).keys().any(|key| key.contains("rx")));
    }

    #[test]
    fn the_dict_of_old_has_novas_keys() {
        assert_eq!(
            Value::Object(legacy_diagnostics(&guest())),
            json!({
                "cpu0_time": 5_020_000_000_u64,
                "vda_read_req": 530, "vda_read": 16_148_480, "vda_write_req": 20,
                "vda_write": 22_528, "vda_errors": -1,
                "tapef5d45c6-7c_rx": 1312, "tapef5d45c6-7c_rx_packets": 10,
                "tapef5d45c6-7c_rx_errors": 0, "tapef5d45c6-7c_rx_drop": 0,
                "tapef5d45c6-7c_tx": 1340, "tapef5d45c6-7c_tx_packets": 10,
                "tapef5d45c6-7c_tx_errors": 0, "tapef5d45c6-7c_tx_drop": 0,
                "memory": 196_608, "memory-rss": 7,
            })
        );
    }
}
