//! The instance. nova: objects/instance.py

use std::collections::BTreeMap;

use uuid::Uuid;

use super::codec::ObjectError;
use super::device_metadata::InstanceDeviceMetadata;
use super::flavor::Flavor;
use super::instance_parts::{
    EC2Ids, InstanceFault, InstanceInfoCache, KeyPairList, SecurityGroupList, TagList,
    TrustedCerts, VirtCPUModel,
};
use super::migration::MigrationContext;
use super::numa::InstanceNUMATopology;
use super::pci::{InstancePCIRequests, PciDeviceList};
use super::resources::ResourceList;
use super::service::ServiceList;
use crate::model::secret::Secret;
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// A server and everything nova knows of it.
    Instance "2.8" {
        id: i64,
        user_id: Option<String>,
        project_id: Option<String>,
        image_ref: Option<String>,
        kernel_id: Option<String>,
        ramdisk_id: Option<String>,
        hostname: Option<String>,
        launch_index: Option<i64>,
        key_name: Option<String>,
        key_data: Option<String>,
        power_state: Option<i64>,
        vm_state: Option<VmState>,
        task_state: Option<TaskState>,
        services: ServiceList,
        memory_mb: Option<i64>,
        vcpus: Option<i64>,
        root_gb: Option<i64>,
        ephemeral_gb: Option<i64>,
        ephemeral_key_uuid: Option<Uuid>,
        host: Option<String>,
        node: Option<String>,
        compute_id: Option<i64>,
        instance_type_id: Option<i64>,
        user_data: Option<Secret>,
        reservation_id: Option<String>,
        launched_at: Option<Timestamp>,
        terminated_at: Option<Timestamp>,
        availability_zone: Option<String>,
        display_name: Option<String>,
        display_description: Option<String>,
        launched_on: Option<String>,
        locked: bool,
        locked_by: Option<String>,
        os_type: Option<String>,
        architecture: Option<String>,
        vm_mode: Option<String>,
        uuid: Uuid,
        root_device_name: Option<String>,
        default_ephemeral_device: Option<String>,
        default_swap_device: Option<String>,
        config_drive: Option<String>,
        access_ip_v4: Option<String>,
        access_ip_v6: Option<String>,
        auto_disk_config: bool,
        progress: Option<i64>,
        shutdown_terminate: bool,
        disable_terminate: bool,
        cell_name: Option<String>,
        metadata: BTreeMap<String, String>,
        system_metadata: BTreeMap<String, Option<String>>,
        info_cache: Option<InstanceInfoCache>,
        security_groups: SecurityGroupList,
        fault: Option<InstanceFault>,
        cleaned: bool,
        pci_devices: Option<PciDeviceList>,
        numa_topology: Option<InstanceNUMATopology>,
        pci_requests: Option<InstancePCIRequests>,
        device_metadata: Option<InstanceDeviceMetadata>,
        tags: TagList,
        flavor: Flavor,
        old_flavor: Option<Box<Flavor>>,
        new_flavor: Option<Box<Flavor>>,
        vcpu_model: Option<VirtCPUModel>,
        ec2_ids: EC2Ids,
        migration_context: Option<Box<MigrationContext>>,
        keypairs: KeyPairList,
        trusted_certs: Option<TrustedCerts>,
        hidden: bool,
        resources: Option<ResourceList>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several instances.
    InstanceList "2.6" of Instance
}

impl Instance {
    /// # Errors
    /// [`ObjectError::Missing`] when unset: no instance of a message or a record may be without.
    pub fn uuid(&self) -> Result<Uuid, ObjectError> {
        self.uuid.get().copied().ok_or(ObjectError::Missing { class: "Instance", field: "uuid" })
    }

    /// The flavor it has, or is to have when a build or a resize is under way.
    ///
    /// # Errors
    /// [`ObjectError::Missing`] when it wasn't loaded.
    pub fn flavor(&self) -> Result<&Flavor, ObjectError> {
        self.flavor.get().ok_or(ObjectError::Missing { class: "Instance", field: "flavor" })
    }

    /// One entry of the system metadata; `None` when it is absent, null or not loaded.
    pub fn system_metadata(&self, key: &str) -> Option<&str> {
        self.system_metadata.get()?.get(key)?.as_deref()
    }

    /// The image it was built from; `None` when it boots from a volume.
    pub fn image_ref(&self) -> Option<&str> {
        self.image_ref.value().map(String::as_str).filter(|image| !image.is_empty())
    }

    /// Whether it is to have a config drive, by its own record: the image and the configuration may
    /// ask for one, too. nova: virt/configdrive.py, `required_by`.
    pub fn wants_config_drive(&self) -> bool {
        self.config_drive.value().is_some_and(|wish| !wish.is_empty())
    }
}
