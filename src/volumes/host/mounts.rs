//! What is mounted where, as the kernel says. proc(5), mountinfo

use std::path::{Path, PathBuf};

use crate::volumes::VolumeError;

/// Who tells what is mounted.
const MOUNT_INFO: &str = "/proc/self/mountinfo";

/// What is mounted at a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// `nfs4`, `ext4`, …
    pub kind: String,
    /// `10.66.0.1:/vol`
    pub source: String,
}

/// What is mounted at `point`; of several mounts, the one on top.
///
/// # Errors
/// `Host` when the kernel doesn't say.
pub async fn at(point: &Path) -> Result<Option<Mount>, VolumeError> {
    let text = tokio::fs::read_to_string(MOUNT_INFO).await.map_err(|error| VolumeError::Host {
        operation: "read",
        what: MOUNT_INFO.to_owned(),
        message: error.to_string(),
    })?;
    Ok(parse(&text).into_iter().rev().find(|mount| mount.point == point))
}

fn parse(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?.to_owned(), unescape(after.next()?));
        Some(Mount { point: point.into(), kind, source })
    };
    text.lines().filter_map(line).collect()
}

/// The kernel writes blanks and the like as octal numbers.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let number = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match number {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_blanks() {
        let text = "36 35 98:0 / /var/lib/nova/mnt/a\\040b rw,noatime shared:1 - nfs4 10.0.0.1:/v rw\n\
                    37 35 98:0 /sub /x rw - ext4 /dev/sda1 rw\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/var/lib/nova/mnt/a b"));
        assert_eq!((&*mounts[0].kind, &*mounts[0].source), ("nfs4", "10.0.0.1:/v"));
        assert_eq!(unescape("a\\134b\\04"), "a\\b\\04");
    }
}
