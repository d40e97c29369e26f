//! This host's images: the cache, and the instance directories with their disks.
//!
//! Every path is made of the instances directory, an instance's UUID and a name of ours, so
//! nothing in a message can lead elsewhere. A disk is made under a name with a `.part` behind it
//! and renamed when it is whole: a disk that is there is finished.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use async_trait::async_trait;
use tracing::info;
use uuid::Uuid;

use super::backend::{Backend, preallocate};
use super::blank::{Blank, FileSystems};
use super::cache::{Cache, check_fits, gib_to_bytes};
use super::config_disk::{ConfigDisk, ConfigDriveFormat};
use super::fetch::Patience;
use super::files::{Draft, blocking, io_error, remove_if_there, replace};
use super::inspect::Policy;
use super::lock::Locks;
use super::qemu_img::QemuImg;
use super::{
    Aged, Ageing, CachedImage, ConfigDriveFiles, Disk, FoundImage, ImageError, ImageRequest,
    ImageSource, Images, Progress, ageing, disk_info, storage_users,
};
use crate::model::context::RequestContext;

/// How images are kept; [`StoreOptions::new`] has nova's defaults.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// `[DEFAULT] instances_path`, absolute.
    pub instances_path: PathBuf,
    /// `[image_cache] subdirectory_name`
    pub cache_subdirectory: String,
    /// `[DEFAULT] force_raw_images`
    pub force_raw_images: bool,
    /// `[libvirt] images_type`: `default`, `qcow2`, `raw` or `flat`.
    pub images_type: String,
    /// `[DEFAULT] use_cow_images`: what `default` means.
    pub use_cow_images: bool,
    /// `[DEFAULT] preallocate_images = space`
    pub preallocate_space: bool,
    /// `[DEFAULT] mkisofs_cmd`
    pub mkisofs_cmd: String,
    /// `[DEFAULT] config_drive_format`
    pub config_drive_format: ConfigDriveFormat,
    /// The publisher written into config drives.
    pub config_drive_publisher: String,
    /// `[compute] vmdk_allowed_types`
    pub vmdk_allowed_types: Vec<String>,
    /// `[DEFAULT] default_ephemeral_format` and `virt_mkfs`
    pub file_systems: FileSystems,
    /// Limits and deadlines of `qemu-img`.
    pub qemu_img: QemuImg,
    /// Retries and timeouts of a fetch.
    pub patience: Patience,
}

impl StoreOptions {
    pub fn new(instances_path: impl Into<PathBuf>) -> Self {
        Self {
            instances_path: instances_path.into(),
            cache_subdirectory: "_base".into(),
            force_raw_images: true,
            images_type: "default".into(),
            use_cow_images: true,
            preallocate_space: false,
            mkisofs_cmd: "genisoimage".into(),
            config_drive_format: ConfigDriveFormat::Iso9660,
            config_drive_publisher: "OpenStack Nova 33.0.2".into(),
            vmdk_allowed_types: Policy::default().vmdk_allowed_types,
            file_systems: FileSystems::default(),
            qemu_img: QemuImg::default(),
            patience: Patience::default(),
        }
    }
}

/// What an overlay stands on once it is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stands<'a> {
    /// The image that it was made of.
    AsMade,
    /// Another one: what differs is in the overlay.
    On(&'a CachedImage),
    Alone,
}

/// The real thing: files under `instances_path`.
pub struct HostImages {
    instances: PathBuf,
    locks: Arc<Locks>,
    pub(super) cache: Cache,
    pub(super) backend: Backend,
    pub(super) file_systems: FileSystems,
    pub(super) qemu_img: QemuImg,
    pub(super) preallocate_space: bool,
    config_disk: ConfigDisk,
    /// One writer of an instance's directory at a time.
    writers: Mutex<HashMap<Uuid, Weak<tokio::sync::Mutex<()>>>>,
}

