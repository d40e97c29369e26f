//! Counters of one domain or of all, each in one libvirt call. virt's own wrapper of that call never
//! frees its records, so the call is made here.

use std::collections::BTreeMap;
use std::ffi::CStr;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::state::power_state;
use crate::hypervisor::host::DiskSize;
use crate::hypervisor::{DiskStats, DomainStats, InterfaceStats};
use crate::model::state::PowerState;

const GROUPS: u32 = sys::VIR_DOMAIN_STATS_STATE
    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
    | sys::VIR_DOMAIN_STATS_BALLOON
    | sys::VIR_DOMAIN_STATS_VCPU
    | sys::VIR_DOMAIN_STATS_INTERFACE
    | sys::VIR_DOMAIN_STATS_BLOCK;

/// A domain that is busy with a job answers with what is known without it, rather than wait.
const NO_WAIT: u32 = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;

/// More than any domain has: a bound on what an answer can make us loop over.
const MAX_DEVICES: u64 = 4096;

/// Counters of every domain, running or not.
pub fn of_all(connect: &Connect) -> Result<Vec<DomainStats>, Error> {
    ask_all(connect, GROUPS)
}

/// The power state of every domain, running or not: no domain's monitor is asked for it.
pub fn power_states(connect: &Connect) -> Result<BTreeMap<Uuid, PowerState>, Error> {
    let all = ask_all(connect, sys::VIR_DOMAIN_STATS_STATE)?;
    let state = |stats: DomainStats| Some((stats.instance_uuid, stats.power_state?));
    Ok(all.into_iter().filter_map(state).collect())
}

fn ask_all(connect: &Connect, groups: u32) -> Result<Vec<DomainStats>, Error> {
    Records::ask(|records| {
        // SAFETY: the connection is open and `records` a valid place for the list.
        unsafe { sys::virConnectGetAllDomainStats(connect.as_ptr(), groups, records, NO_WAIT) }
    })
    .map(|records| records.read())
}

/// The disks of every domain, running or not, that have a path on this host.
pub fn disks_of_all(connect: &Connect) -> Result<Vec<DiskSize>, Error> {
    let groups = sys::VIR_DOMAIN_STATS_BLOCK;
    let records = Records::ask(|records| {
        // SAFETY: the connection is open and `records` a valid place for the list.
        unsafe { sys::virConnectGetAllDomainStats(connect.as_ptr(), groups, records, NO_WAIT) }
    })?;
    Ok(records.values().flat_map(|values| disk_sizes(&values)).collect())
}

/// Counters of one domain; `None` when libvirt had nothing to say of it.
pub fn of_domain(domain: &Domain) -> Result<Option<DomainStats>, Error> {
    let mut list = [domain.as_ptr(), std::ptr::null_mut()];
    Records::ask(|records| {
        // SAFETY: the list ends with a null, its domain is valid, `records` a valid place.
        unsafe { sys::virDomainListGetStats(list.as_mut_ptr(), GROUPS, records, NO_WAIT) }
    })
    .map(|records| records.read().pop())
}

/// libvirt's list of records, freed when dropped.
struct Records {
    list: *mut sys::virDomainStatsRecordPtr,
    count: usize,
}

impl Records {
    fn ask(
        call: impl FnOnce(*mut *mut sys::virDomainStatsRecordPtr) -> i32,
    ) -> Result<Self, Error> {
        let mut list = std::ptr::null_mut();
        match usize::try_from(call(&raw mut list)) {
            Ok(count) => Ok(Self { list, count }),
            Err(_) => Err(Error::last_error()),
        }
    }

    fn read(&self) -> Vec<DomainStats> {
        self.iter().filter_map(read_record).collect()
    }

    fn values(&self) -> impl Iterator<Item = BTreeMap<String, Value>> {
        self.iter().map(read_parameters)
    }

    fn iter(&self) -> impl Iterator<Item = &sys::virDomainStatsRecord> {
        (0..self.count).map(|index| {
            // SAFETY: libvirt returned that many records.
            unsafe { &**self.list.add(index) }
        })
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        if !self.list.is_null() {
            // SAFETY: the list is libvirt's and freed once.
            unsafe { sys::virDomainStatsRecordListFree(self.list) };
        }
    }
}

fn read_record(record: &sys::virDomainStatsRecord) -> Option<DomainStats> {
    let mut bytes = [0u8; 16];
    // SAFETY: the record's domain lives as long as the record; a UUID has 16 bytes.
    if unsafe { sys::virDomainGetUUID(record.dom, bytes.as_mut_ptr()) } < 0 {
        return None;
    }
    // SAFETY: as above; the name belongs to the domain and is copied at once.
    let name = unsafe {
        let name = sys::virDomainGetName(record.dom);
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    };
    Some(domain_stats(Uuid::from_bytes(bytes), name, &read_parameters(record)))
}

fn read_parameters(record: &sys::virDomainStatsRecord) -> BTreeMap<String, Value> {
    let count = usize::try_from(record.nparams).unwrap_or(0);
    let parameters: &[sys::virTypedParameter] = if record.params.is_null() || count == 0 {
        &[]
    } else {
        // SAFETY: libvirt says how many parameters there are, and they live with the record.
        unsafe { std::slice::from_raw_parts(record.params, count) }
    };
    parameters.iter().filter_map(read_parameter).collect()
}

/// A parameter's value; types without a use here are left out.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Text(String),
}

