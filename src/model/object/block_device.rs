//! Disks and volumes of an instance. nova: objects/{block_device,volume_usage,share_mapping}.py

use uuid::Uuid;

use super::instance::Instance;
use crate::model::secret::Secret;
use crate::model::state::spelt;
use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

spelt! {
    /// What a disk is made of.
    SourceType { Blank = "blank", Image = "image", Snapshot = "snapshot", Volume = "volume" }
}

spelt! {
    /// Where a disk lives: on this host, or in Cinder.
    DestinationType { Local = "local", Volume = "volume" }
}

spelt! {
    /// What the guest sees.
    DeviceType { Cdrom = "cdrom", Disk = "disk", Floppy = "floppy", Fs = "fs", Lun = "lun" }
}

versioned_object! {
    /// One disk of an instance: where it comes from and where the guest sees it. Sizes in GiB.
    BlockDeviceMapping "1.21" {
        id: i64,
        uuid: Uuid,
        instance_uuid: Uuid,
        instance: Option<Box<Instance>>,
        source_type: Option<SourceType>,
        destination_type: Option<DestinationType>,
        /// `swap`, a file system, or `None`.
        guest_format: Option<String>,
        device_type: Option<DeviceType>,
        /// `virtio`, `scsi`, `ide`, …
        disk_bus: Option<String>,
        /// 0: the root disk; `None` or negative: not for booting.
        boot_index: Option<i64>,
        /// `/dev/vda`
        device_name: Option<String>,
        delete_on_termination: bool,
        snapshot_id: Option<String>,
        volume_id: Option<String>,
        /// GiB.
        volume_size: Option<i64>,
        image_id: Option<String>,
        no_device: bool,
        /// JSON text of how to reach the volume, with its credentials.
        connection_info: Option<Secret>,
        tag: Option<String>,
        attachment_id: Option<Uuid>,
        volume_type: Option<String>,
        encrypted: bool,
        encryption_secret_uuid: Option<Uuid>,
        /// `plain`, `luks`, `luksv2`
        encryption_format: Option<String>,
        encryption_options: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several disks.
    BlockDeviceMappingList "1.18" of BlockDeviceMapping
}

impl BlockDeviceMapping {
    /// The disk that the guest boots from.
    pub fn is_root(&self) -> bool {
        self.boot_index.value() == Some(&0)
    }

    /// A disk made of the image. nova: objects/block_device.py, `is_image`.
    pub fn is_image(&self) -> bool {
        self.source_type.value() == Some(&SourceType::Image)
    }

    /// A disk that lives in Cinder, or is to. nova: objects/block_device.py, `is_volume`.
    pub fn is_volume(&self) -> bool {
        self.destination_type.value() == Some(&DestinationType::Volume)
    }

    /// nova: block_device.py, `new_format_is_swap`.
    pub fn is_swap(&self) -> bool {
        self.is_blank_and_local() && self.guest_format.text() == Some("swap")
    }

    /// nova: block_device.py, `new_format_is_ephemeral`.
    pub fn is_ephemeral(&self) -> bool {
        self.is_blank_and_local() && self.guest_format.text() != Some("swap")
    }

    fn is_blank_and_local(&self) -> bool {
        self.source_type.value() == Some(&SourceType::Blank)
            && self.destination_type.value() == Some(&DestinationType::Local)
    }
}

impl BlockDeviceMappingList {
    /// The disk that the guest boots from; `None` when none is marked.
    pub fn root(&self) -> Option<&BlockDeviceMapping> {
        self.items().iter().find(|disk| disk.is_root())
    }
}

versioned_object! {
    /// I/O counters of a volume: `tot_*` from before its disk was attached last, `curr_*` since then.
    VolumeUsage "1.0" {
        id: i64,
        /// nova takes any text, too.
        volume_id: String,
        instance_uuid: Option<Uuid>,
        project_id: Option<String>,
        user_id: Option<String>,
        availability_zone: Option<String>,
        tot_last_refreshed: Option<Timestamp>,
        tot_reads: i64,
        tot_read_bytes: i64,
        tot_writes: i64,
        tot_write_bytes: i64,
        curr_last_refreshed: Option<Timestamp>,
        curr_reads: i64,
        curr_read_bytes: i64,
        curr_writes: i64,
        curr_write_bytes: i64,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

versioned_object! {
    /// A share attached to an instance.
    ShareMapping "1.2" {
        id: i64,
        uuid: Uuid,
        instance_uuid: Uuid,
        share_id: Uuid,
        /// `attaching`, `detaching`, `active`, `inactive`, `error`
        status: String,
        tag: String,
        export_location: String,
        /// `NFS`, `CEPHFS`
        share_proto: String,
        access_type: Option<String>,
        access_to: Option<String>,
        access_key: Option<Secret>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
    }
}

object_list! {
    /// Several shares.
    ShareMappingList "1.0" of ShareMapping
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(source: SourceType, destination: DestinationType, format: &str) -> BlockDeviceMapping {
        let mut disk = BlockDeviceMapping::default();
        disk.source_type.set(Some(source));
        disk.destination_type.set(Some(destination));
        disk.guest_format.set(Some(format.to_owned()).filter(|format| !format.is_empty()));
        disk
    }

    #[test]
    fn a_disk_is_of_one_kind() {
        use DestinationType::{Local, Volume};
        use SourceType::{Blank, Image};
        for (disk, swap, ephemeral, volume) in [
            (disk(Blank, Local, "swap"), true, false, false),
            (disk(Blank, Local, "ext4"), false, true, false),
            (disk(Blank, Local, ""), false, true, false),
            (disk(Blank, Volume, ""), false, false, true),
            (disk(Image, Local, ""), false, false, false),
            (disk(Image, Volume, ""), false, false, true),
        ] {
            let kinds = (disk.is_swap(), disk.is_ephemeral(), disk.is_volume());
            assert_eq!(kinds, (swap, ephemeral, volume), "{disk:?}");
        }
    }

    #[test]
    fn the_root_is_the_disk_of_boot_index_0() {
        let mut root = disk(SourceType::Image, DestinationType::Local, "");
        root.boot_index.set(Some(0));
        let swap = disk(SourceType::Blank, DestinationType::Local, "swap");
        assert!(BlockDeviceMappingList::from(vec![swap.clone()]).root().is_none());
        assert_eq!(BlockDeviceMappingList::from(vec![swap, root.clone()]).root(), Some(&root));
    }
}
