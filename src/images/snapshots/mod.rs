//! Snapshots being made: each has a directory of its own below `snapshots_directory`, which is gone
//! when it has been kept elsewhere, or given up.
//!
//! ```text
//! live: disk ─ block copy, by the hypervisor ─▶ delta ─ extract ─▶ image ─▶ sink
//! cold: disk ──────────────────────────────────────── extract ─▶ image ─▶ sink
//! ```

pub mod fake;
pub mod host;

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Disk, ImageError, Progress};

/// What a snapshot becomes. `[libvirt] snapshot_image_format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotFormat {
    Raw,
    Qcow2,
    Vmdk,
    Vdi,
}

impl SnapshotFormat {
    /// As Glance and `qemu-img` have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi]
            .into_iter()
            .find(|format| format.as_str() == text)
    }
}

/// Makes images of disks.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// Makes the snapshot's directory, with nothing in it: what an earlier attempt left goes.
    ///
    /// # Errors
    /// `NoSpace` when there is certainly too little for an image of `disk`; `live`: and for a copy
    /// of it before.
    async fn begin(&self, snapshot: Uuid, disk: &Disk, live: bool) -> Result<(), ImageError>;

    /// Where the hypervisor copies to.
    fn delta(&self, snapshot: Uuid) -> PathBuf;

    /// Makes the file that the hypervisor copies `disk` to: as large, and with the same file behind
    /// it. A repeat makes it anew: nobody may be copying then.
    async fn create_delta(&self, snapshot: Uuid, disk: &Disk) -> Result<Disk, ImageError>;

    /// Makes the image of `disk`, which nobody writes to, and removes the delta. A repeat finds a
    /// finished image. May be dropped half-way.
    async fn extract(
        &self,
        snapshot: Uuid,
        disk: &Disk,
        format: SnapshotFormat,
        progress: Progress<'_>,
    ) -> Result<PathBuf, ImageError>;

    /// Removes the snapshot's directory with everything in it; absent is success.
    async fn remove(&self, snapshot: Uuid) -> Result<(), ImageError>;
}
