//! The records' file: who may read it, and which format it has.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

/// The version of [`SCHEMA`]. A change of it is a change of the format on disk.
const SCHEMA_VERSION: i64 = 1;

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
    #[error("the records in {path} have format {found}, this build knows {SCHEMA_VERSION}")]
    UnknownFormat { path: PathBuf, found: i64 },
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
    let mut format = || {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let db = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (
                 part TEXT PRIMARY KEY, version INTEGER NOT NULL
             ) STRICT",
        )?;
        let found = db
            .query_row("SELECT version FROM schema_version WHERE part = 'records'", [], |row| {
                row.get(0)
            })
            .optional()?;
        if found.is_none() {
            db.execute_batch(SCHEMA)?;
            db.execute("INSERT INTO schema_version VALUES ('records', ?1)", [SCHEMA_VERSION])?;
        }
        db.commit()?;
        Ok(found.unwrap_or(SCHEMA_VERSION))
    };
    match format().map_err(sqlite)? {
        SCHEMA_VERSION => Ok(()),
        found => Err(OpenError::UnknownFormat { path: path.to_owned(), found }),
    }
}
