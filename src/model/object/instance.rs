//! Instance and its parts. nova: objects/instance.py, flavor.py, keypair.py, …

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::model::secret::Secret;
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;
use crate::versioned_object;

versioned_object! {
    /// A server and everything nova knows of it.
    Instance "2.8" {
        id: i64,
        uuid: Uuid,
        user_id: Option<String>,
        project_id: Option<String>,
        image_ref: Option<String>,
        kernel_id: Option<String>,
        ramdisk_id: Option<String>,
        hostname: Option<String>,
        display_name: Option<String>,
        host: Option<String>,
        node: Option<String>,
        launched_on: Option<String>,
        vm_state: Option<VmState>,
        task_state: Option<TaskState>,
        power_state: Option<i64>,
        memory_mb: Option<i64>,
        vcpus: Option<i64>,
        root_gb: Option<i64>,
        ephemeral_gb: Option<i64>,
        launch_index: Option<i64>,
        key_name: Option<String>,
        key_data: Option<String>,
        user_data: Option<Secret>,
        config_drive: Option<String>,
        availability_zone: Option<String>,
        os_type: Option<String>,
        root_device_name: Option<String>,
        launched_at: Option<Timestamp>,
        terminated_at: Option<Timestamp>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted: bool,
        deleted_at: Option<Timestamp>,
        metadata: BTreeMap<String, String>,
        system_metadata: BTreeMap<String, Option<String>>,
        flavor: Flavor,
    }
}

versioned_object! {
    /// A size: memory in MiB, disks in GiB, swap in MiB.
    Flavor "1.2" {
        id: i64,
        name: Option<String>,
        memory_mb: i64,
        vcpus: i64,
        root_gb: i64,
        ephemeral_gb: i64,
        flavorid: String,
        swap: i64,
        extra_specs: BTreeMap<String, String>,
    }
}
