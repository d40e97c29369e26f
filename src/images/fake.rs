//! Images without a disk: the cache and the instance directories kept in memory.
//!
//! Part of the product: `compute_driver = fake.FakeDriver` runs the whole agent without a
//! hypervisor. It can be told to fail at a named call, before or after the call took effect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::blank::FileSystems;
use super::blank_disks::check_name;
use super::cache::{check_fits, file_name};
use super::files::io_error;
use super::{
    Aged, Ageing, Blank, CachedImage, ConfigDriveFiles, Disk, FoundImage, ImageError, ImageRequest,
    Images, Progress,
};
use crate::model::context::RequestContext;
use crate::model::object::ImageMeta;

mod rescue;

/// What `image` is as large as when the request doesn't say.
const DEFAULT_BYTES: u64 = 1 << 20;

/// The calls of [`Images`] that can be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageCall {
    Cache,
    CreateDirectory,
    CreateRoot,
    CreateBlank,
    CreateBootFile,
    CreateConfigDrive,
    Disks,
    RemoveDirectory,
    AgeCache,
    StorageUsers,
    LookUp,
    CreateRescueRoot,
    CreateRescueDrive,
    KeepDefinition,
    KeptDefinition,
    ForgetDefinition,
    RemoveRescue,
    ClearDirectory,
}

/// A directory of the fake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeDirectory {
    /// As `disk.info` would list them.
    pub disks: Vec<Disk>,
    /// What the config drive holds, when there is one.
    pub config_drive: Option<ConfigDriveFiles>,
    /// The definition from before a rescue.
    pub kept: Option<String>,
}

#[derive(Default)]
struct World {
    cached: BTreeMap<PathBuf, CachedImage>,
    directories: BTreeMap<Uuid, FakeDirectory>,
    unknown: BTreeSet<String>,
    described: BTreeMap<String, ImageMeta>,
    cleared: Vec<Vec<String>>,
    fetches: usize,
    latency: Duration,
    failing: Vec<(ImageCall, When)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Every time, with nothing done.
    Always,
    /// Once, with nothing done.
    Once,
    /// Once, with everything done: the answer was lost.
    OnceAfter,
}

/// A host's images that are only told of.
pub struct FakeImages {
    instances: PathBuf,
    world: Mutex<World>,
}

impl Default for FakeImages {
    fn default() -> Self {
        Self::new("/var/lib/nova/instances")
    }
}

impl FakeImages {
    /// Answers paths under `instances`, and makes none of them.
    pub fn new(instances: impl Into<PathBuf>) -> Self {
        Self { instances: instances.into(), world: Mutex::default() }
    }

    /// From now on `call` fails each time, before it did anything.
    pub fn fail_at(&self, call: ImageCall) {
        self.world().failing.push((call, When::Always));
    }

    /// The next `call` fails before it did anything; the one after it works.
    pub fn fail_once_at(&self, call: ImageCall) {
        self.world().failing.push((call, When::Once));
    }

    /// The next `call` does its work and then fails all the same.
    pub fn fail_once_after(&self, call: ImageCall) {
        self.world().failing.push((call, When::OnceAfter));
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.world().failing.clear();
    }

    /// The source has no image with this id.
    pub fn forget_image(&self, id: &str) {
        self.world().unknown.insert(id.to_owned());
    }

    /// What the source says of the image with this id.
    pub fn describe(&self, id: &str, meta: ImageMeta) {
        self.world().described.insert(id.to_owned(), meta);
    }

    /// What was kept each time that an instance's directory was cleared.
    pub fn cleared(&self) -> Vec<Vec<String>> {
        self.world().cleared.clone()
    }

    /// A base image vanishes from the cache.
    pub fn remove_base(&self, id: &str) {
        let path = self.base_path(id);
        self.world().cached.remove(&path);
    }

    /// The images in the cache.
    pub fn cached(&self) -> Vec<CachedImage> {
        self.world().cached.values().cloned().collect()
    }

    /// How often an image was fetched.
    pub fn fetches(&self) -> usize {
        self.world().fetches
    }

