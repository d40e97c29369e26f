//! What a build was asked for, and where the scheduler put it. nova: objects/{request_spec,selection,
//! cell_mapping,build_request}.py

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::block_device::BlockDeviceMappingList;
use super::compute_node::ComputeNodeList;
use super::flavor::Flavor;
use super::group::InstanceGroup;
use super::images::ImageMeta;
use super::instance::Instance;
use super::instance_parts::{SecurityGroupList, TagList};
use super::network::{NetworkMetadata, NetworkRequestList};
use super::numa::{InstanceNUMATopology, NUMATopologyLimits};
use super::pci::InstancePCIRequests;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::versioned_object;

versioned_object! {
    /// Everything the scheduler was told.
    RequestSpec "1.15" {
        id: i64,
        image: Option<ImageMeta>,
        numa_topology: Option<InstanceNUMATopology>,
        pci_requests: Option<InstancePCIRequests>,
        project_id: Option<String>,
        user_id: Option<String>,
        availability_zone: Option<String>,
        flavor: Flavor,
        num_instances: i64,
        ignore_hosts: Option<Vec<String>>,
        force_hosts: Option<Vec<String>>,
        force_nodes: Option<Vec<String>>,
        requested_destination: Option<Destination>,
        retry: Option<SchedulerRetries>,
        limits: Option<SchedulerLimits>,
        instance_group: Option<InstanceGroup>,
        scheduler_hints: Option<BTreeMap<String, Vec<String>>>,
        instance_uuid: Uuid,
        security_groups: SecurityGroupList,
        network_metadata: NetworkMetadata,
        /// Boot from volume.
        is_bfv: bool,
        requested_resources: Option<Vec<RequestGroup>>,
        request_level_params: RequestLevelParams,
        requested_networks: NetworkRequestList,
    }
}

versioned_object! {
    /// One group of a placement request.
    RequestGroup "1.3" {
        use_same_provider: bool,
        resources: BTreeMap<String, i64>,
        required_traits: BTreeSet<String>,
        forbidden_traits: BTreeSet<String>,
        aggregates: Vec<Vec<String>>,
        forbidden_aggregates: BTreeSet<String>,
        requester_id: Option<String>,
        provider_uuids: Vec<Uuid>,
        in_tree: Option<Uuid>,
    }
}

versioned_object! {
    /// What holds for the whole placement request.
    RequestLevelParams "1.1" {
        root_required: BTreeSet<String>,
        root_forbidden: BTreeSet<String>,
        same_subtree: Vec<Vec<String>>,
    }
}

versioned_object! {
    /// Where the caller wants it.
    Destination "1.4" {
        host: String,
        node: Option<String>,
        cell: Option<CellMapping>,
        aggregates: Option<Vec<String>>,
        allow_cross_cell_move: bool,
        forbidden_aggregates: Option<BTreeSet<String>>,
    }
}

versioned_object! {
    /// Oversubscription limits, of which only the NUMA ones are still used. MiB, GiB.
    SchedulerLimits "1.0" {
        numa_topology: Option<NUMATopologyLimits>,
        vcpu: Option<i64>,
        disk_gb: Option<i64>,
        memory_mb: Option<i64>,
    }
}

versioned_object! {
    /// Hosts that were tried before.
    SchedulerRetries "1.1" {
        num_attempts: i64,
        hosts: ComputeNodeList,
    }
}

versioned_object! {
    /// One host that the scheduler chose. `allocation_request` is JSON text.
    Selection "1.1" {
        compute_node_uuid: Uuid,
        service_host: String,
        nodename: String,
        cell_uuid: Uuid,
        limits: Option<SchedulerLimits>,
        allocation_request: Option<String>,
        allocation_request_version: Option<String>,
        availability_zone: Option<String>,
    }
}

versioned_object! {
    /// A cell, with the addresses of its database and of its message bus: secrets both.
    CellMapping "1.1" {
        id: i64,
        uuid: Uuid,
        name: Option<String>,
        transport_url: Secret,
        database_connection: Secret,
        disabled: bool,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
    }
}

versioned_object! {
    /// A build that has no cell yet.
    BuildRequest "1.3" {
        id: i64,
        instance_uuid: Uuid,
        project_id: String,
        instance: Box<Instance>,
        block_device_mappings: BlockDeviceMappingList,
        tags: TagList,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
    }
}
