//! What happened to an instance, out of the file.

use async_trait::async_trait;
use rusqlite::Row;
use uuid::Uuid;

use super::SqliteRecords;
use crate::model::time::Timestamp;
use crate::records::RecordsError;
use crate::records::history::{History, RecordedEvent, RecordedFault};

#[async_trait]
impl History for SqliteRecords {
    async fn events(&self, uuid: Uuid) -> Result<Vec<RecordedEvent>, RecordsError> {
        self.run("read", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT event, request_id, started_at, finished_at, failure, details
                 FROM events WHERE instance_uuid = ?1 ORDER BY id",
            )?;
            let event = |row: &Row<'_>| {
                Ok(RecordedEvent {
                    event: row.get(0)?,
                    request_id: row.get(1)?,
                    started_at: Timestamp::from_second(row.get(2)?),
                    finished_at: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_second),
                    failure: row.get(4)?,
                    details: row.get(5)?,
                })
            };
            let rows = statement.query_map([uuid.to_string()], event)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn faults(&self, uuid: Uuid) -> Result<Vec<RecordedFault>, RecordsError> {
        self.run("read", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT code, message, details, created_at
                 FROM faults WHERE instance_uuid = ?1 ORDER BY id",
            )?;
            let fault = |row: &Row<'_>| {
                Ok(RecordedFault {
                    code: row.get(0)?,
                    message: row.get(1)?,
                    details: row.get(2)?,
                    created_at: Timestamp::from_second(row.get(3)?),
                })
            };
            let rows = statement.query_map([uuid.to_string()], fault)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