    /// Each image takes that long from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.world().latency = latency;
    }

    /// The instance directories that exist.
    pub fn directories(&self) -> Vec<Uuid> {
        self.world().directories.keys().copied().collect()
    }

    /// What is in an instance's directory.
    pub fn directory(&self, instance: Uuid) -> Option<FakeDirectory> {
        self.world().directories.get(&instance).cloned()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, instance: Uuid) -> PathBuf {
        self.instances.join(instance.to_string())
    }

    fn base_path(&self, id: &str) -> PathBuf {
        self.instances.join("_base").join(file_name(id))
    }

    /// Runs `work` unless `call` is to fail, and takes its answer away if it is to be lost.
    fn act<T>(
        &self,
        call: ImageCall,
        work: impl FnOnce(&mut World) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let mut world = self.world();
        let at = world.failing.iter().position(|(failing, _)| *failing == call);
        let when = at.map(|at| {
            let when = world.failing[at].1;
            if when != When::Always {
                world.failing.remove(at);
            }
            when
        });
        let told = || ImageError::Command {
            command: "fake",
            message: format!("told to fail at {call:?}"),
        };
        match when {
            Some(When::Always | When::Once) => Err(told()),
            Some(When::OnceAfter) => work(&mut world).and(Err(told())),
            None => work(&mut world),
        }
    }

    /// Adds `disk` to an instance's directory, which must be there.
    fn add(&self, world: &mut World, instance: Uuid, disk: &Disk) -> Result<(), ImageError> {
        let directory = self.directory_of(world, instance)?;
        if !directory.disks.contains(disk) {
            directory.disks.push(disk.clone());
        }
        Ok(())
    }

    fn directory_of<'a>(
        &self,
        world: &'a mut World,
        instance: Uuid,
    ) -> Result<&'a mut FakeDirectory, ImageError> {
        world.directories.get_mut(&instance).ok_or_else(|| ImageError::Io {
            operation: "look up",
            path: self.path(instance),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }
}

fn existing_base(world: &World, base: &CachedImage) -> Result<(), ImageError> {
    if world.cached.contains_key(&base.path) {
        Ok(())
    } else {
        Err(ImageError::BaseMissing { path: base.path.clone() })
    }
}

#[async_trait]
impl Images for FakeImages {
    async fn look_up(
        &self,
        _: &RequestContext,
        image: &ImageRequest,
    ) -> Result<FoundImage, ImageError> {
        self.act(ImageCall::LookUp, |world| {
            if world.unknown.contains(&image.id) {
                return Err(ImageError::NotFound(image.id.clone()));
            }
            let meta = world.described.get(&image.id).cloned();
            Ok(FoundImage { meta, kernel_id: None, ramdisk_id: None, image: image.clone() })
        })
    }

    async fn cache(
        &self,
        _: &RequestContext,
        image: &ImageRequest,
        progress: Progress<'_>,
    ) -> Result<CachedImage, ImageError> {
        let path = self.base_path(&image.id);
        let size = image.size.unwrap_or(DEFAULT_BYTES);
        let latency = self.world().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let cached = self.act(ImageCall::Cache, |world| {
            if let Some(there) = world.cached.get(&path) {
                return Ok(there.clone());
            }
            if world.unknown.contains(&image.id) {
                return Err(ImageError::NotFound(image.id.clone()));
            }
            let cached =
                CachedImage { path: path.clone(), format: "raw".into(), virtual_size_bytes: size };
            world.fetches += 1;
            world.cached.insert(path, cached.clone());
            Ok(cached)
        })?;
        progress(size, Some(size));
        Ok(cached)
    }

    async fn is_cached(&self, id: &str) -> Result<bool, ImageError> {
        let path = self.base_path(id);
        self.act(ImageCall::Cache, |world| Ok(world.cached.contains_key(&path)))
    }

    async fn create_directory(&self, instance: Uuid) -> Result<PathBuf, ImageError> {
        self.act(ImageCall::CreateDirectory, |world| {
            world.directories.entry(instance).or_default();
            Ok(self.path(instance))
        })
    }

    async fn has_directory(&self, instance: Uuid) -> Result<bool, ImageError> {
        Ok(self.world().directories.contains_key(&instance))
    }

    async fn create_root(
        &self,
        instance: Uuid,
        base: &CachedImage,
        size_gib: u64,
    ) -> Result<Disk, ImageError> {
        self.act(ImageCall::CreateRoot, |world| {
            check_fits(base, size_gib)?;
            let disk = Disk { path: self.path(instance).join("disk"), format: "qcow2".into() };
            let finished =
                world.directories.get(&instance).is_some_and(|dir| dir.disks.contains(&disk));
            if !finished {
                existing_base(world, base)?;
                self.add(world, instance, &disk)?;
            }
            Ok(disk)
        })
    }

