//! An instance's disks made anew in their directory: what a rebuild takes away, and what an unshelved
//! disk stands on.

use std::io;
use std::path::Path;

use async_trait::async_trait;
use tracing::info;
use uuid::Uuid;

use super::files::blocking;
use super::store::{HostImages, remove_tree};
use super::{CachedImage, ImageError, disk_info};

/// Changes of an instance's directory as a whole.
#[async_trait]
pub trait Remake: Send + Sync {
    /// Removes everything in the instance's directory but the disks named in `keep`; absent is
    /// success.
    async fn clear_directory(&self, instance: Uuid, keep: &[String]) -> Result<(), ImageError>;

    /// Puts the root disk, which no guest has open, on `base`: what differs is copied into it. `None`:
    /// it becomes whole by itself. Its content stays; a disk that stands on nothing stays as it is.
    async fn rebase_root(
        &self,
        instance: Uuid,
        base: Option<&CachedImage>,
    ) -> Result<(), ImageError>;
}

#[async_trait]
impl Remake for HostImages {
    async fn clear_directory(&self, instance: Uuid, keep: &[String]) -> Result<(), ImageError> {
        let _writer = self.writer(instance).await;
        let keep = keep.to_vec();
        blocking("clear", &self.directory(instance), move |path| clear(path, &keep)).await
    }

    async fn rebase_root(
        &self,
        instance: Uuid,
        base: Option<&CachedImage>,
    ) -> Result<(), ImageError> {
        let _writer = self.writer(instance).await;
        let path = self.directory(instance).join("disk");
        let disk = self.finished(&path, "qcow2").await?;
        if disk.is_none_or(|disk| disk.format != "qcow2") {
            return Ok(());
        }
        let info = self.qemu_img.info(&path, "qcow2").await?;
        let Some(on) = info.backing_filename.as_deref() else { return Ok(()) };
        if base.is_some_and(|base| Path::new(on) == base.path) {
            return Ok(());
        }
        if let Some(base) = base {
            self.existing_base(base).await?;
        }
        let base = base.map(|base| (base.path.as_path(), base.format.as_str()));
        self.qemu_img.rebase(&path, base).await?;
        info!(instance_uuid = %instance, base = ?base.map(|(path, _)| path), "root disk rebased");
        Ok(())
    }
}

fn clear(directory: &Path, keep: &[String]) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut kept = disk_info::read(directory)?;
    kept.retain(|disk| {
        let name = disk.path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| keep.iter().any(|kept| kept == name))
    });
    // Last: what the kept disks are must be known for as long as they are there.
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let stays = name.to_str().is_some_and(|name| {
            name == disk_info::FILE_NAME || keep.iter().any(|kept| kept == name)
        });
        if !stays {
            remove_tree(&entry.path())?;
        }
    }
    disk_info::write(directory, &kept)
}