impl HostImages {
    /// Images from `source`, kept as `options` say. Touches nothing yet.
    ///
    /// # Errors
    /// `Unsupported` for an `images_type` that isn't there, `BadPath` for directories that aren't
    /// plain names under an absolute path.
    pub fn new(options: StoreOptions, source: Arc<dyn ImageSource>) -> Result<Self, ImageError> {
        let backend = Backend::named(&options.images_type, options.use_cow_images)?;
        let instances = options.instances_path;
        if !instances.is_absolute() {
            return Err(ImageError::BadPath(instances.display().to_string()));
        }
        check_name(&options.cache_subdirectory)?;
        let locks = Arc::new(Locks::new(instances.join("locks")));
        let cache = Cache::new(
            instances.join(options.cache_subdirectory),
            source,
            locks.clone(),
            options.qemu_img.clone(),
            Policy { vmdk_allowed_types: options.vmdk_allowed_types },
            options.force_raw_images,
            options.patience,
        );
        Ok(Self {
            instances,
            locks,
            cache,
            backend,
            file_systems: options.file_systems,
            qemu_img: options.qemu_img,
            preallocate_space: options.preallocate_space,
            config_disk: ConfigDisk {
                mkisofs: options.mkisofs_cmd,
                format: options.config_drive_format,
                publisher: options.config_drive_publisher,
            },
            writers: Mutex::default(),
        })
    }

    /// The instance's directory, whether it is there or not.
    pub fn directory(&self, instance: Uuid) -> PathBuf {
        self.instances.join(instance.to_string())
    }

    /// The instance's directory if it is one: a symbolic link could lead anywhere.
    pub(super) async fn existing_directory(&self, instance: Uuid) -> Result<PathBuf, ImageError> {
        let path = self.directory(instance);
        if blocking("look up", &path, |path| Ok(path.symlink_metadata()?.is_dir())).await? {
            Ok(path)
        } else {
            Err(ImageError::BadPath(path.display().to_string()))
        }
    }

