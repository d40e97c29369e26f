//! The disk space that instances share: the file system of the instances directory.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::hypervisor::host::DiskSize;

const GIB: u64 = 1 << 30;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSpace {
    pub total: u64,
    /// For those who aren't root.
    pub free: u64,
    /// What guests may still write into disks they have, and that the file system hasn't given yet.
    pub over_committed: u64,
}

impl DiskSpace {
    /// Looks at the file system of `directory`. Blocks. nova: virt/libvirt/utils.py, `get_fs_info`
    ///
    /// # Errors
    /// The file system's.
    pub fn of(directory: &Path, disks: &[DiskSize]) -> io::Result<Self> {
        let found = nix::sys::statvfs::statvfs(directory)?;
        let fragment = found.fragment_size();
        let over_committed = disks.iter().filter_map(|disk| over_committed(directory, disk));
        Ok(Self {
            total: found.blocks().saturating_mul(fragment),
            free: found.blocks_available().saturating_mul(fragment),
            over_committed: over_committed.fold(0, u64::saturating_add),
        })
    }

    pub fn total_gib(&self) -> u64 {
        self.total / GIB
    }

    /// What would be free if every guest filled its disks; less than nothing when they don't fit.
    pub fn least_free_gib(&self) -> i64 {
        let bytes = i128::from(self.free) - i128::from(self.over_committed);
        i64::try_from(bytes / i128::from(GIB)).unwrap_or(i64::MAX)
    }
}

/// How far a disk of ours is smaller than its guest thinks; `None` for one that is elsewhere, such as
/// a volume, or gone. nova: virt/libvirt/driver.py, `_get_instance_disk_info_from_config`
fn over_committed(directory: &Path, disk: &DiskSize) -> Option<u64> {
    let path = Path::new(&disk.path);
    if !path.starts_with(directory) {
        return None;
    }
    let found = std::fs::metadata(path).ok()?;
    let taken = found.blocks().saturating_mul(512);
    found.is_file().then(|| disk.capacity_bytes.saturating_sub(taken))
}

/// What the image cache takes of the instances' file system, in whole GiB. Blocks.
/// nova: virt/libvirt/imagecache.py, `get_disk_usage`
pub fn cached_gib(instances: &Path, cache: &Path) -> u64 {
    let bytes = || -> io::Result<u64> {
        if std::fs::metadata(instances)?.dev() != std::fs::metadata(cache)?.dev() {
            return Ok(0);
        }
        let files = std::fs::read_dir(cache)?.map(|entry| entry?.metadata());
        let files = files.collect::<io::Result<Vec<_>>>()?;
        Ok(files.iter().filter(|file| file.is_file()).map(|file| file.blocks() * 512).sum())
    };
    // A file that goes meanwhile, or a cache that isn't there yet, is worth nothing.
    bytes().unwrap_or(0).div_ceil(GIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_may_still_write_is_not_free() {
        let space = DiskSpace { total: 251 * GIB + 7, free: 74 * GIB, over_committed: GIB - 1 };
        assert_eq!((space.total_gib(), space.least_free_gib()), (251, 73));
        let space = DiskSpace { over_committed: 76 * GIB, ..space };
        assert_eq!(space.least_free_gib(), -2);
    }

    #[test]
    fn only_our_disks_count_and_only_what_they_lack() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let disk = |path: &Path| DiskSize {
            path: path.to_str().unwrap().to_owned(),
            capacity_bytes: 8 << 20,
        };
        let disks = [disk(&path), disk(Path::new("/dev/zero")), disk(&directory.path().join("x"))];
        let space = DiskSpace::of(directory.path(), &disks).unwrap();
        assert_eq!(space.over_committed, 8 << 20);
        assert!(space.total > space.free);
        std::fs::write(&path, vec![1; 8 << 20]).unwrap();
        assert_eq!(DiskSpace::of(directory.path(), &disks).unwrap().over_committed, 0);
    }

    #[test]
    fn the_cache_counts_in_whole_gibibytes() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("_base");
        assert_eq!(cached_gib(directory.path(), &cache), 0);
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(cache.join("image"), vec![1; 4096]).unwrap();
        assert_eq!(cached_gib(directory.path(), &cache), 1);
    }
}
