//! The image cache: `_base/<SHA-1 of the image's id>` under the instances directory.
//!
//! ```text
//! lock ─▶ fetch to .part, hashing ─▶ inspect ─▶ convert to .converted if wanted ─▶ inspect ─▶ publish
//! ```
//!
//! Only what passed is ever seen under its name, and what is there is never written again: it
//! backs running guests. ``nova: virt/images.py, fetch_to_raw``; ``nova:
//! virt/libvirt/imagebackend.py, Image.cache``.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha1::{Digest, Sha1};
use tokio::sync::RwLock;
use tracing::info;

use super::ageing::is_older;
use super::fetch::{Origin, Patience, fetch};
use super::files::{Draft, blocking, io_error, publish, remove_if_there, touch};
use super::inspect::{FileContent, Format, InspectError, Inspected, Policy, inspect};
use super::lock::{Held, Locks};
use super::provenance;
use super::qemu_img::QemuImg;
use super::{CachedImage, FoundImage, ImageError, ImageRequest, ImageSource, Progress};
use crate::model::context::RequestContext;

/// Between two looks at what another one has fetched so far.
const WATCH: Duration = Duration::from_millis(500);

/// The cache of one instances directory.
pub struct Cache {
    pub(super) directory: PathBuf,
    source: Arc<dyn ImageSource>,
    pub(super) locks: Arc<Locks>,
    qemu_img: QemuImg,
    policy: Policy,
    /// `force_raw_images`
    force_raw: bool,
    patience: Patience,
    /// Shared by who looks an image up, alone for who removes one: what was found stays, until the
    /// next look at when it was found.
    pub(super) removal: Arc<RwLock<()>>,
}

