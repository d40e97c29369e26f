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
