//! The standalone agent's records: one SQLite file that an operator can open with `sqlite3`.
//!
//! Each instance is kept as its versioned-object primitive, so nothing of it is lost; the columns
//! beside it are computed from that text and can't disagree with it. User data is in there too,
//! so the file is its owner's alone (mode 0600). A write has reached the disk when its call returns.

mod disks;
mod file;
mod history;
mod rows;
mod upkeep;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tracing::warn;
use uuid::Uuid;

pub use self::file::OpenError;
use self::file::{check_format, make_private};
use self::rows::{decode, find, is_taken, known, live, next_id, write};
use super::changed::StateChange;
use super::history::fault_message;
use super::{Expected, InstanceFault, InstancePart, Records, RecordsError, parts, rules};
use crate::model::context::RequestContext;
use crate::model::object::{
    BlockDeviceMapping, BlockDeviceMappingList, ConsoleAuthToken, Instance, InstanceInfoCache,
    ObjectError, VersionedObject, VolumeUsage,
};
use crate::model::time::Timestamp;

/// How long a call waits for an operator's `sqlite3` to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Records of deleted instances older than this are dropped when the file is opened.
const KEEP_DELETED: Duration = Duration::from_secs(90 * 24 * 3600);

/// The records of one host in one file.
#[derive(Clone)]
pub struct SqliteRecords {
    host: Arc<str>,
    connection: Arc<Mutex<Connection>>,
}

impl std::fmt::Debug for SqliteRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteRecords").field("host", &self.host).finish_non_exhaustive()
    }
}

impl SqliteRecords {
    /// Opens the records in `path`, or makes them: the file for its owner alone, its directory too
    /// when that has to be made. Blocks; the agent calls it once, at its start.
    ///
    /// # Errors
    /// [`OpenError::UnknownFormat`] for a file of another build's format: it is left untouched.
    pub fn open(path: &Path, host: &str) -> Result<Self, OpenError> {
        make_private(path)?;
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(sqlite)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
        check_format(&mut connection, path)?;
        let records = Self { host: host.into(), connection: Arc::new(Mutex::new(connection)) };
        records.tidy().map_err(sqlite)?;
        Ok(records)
    }

    /// Drops what has been deleted for long, and tells of instances that belong to another host's
    /// name: this agent doesn't manage them.
    fn tidy(&self) -> Result<(), rusqlite::Error> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = Timestamp::now().as_second() - KEEP_DELETED.as_secs() as i64;
        connection.execute(
            "DELETE FROM instances WHERE deleted = 1 AND deleted_at < ?1",
            [Timestamp::from_second(keep).to_string()],
        )?;
        let foreign: i64 = connection.query_row(
            "SELECT count(*) FROM instances WHERE deleted = 0 AND host != ?1",
            [&*self.host],
            |row| row.get(0),
        )?;
        if foreign > 0 {
            warn!(host = %self.host, foreign, "records of another host's instances are left alone");
        }
        Ok(())
    }

    /// Runs `f` in a transaction on a blocking thread; what it wrote is undone when it fails.
    ///
    /// # Cancel safety
    /// A call that is dropped runs on and may still write.
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, RecordsError> {
        let connection = self.connection.clone();
        let work = move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            // Immediate: a read that becomes a write can't be told "busy" half-way.
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = f(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        let storage = |message| RecordsError::Storage { operation, message };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Trouble::Rules(error))) => Err(error),
            Ok(Err(Trouble::Sqlite(error))) => Err(storage(error.to_string())),
            Err(error) => Err(storage(error.to_string())),
        }
    }
}

/// What can go wrong inside a transaction.
enum Trouble {
    Rules(RecordsError),
    Sqlite(rusqlite::Error),
}

impl From<RecordsError> for Trouble {
    fn from(error: RecordsError) -> Self {
        Self::Rules(error)
    }
}

