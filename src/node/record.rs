//! The node's record, written out of what is known of the host and of its instances.

use std::sync::Arc;

use serde_json::{Number, Value, json};
use uuid::Uuid;

use super::cpus::CpuSet;
use super::disk::DiskSpace;
use super::numa::numa_topology;
use super::statistics::{statistics, workload};
use super::usage::{Tracked, Usage};
use crate::hypervisor::host::{Capabilities, GuestKind, HostState};
use crate::model::object::{ComputeNode, Field, FieldType, HVSpec, PciDevicePoolList};
use crate::placement::inventory::{Offer, Ratio};

/// Who the node is, and what of the configuration its record shows.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSettings {
    pub uuid: Uuid,
    /// `[DEFAULT] host`
    pub host: String,
    /// The hypervisor's host name.
    pub node: String,
    /// `[DEFAULT] my_ip`
    pub my_ip: String,
    pub reserved_cpus: u32,
    pub reserved_memory_mib: u32,
    pub reserved_disk_mib: u32,
    pub cpu_ratio: Ratio,
    pub memory_ratio: Ratio,
    pub disk_ratio: Ratio,
}

/// The host as it was looked at last.
#[derive(Debug, Clone, PartialEq)]
pub struct HostView {
    pub state: HostState,
    pub capabilities: Arc<Capabilities>,
    /// CPUs that guests share, those that are given out one by one, and those that a guest may be
    /// pinned to.
    pub shared: CpuSet,
    pub dedicated: CpuSet,
    pub pinnable: CpuSet,
    pub disk: DiskSpace,
    /// What the image cache takes, where that counts as reserved.
    pub cached_gib: u64,
    pub uptime: String,
}

/// What is set aside, and for whom.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accounts {
    pub instances: Vec<Tracked>,
    /// Of instances that move.
    pub moves: Vec<Usage>,
    pub failed_builds: u64,
}

