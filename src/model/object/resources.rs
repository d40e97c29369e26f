//! Resources with an identity, such as persistent memory. nova: objects/resource.py

use uuid::Uuid;

use super::field_types::SubclassOf;
use crate::{object_list, versioned_object};

versioned_object! {
    /// One resource.
    Resource "1.0" {
        provider_uuid: Uuid,
        /// `CUSTOM_PMEM_NAMESPACE_…`
        resource_class: String,
        identifier: String,
        metadata: SubclassOf<ResourceMetadata>,
    }
}

object_list! {
    /// Several resources.
    ResourceList "1.0" of Resource
}

versioned_object! {
    /// What is to be known of a resource: the base of the others.
    ResourceMetadata "1.0" {}
}

versioned_object! {
    /// A persistent memory namespace. Bytes.
    LibvirtVPMEMDevice "1.0" {
        label: String,
        name: String,
        size: i64,
        devpath: String,
        align: i64,
    }
}