impl From<ObjectError> for Trouble {
    fn from(error: ObjectError) -> Self {
        Self::Rules(error.into())
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

#[async_trait]
impl Records for SqliteRecords {
    async fn receive(
        &self,
        _: &RequestContext,
        instance: Instance,
    ) -> Result<Instance, RecordsError> {
        let host = self.host.clone();
        self.run("written", move |db| {
            let uuid = rules::uuid_of(&instance)?;
            let id = rules::id_of(uuid, &instance)?;
            let now = Timestamp::now();
            if let Some(mut record) = find(db, uuid)? {
                if rules::is_deleted(&record) {
                    return Err(rules::refuse_deleted(uuid, &instance).into());
                }
                rules::check_id(&record, id)?;
                if rules::adopt_task_state(&mut record, &instance, now) {
                    write(db, uuid, &record)?;
                }
                return Ok(record);
            }
            let id = match id {
                Some(id) if is_taken(db, id)? => {
                    let what = format!("id {id} is taken");
                    return Err(RecordsError::Clash { uuid, what }.into());
                }
                Some(id) => id,
                None => next_id(db)?,
            };
            let record = rules::enter(instance, id, &host, now)?;
            db.prepare_cached("INSERT INTO instances (id, uuid, instance) VALUES (?1, ?2, ?3)")?
                .execute(params![id, uuid.to_string(), record.to_primitive().to_string()])?;
            Ok(record)
        })
        .await
    }

    async fn instance(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<Instance>, RecordsError> {
        self.run("read", move |db| live(db, uuid)).await
    }

    async fn instances(
        &self,
        _: &RequestContext,
        _: &[InstancePart],
    ) -> Result<Vec<Instance>, RecordsError> {
        let host = self.host.clone();
        self.run("read", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT instance FROM instances WHERE deleted = 0 AND (host = ?1 OR host IS NULL) ORDER BY id",
            )?;
            let rows = statement.query_map([&*host], |row| row.get::<_, String>(0))?;
            rows.map(|text| decode(&text?)).collect()
        })
        .await
    }

    async fn load(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
        wanted: &[InstancePart],
    ) -> Result<(), RecordsError> {
        let missing = parts::missing(instance, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let uuid = rules::uuid_of(instance)?;
        let record = self.run("read", move |db| find(db, uuid)).await?;
        parts::fill(instance, record.ok_or(RecordsError::NotFound(uuid))?, &missing);
        Ok(())
    }

    /// Afterwards `instance` is the record as it is now, with what others have changed.
    async fn save(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        expected: Expected,
    ) -> Result<(), RecordsError> {
        let states = StateChange::of(instance);
        let changed = instance.clone();
        let saved = self.run("written", move |db| {
            let uuid = rules::uuid_of(&changed)?;
            let record = live(db, uuid)?.ok_or(RecordsError::NotFound(uuid))?;
            if changed.what_changed().is_empty() {
                return Ok(None);
            }
            rules::check(&record, &expected)?;
            let record = rules::merge(&record, &changed, Timestamp::now())?;
            write(db, uuid, &record)?;
            Ok(Some(record))
        });
        if let Some(saved) = saved.await? {
            *instance = saved;
            states.into_iter().for_each(|states| states.tell(context));
        }
        Ok(())
    }

    /// Afterwards `instance` is the record as it is now.
    async fn destroy(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        let uuid = rules::uuid_of(instance)?;
        let buried = self.run("written", move |db| {
            let record = find(db, uuid)?.ok_or(RecordsError::NotFound(uuid))?;
            if rules::is_deleted(&record) {
                return Ok(record);
            }
            let record = rules::bury(&record, Timestamp::now())?;
            write(db, uuid, &record)?;
            Ok(record)
        });
        *instance = buried.await?;
        Ok(())
    }

    async fn info_cache(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<InstanceInfoCache>, RecordsError> {
        let record = self.run("read", move |db| live(db, uuid)).await?;
        Ok(record.and_then(|record| record.info_cache.value().cloned()))
    }

    async fn save_info_cache(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
        network_info: String,
    ) -> Result<(), RecordsError> {
        let uuid = rules::uuid_of(instance)?;
        let connected = self.run("written", move |db| {
            let record = live(db, uuid)?.ok_or(RecordsError::NotFound(uuid))?;
            let record = rules::connect(&record, network_info, Timestamp::now())?;
            write(db, uuid, &record)?;
            Ok(record.info_cache)
        });
        instance.info_cache = connected.await?;
        Ok(())
    }

    async fn block_devices(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<BlockDeviceMappingList, RecordsError> {
        self.run("read", move |db| disks::of_instance(db, uuid)).await
    }

    async fn save_block_device(
        &self,
        _: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError> {
        let changed = disk.clone();
        *disk = self.run("written", move |db| disks::save(db, &changed)).await?;
        Ok(())
    }

    async fn destroy_block_device(
        &self,
        _: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError> {
        if let Some(uuid) = disk.uuid.get().copied() {
            self.run("written", move |db| disks::remove(db, uuid)).await?;
        }
        disk.deleted.load(Some(true));
        Ok(())
    }

    async fn save_volume_usage(
        &self,
        _: &RequestContext,
        usage: &mut VolumeUsage,
        _: bool,
    ) -> Result<(), RecordsError> {
        usage.curr_last_refreshed.load(Some(Some(Timestamp::now())));
        Ok(())
    }

    async fn authorize_console(
        &self,
        _: &RequestContext,
        _: &mut ConsoleAuthToken,
        _: Duration,
    ) -> Result<(), RecordsError> {
        Ok(())
    }

    async fn forget_consoles(&self, _: &RequestContext, _: Uuid) -> Result<(), RecordsError> {
        Ok(())
    }

    async fn event_started(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
    ) -> Result<(), RecordsError> {
        let (request_id, event) = (context.request_id().to_owned(), event.to_owned());
        self.run("written", move |db| {
            known(db, uuid)?;
            db.prepare_cached(
                "INSERT INTO events (instance_uuid, request_id, event, started_at)
                 VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET finished_at = NULL, failure = NULL, details = NULL",
            )?
            .execute(params![
                uuid.to_string(),
                request_id,
                event,
                Timestamp::now().as_second()
            ])?;
            Ok(())
        })
        .await
    }

    /// An event whose start isn't on record is recorded as started now.
    async fn event_finished(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
        failure: Option<(&str, &str)>,
    ) -> Result<(), RecordsError> {
        let (request_id, event) = (context.request_id().to_owned(), event.to_owned());
        let message = failure.map(|(message, _)| message.to_owned());
        let details = failure.map(|(_, details)| details.to_owned());
        self.run("written", move |db| {
            known(db, uuid)?;
            db.prepare_cached(
                "INSERT INTO events (instance_uuid, request_id, event, started_at, finished_at,
                                     failure, details)
                 VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET finished_at = excluded.finished_at,
                     failure = excluded.failure, details = excluded.details",
            )?
            .execute(params![
                uuid.to_string(),
                request_id,
                event,
                Timestamp::now().as_second(),
                message,
                details
            ])?;
            Ok(())
        })
        .await
    }

    async fn record_fault(
        &self,
        _: &RequestContext,
        uuid: Uuid,
        fault: InstanceFault,
    ) -> Result<(), RecordsError> {
        self.run("written", move |db| {
            known(db, uuid)?;
            db.prepare_cached(
                "INSERT INTO faults (instance_uuid, code, message, details, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                uuid.to_string(),
                fault.code,
                fault_message(&fault.message),
                fault.details,
                Timestamp::now().as_second()
            ])?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
