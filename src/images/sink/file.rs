//! Standalone mode's snapshots: files of this host, named by `file://` URLs.
//!
//! A file's place is taken by an empty file, as nova-api takes an image's by its record: what is in
//! it later is the snapshot's, and a file that was there before is never touched.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use url::Url;
use uuid::Uuid;

use super::{ImageSink, TargetImage};
use crate::images::backend::copy;
use crate::images::files::{blocking, remove_if_there, replace};
use crate::images::glance::ImageUpdate;
use crate::images::qemu_img::QemuImg;
use crate::images::source::FilePolicy;
use crate::images::{ImageError, Progress};
use crate::model::context::RequestContext;

/// How often the progress of a copy is told.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// A guest's disk is nobody else's to read.
const MODE: u32 = 0o600;

/// Files, where the policy allows them.
pub struct FileSink {
    policy: FilePolicy,
    qemu_img: QemuImg,
}

impl FileSink {
    /// `qemu_img` has the deadline of a copy.
    pub fn new(policy: FilePolicy, qemu_img: QemuImg) -> Self {
        Self { policy, qemu_img }
    }

    /// The file that an image's id names, in a directory that is there.
    async fn path(&self, image: &TargetImage) -> Result<PathBuf, ImageError> {
        let bad = || ImageError::BadPath(image.id.chars().take(200).collect());
        let url = Url::parse(&image.id).ok().filter(|url| url.scheme() == "file");
        let path = url.and_then(|url| url.to_file_path().ok()).ok_or_else(bad)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(bad());
        };
        let policy = if image.any_file { FilePolicy::Any } else { self.policy.clone() };
        let directory = blocking("look up", parent, |parent| parent.canonicalize()).await;
        match directory {
            Ok(directory) if policy.allows(&directory) => Ok(directory.join(name)),
            // Absent or forbidden must look the same to whoever may not look.
            Err(error) if policy == FilePolicy::Any => Err(error),
            _ => Err(bad()),
        }
    }
}

#[async_trait]
impl ImageSink for FileSink {
    async fn reserve(
        &self,
        _: &RequestContext,
        image: &TargetImage,
    ) -> Result<Option<String>, ImageError> {
        let path = self.path(image).await?;
        let is_free = blocking("create", &path, |path| {
            match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let found = path.symlink_metadata()?;
                    Ok(found.is_file() && found.len() == 0)
                }
                Err(error) => Err(error),
            }
        });
        if !is_free.await? {
            let message = "there is a file already".to_owned();
            return Err(ImageError::InUse { image: image.id.clone(), message });
        }
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        Ok(name)
    }

    async fn fill(
        &self,
        _: &RequestContext,
        image: &TargetImage,
        _: &ImageUpdate,
        file: &Path,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        let path = self.path(image).await?;
        let target = path.clone();
        let moved = blocking("move", file, move |file| {
            // An earlier attempt has moved it.
            if !file.try_exists()? && target.metadata()?.len() > 0 {
                return Ok(true);
            }
            match move_into(file, &target) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(false),
                moved => moved.map(|()| true),
            }
        });
        if moved.await? {
            return Ok(());
        }
        let part = part_of(&path);
        blocking("remove", &part, remove_if_there).await?;
        let total = blocking("look up", file, allocated).await?;
        let copying = copy(&self.qemu_img, file, &part);
        tokio::pin!(copying);
        loop {
            tokio::select! {
                copied = &mut copying => break copied?,
                () = tokio::time::sleep(TELL_EVERY) => {
                    let done = blocking("look up", &part, allocated).await.unwrap_or(0);
                    progress(done.min(total), Some(total));
                }
            }
        }
        progress(total, Some(total));
        blocking("replace", &part, move |part| move_into(part, &path)).await
    }

    async fn discard(&self, _: &RequestContext, image: &TargetImage) -> Result<(), ImageError> {
        let path = match self.path(image).await {
            // Its directory is gone, and the file with it; or it was never allowed.
            Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(ImageError::BadPath(_)) => return Ok(()),
            path => path?,
        };
        blocking("remove", &part_of(&path), remove_if_there).await?;
        blocking("remove", &path, remove_if_there).await
    }

    /// Nobody has made anything yet.
    async fn discard_empty(&self, _: &RequestContext, _: &TargetImage) -> Result<(), ImageError> {
        Ok(())
    }

    async fn backups(
        &self,
        _: &RequestContext,
        _: Uuid,
        _: &str,
    ) -> Result<Vec<TargetImage>, ImageError> {
        Err(ImageError::Unsupported("a rotation of backups in files".to_owned()))
    }
}