fn read_parameter(parameter: &sys::virTypedParameter) -> Option<(String, Value)> {
    let field: Vec<u8> =
        parameter.field.iter().map(|c| c.to_ne_bytes()[0]).take_while(|c| *c != 0).collect();
    let name = String::from_utf8(field).ok()?;
    let kind = u32::try_from(parameter.type_).ok()?;
    // SAFETY: the type says which member of the union libvirt filled in; a string is
    // zero-terminated and copied at once.
    let value = unsafe {
        match kind {
            sys::VIR_TYPED_PARAM_INT => Value::Number(u64::try_from(parameter.value.i).ok()?),
            sys::VIR_TYPED_PARAM_UINT => Value::Number(parameter.value.ui.into()),
            sys::VIR_TYPED_PARAM_LLONG => Value::Number(u64::try_from(parameter.value.l).ok()?),
            sys::VIR_TYPED_PARAM_ULLONG => Value::Number(parameter.value.ul),
            sys::VIR_TYPED_PARAM_STRING if !parameter.value.s.is_null() => {
                Value::Text(CStr::from_ptr(parameter.value.s).to_string_lossy().into_owned())
            }
            _ => return None,
        }
    };
    Some((name, value))
}

/// libvirt: virConnectGetAllDomainStats
fn domain_stats(
    instance_uuid: Uuid,
    name: String,
    values: &BTreeMap<String, Value>,
) -> DomainStats {
    let number = |key: &str| match values.get(key) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    };
    let text = |key: &str| match values.get(key) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let count = |key: &str| number(key).unwrap_or(0).min(MAX_DEVICES);
    let state = number("state.state").and_then(|state| u32::try_from(state).ok());
    DomainStats {
        instance_uuid,
        name,
        power_state: state.map(power_state),
        cpu_time_ns: number("cpu.time").unwrap_or(0),
        // A virtual CPU that is off has a number and no time.
        vcpu_times_ns: (0..count("vcpu.maximum"))
            .filter_map(|index| number(&format!("vcpu.{index}.time")))
            .collect(),
        memory_max_kib: number("balloon.maximum").unwrap_or(0),
        memory_used_kib: number("balloon.current").unwrap_or(0),
        disks: (0..count("block.count"))
            .filter_map(|index| {
                let value = |key| number(&format!("block.{index}.{key}")).unwrap_or(0);
                Some(DiskStats {
                    target: text(&format!("block.{index}.name"))?,
                    read_requests: value("rd.reqs"),
                    read_bytes: value("rd.bytes"),
                    write_requests: value("wr.reqs"),
                    write_bytes: value("wr.bytes"),
                    // QEMU counts none, and libvirt's older call says so with -1.
                    errors: number(&format!("block.{index}.errors"))
                        .and_then(|errors| i64::try_from(errors).ok())
                        .unwrap_or(-1),
                    allocation_bytes: value("allocation"),
                    capacity_bytes: value("capacity"),
                })
            })
            .collect(),
        interfaces: (0..count("net.count"))
            .filter_map(|index| {
                let value = |key| number(&format!("net.{index}.{key}")).unwrap_or(0);
                Some(InterfaceStats {
                    device: text(&format!("net.{index}.name"))?,
                    mac_address: None,
                    rx_bytes: value("rx.bytes"),
                    rx_packets: value("rx.pkts"),
                    rx_errors: value("rx.errs"),
                    rx_drop: value("rx.drop"),
                    tx_bytes: value("tx.bytes"),
                    tx_packets: value("tx.pkts"),
                    tx_errors: value("tx.errs"),
                    tx_drop: value("tx.drop"),
                })
            })
            .collect(),
    }
}

fn disk_sizes(values: &BTreeMap<String, Value>) -> Vec<DiskSize> {
    let count = match values.get("block.count") {
        Some(Value::Number(count)) => (*count).min(MAX_DEVICES),
        _ => 0,
    };
    let disk = |index| {
        let Some(Value::Text(path)) = values.get(&format!("block.{index}.path")) else {
            return None;
        };
        let Some(Value::Number(capacity)) = values.get(&format!("block.{index}.capacity")) else {
            return None;
        };
        Some(DiskSize { path: path.clone(), capacity_bytes: *capacity })
    };
    (0..count).filter_map(disk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_those_with_a_path_and_a_size() {
        let text = |key: &str, value: &str| (key.to_owned(), Value::Text(value.to_owned()));
        let values = BTreeMap::from([
            ("block.count".to_owned(), Value::Number(3)),
            text("block.0.path", "/i/disk"),
            ("block.0.capacity".to_owned(), Value::Number(1 << 30)),
            text("block.1.name", "vdb"),
            text("block.2.path", "/i/gone"),
        ]);
        let disk = DiskSize { path: "/i/disk".into(), capacity_bytes: 1 << 30 };
        assert_eq!(disk_sizes(&values), [disk]);
    }

    #[test]
    fn counters_are_read_by_name() {
        let n = |key: &str, value| (key.to_owned(), Value::Number(value));
        let values = BTreeMap::from([
            n("state.state", 1),
            n("cpu.time", 7),
            n("vcpu.maximum", 2),
            n("vcpu.0.time", 3),
            n("balloon.maximum", 2048),
            n("balloon.current", 1024),
            n("block.count", u64::MAX),
            ("block.0.name".into(), Value::Text("vda".into())),
            n("block.0.rd.bytes", 512),
            n("net.count", 1),
            ("net.0.name".into(), Value::Text("tap0".into())),
            n("net.0.tx.pkts", 9),
        ]);
        let stats = domain_stats(Uuid::nil(), "instance-1".into(), &values);
        assert_eq!(stats.power_state, Some(PowerState::Running));
        assert_eq!(stats.vcpu_times_ns, [3]);
        assert_eq!((stats.memory_max_kib, stats.memory_used_kib), (2048, 1024));
        assert_eq!(stats.disks.len(), 1);
        assert_eq!((stats.disks[0].read_bytes, stats.disks[0].errors), (512, -1));
        assert_eq!(stats.interfaces[0].tx_packets, 9);
    }
}