impl Cache {
    /// A cache in `directory`, which is made with the first image.
    pub fn new(
        directory: PathBuf,
        source: Arc<dyn ImageSource>,
        locks: Arc<Locks>,
        qemu_img: QemuImg,
        policy: Policy,
        force_raw: bool,
        patience: Patience,
    ) -> Self {
        let removal = Arc::new(RwLock::new(()));
        Self { directory, source, locks, qemu_img, policy, force_raw, patience, removal }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the image with `id` is, or would be.
    pub fn path(&self, id: &str) -> PathBuf {
        self.directory.join(file_name(id))
    }

    /// See [`super::ImageSource::look_up`].
    pub async fn look_up(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
    ) -> Result<FoundImage, ImageError> {
        self.source.look_up(context, image).await
    }

    /// See [`super::Images::cache`].
    ///
    /// # Cancel safety
    /// A dropped fetch kills its tools, takes its drafts away and lets the lock go.
    pub async fn get(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
        progress: Progress<'_>,
    ) -> Result<CachedImage, ImageError> {
        let path = self.path(&image.id);
        if let Some(there) = self.lookup(&image.id, &path).await? {
            provenance::check(&path, image).await?;
            return Ok(there);
        }
        let lock = Arc::new(self.wait(image, progress).await?);
        if let Some(there) = self.lookup(&image.id, &path).await? {
            provenance::check(&path, image).await?;
            return Ok(there);
        }
        blocking("create", &self.directory, |dir| std::fs::create_dir_all(dir)).await?;
        let (part, converted) = (with_suffix(&path, "part"), with_suffix(&path, "converted"));
        // For a fetch that is dropped; they go before the lock does.
        let _drafts = (Draft(part.clone()), Draft(converted.clone()));
        let fetched =
            self.fetch_locked(context, image, &path, &part, &converted, &lock, progress).await;
        // A try that was cut off may have left them: no error leaves them behind.
        for draft in [&part, &converted] {
            blocking("remove", draft, remove_if_there).await?;
        }
        fetched
    }

    /// Whether the image with `id` is there; it counts as used then.
    pub async fn has(&self, id: &str) -> Result<bool, ImageError> {
        Ok(self.lookup(id, &self.path(id)).await?.is_some())
    }

    /// Inspects a file of the cache again: it may have been there since before a check was known.
    pub async fn inspect(&self, image: &str, path: &Path) -> Result<Inspected, ImageError> {
        self.inspect_as(image, path, None).await
    }

    /// What is there already, marked as used.
    async fn lookup(&self, image: &str, path: &Path) -> Result<Option<CachedImage>, ImageError> {
        let _stays = self.removal.read().await;
        match blocking("touch", path, touch).await {
            Ok(()) => {}
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let found = match self.inspect(image, path).await {
            Ok(found) => found,
            // Another host has aged it out.
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(CachedImage {
            path: path.to_owned(),
            format: found.format.qemu_name().to_owned(),
            virtual_size_bytes: found.virtual_size,
        }))
    }

    /// Removes the file `name` if it was last used before `cutoff`, with the lock `lock` and its file.
    /// Says whether it did; a lock that others hold for longer than `within` keeps the file.
    pub(super) async fn remove(
        &self,
        name: &str,
        lock: &str,
        cutoff: SystemTime,
        within: Duration,
    ) -> Result<bool, ImageError> {
        let Ok(held) = tokio::time::timeout(within, self.locks.acquire(lock)).await else {
            return Ok(false);
        };
        let (held, alone) = (held?, self.removal.clone().write_owned().await);
        blocking("remove", &self.directory.join(name), move |path| {
            // Kept to the end, also when nobody waits for it any more.
            let _alone = alone;
            // Somebody may have come along while we waited.
            let old = is_older(path, cutoff)?;
            if old {
                std::fs::remove_file(path)?;
                held.remove();
            }
            Ok(old)
        })
        .await
    }

    /// Waits for the lock, showing how far whoever holds it has come.
    async fn wait(&self, image: &ImageRequest, progress: Progress<'_>) -> Result<Held, ImageError> {
        let name = file_name(&image.id);
        let part = with_suffix(&self.path(&image.id), "part");
        let acquire = self.locks.acquire(&name);
        tokio::pin!(acquire);
        loop {
            tokio::select! {
                held = &mut acquire => return held,
                () = tokio::time::sleep(WATCH) => {
                    if let Ok(there) = tokio::fs::metadata(&part).await {
                        progress(there.len(), image.size);
                    }
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the request and its three files")]
    async fn fetch_locked(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
        path: &Path,
        part: &Path,
        converted: &Path,
        lock: &Arc<Held>,
        progress: Progress<'_>,
    ) -> Result<CachedImage, ImageError> {
        // What the source adds is proved and remembered like what was asked for.
        let image = &self.source.complete(context, image).await?;
        let origin = Origin { source: &*self.source, context, patience: self.patience };
        fetch(origin, image, part, lock, progress).await?;
        let found = self.inspect_as(&image.id, part, image.disk_format.as_deref()).await?;
        let format = found.format.qemu_name();
        if format != "raw" {
            self.second_opinion(image, part, &found).await?;
        }
        // Beside raw, qcow2 is the only format that we run guests from.
        let _draft = Draft(converted.to_owned());
        let keep = format == "raw" || (found.format == Format::Qcow2 && !self.force_raw);
        let (ready, found) = if keep {
            (part, found)
        } else {
            (converted, self.convert(image, (part, found), converted, progress).await?)
        };
        provenance::remember(ready, image).await?;
        let target = path.to_owned();
        match blocking("publish", ready, move |ready| publish(ready, &target)).await {
            // Somebody who doesn't take the lock was faster.
            Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            }
            other => other?,
        }
        info!(image = image.id, format, virtual_size = found.virtual_size, "image cached");
        self.lookup(&image.id, path)
            .await?
            .ok_or_else(|| ImageError::BaseMissing { path: path.to_owned() })
    }

    /// QEMU must see what we saw, now that we know that looking is harmless
    /// (``nova: virt/images.py, fetch_to_raw``).
    async fn second_opinion(
        &self,
        image: &ImageRequest,
        part: &Path,
        found: &Inspected,
    ) -> Result<(), ImageError> {
        let refuse = |reason| ImageError::Unacceptable { image: image.id.clone(), reason };
        let info = match self.qemu_img.info(part, found.format.qemu_name()).await {
            Err(ImageError::Command { message, .. }) => {
                return Err(refuse(format!("qemu-img can't read it: {message}")));
            }
            other => other?,
        };
        if info.refers_to().is_some() {
            return Err(refuse("it refers to another file".into()));
        }
        if found.format == Format::Qcow2 && info.virtual_size != found.virtual_size {
            return Err(refuse("its virtual size is ambiguous".into()));
        }
        Ok(())
    }

    /// Makes `converted`, raw, and looks at it: raw content that looks like another format would
    /// be that format to whoever probes it (``nova: "Converted to raw, but format is now"``).
    async fn convert(
        &self,
        image: &ImageRequest,
        (part, found): (&Path, Inspected),
        converted: &Path,
        progress: Progress<'_>,
    ) -> Result<Inspected, ImageError> {
        // Never into a file that an orphan of an agent's crash may still be writing.
        blocking("remove", converted, remove_if_there).await?;
        let from = (part, found.format.qemu_name());
        let convert = self.qemu_img.convert(from, (converted, "raw"), found.virtual_size, progress);
        convert.await.map_err(|error| match error {
            ImageError::Command { message, .. } => ImageError::Unacceptable {
                image: image.id.clone(),
                reason: format!("it can't be converted to raw: {message}"),
            },
            other => other,
        })?;
        let raw = self.inspect_as(&image.id, converted, None).await?;
        if raw.format.qemu_name() != "raw" {
            return Err(ImageError::Unacceptable {
                image: image.id.clone(),
                reason: format!("converted to raw, its content is {}", raw.format.name()),
            });
        }
        Ok(raw)
    }

    async fn inspect_as(
        &self,
        image: &str,
        path: &Path,
        declared: Option<&str>,
    ) -> Result<Inspected, ImageError> {
        let declared = declared.map(str::to_owned);
        let policy = self.policy.clone();
        let verdict = blocking("inspect", path, move |path| {
            let content = FileContent::new(open_regular(path)?)?;
            match inspect(&content, declared.as_deref(), &policy) {
                Err(InspectError::Io(e)) => Err(e),
                verdict => Ok(verdict),
            }
        })
        .await?;
        verdict.map_err(|reason| ImageError::Unacceptable {
            image: image.to_owned(),
            reason: reason.to_string(),
        })
    }
}

fn is_absent(error: &ImageError) -> bool {
    matches!(error, ImageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// ``nova: virt/libvirt/imagecache.py, get_cache_fname``
pub fn file_name(id: &str) -> String {
    Sha1::digest(id.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Whether an image fits a root disk of `size_gib` (0: as large as the image).
///
/// # Errors
/// `TooLarge`. nova: FlavorDiskSmallerThanImage, by ``imagebackend.py, verify_base_size``.
pub fn check_fits(image: &CachedImage, size_gib: u64) -> Result<(), ImageError> {
    let allowed = gib_to_bytes(size_gib).map_err(|e| io_error("size", &image.path, e))?;
    if size_gib == 0 || image.virtual_size_bytes <= allowed {
        return Ok(());
    }
    let name = image.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(ImageError::TooLarge { image: name, needed: image.virtual_size_bytes, allowed })
}

/// # Errors
/// `InvalidInput` for a size that no disk has.
pub fn gib_to_bytes(gib: u64) -> io::Result<u64> {
    gib.checked_mul(1 << 30)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_novas() {
        assert_eq!(file_name("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn an_image_fits_up_to_the_byte_and_always_fits_size_0() {
        let image = |bytes| CachedImage {
            path: "/b/x".into(),
            format: "raw".into(),
            virtual_size_bytes: bytes,
        };
        assert!(check_fits(&image(1 << 30), 1).is_ok());
        assert!(matches!(
            check_fits(&image((1 << 30) + 1), 1),
            Err(ImageError::TooLarge { needed: 0x4000_0001, allowed: 0x4000_0000, .. })
        ));
        assert!(check_fits(&image(u64::MAX), 0).is_ok());
        assert!(check_fits(&image(1), u64::MAX).is_err());
    }
}
