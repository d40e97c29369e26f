//! An instance's blank disks: overlays on bases in the cache, or files formatted where they lie.
//!
//! ``nova: virt/libvirt/imagebackend.py``: the qcow2 backend has one base for each size and content,
//! under the lock of its name; the flat one generates each disk in place.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;
use uuid::Uuid;

use super::backend::{Backend, preallocate};
use super::blank::{Blank, Recipe};
use super::cache::Cache;
use super::files::{Draft, blocking, io_error, publish, remove_if_there, touch};
use super::store::HostImages;
use super::{Disk, ImageError};

/// Whether an instance's blank disk may be called that: `disk.local`, `disk.swap`, `disk.eph0`, …
pub fn is_blank(name: &str) -> bool {
    let number = name.strip_prefix("disk.eph").filter(|number| number.len() <= 5);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    matches!(name, "disk.local" | "disk.swap") || number.is_some_and(is_number)
}

pub(super) fn check_name(name: &str) -> Result<(), ImageError> {
    if is_blank(name) { Ok(()) } else { Err(ImageError::BadPath(name.to_owned())) }
}

impl HostImages {
    /// See [`super::Images::create_blank`].
    pub(super) async fn make_blank(
        &self,
        instance: Uuid,
        name: &str,
        blank: &Blank,
    ) -> Result<Disk, ImageError> {
        check_name(name)?;
        let path = self.directory(instance).join(name);
        let size = blank.size_bytes().map_err(|error| io_error("size", &path, error))?;
        let recipe = self.file_systems.recipe(blank)?;
        let _writer = self.writer(instance).await;
        let format = match self.backend {
            Backend::Qcow2 => "qcow2",
            Backend::Flat => "raw",
        };
        if let Some(disk) = self.finished(&path, format).await? {
            return Ok(disk);
        }
        let directory = self.existing_directory(instance).await?;
        let draft = Draft(directory.join(format!("{name}.part")));
        blocking("remove", &draft.0, remove_if_there).await?;
        let deadline = self.qemu_img.long_deadline;
        match self.backend {
            Backend::Qcow2 => {
                let names = recipe.base_names(blank);
                let base = self.cache.blank(&names, &recipe, size, deadline).await?;
                let base = (base.as_path(), "raw");
                self.qemu_img.create_overlay(&draft.0, base, None, Some(size)).await?;
            }
            Backend::Flat => recipe.make(&draft.0, size, deadline).await?,
        }
        if self.preallocate_space {
            preallocate(&draft.0, size).await?;
        }
        let disk = Disk { path, format: format.to_owned() };
        self.finish(&draft.0, &disk).await?;
        info!(instance_uuid = %instance, disk = name, format, size, "blank disk made");
        Ok(disk)
    }
}

impl Cache {
    /// The base made by `recipe`, under the first of `names` that is free or holds what it makes.
    async fn blank(
        &self,
        names: &[String],
        recipe: &Recipe,
        size: u64,
        deadline: Duration,
    ) -> Result<PathBuf, ImageError> {
        for name in names {
            let path = self.directory.join(name);
            let found = self.look_at_blank(&path, recipe, size).await?;
            match found {
                Found::Fits => return Ok(path),
                Found::Other => continue,
                Found::Nothing => {}
            }
            let _held = self.locks.acquire(name).await?;
            match self.look_at_blank(&path, recipe, size).await? {
                Found::Fits => return Ok(path),
                Found::Other => continue,
                Found::Nothing => {}
            }
            blocking("create", &self.directory, |dir| std::fs::create_dir_all(dir)).await?;
            // Dropped before the lock is: what a try that was cut off left goes, too.
            let draft = Draft(self.directory.join(format!("{name}.part")));
            blocking("remove", &draft.0, remove_if_there).await?;
            recipe.make(&draft.0, size, deadline).await?;
            let target = path.clone();
            match blocking("publish", &draft.0, move |draft| publish(draft, &target)).await {
                Ok(()) => info!(base = name, size, "blank base made"),
                // Somebody who doesn't take the lock was faster: the next look says what it is.
                Err(ImageError::Io { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            if self.look_at_blank(&path, recipe, size).await? == Found::Fits {
                return Ok(path);
            }
        }
        let path = self.directory.join(names.first().map_or("", String::as_str));
        let source =
            io::Error::new(io::ErrorKind::InvalidData, "its content isn't what its name says");
        Err(ImageError::Io { operation: "use", path, source })
    }

    /// Looks at a base, and marks one that fits as used.
    async fn look_at_blank(
        &self,
        path: &Path,
        recipe: &Recipe,
        size: u64,
    ) -> Result<Found, ImageError> {
        let _stays = self.removal.read().await;
        let recipe = recipe.clone();
        blocking("look at", path, move |path| {
            let mut options = std::fs::OpenOptions::new();
            options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
            let base = match options.open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
                // A link.
                Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Found::Other),
                opened => opened?,
            };
            if !recipe.made(&base, size)? {
                return Ok(Found::Other);
            }
            touch(path)?;
            Ok(Found::Fits)
        })
        .await
    }
}

/// What there is under a base's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Fits,
    /// Another file system, another size, or no file: it may back guests, and stays.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blank_disks_names_are_taken() {
        for good in ["disk.local", "disk.swap", "disk.eph0", "disk.eph12"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "disk", "disk.eph", "disk.eph-1", "disk.eph1x", "disk.eph0/../x", "../a"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
