//! PCI devices, asked for and given. nova: objects/{instance_pci_requests,pci_device,pci_device_pool}.py

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// The PCI devices that an instance asks for.
    InstancePCIRequests "1.1" {
        instance_uuid: Uuid,
        requests: Vec<InstancePCIRequest>,
    }
}

versioned_object! {
    /// One or more devices of a kind.
    InstancePCIRequest "1.4" {
        count: i64,
        spec: Vec<BTreeMap<String, Option<String>>>,
        alias_name: Option<String>,
        is_new: bool,
        request_id: Option<Uuid>,
        requester_id: Option<String>,
        /// `required`, `legacy`, `preferred`, `socket`
        numa_policy: Option<String>,
    }
}

versioned_object! {
    /// One device of a host.
    PciDevice "1.7" {
        id: i64,
        uuid: Uuid,
        compute_node_id: Option<i64>,
        address: String,
        vendor_id: String,
        product_id: String,
        /// `type-PCI`, `type-PF`, `type-VF`, `vdpa`
        dev_type: String,
        /// `available`, `claimed`, `allocated`, `removed`, `deleted`, `unavailable`, `unclaimable`
        status: String,
        dev_id: Option<String>,
        label: Option<String>,
        instance_uuid: Option<String>,
        request_id: Option<String>,
        extra_info: BTreeMap<String, String>,
        numa_node: Option<i64>,
        parent_addr: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several devices.
    PciDeviceList "1.3" of PciDevice
}

versioned_object! {
    /// Free devices of one kind on a host.
    PciDevicePool "1.1" {
        product_id: String,
        vendor_id: String,
        numa_node: Option<i64>,
        tags: BTreeMap<String, Option<String>>,
        count: i64,
    }
}

object_list! {
    /// Several pools.
    PciDevicePoolList "1.1" of PciDevicePool
}