    async fn create_blank(
        &self,
        instance: Uuid,
        name: &str,
        blank: &Blank,
    ) -> Result<Disk, ImageError> {
        self.act(ImageCall::CreateBlank, |world| {
            check_name(name)?;
            let path = self.path(instance).join(name);
            blank.size_bytes().map_err(|error| io_error("size", &path, error))?;
            FileSystems::default().recipe(blank)?;
            let disk = Disk { path, format: "qcow2".into() };
            self.add(world, instance, &disk)?;
            Ok(disk)
        })
    }

    async fn create_boot_file(
        &self,
        instance: Uuid,
        base: &CachedImage,
        name: &str,
    ) -> Result<PathBuf, ImageError> {
        self.act(ImageCall::CreateBootFile, |world| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || name.starts_with(['.', '-']) || !name.chars().all(plain) {
                return Err(ImageError::BadPath(name.to_owned()));
            }
            existing_base(world, base)?;
            let path = self.path(instance).join(Path::new(name));
            self.add(world, instance, &Disk { path: path.clone(), format: "raw".into() })?;
            Ok(path)
        })
    }

    async fn create_config_drive(
        &self,
        instance: Uuid,
        files: &ConfigDriveFiles,
    ) -> Result<Disk, ImageError> {
        self.act(ImageCall::CreateConfigDrive, |world| {
            let path = self.path(instance).join("disk.config");
            let disk = Disk { path, format: "raw".into() };
            self.add(world, instance, &disk)?;
            self.directory_of(world, instance)?.config_drive = Some(files.clone());
            Ok(disk)
        })
    }

    async fn disks(&self, instance: Uuid) -> Result<Vec<Disk>, ImageError> {
        self.act(ImageCall::Disks, |world| {
            Ok(world.directories.get(&instance).map(|d| d.disks.clone()).unwrap_or_default())
        })
    }

    async fn age_cache(&self, by: &Ageing) -> Result<Aged, ImageError> {
        self.act(ImageCall::AgeCache, |world| {
            let used: BTreeSet<_> = by.in_use.iter().map(|id| self.base_path(id)).collect();
            let unused = world.cached.keys().filter(|path| by.remove && !used.contains(*path));
            let removed: Vec<_> = unused.cloned().collect();
            world.cached.retain(|path, _| !removed.contains(path));
            Ok(Aged { in_use: world.cached.len(), kept: 0, removed })
        })
    }

    async fn storage_users(&self, host: &str) -> Result<Vec<String>, ImageError> {
        self.act(ImageCall::StorageUsers, |_| Ok(vec![host.to_owned()]))
    }

    fn console_log(&self, instance: Uuid) -> PathBuf {
        self.path(instance).join("console.log")
    }

    async fn remove_directory(&self, instance: Uuid) -> Result<(), ImageError> {
        self.act(ImageCall::RemoveDirectory, |world| {
            world.directories.remove(&instance);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageRequest {
        ImageRequest {
            id: "i".into(),
            url: None,
            disk_format: None,
            checksums: vec![],
            size: None,
            any_file: false,
        }
    }

    #[tokio::test]
    async fn it_fails_where_it_is_told_and_changes_nothing() {
        let images = FakeImages::default();
        images.fail_at(ImageCall::CreateDirectory);
        let id = Uuid::from_u128(1);
        assert!(images.create_directory(id).await.is_err());
        assert!(images.create_directory(id).await.is_err());
        assert!(images.directories().is_empty());
        images.heal();
        images.create_directory(id).await.unwrap();
        assert_eq!(images.directories(), [id]);
    }

    #[tokio::test]
    async fn a_lost_answer_has_done_its_work() {
        let images = FakeImages::default();
        images.fail_once_after(ImageCall::Cache);
        assert!(images.cache(&RequestContext::admin(), &image(), &|_, _| ()).await.is_err());
        assert_eq!(images.cached().len(), 1);
        images.cache(&RequestContext::admin(), &image(), &|_, _| ()).await.unwrap();
        assert_eq!(images.fetches(), 1);
    }
}
