//! Who else uses this instances directory: `compute_nodes` in it, a JSON object of host names and the
//! seconds since 1970 when each was last here. nova: virt/storage_users.py

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::warn;

const FILE_NAME: &str = "compute_nodes";

/// nova's lock around it.
pub const LOCK: &str = "storage-registry-lock";

/// A host that hasn't been here for so long isn't one any more.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// Far more hosts than share a storage.
const MAX_BYTES: u64 = 1 << 20;

/// Says that `host` is here, and returns all that have been lately. The caller holds [`LOCK`].
pub fn register(instances: &Path, host: &str, now: SystemTime) -> io::Result<Vec<String>> {
    let path = instances.join(FILE_NAME);
    let is_new = !path.try_exists()?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    let mut file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if is_new {
        belong_as(&file, instances);
    }
    let mut users = read(&mut file, &path)?;
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    users.insert(host.to_owned(), Value::from(seconds));
    // In place, as nova does: the file keeps its owner.
    let text = Value::Object(users.clone()).to_string();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    let is_recent =
        |seen: &Value| seen.as_f64().is_some_and(|seen| seconds - seen < RECENT.as_secs_f64());
    let recent = users.into_iter().filter(|(_, seen)| is_recent(seen));
    Ok(recent.map(|(host, _)| host).collect())
}

fn read(file: &mut File, path: &Path) -> io::Result<Map<String, Value>> {
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    if text.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&text).or_else(|error| {
        warn!(path = %path.display(), %error, "it can't be read, and begins anew");
        Ok(Map::new())
    })
}

/// nova-compute, which may come back to this host, must be able to write a file that root made.
fn belong_as(file: &File, directory: &Path) {
    let owner = || {
        let metadata = directory.metadata()?;
        std::os::unix::fs::fchown(file, Some(metadata.uid()), Some(metadata.gid()))
    };
    if let Err(error) = owner() {
        warn!(%error, "the storage's register keeps its owner");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_the_last_day_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(register(dir.path(), "h1", now).unwrap(), ["h1"]);
        // As nova writes it.
        let others = r#"{"h1": 1.5, "h2": 990000.25, "old": 100000.0, "odd": "x"}"#;
        std::fs::write(&path, others).unwrap();
        let mut users = register(dir.path(), "h1", now).unwrap();
        users.sort_unstable();
        assert_eq!(users, ["h1", "h2"]);
        let kept: Map<String, Value> =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept.len(), 4);
        assert_eq!(kept["h1"].as_f64(), Some(1_000_000.0));
    }

    #[test]
    fn nonsense_begins_anew_and_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(register(dir.path(), "h1", SystemTime::now()).unwrap(), ["h1"]);
        std::fs::remove_file(&path).unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(register(dir.path(), "h1", SystemTime::now()).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }
}
