//! NUMA: of an instance and of a host. nova: objects/{instance_numa,numa}.py. Memory in MiB, pages in KiB.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Number;
use uuid::Uuid;

use super::instance_parts::VirtCPUTopology;
use super::network::NetworkMetadata;
use crate::versioned_object;

versioned_object! {
    /// The NUMA cells of an instance.
    InstanceNUMATopology "1.3" {
        id: i64,
        instance_uuid: Uuid,
        cells: Vec<InstanceNUMACell>,
        /// `share`, `isolate`
        emulator_threads_policy: Option<String>,
    }
}

versioned_object! {
    /// One NUMA cell of an instance.
    InstanceNUMACell "1.6" {
        id: i64,
        cpuset: BTreeSet<i64>,
        pcpuset: BTreeSet<i64>,
        cpuset_reserved: Option<BTreeSet<i64>>,
        memory: i64,
        /// KiB.
        pagesize: Option<i64>,
        cpu_topology: Option<VirtCPUTopology>,
        /// Guest CPU (as text) to host CPU.
        cpu_pinning_raw: Option<BTreeMap<String, i64>>,
        /// `dedicated`, `shared`, `mixed`
        cpu_policy: Option<String>,
        /// `prefer`, `isolate`, `require`
        cpu_thread_policy: Option<String>,
    }
}

versioned_object! {
    /// The NUMA cells of a host.
    NUMATopology "1.2" {
        cells: Vec<NUMACell>,
    }
}

versioned_object! {
    /// One NUMA cell of a host.
    NUMACell "1.5" {
        id: i64,
        cpuset: BTreeSet<i64>,
        pcpuset: BTreeSet<i64>,
        memory: i64,
        cpu_usage: i64,
        memory_usage: i64,
        pinned_cpus: BTreeSet<i64>,
        siblings: Vec<BTreeSet<i64>>,
        mempages: Vec<NUMAPagesTopology>,
        network_metadata: NetworkMetadata,
        socket: Option<i64>,
    }
}

versioned_object! {
    /// Memory pages of one size in a cell.
    NUMAPagesTopology "1.1" {
        size_kb: i64,
        total: i64,
        used: i64,
        reserved: i64,
    }
}

versioned_object! {
    /// How far a cell may be oversubscribed.
    NUMATopologyLimits "1.1" {
        cpu_allocation_ratio: Number,
        ram_allocation_ratio: Number,
        network_metadata: NetworkMetadata,
    }
}
