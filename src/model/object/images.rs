//! Images as Glance and nova describe them. nova: objects/image_meta.py. How they are made of an image
//! dict or of system metadata is in `model::image`.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::field_types::FlexibleBoolean;
use crate::model::time::Timestamp;
use crate::versioned_object;

versioned_object! {
    /// An image's record in Glance. Sizes: `size` and `virtual_size` in bytes, `min_disk` in GiB,
    /// `min_ram` in MiB.
    ImageMeta "1.8" {
        id: Uuid,
        name: String,
        status: String,
        visibility: String,
        protected: FlexibleBoolean,
        checksum: String,
        owner: String,
        size: i64,
        virtual_size: i64,
        container_format: String,
        disk_format: String,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        tags: Vec<String>,
        direct_url: String,
        min_ram: i64,
        min_disk: i64,
        properties: ImageMetaProps,
    }
}

versioned_object! {
    /// The image properties that nova understands.
    ///
    /// Enums stay text here: a newer control plane may know more values than this build, and the object is
    /// sent back as it came. [`crate::model::image`] reads them into types.
    ImageMetaProps "1.39" {
        hw_architecture: String,
        hw_emulation_architecture: String,
        hw_auto_disk_config: String,
        hw_boot_menu: FlexibleBoolean,
        hw_cdrom_bus: String,
        hw_cpu_cores: i64,
        hw_cpu_sockets: i64,
        hw_cpu_max_cores: i64,
        hw_cpu_max_sockets: i64,
        hw_cpu_max_threads: i64,
        /// `dedicated`, `shared`, `mixed`
        hw_cpu_policy: String,
        /// `prefer`, `isolate`, `require`
        hw_cpu_thread_policy: String,
        hw_cpu_realtime_mask: String,
        hw_cpu_threads: i64,
        hw_device_id: i64,
        hw_disk_bus: String,
        hw_disk_type: String,
        hw_floppy_bus: String,
        /// `uefi`, `bios`
        hw_firmware_type: String,
        hw_firmware_stateless: FlexibleBoolean,
        /// `usb`, `virtio`
        hw_input_bus: String,
        hw_ipxe_boot: FlexibleBoolean,
        hw_locked_memory: FlexibleBoolean,
        hw_machine_type: String,
        hw_mem_encryption: FlexibleBoolean,
        /// `amd-sev`, `amd-sev-es`
        hw_mem_encryption_model: String,
        hw_mem_page_size: String,
        hw_numa_nodes: i64,
        hw_numa_cpus: Vec<BTreeSet<i64>>,
        hw_numa_mem: Vec<i64>,
        /// `required`, `legacy`, `preferred`, `socket`
        hw_pci_numa_affinity_policy: String,
        /// `usbtablet`
        hw_pointer_model: String,
        hw_pmu: FlexibleBoolean,
        hw_qemu_guest_agent: FlexibleBoolean,
        hw_rescue_bus: String,
        /// `cdrom`, `disk`, `floppy`, `fs`, `lun`
        hw_rescue_device: String,
        /// `virtio`
        hw_rng_model: String,
        hw_time_hpet: FlexibleBoolean,
        hw_serial_port_count: i64,
        /// `buslogic`, `ibmvscsi`, `lsilogic`, `lsisas1068`, `lsisas1078`, `virtio-scsi`, `vmpvscsi`
        hw_scsi_model: String,
        hw_video_model: String,
        hw_video_ram: i64,
        hw_vif_model: String,
        /// `intel`, `smmuv3`, `virtio`, `auto`
        hw_viommu_model: String,
        /// `hvm`, `xen`, `uml`, `exe`
        hw_vm_mode: String,
        /// `none`, `pause`, `poweroff`, `reset`, `disabled`
        hw_watchdog_action: String,
        hw_vif_multiqueue_enabled: FlexibleBoolean,
        /// `tpm-tis`, `tpm-crb`
        hw_tpm_model: String,
        /// `1.2`, `2.0`
        hw_tpm_version: String,
        hw_ephemeral_encryption: FlexibleBoolean,
        /// `plain`, `luks`, `luksv2`
        hw_ephemeral_encryption_format: String,
        hw_ephemeral_encryption_secret_uuid: Uuid,
        hw_virtio_packed_ring: FlexibleBoolean,
        /// `passthrough`, `emulate`
        hw_maxphysaddr_mode: String,
        hw_maxphysaddr_bits: i64,
        /// `sb16`, `es1370`, `pcspk`, `ac97`, `ich6`, `ich9`, `usb`, `virtio`
        hw_sound_model: String,
        /// `none`, `nec-xhci`, `qemu-xhci`
        hw_usb_model: String,
        hw_redirected_usb_ports: i64,
        img_bittorrent: FlexibleBoolean,
        img_bdm_v2: FlexibleBoolean,
        img_block_device_mapping: Vec<BTreeMap<String, Option<String>>>,
        img_cache_in_nova: FlexibleBoolean,
        img_compression_level: i64,
        img_hv_requested_version: String,
        img_hv_type: String,
        /// `optional`, `mandatory`
        img_config_drive: String,
        img_linked_clone: FlexibleBoolean,
        img_mappings: Vec<BTreeMap<String, Option<String>>>,
        img_owner_id: String,
        img_root_device_name: String,
        img_use_agent: FlexibleBoolean,
        img_version: i64,
        img_signature: String,
        /// `SHA-224`, `SHA-256`, `SHA-384`, `SHA-512`
        img_signature_hash_method: String,
        img_signature_certificate_uuid: Uuid,
        /// `DSA`, `ECC_SECP384R1`, `ECC_SECP521R1`, `ECC_SECT409K1`, `ECC_SECT409R1`, `ECC_SECT571K1`, `ECC_SECT571R1`, `RSA-PSS`
        img_signature_key_type: String,
        img_hide_hypervisor_id: FlexibleBoolean,
        os_admin_user: String,
        os_command_line: String,
        os_distro: String,
        os_require_quiesce: FlexibleBoolean,
        /// `required`, `disabled`, `optional`
        os_secure_boot: String,
        os_skip_agent_inject_files_at_boot: FlexibleBoolean,
        os_skip_agent_inject_ssh: FlexibleBoolean,
        /// `linux`, `windows`
        os_type: String,
        traits_required: Vec<String>,
    }
}
