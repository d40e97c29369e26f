//! Moves of an instance between hosts, and the data that the hosts exchange. nova: objects/{migration,
//! migration_context,migrate_data}.py

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::numa::InstanceNUMATopology;
use super::pci::{InstancePCIRequests, PciDeviceList};
use super::resources::ResourceList;
use crate::model::secret::Secret;
use crate::model::state::spelt;
use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

spelt! {
    /// Why an instance moves.
    MigrationType {
        Migration = "migration",
        Resize = "resize",
        LiveMigration = "live-migration",
        Evacuation = "evacuation",
    }
}

versioned_object! {
    /// One move. Memory and disk counters in bytes.
    Migration "1.8" {
        id: i64,
        uuid: Uuid,
        source_compute: Option<String>,
        dest_compute: Option<String>,
        source_node: Option<String>,
        dest_node: Option<String>,
        dest_compute_id: Option<i64>,
        dest_host: Option<String>,
        old_instance_type_id: Option<i64>,
        new_instance_type_id: Option<i64>,
        instance_uuid: Option<String>,
        status: Option<String>,
        migration_type: MigrationType,
        hidden: bool,
        memory_total: Option<i64>,
        memory_processed: Option<i64>,
        memory_remaining: Option<i64>,
        disk_total: Option<i64>,
        disk_processed: Option<i64>,
        disk_remaining: Option<i64>,
        cross_cell_move: bool,
        user_id: Option<String>,
        project_id: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several moves.
    MigrationList "1.5" of Migration
}

versioned_object! {
    /// What an instance occupied before a move and will after it.
    MigrationContext "1.2" {
        instance_uuid: Uuid,
        migration_id: i64,
        new_numa_topology: Option<InstanceNUMATopology>,
        old_numa_topology: Option<InstanceNUMATopology>,
        new_pci_devices: Option<PciDeviceList>,
        old_pci_devices: Option<PciDeviceList>,
        new_pci_requests: Option<InstancePCIRequests>,
        old_pci_requests: Option<InstancePCIRequests>,
        new_resources: Option<ResourceList>,
        old_resources: Option<ResourceList>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

versioned_object! {
    /// What source and destination of a live migration tell each other. Added to by each side in turn,
    /// so a received one goes back at the version it came with.
    LibvirtLiveMigrateData "1.13" {
        filename: String,
        image_type: String,
        block_migration: bool,
        disk_over_commit: bool,
        disk_available_mb: Option<i64>,
        is_shared_instance_path: bool,
        is_shared_block_storage: bool,
        instance_relative_path: String,
        graphics_listen_addr_vnc: Option<String>,
        graphics_listen_addr_spice: Option<String>,
        serial_listen_addr: Option<String>,
        serial_listen_ports: Vec<i64>,
        bdms: Vec<LibvirtLiveMigrateBDMInfo>,
        target_connect_addr: Option<String>,
        supported_perf_events: Vec<String>,
        src_supports_native_luks: bool,
        dst_wants_file_backed_memory: bool,
        file_backed_memory_discard: bool,
        src_supports_numa_live_migration: bool,
        dst_supports_numa_live_migration: bool,
        dst_numa_info: LibvirtLiveMigrateNUMAInfo,
        dst_supports_mdev_live_migration: bool,
        source_mdev_types: BTreeMap<String, String>,
        target_mdevs: BTreeMap<String, String>,
        dst_cpu_shared_set_info: BTreeSet<i64>,
        vtpm_secret_uuid: Option<Uuid>,
        vtpm_secret_value: Option<Secret>,
        is_volume_backed: bool,
        migration: Migration,
        old_vol_attachment_ids: BTreeMap<String, String>,
        pci_dev_map_src_dst: BTreeMap<String, String>,
        vifs: Vec<VIFMigrateData>,
        wait_for_vif_plugged: bool,
    }
}

versioned_object! {
    /// One volume as the destination will see it.
    LibvirtLiveMigrateBDMInfo "1.1" {
        serial: String,
        bus: String,
        dev: String,
        kind = "type": String,
        format: Option<String>,
        boot_index: Option<i64>,
        /// JSON text with the credentials of the volume.
        connection_info_json: Secret,
        encryption_secret_uuid: Option<Uuid>,
    }
}

versioned_object! {
    /// Where the destination pins the guest.
    LibvirtLiveMigrateNUMAInfo "1.0" {
        cpu_pins: BTreeMap<String, BTreeSet<i64>>,
        cell_pins: BTreeMap<String, BTreeSet<i64>>,
        emulator_pins: BTreeSet<i64>,
        sched_vcpus: BTreeSet<i64>,
        sched_priority: i64,
    }
}

versioned_object! {
    /// One NIC's binding on the destination. `source_vif`, `profile_json` and `vif_details_json` are
    /// JSON text.
    VIFMigrateData "1.0" {
        port_id: String,
        vnic_type: String,
        vif_type: String,
        vif_details_json: String,
        profile_json: String,
        host: String,
        source_vif: String,
    }
}
