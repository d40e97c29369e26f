//! What a host has, as the control plane records it. nova: objects/{compute_node,aggregate,monitor_metric,
//! task_log}.py, hv_spec.py

use std::collections::BTreeMap;

use serde_json::Number;
use uuid::Uuid;

use super::pci::PciDevicePoolList;
use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// A node and its resources: memory in MiB, disks in GiB.
    ComputeNode "1.19" {
        id: i64,
        uuid: Uuid,
        service_id: Option<i64>,
        host: Option<String>,
        vcpus: i64,
        memory_mb: i64,
        local_gb: i64,
        vcpus_used: i64,
        memory_mb_used: i64,
        local_gb_used: i64,
        hypervisor_type: String,
        /// major × 1 000 000 + minor × 1 000 + micro
        hypervisor_version: i64,
        hypervisor_hostname: Option<String>,
        free_ram_mb: Option<i64>,
        free_disk_gb: Option<i64>,
        current_workload: Option<i64>,
        running_vms: Option<i64>,
        /// JSON text.
        cpu_info: Option<String>,
        disk_available_least: Option<i64>,
        /// JSON text of a list.
        metrics: Option<String>,
        stats: Option<BTreeMap<String, Option<String>>>,
        /// `[DEFAULT] my_ip`
        host_ip: Option<String>,
        /// JSON text of a [`super::NUMATopology`] primitive.
        numa_topology: Option<String>,
        supported_hv_specs: Vec<HVSpec>,
        pci_device_pools: Option<PciDevicePoolList>,
        cpu_allocation_ratio: Number,
        ram_allocation_ratio: Number,
        disk_allocation_ratio: Number,
        mapped: i64,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several nodes.
    ComputeNodeList "1.17" of ComputeNode
}

versioned_object! {
    /// One kind of guest that a node can run.
    HVSpec "1.2" {
        /// `x86_64`, `aarch64`, …
        arch: String,
        /// `kvm`, `qemu`, …
        hv_type: String,
        /// `hvm`, `xen`, `uml`, `exe`
        vm_mode: String,
    }
}

versioned_object! {
    /// A group of hosts.
    Aggregate "1.3" {
        id: i64,
        uuid: Uuid,
        name: String,
        hosts: Option<Vec<String>>,
        metadata: Option<BTreeMap<String, String>>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several aggregates.
    AggregateList "1.3" of Aggregate
}

versioned_object! {
    /// One measurement of a host.
    MonitorMetric "1.1" {
        /// `cpu.percent`, `numa.membw.current`, …
        name: String,
        value: i64,
        numa_membw_values: Option<BTreeMap<String, i64>>,
        timestamp: Timestamp,
        source: String,
    }
}

object_list! {
    /// Several measurements.
    MonitorMetricList "1.1" of MonitorMetric
}

versioned_object! {
    /// The run of a periodic audit.
    TaskLog "1.0" {
        id: i64,
        task_name: String,
        state: String,
        host: String,
        period_beginning: Timestamp,
        period_ending: Timestamp,
        message: String,
        task_items: i64,
        errors: i64,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several runs.
    TaskLogList "1.0" of TaskLog
}
