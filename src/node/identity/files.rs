//! The files that say who this node is. nova: virt/node.py

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::info;
use uuid::Uuid;

use super::error::IdentityError;
use crate::config::Source;

pub(super) const FILE: &str = "compute_id";
/// What of a file is read at most: a UUID and some blanks.
const LONGEST: u64 = 40;

/// Where `compute_id` may lie: beside the configuration files, or in `[DEFAULT] state_path`. An
/// operator may have put it there; the agent writes the latter only.
#[derive(Debug, Clone)]
pub struct IdentityFiles {
    given: Vec<PathBuf>,
    pub(super) own: PathBuf,
}

impl IdentityFiles {
    /// `sources`: the configuration's; those that are directories don't count, as in nova.
    pub fn new(sources: &[Source], state_path: &Path) -> Self {
        let beside = sources.iter().filter_map(|source| match source {
            Source::File(file) => Some(file.parent()?.join(FILE)),
            Source::Directory(_) => None,
        });
        let mut given: Vec<PathBuf> = beside.collect();
        given.dedup();
        Self { given, own: state_path.join(FILE) }
    }

    /// The UUID on which all files agree; `None` when there is no file.
    ///
    /// # Errors
    /// `Io`, `NotUuid`, `Disagreeing`
    pub fn read(&self) -> Result<Option<Uuid>, IdentityError> {
        let mut found: Option<(&Path, Uuid)> = None;
        for path in self.given.iter().chain([&self.own]) {
            match (read(path)?, found) {
                (Some(id), None) => found = Some((path, id)),
                (Some(id), Some((other, other_id))) if id != other_id => {
                    let (path, other) = (path.clone(), other.to_owned());
                    return Err(IdentityError::Disagreeing { path, this_id: id, other, other_id });
                }
                _ => {}
            }
        }
        Ok(found.map(|(_, id)| id))
    }

    /// Writes the file of a host that has none. It appears with its content or not at all.
    ///
    /// # Errors
    /// `Io`, also when the file is there by now.
    pub(super) fn write(&self, uuid: Uuid) -> Result<(), IdentityError> {
        let fail = |operation| {
            let path = self.own.clone();
            move |source| IdentityError::Io { operation, path, source }
        };
        if let Some(directory) = self.own.parent() {
            fs::create_dir_all(directory).map_err(fail("make the directory of"))?;
        }
        let beside = self.own.with_extension(format!("{}.new", std::process::id()));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        let written = options.open(&beside).and_then(|mut file| {
            file.write_all(uuid.to_string().as_bytes())?;
            file.sync_all()?;
            // Unlike a rename, a link doesn't replace a file that has appeared meanwhile.
            fs::hard_link(&beside, &self.own)
        });
        fs::remove_file(&beside).ok();
        written.map_err(fail("write"))?;
        info!(%uuid, path = %self.own.display(), "wrote the node's identity");
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Uuid>, IdentityError> {
    let mut content = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut content)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(IdentityError::Io { operation: "read", path: path.to_owned(), source });
        }
    }
    let text = str::from_utf8(&content).ok().map(str::trim);
    let uuid = text.and_then(|text| Uuid::parse_str(text).ok());
    uuid.map(Some).ok_or_else(|| IdentityError::NotUuid { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_appeared_meanwhile_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, "theirs").unwrap();
        let files = IdentityFiles::new(&[], directory.path());
        assert!(matches!(files.write(Uuid::from_u128(1)), Err(IdentityError::Io { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), "theirs");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
