//! One at a time, in this process and across processes.
//!
//! nova takes a lock per cache file: `$instances_path/locks/nova-<file name>`, held with
//! `fcntl.lockf` (``nova: virt/libvirt/imagebackend.py, Image.cache``; ``oslo_concurrency:
//! lockutils``). We take the same lock, so hypernova and nova-compute on shared storage exclude
//! each other. Ours is an open-file-description lock: it conflicts with nova's record locks and,
//! unlike them, isn't lost when another descriptor of the file is closed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use tokio::sync::OwnedMutexGuard;
use tracing::debug;

use super::ImageError;

/// oslo's `lock_with_prefix("nova-")`.
const PREFIX: &str = "nova-";
/// Between two tries: a blocking wait couldn't be cancelled.
const RETRY: Duration = Duration::from_millis(20);

/// The locks of one directory.
pub struct Locks {
    directory: PathBuf,
    inside: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Held until dropped.
pub struct Held {
    path: PathBuf,
    // Dropped first: the next in this process must find the file's lock free.
    _file: File,
    _inside: OwnedMutexGuard<()>,
}

impl Held {
    /// Takes the lock's file away, and lets go: what it locked is gone. Whoever waits for it notices,
    /// and makes a new one. nova: virt/libvirt/imagecache.py, `remove_external_lock_file`
    pub fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "the lock's file stays");
        }
    }
}

impl Locks {
    /// Locks in `directory`, which is made with the first lock.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, inside: Mutex::default() }
    }

    /// Waits until `name` is ours.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue up.
    pub async fn acquire(&self, name: &str) -> Result<Held, ImageError> {
        let inside = self.inside(name).lock_owned().await;
        let path = self.directory.join(format!("{PREFIX}{}", name.replace('/', "_")));
        loop {
            match try_lock(&path) {
                Ok(Some(file)) => return Ok(Held { path, _file: file, _inside: inside }),
                Ok(None) => tokio::time::sleep(RETRY).await,
                Err(source) => return Err(ImageError::Io { operation: "lock", path, source }),
            }
        }
    }

    /// The in-process half: a lock between descriptors would do, but this one is fair and costs
    /// no polling.
    fn inside(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut map = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = map.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        map.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        map.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// The locked file, or `None` while another holds it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let exclusive = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&exclusive)) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    // nova's cache manager unlinks lock files: a lock on a file that is gone excludes nobody.
    let same = std::fs::metadata(path).is_ok_and(|at_path| {
        file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (at_path.dev(), at_path.ino()))
    });
    Ok(same.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_holder_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Arc::new(Locks::new(dir.path().join("locks")));
        let held = locks.acquire("abc").await.unwrap();
        assert!(dir.path().join("locks/nova-abc").exists());
        let second = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { locks.acquire("abc").await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(held);
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn other_names_are_free() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(dir.path().to_owned());
        let _a = locks.acquire("a").await.unwrap();
        locks.acquire("b").await.unwrap();
    }

    #[tokio::test]
    async fn another_descriptor_is_kept_out_as_another_process_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(dir.path().to_owned());
        let held = locks.acquire("a").await.unwrap();
        let path = dir.path().join("nova-a");
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_file_that_was_unlinked_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nova-a");
        let old = try_lock(&path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(try_lock(&path).unwrap().is_some());
        drop(old);
    }
}