/// Brings the record up to date; what stays the same isn't marked as changed.
/// nova: compute/resource_tracker.py, `_copy_resources`, `_update_usage`
pub fn describe(
    node: &mut ComputeNode,
    settings: &NodeSettings,
    service_id: Option<i64>,
    host: &HostView,
    accounts: &Accounts,
) {
    let mut used = Usage::default();
    let takers = || accounts.instances.iter().map(|i| &i.usage).chain(&accounts.moves);
    takers().for_each(|usage| used.add(usage));
    let vcpus_used = i64::from(settings.reserved_cpus) + used.vcpus;
    let memory_used = i64::from(settings.reserved_memory_mib) + used.memory_mib;
    let disk_used = i64::from(settings.reserved_disk_mib / 1024) + used.disk_gib;
    let (memory, disk) = (signed(host.state.memory_mib), signed(host.disk.total_gib()));
    let count = i64::try_from(accounts.instances.len()).unwrap_or(i64::MAX);

    put(&mut node.uuid, settings.uuid);
    put(&mut node.host, Some(settings.host.clone()));
    if service_id.is_some() {
        put(&mut node.service_id, service_id);
    }
    put(&mut node.hypervisor_hostname, Some(settings.node.clone()));
    put(&mut node.host_ip, Some(settings.my_ip.clone()));
    put(&mut node.hypervisor_type, host.state.hypervisor_type.clone());
    put(&mut node.hypervisor_version, signed(host.state.hypervisor_version));
    put(&mut node.cpu_info, Some(cpu_info(&host.capabilities)));
    put_hv_specs(node, &host.capabilities);
    let cells = takers().filter_map(|usage| usage.numa.as_deref());
    let cpus = (&host.shared, &host.pinnable);
    put(&mut node.numa_topology, numa_topology(&host.capabilities, cpus, cells));

    put(&mut node.vcpus, i64::try_from(host.shared.len()).unwrap_or(i64::MAX));
    put(&mut node.vcpus_used, vcpus_used);
    put(&mut node.memory_mb, memory);
    put(&mut node.memory_mb_used, memory_used);
    put(&mut node.free_ram_mb, Some(memory - memory_used));
    put(&mut node.local_gb, disk);
    put(&mut node.local_gb_used, disk_used);
    put(&mut node.free_disk_gb, Some(disk - disk_used));
    put(&mut node.disk_available_least, Some(host.disk.least_free_gib()));
    put(&mut node.running_vms, Some(count));
    put(&mut node.current_workload, Some(workload(accounts.instances.iter())));
    let uptime = host.uptime.as_str();
    let statistics = statistics(accounts.instances.iter(), accounts.failed_builds, uptime);
    put(&mut node.stats, Some(statistics));
    put(&mut node.metrics, Some("[]".to_owned()));
    // No PCI device is given to guests.
    if node.pci_device_pools.value().is_none_or(|pools| !pools.items().is_empty()) {
        node.pci_device_pools.set(Some(PciDevicePoolList::from(Vec::new())));
    }
    put_ratio(&mut node.cpu_allocation_ratio, settings.cpu_ratio);
    put_ratio(&mut node.ram_allocation_ratio, settings.memory_ratio);
    put_ratio(&mut node.disk_allocation_ratio, settings.disk_ratio);
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn put<T: FieldType + PartialEq>(field: &mut Field<T>, value: T) {
    if field.get() != Some(&value) {
        field.set(value);
    }
}

/// What is configured, or what the record has, or what a new one begins with.
fn put_ratio(field: &mut Field<Number>, ratio: Ratio) {
    let configured = ratio.configured.filter(|ratio| *ratio > 0.0);
    let wanted = match (configured, field.get()) {
        (None, Some(_)) => return,
        (configured, _) => configured.unwrap_or(ratio.initial),
    };
    if field.get().and_then(Number::as_f64) != Some(wanted)
        && let Some(wanted) = Number::from_f64(wanted)
    {
        field.set(wanted);
    }
}

/// nova: virt/libvirt/driver.py, `_get_cpu_info`
fn cpu_info(host: &Capabilities) -> String {
    let cpu = &host.cpu;
    let part = |index: usize| cpu.topology.map(|parts| parts[index]);
    let mut info = json!({
        "arch": cpu.architecture,
        "model": cpu.model,
        "vendor": cpu.vendor,
        "topology": {
            "cells": host.cells.len().max(1),
            "sockets": part(0),
            "cores": part(1),
            "threads": part(2),
        },
    });
    if let Some(address) = &cpu.max_phys_addr {
        info["maxphysaddr"] = json!({"mode": address.mode, "bits": address.bits});
    }
    info["features"] = cpu.features.iter().map(String::as_str).map(Value::from).collect();
    info.to_string()
}

fn put_hv_specs(node: &mut ComputeNode, host: &Capabilities) {
    let text = |field: &Field<String>| field.text().unwrap_or_default().to_owned();
    let triple = |spec: &HVSpec| (text(&spec.arch), text(&spec.hv_type), text(&spec.vm_mode));
    let wanted = hv_specs(&host.guests);
    let current = node.supported_hv_specs.get();
    let current = current.map(|specs| specs.iter().map(triple).collect::<Vec<_>>());
    if current.as_ref() == Some(&wanted) {
        return;
    }
    let specs = wanted.into_iter().map(|(arch, hv_type, vm_mode)| {
        let mut spec = HVSpec::default();
        spec.arch.set(arch);
        spec.hv_type.set(hv_type);
        spec.vm_mode.set(vm_mode);
        spec
    });
    node.supported_hv_specs.set(specs.collect());
}

/// Architecture, hypervisor type and mode of each kind of guest.
/// nova: virt/libvirt/driver.py, `_get_instance_capabilities`
fn hv_specs(guests: &[GuestKind]) -> Vec<(String, String, String)> {
    let specs = guests.iter().flat_map(|guest| {
        guest.domain_types.iter().filter_map(|domain_type| {
            let architecture = architecture(&guest.architecture)?;
            let mode = match guest.os_type.as_str() {
                "linux" | "pv" => "xen",
                "hv" => "hvm",
                mode => mode,
            };
            Some((architecture.to_owned(), domain_type.to_lowercase(), mode.to_owned()))
        })
    });
    specs.collect()
}

/// nova's name of an architecture; `None` for one that it doesn't know.
/// nova: objects/fields.py, `Architecture.canonicalize`
fn architecture(name: &str) -> Option<&str> {
    const KNOWN: &[&str] = &[
        "aarch64",
        "alpha",
        "armv6",
        "armv7l",
        "armv7b",
        "cris",
        "i686",
        "ia64",
        "lm32",
        "m68k",
        "microblaze",
        "microblazeel",
        "mips",
        "mipsel",
        "mips64",
        "mips64el",
        "openrisc",
        "parisc",
        "parisc64",
        "ppc",
        "ppcle",
        "ppc64",
        "ppc64le",
        "ppcemb",
        "s390",
        "s390x",
        "sh4",
        "sh4eb",
        "sparc",
        "sparc64",
        "unicore32",
        "x86_64",
        "xtensa",
        "xtensaeb",
    ];
    match name {
        "i386" | "i486" | "i586" => Some("i686"),
        "amd64" => Some("x86_64"),
        name => KNOWN.contains(&name).then_some(name),
    }
}

/// What placement is told of the host. nova: virt/libvirt/driver.py, `update_provider_tree`
pub fn offer(settings: &NodeSettings, host: &HostView) -> Offer {
    let reserved_gib = u64::from(settings.reserved_disk_mib).div_ceil(1024);
    Offer {
        vcpus: host.shared.len() as u64,
        reserved_vcpus: settings.reserved_cpus.into(),
        pcpus: host.dedicated.len() as u64,
        memory_mib: host.state.memory_mib,
        reserved_memory_mib: settings.reserved_memory_mib.into(),
        disk_gib: host.disk.total_gib(),
        reserved_disk_gib: reserved_gib + host.cached_gib,
        cpu_ratio: settings.cpu_ratio,
        memory_ratio: settings.memory_ratio,
        disk_ratio: settings.disk_ratio,
    }
}

#[cfg(test)]
pub(crate) mod tests;
