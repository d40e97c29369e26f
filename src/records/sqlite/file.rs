//! The records' file: who may read it, and which format it has.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

/// The parts of the file, each with its version and the schema of that version. A change of a
/// schema is a change of the format on disk; a part that isn't there is added.
const PARTS: &[(&str, i64, &str)] = &[("records", 1, SCHEMA), ("disks", 1, DISKS)];

/// `AUTOINCREMENT`: an id is never given twice, as domain names are made of it.
const SCHEMA: &str = r#"
CREATE TABLE instances (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    instance TEXT NOT NULL,
    display_name TEXT AS (instance ->> '$."nova_object.data".display_name'),
    host TEXT AS (instance ->> '$."nova_object.data".host'),
    vm_state TEXT AS (instance ->> '$."nova_object.data".vm_state'),
    task_state TEXT AS (instance ->> '$."nova_object.data".task_state'),
    power_state INTEGER AS (instance ->> '$."nova_object.data".power_state'),
    created_at TEXT AS (instance ->> '$."nova_object.data".created_at'),
    updated_at TEXT AS (instance ->> '$."nova_object.data".updated_at'),
    deleted INTEGER AS (instance ->> '$."nova_object.data".deleted'),
    deleted_at TEXT AS (instance ->> '$."nova_object.data".deleted_at')
) STRICT;
CREATE INDEX instances_deleted ON instances (deleted, id);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    instance_uuid TEXT NOT NULL REFERENCES instances (uuid) ON DELETE CASCADE,
    request_id TEXT NOT NULL,
    event TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER,
    failure TEXT,
    details TEXT,
    UNIQUE (instance_uuid, request_id, event)
) STRICT;
CREATE TABLE faults (
    id INTEGER PRIMARY KEY,
    instance_uuid TEXT NOT NULL REFERENCES instances (uuid) ON DELETE CASCADE,
    code INTEGER NOT NULL,
    message TEXT NOT NULL,
    details TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX faults_instance ON faults (instance_uuid);
"#;

const DISKS: &str = r#"
CREATE TABLE disks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    instance_uuid TEXT NOT NULL REFERENCES instances (uuid) ON DELETE CASCADE,
    disk TEXT NOT NULL
) STRICT;
CREATE INDEX disks_instance ON disks (instance_uuid);
"#;

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("can't {operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the {part} in {path} have format {found}, this build knows {known}")]
    UnknownFormat { path: PathBuf, part: &'static str, found: i64, known: i64 },
    #[error("can't open the records in {path}")]
    Sqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// Makes the file before SQLite does, which would let others read it. Its journal files get the
/// same mode from SQLite.
pub(super) fn make_private(path: &Path) -> Result<(), OpenError> {
    let io = |operation| {
        let path = path.to_owned();
        move |source| OpenError::Io { operation, path, source }
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(io("make the directory of"))?;
    }
    let mut open = OpenOptions::new();
    open.create(true).append(true).mode(0o600);
    let file = open.open(path).map_err(io("open"))?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(io("protect"))
}

/// Brings an empty file to this build's format and refuses one of another. The table has a row
/// for each part that lives in the file, so that others may share it.
pub(super) fn check_format(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut format = || -> Result<_, rusqlite::Error> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let db = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (
                 part TEXT PRIMARY KEY, version INTEGER NOT NULL
             ) STRICT",
        )?;
        for (part, known, schema) in PARTS {
            let query = "SELECT version FROM schema_version WHERE part = ?1";
            let found: Option<i64> = db.query_row(query, [part], |row| row.get(0)).optional()?;
            match found {
                None => {
                    db.execute_batch(schema)?;
                    db.execute("INSERT INTO schema_version VALUES (?1, ?2)", params![part, known])?;
                }
                Some(found) if found == *known => {}
                // What was begun for other parts is rolled back.
                Some(found) => return Ok(Some((*part, found, *known))),
            }
        }
        db.commit()?;
        Ok(None)
    };
    match format().map_err(sqlite)? {
        None => Ok(()),
        Some((part, found, known)) => {
            Err(OpenError::UnknownFormat { path: path.to_owned(), part, found, known })
        }
    }
}
