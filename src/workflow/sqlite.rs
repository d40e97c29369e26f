//! The journal in SQLite: one file that an operator can open with `sqlite3`.
//!
//! WAL with `synchronous=FULL`: a write has reached the disk when it returns. Bodies are sealed
//! (`seal.rs`); everything an operator needs is in plain columns.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::journal::{FORMAT, Failure, Head, Journal, JournalError, Phase, Stored};
use super::seal::Seal;
use crate::model::time::Timestamp;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS workflow (
    position       INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT NOT NULL UNIQUE,
    workflow       TEXT NOT NULL,
    instance_uuid  TEXT NOT NULL,
    request_id     TEXT NOT NULL,
    phase          TEXT NOT NULL,
    next           INTEGER NOT NULL,
    failure        TEXT,
    undo_failure   TEXT,
    started_at     TEXT NOT NULL,
    updated_at     TEXT NOT NULL,
    settled        INTEGER NOT NULL,
    body           BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS workflow_unsettled ON workflow (settled, position);
";

/// The journal of this host.
pub struct SqliteJournal {
    shared: Arc<Shared>,
}

struct Shared {
    path: String,
    /// Held as long as the journal is open: two agents would do each other's workflows again.
    _lock: Flock<File>,
    connection: Mutex<Connection>,
    seal: Seal,
}

impl SqliteJournal {
    /// Opens the journal at `path`, or makes it. Its key lies beside it, with `.key` appended.
    ///
    /// # Errors
    /// [`JournalError::Storage`]; [`JournalError::Format`] for a file of another format.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let name = path.display().to_string();
        let fail = |operation, message: String| JournalError::Storage {
            path: name.clone(),
            operation,
            message,
        };
        if let Some(directory) = path.parent() {
            use std::os::unix::fs::DirBuilderExt;
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(directory).map_err(|error| fail("created", error.to_string()))?;
        }
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| fail("locked", error.to_string()))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| JournalError::InUse { path: name.clone() })?;
        let key = path.with_extension("key");
        let seal = Seal::open(&key)
            .map_err(|error| fail("opened", crate::telemetry::Chain(&error).to_string()))?;
        let open = || -> rusqlite::Result<(Connection, i64)> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            let format = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok((connection, format))
        };
        let (connection, format) = open().map_err(|error| fail("opened", error.to_string()))?;
        if format != 0 && format != FORMAT {
            return Err(JournalError::Format { path: name, found: format });
        }
        connection
            .execute_batch(SCHEMA)
            .and_then(|()| connection.pragma_update(None, "user_version", FORMAT))
            .map_err(|error| fail("prepared", error.to_string()))?;
        let shared = Shared { path: name, _lock: lock, connection: Mutex::new(connection), seal };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs one statement on a blocking thread.
    async fn with<T, F>(&self, operation: &'static str, f: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: FnOnce(&Shared, &Connection) -> Result<T, Box<dyn std::error::Error + Send + Sync>>
            + Send
            + 'static,
    {
        let shared = self.shared.clone();
        let path = shared.path.clone();
        let fail = |message| JournalError::Storage { path, operation, message };
        let work = tokio::task::spawn_blocking(move || {
            let connection = shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
            f(&shared, &connection)
        });
        match work.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(fail(error.to_string())),
            Err(error) => Err(fail(error.to_string())),
        }
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn add(&self, head: &Head, body: &[u8]) -> Result<bool, JournalError> {
        let (head, body) = (head.clone(), body.to_vec());
        self.with("written", move |shared, connection| {
            let sealed = shared.seal.seal(&head.id, &body)?;
            let added = connection.execute(
                "INSERT OR IGNORE INTO workflow
                 (id, workflow, instance_uuid, request_id, phase, next, failure, undo_failure,
                  started_at, updated_at, settled, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                params![
                    head.id,
                    head.workflow,
                    head.instance_uuid.to_string(),
                    head.request_id,
                    head.phase.as_str(),
                    i64::try_from(head.next)?,
                    head.failure.as_ref().map(serde_json::to_string).transpose()?,
                    head.undo_failure,
                    head.started_at.to_string(),
                    Timestamp::now().to_string(),
                    head.settled,
                    sealed,
                ],
            )?;
            Ok(added == 1)
        })
        .await
    }

    async fn write(&self, head: &Head, body: &[u8]) -> Result<(), JournalError> {
        // What has ended needs its body no more, and the body may hold a password.
        let (head, body) = (head.clone(), if head.settled { Vec::new() } else { body.to_vec() });
        self.with("written", move |shared, connection| {
            let sealed = shared.seal.seal(&head.id, &body)?;
            connection.execute(
                "UPDATE workflow SET phase = ?2, next = ?3, failure = ?4, undo_failure = ?5,
                 updated_at = ?6, settled = ?7, body = ?8 WHERE id = ?1",
                params![
                    head.id,
                    head.phase.as_str(),
                    i64::try_from(head.next)?,
                    head.failure.as_ref().map(serde_json::to_string).transpose()?,
                    head.undo_failure,
                    Timestamp::now().to_string(),
                    head.settled,
                    sealed,
                ],
            )?;
            Ok(())
        })
        .await
    }

    async fn unsettled(&self) -> Result<Vec<Stored>, JournalError> {
        self.with("read", |shared, connection| {
            let mut statement = connection.prepare(&format!(
                "SELECT {HEAD}, body FROM workflow WHERE settled = 0 ORDER BY position"
            ))?;
            let mut rows = Vec::new();
            // One damaged record must not keep the others, or the agent, from going on.
            for row in statement.query_map([], |row| {
                let id = row.get::<_, String>(0)?;
                Ok((id, head(row).and_then(|head| Ok((head, row.get::<_, Vec<u8>>(9)?)))))
            })? {
                match row? {
                    (_, Ok(row)) => rows.push(row),
                    (id, Err(error)) => {
                        tracing::error!(id, %error, "a row of the journal makes no sense; it stays");
                    }
                }
            }
            let open = |(head, sealed): (Head, Vec<u8>)| match shared.seal.unseal(&head.id, &sealed)
            {
                Ok(body) => Some(Stored { head, body }),
                Err(error) => {
                    tracing::error!(
                        id = head.id, workflow = head.workflow, %error,
                        instance_uuid = %head.instance_uuid,
                        "a record of the journal can't be opened; it stays there"
                    );
                    None
                }
            };
            Ok(rows.into_iter().filter_map(open).collect())
        })
        .await
    }

    async fn find(&self, id: &str) -> Result<Option<Head>, JournalError> {
        let id = id.to_owned();
        self.with("read", move |_, connection| {
            let query = format!("SELECT {HEAD} FROM workflow WHERE id = ?1");
            Ok(connection.query_row(&query, [id], head).optional()?)
        })
        .await
    }

    async fn stuck(&self) -> Result<Vec<Head>, JournalError> {
        self.with("read", |_, connection| {
            let mut statement = connection.prepare(&format!(
                "SELECT {HEAD} FROM workflow WHERE phase = 'stuck' ORDER BY position"
            ))?;
            Ok(statement.query_map([], head)?.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    async fn forget_stuck(&self, instance: Uuid) -> Result<(), JournalError> {
        self.with("written", move |_, connection| {
            connection.execute(
                "DELETE FROM workflow WHERE phase = 'stuck' AND instance_uuid = ?1",
                [instance.to_string()],
            )?;
            Ok(())
        })
        .await
    }

    async fn prune(&self, before: Timestamp) -> Result<usize, JournalError> {
        self.with("written", move |_, connection| {
            Ok(connection.execute(
                "DELETE FROM workflow WHERE settled = 1 AND phase != 'stuck' AND updated_at < ?1",
                [before.to_string()],
            )?)
        })
        .await
    }
}

const HEAD: &str = "id, workflow, instance_uuid, request_id, phase, next, failure, undo_failure, \
                    started_at";

fn head(row: &Row<'_>) -> rusqlite::Result<Head> {
    let bad = |column: usize, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            what.to_owned().into(),
        )
    };
    let uuid: String = row.get(2)?;
    let phase: String = row.get(4)?;
    let failure: Option<String> = row.get(6)?;
    let started_at: String = row.get(8)?;
    let parse =
        |text: String| serde_json::from_str::<Failure>(&text).map_err(|_| bad(6, "not a failure"));
    Ok(Head {
        id: row.get(0)?,
        workflow: row.get(1)?,
        instance_uuid: Uuid::parse_str(&uuid).map_err(|_| bad(2, "not a UUID"))?,
        request_id: row.get(3)?,
        phase: Phase::parse(&phase).ok_or_else(|| bad(4, "not a phase"))?,
        next: usize::try_from(row.get::<_, i64>(5)?).map_err(|_| bad(5, "not a position"))?,
        failure: failure.map(parse).transpose()?,
        undo_failure: row.get(7)?,
        started_at: Timestamp::parse(&started_at).ok_or_else(|| bad(8, "not a time"))?,
        settled: false,
    })
}

impl SqliteJournal {
    /// Whether the journal can be written: for the health check.
    pub async fn check(&self) -> Result<(), JournalError> {
        self.with("written", |_, connection| {
            let mode: Option<String> =
                connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).optional()?;
            match mode.as_deref() {
                Some("wal") => Ok(()),
                other => Err(format!("its journal mode is {other:?}").into()),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::StepError;

    fn example(id: &str) -> Head {
        Head {
            id: id.to_owned(),
            workflow: "spawn".to_owned(),
            instance_uuid: Uuid::nil(),
            request_id: "req-1".to_owned(),
            phase: Phase::Queued,
            next: 0,
            failure: None,
            undo_failure: None,
            started_at: Timestamp::now(),
            settled: false,
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_reopen_and_its_body_is_sealed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.db");
        let journal = SqliteJournal::open(&path).unwrap();
        assert!(journal.add(&example("a"), b"hunter2").await.unwrap());
        let failure = Failure::of(&StepError::NoSerialPort, "FetchImage".to_owned(), 3);
        let mut head = example("a");
        head.phase = Phase::Undoing;
        head.next = 3;
        head.failure = Some(failure);
        journal.write(&head, b"hunter2").await.unwrap();
        drop(journal);
        let journal = SqliteJournal::open(&path).unwrap();
        let stored = journal.unsettled().await.unwrap();
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].head, head);
        assert_eq!(stored[0].body, b"hunter2");
        for file in std::fs::read_dir(directory.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        }
    }

    #[tokio::test]
    async fn one_agent_has_the_journal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.db");
        let journal = SqliteJournal::open(&path).unwrap();
        assert!(matches!(SqliteJournal::open(&path), Err(JournalError::InUse { .. })));
        drop(journal);
        SqliteJournal::open(&path).unwrap();
    }

    #[tokio::test]
    async fn a_row_that_makes_no_sense_leaves_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.db");
        let journal = SqliteJournal::open(&path).unwrap();
        journal.add(&example("a"), b"a").await.unwrap();
        journal.add(&example("b"), b"b").await.unwrap();
        let broken = "UPDATE workflow SET phase = 'sideways' WHERE id = 'a'";
        Connection::open(&path).unwrap().execute(broken, []).unwrap();
        let found = journal.unsettled().await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].head.id, "b");
    }

    #[tokio::test]
    async fn what_has_ended_keeps_no_body() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.db");
        let journal = SqliteJournal::open(&path).unwrap();
        let mut head = example("a");
        journal.add(&head, &[7; 4096]).await.unwrap();
        head.phase = Phase::Done;
        head.settled = true;
        journal.write(&head, &[7; 4096]).await.unwrap();
        let length = "SELECT length(body) FROM workflow WHERE id = 'a'";
        let length: i64 =
            Connection::open(&path).unwrap().query_row(length, [], |row| row.get(0)).unwrap();
        assert!(length < 64, "{length}");
        assert!(!journal.add(&head, b"again").await.unwrap(), "a redelivery is still recognised");
    }

    #[tokio::test]
    async fn a_redelivery_finds_the_record() {
        let directory = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(&directory.path().join("journal.db")).unwrap();
        assert!(journal.add(&example("a"), b"first").await.unwrap());
        assert!(!journal.add(&example("a"), b"second").await.unwrap());
        assert_eq!(journal.unsettled().await.unwrap()[0].body, b"first");
    }

    #[tokio::test]
    async fn a_journal_of_another_format_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.db");
        drop(SqliteJournal::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let Err(JournalError::Format { found: 99, path: named }) = SqliteJournal::open(&path)
        else {
            panic!("format 99 was taken");
        };
        assert_eq!(named, path.display().to_string());
    }

    #[tokio::test]
    async fn stuck_records_stay_until_their_instance_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(&directory.path().join("journal.db")).unwrap();
        let mut head = example("a");
        journal.add(&head, b"").await.unwrap();
        head.phase = Phase::Stuck;
        head.settled = true;
        journal.write(&head, b"").await.unwrap();
        let later = Timestamp::from_second(Timestamp::now().as_second() + 10);
        assert_eq!(journal.prune(later).await.unwrap(), 0);
        assert_eq!(journal.stuck().await.unwrap().len(), 1);
        journal.forget_stuck(Uuid::nil()).await.unwrap();
        assert!(journal.stuck().await.unwrap().is_empty());
    }
}