/// In one step, and on the disk.
fn move_into(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::set_permissions(from, Permissions::from_mode(MODE))?;
    replace(from, to)
}

/// A copy that isn't whole yet.
fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.hypernova-part"))
}

fn allocated(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(path.metadata()?.blocks().saturating_mul(512))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &Path, any_file: bool) -> TargetImage {
        TargetImage { id: Url::from_file_path(path).unwrap().to_string(), any_file }
    }

    fn sink(allowed: &Path) -> FileSink {
        FileSink::new(FilePolicy::Under(vec![allowed.to_owned()]), QemuImg::default())
    }

    #[tokio::test]
    async fn a_file_s_place_is_taken_filled_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, context) = (sink(directory.path()), RequestContext::admin());
        let path = directory.path().join("web.qcow2");
        let image = target(&path, false);
        for _ in 0..2 {
            assert_eq!(sink.reserve(&context, &image).await.unwrap().as_deref(), Some("web"));
        }
        let made = directory.path().join("made");
        std::fs::write(&made, "content").unwrap();
        for _ in 0..2 {
            let known = ImageUpdate::default();
            sink.fill(&context, &image, &known, &made, &|_, _| ()).await.unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, MODE);
        let taken = sink.reserve(&context, &image).await.unwrap_err();
        assert!(matches!(taken, ImageError::InUse { .. }), "{taken}");
        for _ in 0..2 {
            sink.discard(&context, &image).await.unwrap();
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_on_another_file_system_is_copied_whole() {
        let shared = Path::new("/dev/shm");
        if !shared.is_dir() {
            return;
        }
        let (from, to) = (tempfile::tempdir_in(shared).unwrap(), tempfile::tempdir().unwrap());
        let (sink, context) = (sink(to.path()), RequestContext::admin());
        let (path, made) = (to.path().join("a b.raw"), from.path().join("made"));
        let image = target(&path, false);
        sink.reserve(&context, &image).await.unwrap();
        std::fs::write(&made, vec![7; 100_000]).unwrap();
        let known = ImageUpdate::default();
        sink.fill(&context, &image, &known, &made, &|_, _| ()).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 100_000]);
        assert_eq!(to.path().read_dir().unwrap().count(), 1);
    }

    #[tokio::test]
    async fn only_root_names_files_elsewhere() {
        let (open, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (sink, context) = (sink(open.path()), RequestContext::admin());
        std::os::unix::fs::symlink(other.path(), open.path().join("link")).unwrap();
        for path in [other.path().join("x"), open.path().join("link/x"), "/nowhere/at/all".into()] {
            let error = sink.reserve(&context, &target(&path, false)).await.unwrap_err();
            assert!(matches!(error, ImageError::BadPath(_)), "{}: {error}", path.display());
            sink.discard(&context, &target(&path, false)).await.unwrap();
        }
        for id in ["x", "http://h/x", "file:///", "file://host/x", ""] {
            let image = TargetImage { id: id.to_owned(), any_file: true };
            assert!(sink.reserve(&context, &image).await.is_err(), "{id}");
        }
        sink.reserve(&context, &target(&other.path().join("x"), true)).await.unwrap();
    }
}
