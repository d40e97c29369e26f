//! Disks of instances: a table of its own in the file.

use rusqlite::{OptionalExtension, Transaction, params};
use uuid::Uuid;

use super::{Trouble, live, unreadable};
use crate::model::object::{BlockDeviceMapping, BlockDeviceMappingList, VersionedObject};
use crate::model::time::Timestamp;
use crate::records::{RecordsError, rules};

/// The disks of an instance, oldest first.
pub(super) fn of_instance(
    db: &Transaction<'_>,
    instance: Uuid,
) -> Result<BlockDeviceMappingList, Trouble> {
    let mut statement =
        db.prepare_cached("SELECT disk FROM disks WHERE instance_uuid = ?1 ORDER BY id")?;
    let rows = statement.query_map([instance.to_string()], |row| row.get::<_, String>(0))?;
    let disks: Result<Vec<_>, Trouble> = rows.map(|text| decode(&text?)).collect();
    let mut list = BlockDeviceMappingList::from(disks?);
    list.reset_changes();
    Ok(list)
}

/// Adds the disk, or writes what has changed of it.
pub(super) fn save(
    db: &Transaction<'_>,
    disk: &BlockDeviceMapping,
) -> Result<BlockDeviceMapping, Trouble> {
    let instance = rules::instance_of(disk)?;
    live(db, instance)?.ok_or(RecordsError::NotFound(instance))?;
    let record = match disk.uuid.get() {
        Some(uuid) => find(db, *uuid)?,
        None => None,
    };
    let mut kept = rules::keep_disk(record.as_ref(), disk, Timestamp::now())?;
    let uuid = kept.uuid.get().map(Uuid::to_string).unwrap_or_default();
    if record.is_none() {
        db.prepare_cached("INSERT INTO disks (uuid, instance_uuid, disk) VALUES (?1, ?2, '')")?
            .execute(params![uuid, instance.to_string()])?;
        kept.id.load(Some(db.last_insert_rowid()));
    }
    db.prepare_cached("UPDATE disks SET disk = ?2 WHERE uuid = ?1")?
        .execute(params![uuid, kept.to_primitive().to_string()])?;
    Ok(kept)
}

pub(super) fn remove(db: &Transaction<'_>, uuid: Uuid) -> Result<(), Trouble> {
    db.prepare_cached("DELETE FROM disks WHERE uuid = ?1")?.execute([uuid.to_string()])?;
    Ok(())
}

fn find(db: &Transaction<'_>, uuid: Uuid) -> Result<Option<BlockDeviceMapping>, Trouble> {
    let mut statement = db.prepare_cached("SELECT disk FROM disks WHERE uuid = ?1")?;
    let text = statement.query_row([uuid.to_string()], |row| row.get::<_, String>(0)).optional()?;
    text.as_deref().map(decode).transpose()
}

fn decode(text: &str) -> Result<BlockDeviceMapping, Trouble> {
    let primitive = serde_json::from_str(text).map_err(|error| unreadable("a disk", &error))?;
    Ok(BlockDeviceMapping::from_primitive(&primitive)?)
}
