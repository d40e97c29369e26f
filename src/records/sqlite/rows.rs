//! One instance's row: found, read and written.

use rusqlite::{OptionalExtension, Transaction, params};
use uuid::Uuid;

use super::Trouble;
use crate::model::object::{Instance, VersionedObject};
use crate::records::{RecordsError, rules};

pub(super) fn decode(text: &str) -> Result<Instance, Trouble> {
    let primitive =
        serde_json::from_str(text).map_err(|error| unreadable("an instance", &error))?;
    Ok(Instance::from_primitive(&primitive)?)
}

/// Says where, not what: it may hold secrets.
pub(super) fn unreadable(what: &'static str, error: &serde_json::Error) -> RecordsError {
    let message = format!("{what} is not JSON at column {}", error.column());
    RecordsError::Storage { operation: "read", message }
}

/// The record of `uuid`, deleted or not.
pub(super) fn find(db: &Transaction<'_>, uuid: Uuid) -> Result<Option<Instance>, Trouble> {
    let mut statement = db.prepare_cached("SELECT instance FROM instances WHERE uuid = ?1")?;
    let text = statement.query_row([uuid.to_string()], |row| row.get::<_, String>(0)).optional()?;
    text.as_deref().map(decode).transpose()
}

/// The record of `uuid`, unless it is deleted.
pub(super) fn live(db: &Transaction<'_>, uuid: Uuid) -> Result<Option<Instance>, Trouble> {
    Ok(find(db, uuid)?.filter(|record| !rules::is_deleted(record)))
}

pub(super) fn write(db: &Transaction<'_>, uuid: Uuid, record: &Instance) -> Result<(), Trouble> {
    db.prepare_cached("UPDATE instances SET instance = ?2 WHERE uuid = ?1")?
        .execute(params![uuid.to_string(), record.to_primitive().to_string()])?;
    Ok(())
}

pub(super) fn known(db: &Transaction<'_>, uuid: Uuid) -> Result<(), Trouble> {
    let mut statement = db.prepare_cached("SELECT 1 FROM instances WHERE uuid = ?1")?;
    match statement.exists([uuid.to_string()])? {
        true => Ok(()),
        false => Err(RecordsError::NotFound(uuid).into()),
    }
}

pub(super) fn is_taken(db: &Transaction<'_>, id: i64) -> Result<bool, rusqlite::Error> {
    db.prepare_cached("SELECT 1 FROM instances WHERE id = ?1")?.exists([id])
}

/// The id after the highest that was ever given, deleted and dropped instances included.
pub(super) fn next_id(db: &Transaction<'_>) -> Result<i64, rusqlite::Error> {
    let mut statement =
        db.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'instances'")?;
    Ok(statement.query_row([], |row| row.get::<_, i64>(0)).optional()?.unwrap_or(0) + 1)
}