    /// A base must be a file of the cache.
    pub(super) async fn existing_base(&self, base: &CachedImage) -> Result<(), ImageError> {
        if base.path.parent() != Some(self.cache.directory()) || base.path.file_name().is_none() {
            return Err(ImageError::BadPath(base.path.display().to_string()));
        }
        let is_file = blocking("look up", &base.path, |path| match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => Ok(other?.is_file()),
        });
        if is_file.await? {
            Ok(())
        } else {
            Err(ImageError::BaseMissing { path: base.path.clone() })
        }
    }

    pub(super) async fn writer(&self, instance: Uuid) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut map = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            map.retain(|_, lock| lock.strong_count() > 0);
            match map.get(&instance).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    map.insert(instance, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// Lists a finished draft in `disk.info`, then puts it in place: a disk that is there is
    /// always listed, as nova has it too.
    pub(super) async fn finish(&self, draft: &Path, disk: &Disk) -> Result<(), ImageError> {
        self.record(disk).await?;
        self.place(draft, &disk.path).await
    }

    async fn place(&self, draft: &Path, path: &Path) -> Result<(), ImageError> {
        let to = path.to_owned();
        blocking("replace", draft, move |draft| replace(draft, &to)).await
    }

    async fn record(&self, disk: &Disk) -> Result<(), ImageError> {
        let directory = disk.path.parent().unwrap_or(&self.instances).to_owned();
        let disk = disk.clone();
        blocking("write disk.info of", &directory, move |dir| disk_info::record(dir, &disk)).await
    }

    /// A disk that is there already. It may hold a guest's data, so it is never made anew, whoever
    /// made it; its format is what `disk.info` has, and never what its content looks like. `made_as`:
    /// the format that this agent makes it in, if it isn't listed.
    pub(super) async fn finished(
        &self,
        path: &Path,
        made_as: &str,
    ) -> Result<Option<Disk>, ImageError> {
        if !blocking("look up", path, |path| path.try_exists()).await? {
            return Ok(None);
        }
        let directory = path.parent().unwrap_or(&self.instances);
        let listed = blocking("read disk.info of", directory, disk_info::read).await?;
        if let Some(disk) = listed.into_iter().find(|disk| disk.path == path) {
            return Ok(Some(disk));
        }
        let disk = Disk { path: path.to_owned(), format: made_as.to_owned() };
        self.record(&disk).await?;
        Ok(Some(disk))
    }

    /// Makes a disk to boot from.
    pub(super) async fn make_root(
        &self,
        instance: Uuid,
        name: &str,
        base: &CachedImage,
        size_gib: u64,
        stands: Stands<'_>,
    ) -> Result<Disk, ImageError> {
        check_fits(base, size_gib)?;
        let path = self.directory(instance).join(name);
        let _writer = self.writer(instance).await;
        let made_as = match self.backend {
            Backend::Qcow2 => "qcow2",
            Backend::Flat => base.format.as_str(),
        };
        if let Some(disk) = self.finished(&path, made_as).await? {
            return Ok(disk);
        }
        self.existing_base(base).await?;
        let inspected = self.cache.inspect("base", &base.path).await?;
        // What was handed to us is older than what the file says now.
        let base = CachedImage { virtual_size_bytes: inspected.virtual_size, ..base.clone() };
        check_fits(&base, size_gib)?;
        let size = match size_gib {
            0 => None,
            gib => Some(gib_to_bytes(gib).map_err(|e| io_error("size", &path, e))?),
        };
        let directory = self.existing_directory(instance).await?;
        let draft = Draft(directory.join(format!("{name}.part")));
        blocking("remove", &draft.0, remove_if_there).await?;
        let format =
            self.backend.create(&self.qemu_img, &draft.0, (&base, &inspected), size).await?;
        if self.backend == Backend::Qcow2 {
            match stands {
                Stands::AsMade => {}
                Stands::On(base) => {
                    let base = (base.path.as_path(), base.format.as_str());
                    self.qemu_img.rebase(&draft.0, Some(base)).await?;
                }
                Stands::Alone => self.qemu_img.rebase(&draft.0, None).await?,
            }
        }
        if let Some(size) = size.filter(|_| self.preallocate_space) {
            preallocate(&draft.0, size).await?;
        }
        let disk = Disk { path, format: format.to_owned() };
        self.finish(&draft.0, &disk).await?;
        info!(instance_uuid = %instance, name, format, size_gib, "root disk made");
        Ok(disk)
    }

    pub(super) async fn make_config_drive(
        &self,
        instance: Uuid,
        name: &str,
        files: &ConfigDriveFiles,
    ) -> Result<Disk, ImageError> {
        let _writer = self.writer(instance).await;
        let directory = self.existing_directory(instance).await?;
        let draft = Draft(directory.join(format!("{name}.part")));
        blocking("remove", &draft.0, remove_if_there).await?;
        self.config_disk.create(&draft.0, &directory, files).await?;
        let disk = Disk { path: directory.join(name), format: "raw".into() };
        self.place(&draft.0, &disk.path).await?;
        Ok(disk)
    }
}

#[async_trait]
impl Images for HostImages {
    async fn look_up(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
    ) -> Result<FoundImage, ImageError> {
        self.cache.look_up(context, image).await
    }

    async fn cache(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
        progress: Progress<'_>,
    ) -> Result<CachedImage, ImageError> {
        self.cache.get(context, image, progress).await
    }

    async fn is_cached(&self, id: &str) -> Result<bool, ImageError> {
        self.cache.has(id).await
    }

    async fn create_directory(&self, instance: Uuid) -> Result<PathBuf, ImageError> {
        let path = self.directory(instance);
        blocking("create", &path, |path| {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
            // A link that dangles, or leads to a directory, is dealt with below.
            made.or_else(|e| if path.symlink_metadata().is_ok() { Ok(()) } else { Err(e) })
        })
        .await?;
        let path = self.existing_directory(instance).await?;
        // So that it belongs to us where libvirt doesn't change owners
        // (``nova: virt/libvirt/driver.py, _ensure_console_log_for_instance``).
        blocking("create", &self.console_log(instance), |log| {
            match std::fs::OpenOptions::new().append(true).create(true).open(log) {
                Err(e) if e.kind() != io::ErrorKind::PermissionDenied => Err(e),
                _ => Ok(()),
            }
        })
        .await?;
        Ok(path)
    }

