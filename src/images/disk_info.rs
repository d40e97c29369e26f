//! `disk.info`: each disk's path and format, as nova writes it. It is what stops a guest from
//! turning its raw disk into a "qcow2" that names a host's file
//! (``nova: virt/libvirt/imagebackend.py, resolve_driver_format``, bug 1221190).

use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Disk;

pub const FILE_NAME: &str = "disk.info";

/// The disks that `directory` lists, in the order they were added. An absent file lists none.
///
/// # Errors
/// `InvalidData` for anything else than a map of strings.
pub fn read(directory: &Path) -> io::Result<Vec<Disk>> {
    let disk = |(path, format): (String, Value)| match format {
        Value::String(format) => Ok(Disk { path: PathBuf::from(path), format }),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a format of {other}"))),
    };
    load(directory)?.into_iter().map(disk).collect()
}

/// Adds a disk, or changes what is said of it. The caller keeps others from writing meanwhile.
pub fn record(directory: &Path, disk: &Disk) -> io::Result<()> {
    let mut map = load(directory)?;
    let path = disk.path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let format = Value::String(disk.format.clone());
    if map.get(path) == Some(&format) {
        return Ok(());
    }
    map.insert(path.to_owned(), format);
    store(directory, &map)
}

/// Lists these disks and no others.
pub fn write(directory: &Path, disks: &[Disk]) -> io::Result<()> {
    let entry = |disk: &Disk| {
        let path = disk.path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((path.to_owned(), Value::String(disk.format.clone())))
    };
    store(directory, &disks.iter().map(entry).collect::<io::Result<_>>()?)
}

fn store(directory: &Path, map: &Map<String, Value>) -> io::Result<()> {
    let temporary = directory.join("disk.info.tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(python_json(map).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(FILE_NAME))
}

fn load(directory: &Path) -> io::Result<Map<String, Value>> {
    match std::fs::read(directory.join(FILE_NAME)) {
        Ok(text) if text.trim_ascii().is_empty() => Ok(Map::new()),
        Ok(text) => serde_json::from_slice(&text).map_err(Into::into),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(e),
    }
}

/// One line as Python's `json.dumps` writes it: `{"a": "b", "c": "d"}`, in ASCII.
fn python_json(map: &Map<String, Value>) -> String {
    let entries: Vec<String> = map
        .iter()
        .map(|(path, format)| format!("{}: {format}", Value::from(path.as_str())))
        .collect();
    let mut line = String::new();
    for unit in format!("{{{}}}\n", entries.join(", ")).encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => line.push(char::from(byte)),
            _ => line.push_str(&format!("\\u{unit:04x}")),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str, format: &str) -> Disk {
        Disk { path: path.into(), format: format.into() }
    }

    #[test]
    fn the_file_is_byte_for_byte_novas() {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), &disk("/i/u/disk", "qcow2")).unwrap();
        record(dir.path(), &disk("/i/ü/disk.config", "raw")).unwrap();
        record(dir.path(), &disk("/i/u/disk", "qcow2")).unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join("disk.info")).unwrap(),
            "{\"/i/u/disk\": \"qcow2\", \"/i/\\u00fc/disk.config\": \"raw\"}\n"
        );
        let disks = read(dir.path()).unwrap();
        assert_eq!(disks, [disk("/i/u/disk", "qcow2"), disk("/i/ü/disk.config", "raw")]);
    }

    #[test]
    fn an_absent_or_empty_file_lists_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        std::fs::write(dir.path().join("disk.info"), "\n").unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
    }

    #[test]
    fn nonsense_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["[]", "{\"a\": 1}", "{"] {
            std::fs::write(dir.path().join("disk.info"), text).unwrap();
            assert!(read(dir.path()).is_err(), "{text}");
        }
    }
}
