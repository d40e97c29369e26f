//! Disks of a running domain, and the jobs that copy them beside their guest.

use std::path::PathBuf;

use uuid::Uuid;

/// A disk as its domain's definition has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainDisk {
    /// Its name in the guest: `vda`.
    pub target: String,
    /// `disk`, `cdrom`, …
    pub device: String,
    /// The file or block device; `None` for an empty drive or a network disk.
    pub source: Option<PathBuf>,
    /// `raw`, `qcow2`
    pub format: Option<String>,
    /// `virtio`
    pub bus: Option<String>,
    /// What the guest reads as its serial number: a volume's id.
    pub serial: Option<String>,
    /// `ua-…`, or libvirt's own.
    pub alias: Option<String>,
}

/// A volume among a domain's disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDisk {
    pub volume_id: String,
    /// The name it should have: `vdb`. A disk without a serial and an alias of the user's is known by it
    /// alone.
    pub target: String,
    /// Where it is on this host. A disk that was put in another one's place keeps that one's serial: under
    /// its name, it is known by this.
    pub path: Option<PathBuf>,
}

impl VolumeDisk {
    /// nova: virt/libvirt/config.py, `make_libvirt_device_alias`
    pub fn alias(&self) -> String {
        alias_of(&self.volume_id)
    }

    /// Whether the disk is this volume. One that says that it is another is never it, whatever it is
    /// called in the guest.
    pub fn is(&self, disk: &DomainDisk) -> bool {
        if disk.alias.as_deref() == Some(&self.alias()) {
            return true;
        }
        if self.path.is_some() && disk.source == self.path && disk.target == self.target {
            return true;
        }
        match (&disk.serial, &disk.alias) {
            (Some(serial), _) => *serial == self.volume_id,
            (None, Some(alias)) if alias.starts_with(USER_ALIAS) => false,
            (None, _) => disk.target == self.target,
        }
    }
}

/// Aliases that libvirt leaves to its users.
const USER_ALIAS: &str = "ua-";

/// What libvirt calls a volume's disk.
pub fn alias_of(volume_id: &str) -> String {
    format!("{USER_ALIAS}{volume_id}")
}

/// What became of a request that a guest let go of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEvent {
    pub instance_uuid: Uuid,
    pub alias: String,
    /// `false`: the guest refuses.
    pub removed: bool,
}

/// A copy of a disk that its guest goes on writing to: what is written after its start reaches the
/// copy as well, until the copy's job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockCopy {
    /// The disk's name in the guest.
    pub target: String,
    /// Where to: a file that is there and as large as the disk.
    pub file: PathBuf,
    pub format: String,
    /// Only what lies above the disk's backing file is copied; the file has that behind it, too.
    pub shallow: bool,
}

/// How far a block job is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockJob {
    /// Bytes. The total may grow while the guest writes.
    pub done: u64,
    pub total: u64,
    /// The copy is whole, and follows what the guest writes: the job may end.
    pub ready: bool,
    /// Where it copies to.
    pub file: Option<PathBuf>,
}

/// Something has changed with a job on a disk: [`super::Hypervisor::block_job`] says what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockJobEvent {
    pub instance_uuid: Uuid,
}