    async fn has_directory(&self, instance: Uuid) -> Result<bool, ImageError> {
        let path = self.directory(instance);
        // A link that dangles is something too: it isn't ours to build over.
        blocking("look up", &path, |path| match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|_| true),
        })
        .await
    }

    async fn create_root(
        &self,
        instance: Uuid,
        base: &CachedImage,
        size_gib: u64,
    ) -> Result<Disk, ImageError> {
        self.make_root(instance, "disk", base, size_gib, Stands::AsMade).await
    }

    async fn create_blank(
        &self,
        instance: Uuid,
        name: &str,
        blank: &Blank,
    ) -> Result<Disk, ImageError> {
        self.make_blank(instance, name, blank).await
    }

    async fn create_boot_file(
        &self,
        instance: Uuid,
        base: &CachedImage,
        name: &str,
    ) -> Result<PathBuf, ImageError> {
        check_name(name)?;
        let _writer = self.writer(instance).await;
        self.existing_base(base).await?;
        let directory = self.existing_directory(instance).await?;
        let path = directory.join(name);
        let draft = Draft(directory.join(format!("{name}.part")));
        blocking("remove", &draft.0, remove_if_there).await?;
        let target = draft.0.clone();
        blocking("copy", &base.path, move |from| std::fs::copy(from, &target).map(drop))
            .await
            .map_err(|error| match error {
                // It is the target's disk that was full.
                ImageError::NoSpace { .. } => ImageError::NoSpace { path: directory.clone() },
                other => other,
            })?;
        self.place(&draft.0, &path).await?;
        Ok(path)
    }

    async fn create_config_drive(
        &self,
        instance: Uuid,
        files: &ConfigDriveFiles,
    ) -> Result<Disk, ImageError> {
        self.make_config_drive(instance, "disk.config", files).await
    }

    async fn disks(&self, instance: Uuid) -> Result<Vec<Disk>, ImageError> {
        blocking("read disk.info of", &self.directory(instance), |directory| {
            // nova leaves the lines of disks that it has removed, such as a rescue's.
            let mut disks = disk_info::read(directory)?;
            disks.retain(|disk| disk.path.symlink_metadata().is_ok());
            for path in UNLISTED.map(|name| directory.join(name)) {
                let there = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
                if there && !disks.iter().any(|disk| disk.path == path) {
                    disks.push(Disk { path, format: "raw".into() });
                }
            }
            Ok(disks)
        })
        .await
    }

    async fn age_cache(&self, by: &Ageing) -> Result<Aged, ImageError> {
        ageing::age(&self.cache, &self.instances, by).await
    }

    async fn storage_users(&self, host: &str) -> Result<Vec<String>, ImageError> {
        let _registry = self.locks.acquire(storage_users::LOCK).await?;
        let host = host.to_owned();
        blocking("register in", &self.instances, move |instances| {
            storage_users::register(instances, &host, SystemTime::now())
        })
        .await
    }

    fn console_log(&self, instance: Uuid) -> PathBuf {
        self.directory(instance).join("console.log")
    }

    async fn remove_directory(&self, instance: Uuid) -> Result<(), ImageError> {
        let _writer = self.writer(instance).await;
        let path = self.directory(instance);
        let doomed = self.instances.join(format!("{instance}_del"));
        blocking("remove", &path, move |path| {
            // What an interrupted removal left stands in the way of the rename.
            remove_tree(&doomed)?;
            match std::fs::rename(path, &doomed) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            }
            remove_tree(&doomed)
        })
        .await
    }
}

/// What nova makes beside the disks and doesn't list in `disk.info`: always raw.
const UNLISTED: [&str; 3] = ["disk.config", "kernel", "ramdisk"];

/// Removes a tree without following links, the tree's own root included; absent is success.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// One plain name: letters, digits, `.`, `-` and `_`, and no dot or dash in front.
fn check_name(name: &str) -> Result<(), ImageError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(plain) {
        Ok(())
    } else {
        Err(ImageError::BadPath(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        for good in ["kernel", "ramdisk.rescue", "_base"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "/a", "-a", "a b", "a\0"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
