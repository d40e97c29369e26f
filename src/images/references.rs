//! Which files the disks of this instances directory refer to: their real backing files, as their
//! headers name them. It is asked before anything is removed from the cache, so it errs on the side
//! of "in use": what looks like a reference counts as one, and what can't be read is an error.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A qcow2 header's start, with the place of the backing file's name.
const HEAD: usize = 20;

/// QEMU's own bound on the name.
const MAX_NAME: usize = 1023;

/// Below an instance's directory: `snapshots/…` and the like.
const DEPTH: usize = 2;

/// The last parts of the names of every backing file of the disks below `instances`. Only that part
/// counts: hosts that share the storage may have it under different paths.
///
/// `cache` is the cache's directory, whose files refer to nothing.
///
/// # Errors
/// The path and the reason of what could not be read. What vanishes meanwhile is no error.
pub fn referenced(
    instances: &Path,
    cache: &Path,
) -> Result<BTreeSet<String>, (PathBuf, io::Error)> {
    let mut names = BTreeSet::new();
    let mut left = vec![(instances.to_owned(), 0)];
    while let Some((directory, depth)) = left.pop() {
        for path in entries(&directory)? {
            let kind = match path.symlink_metadata() {
                Ok(metadata) => metadata.file_type(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err((path, error)),
            };
            if kind.is_dir() && path != cache && depth < DEPTH {
                left.push((path, depth + 1));
            } else if kind.is_file() && depth > 0 {
                names.extend(read_backing(&path)?);
            }
        }
    }
    Ok(names)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let path = |entry: io::Result<std::fs::DirEntry>| Ok(entry?.path());
    let read = || std::fs::read_dir(directory)?.map(path).collect::<io::Result<Vec<_>>>();
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| (directory.to_owned(), error)),
    }
}

fn read_backing(path: &Path) -> Result<Option<String>, (PathBuf, io::Error)> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
        .and_then(|file| backing_file(&file));
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map_err(|error| (path.to_owned(), error)),
    }
}

/// The last part of the name of a qcow2 file's backing file; `None` when it has none, or is no qcow2.
fn backing_file(file: &File) -> io::Result<Option<String>> {
    let mut head = [0; HEAD];
    if read_up_to(file, &mut head, 0)? < HEAD || !head.starts_with(b"QFI\xfb") {
        return Ok(None);
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (offset, length) = (number(&head[8..16]), number(&head[16..20]));
    let Ok(length @ 1..=MAX_NAME) = usize::try_from(length) else { return Ok(None) };
    let mut name = vec![0; length];
    if offset == 0 || read_up_to(file, &mut name, offset)? < length {
        return Ok(None);
    }
    let name = String::from_utf8_lossy(&name);
    // As a path, or as QEMU's "json:…" or "file:…" of one.
    let end = name.rsplit(['/', ':', '"']).find(|part| !matches!(*part, "" | "}" | "}}"));
    Ok(end.map(str::to_owned))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An offset that no file has.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of an overlay on `backing`.
    fn overlay(backing: &str) -> Vec<u8> {
        let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
        bytes.extend(512_u64.to_be_bytes());
        bytes.extend(u32::try_from(backing.len()).unwrap().to_be_bytes());
        bytes.resize(512, 0);
        bytes.extend(backing.as_bytes());
        bytes
    }

    #[test]
    fn backing_files_are_found_wherever_a_disk_lies() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["_base", "i1", "i1_resize", "i2/snapshots", "locks"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::fs::write(path("i1/disk"), overlay("/elsewhere/_base/aaa")).unwrap();
        std::fs::write(path("i1/disk.info"), "{}").unwrap();
        std::fs::write(path("i1/disk.raw"), vec![0; 4096]).unwrap();
        std::fs::write(path("i1_resize/disk"), overlay("../_base/bbb")).unwrap();
        std::fs::write(path("i2/snapshots/x"), overlay("ccc")).unwrap();
        let json = r#"json:{"driver":"raw","file":{"driver":"file","filename":"/b/ddd"}}"#;
        std::fs::write(path("i2/disk"), overlay(json)).unwrap();
        std::fs::write(path("_base/eee"), overlay("/never")).unwrap();
        nix::unistd::mkfifo(&path("i2/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("i2/link")).unwrap();
        let found = referenced(dir.path(), &path("_base")).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["aaa", "bbb", "ccc", "ddd"]);
    }

    #[test]
    fn a_header_that_lies_names_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        let mut far = overlay("x");
        far[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
        let mut long = overlay("x");
        long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        for bytes in [far, long, b"QFI\xfb".to_vec(), Vec::new()] {
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(read_backing(&file).unwrap(), None);
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("nowhere");
        assert!(referenced(&nowhere, &nowhere).unwrap().is_empty());
        std::fs::write(&nowhere, "a file").unwrap();
        assert_eq!(referenced(&nowhere, &nowhere).unwrap_err().0, nowhere);
    }
}
