//! Small file operations of this room, off the runtime's threads and with errors that name the
//! path.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::ImageError;

/// Names the operation and the path; a full disk is an error of its own.
pub fn io_error(operation: &'static str, path: &Path, source: io::Error) -> ImageError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ImageError::NoSpace { path: path.to_owned() }
        }
        _ => ImageError::Io { operation, path: path.to_owned(), source },
    }
}

/// Runs `work` on `path` on a blocking thread.
pub async fn blocking<T: Send + 'static>(
    operation: &'static str,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, ImageError> {
    let owned = path.to_owned();
    match tokio::task::spawn_blocking(move || work(&owned)).await {
        Ok(result) => result.map_err(|e| io_error(operation, path, e)),
        Err(panic) => Err(io_error(operation, path, io::Error::other(panic))),
    }
}

/// Removes a file; absent is success.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Puts a finished file under its name, on the disk, in one step.
///
/// # Errors
/// `AlreadyExists` when the name is taken: what is there may be in use.
pub fn publish(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => {}
        // Some network file systems can't; the caller holds the lock on the name.
        Err(Errno::EINVAL | Errno::ENOSYS) if !to.try_exists()? => std::fs::rename(from, to)?,
        Err(errno) => return Err(errno.into()),
    }
    sync_parent(to)
}

/// Like [`publish`], in place of what is there.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    std::fs::rename(from, to)?;
    sync_parent(to)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Says "in use now" to whatever ages the cache. Somebody else's file stays as it is
/// (``nova: imagebackend.py, _update_utime_ignore_eacces``).
pub fn touch(path: &Path) -> io::Result<()> {
    let now = TimeSpec::UTIME_NOW;
    match utimensat(AT_FDCWD, path, &now, &now, UtimensatFlags::FollowSymlink) {
        Ok(()) | Err(Errno::EACCES | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removed when dropped, unless it was renamed away: for files that are only being made.
pub struct Draft(pub PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_never_replaces_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, "new").unwrap();
        std::fs::write(&to, "in use").unwrap();
        assert_eq!(publish(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&to).unwrap(), b"in use");
        std::fs::remove_file(&to).unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"new");
    }

    #[test]
    fn a_draft_goes_unless_it_was_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for rename in [false, true] {
            let draft = Draft(from.clone());
            std::fs::write(&from, "x").unwrap();
            if rename {
                replace(&from, &to).unwrap();
            }
            drop(draft);
            assert!(!from.exists());
            assert_eq!(to.exists(), rename);
        }
    }
}
