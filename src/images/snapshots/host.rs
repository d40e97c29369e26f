//! Snapshots as files of this host. nova: virt/libvirt/driver.py, `snapshot`, `_live_snapshot`;
//! virt/libvirt/utils.py, `extract_snapshot`

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use nix::sys::statvfs::statvfs;
use tracing::debug;
use uuid::Uuid;

use super::{SnapshotFormat, Snapshots};
use crate::images::files::{blocking, remove_if_there};
use crate::images::inspect::{FileContent, Policy, inspect};
use crate::images::qemu_img::{Info, QemuImg};
use crate::images::store::remove_tree;
use crate::images::{Disk, ImageError, Progress};

/// The hypervisor's user gets at the files that it is told of, and nobody sees which there are.
const MODE: u32 = 0o701;

/// A chain of backing files is short: ours has one. A loop must not be followed for ever.
const LONGEST_CHAIN: usize = 64;

/// Directories below `[libvirt] snapshots_directory`.
pub struct HostSnapshots {
    directory: PathBuf,
    /// `[libvirt] snapshot_compression`, of qcow2 images.
    compress: bool,
    qemu_img: QemuImg,
}

impl HostSnapshots {
    /// # Errors
    /// `BadPath` for a directory that isn't absolute.
    pub fn new(directory: PathBuf, compress: bool, qemu_img: QemuImg) -> Result<Self, ImageError> {
        match directory.is_absolute() {
            true => Ok(Self { directory, compress, qemu_img }),
            false => Err(ImageError::BadPath(directory.display().to_string())),
        }
    }

    fn path(&self, snapshot: Uuid) -> PathBuf {
        self.directory.join(snapshot.simple().to_string())
    }

    /// The disk's header, and how many bytes it has on the file system, alone and with all that is
    /// behind it.
    async fn sizes(&self, disk: &Disk) -> Result<(u64, u64), ImageError> {
        let alone = blocking("look up", &disk.path, allocated).await?;
        let (mut total, mut seen) = (alone, BTreeSet::from([disk.path.clone()]));
        let mut next = self.behind(disk).await?;
        while let Some(disk) = next.filter(|_| seen.len() < LONGEST_CHAIN) {
            if !seen.insert(disk.path.clone()) {
                break;
            }
            total = total.saturating_add(blocking("look up", &disk.path, allocated).await?);
            next = self.behind(&disk).await?;
        }
        Ok((alone, total))
    }

    async fn behind(&self, disk: &Disk) -> Result<Option<Disk>, ImageError> {
        match disk.format.as_str() {
            // What a guest wrote to a raw disk may look like anything.
            "raw" => Ok(None),
            format => backing(disk, &self.qemu_img.info(&disk.path, format).await?).await,
        }
    }
}

#[async_trait]
impl Snapshots for HostSnapshots {
    async fn begin(&self, snapshot: Uuid, disk: &Disk, live: bool) -> Result<(), ImageError> {
        let path = self.path(snapshot);
        blocking("create", &path, |path| {
            remove_tree(path)?;
            let parent = path.parent().unwrap_or(path);
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            DirBuilder::new().mode(MODE).create(path)?;
            // Whatever the mask of this process is.
            std::fs::set_permissions(path, Permissions::from_mode(MODE))
        })
        .await?;
        let (alone, total) = self.sizes(disk).await?;
        let needed = if live { total.saturating_add(alone) } else { total };
        let free = blocking("look up", &path, |path| {
            let found = statvfs(path)?;
            Ok(found.blocks_available().saturating_mul(found.fragment_size()))
        })
        .await?;
        debug!(needed, free, path = %path.display(), "room for a snapshot");
        // Holes and compression make it less than that, but never a part of it.
        if free < needed / 2 {
            return Err(ImageError::NoSpace { path });
        }
        Ok(())
    }

    fn delta(&self, snapshot: Uuid) -> PathBuf {
        self.path(snapshot).join("delta")
    }

    async fn create_delta(&self, snapshot: Uuid, disk: &Disk) -> Result<Disk, ImageError> {
        let delta = self.delta(snapshot);
        blocking("remove", &delta, remove_if_there).await?;
        let info = self.qemu_img.info(&disk.path, &disk.format).await?;
        let size = Some(info.virtual_size);
        let base = match disk.format.as_str() {
            "raw" => None,
            _ => backing(disk, &info).await?,
        };
        match base {
            Some(base) => {
                let cluster = info.cluster_size;
                let base = (base.path.as_path(), base.format.as_str());
                self.qemu_img.create_overlay(&delta, base, cluster, size).await?;
            }
            None => self.qemu_img.create(&delta, "qcow2", info.virtual_size).await?,
        }
        Ok(Disk { path: delta, format: "qcow2".to_owned() })
    }

    async fn extract(
        &self,
        snapshot: Uuid,
        disk: &Disk,
        format: SnapshotFormat,
        progress: Progress<'_>,
    ) -> Result<PathBuf, ImageError> {
        let directory = self.path(snapshot);
        let (image, draft) = (directory.join("image"), directory.join("image.part"));
        // An earlier attempt came to its end.
        if blocking("look up", &image, |image| image.try_exists()).await? {
            return Ok(image);
        }
        blocking("remove", &draft, remove_if_there).await?;
        let size = self.qemu_img.info(&disk.path, &disk.format).await?.virtual_size;
        let source = (disk.path.as_path(), disk.format.as_str());
        if self.compress && format == SnapshotFormat::Qcow2 {
            self.qemu_img.compress(source, &draft, size, progress).await?;
        } else {
            let target = (draft.as_path(), format.as_str());
            self.qemu_img.convert(source, target, size, progress).await?;
        }
        let finished = image.clone();
        blocking("rename", &draft, move |draft| std::fs::rename(draft, &finished)).await?;
        // Its space may be needed.
        blocking("remove", &self.delta(snapshot), remove_if_there).await?;
        Ok(image)
    }

    async fn remove(&self, snapshot: Uuid) -> Result<(), ImageError> {
        blocking("remove", &self.path(snapshot), remove_tree).await
    }
}

/// The file behind a disk, by the disk's own header: QEMU wrote it, and the guest can't.
async fn backing(disk: &Disk, info: &Info) -> Result<Option<Disk>, ImageError> {
    let Some(name) = &info.backing_filename else { return Ok(None) };
    let directory = disk.path.parent().unwrap_or(Path::new("/"));
    let path = directory.join(name);
    let format = match &info.backing_filename_format {
        Some(format) => format.clone(),
        // Made by a nova that didn't say. A base is no guest's to write: what it looks like it is.
        None => {
            let verdict = blocking("inspect", &path, |path| {
                let content = FileContent::new(File::open(path)?)?;
                Ok(inspect(&content, None, &Policy::default()))
            });
            let found = verdict.await?.map_err(|reason| ImageError::Unacceptable {
                image: path.display().to_string(),
                reason: reason.to_string(),
            })?;
            found.format.qemu_name().to_owned()
        }
    };
    Ok(Some(Disk { path, format }))
}

fn allocated(path: &Path) -> io::Result<u64> {
    Ok(path.metadata()?.blocks().saturating_mul(512))
}
