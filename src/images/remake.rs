//! An instance's disks made anew in their directory: what a rebuild takes away, and what an unshelved
//! disk stands on.

use std::io;
use std::path::Path;

use async_trait::async_trait;
use uuid::Uuid;

use super::files::blocking;
use super::store::{HostImages, Stands, remove_tree};
use super::{CachedImage, Disk, ImageError, disk_info};

/// Changes of an instance's directory as a whole.
#[async_trait]
pub trait Remake: Send + Sync {
    /// Removes everything in the instance's directory but the disks named in `keep`; absent is
    /// success.
    async fn clear_directory(&self, instance: Uuid, keep: &[String]) -> Result<(), ImageError>;

    /// Makes the root disk `disk` with the content of `image`, and has it stand on `base` instead: what
    /// differs is copied into it. `None`: it is whole by itself. A repeat keeps a finished disk and
    /// replaces a half-made one.
    async fn create_root_on(
        &self,
        instance: Uuid,
        image: &CachedImage,
        base: Option<&CachedImage>,
        size_gib: u64,
    ) -> Result<Disk, ImageError>;
}

#[async_trait]
impl Remake for HostImages {
    async fn clear_directory(&self, instance: Uuid, keep: &[String]) -> Result<(), ImageError> {
        let _writer = self.writer(instance).await;
        let keep = keep.to_vec();
        blocking("clear", &self.directory(instance), move |path| clear(path, &keep)).await
    }

    async fn create_root_on(
        &self,
        instance: Uuid,
        image: &CachedImage,
        base: Option<&CachedImage>,
        size_gib: u64,
    ) -> Result<Disk, ImageError> {
        if let Some(base) = base {
            self.existing_base(base).await?;
        }
        let stands = match base {
            Some(base) => Stands::On(base),
            None => Stands::Alone,
        };
        self.make_root(instance, "disk", image, size_gib, stands).await
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
