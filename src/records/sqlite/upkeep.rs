//! What periodic tasks ask of the standalone records.

use async_trait::async_trait;
use uuid::Uuid;

use super::{SqliteRecords, Trouble, decode, find, write};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::time::Timestamp;
use crate::records::upkeep::Upkeep;
use crate::records::{Records, RecordsError, rules};

#[async_trait]
impl Upkeep for SqliteRecords {
    async fn deleted_among(
        &self,
        _: &RequestContext,
        uuids: &[Uuid],
    ) -> Result<Vec<Instance>, RecordsError> {
        let uuids = uuids.to_vec();
        self.run("read", move |db| {
            let mut deleted = Vec::new();
            for uuid in uuids {
                deleted.extend(find(db, uuid)?.filter(rules::is_deleted));
            }
            Ok(deleted)
        })
        .await
    }

    async fn uncleaned(&self, _: &RequestContext) -> Result<Vec<Instance>, RecordsError> {
        let host = self.host.clone();
        self.run("read", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT instance FROM instances WHERE deleted = 1 AND (host = ?1 OR host IS NULL)
                 AND instance -> '$.\"nova_object.data\".cleaned' IS NOT 'true' ORDER BY id",
            )?;
            let rows = statement.query_map([&*host], |row| row.get::<_, String>(0))?;
            rows.map(|text| decode(&text?)).collect()
        })
        .await
    }

    async fn save_deleted(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        let changed = instance.clone();
        let saved = self.run("written", move |db| {
            let uuid = rules::uuid_of(&changed)?;
            let record = find(db, uuid)?.filter(rules::is_deleted);
            let record = record.ok_or(Trouble::Rules(RecordsError::NotFound(uuid)))?;
            let record = rules::merge(&record, &changed, Timestamp::now())?;
            write(db, uuid, &record)?;
            Ok(record)
        });
        *instance = saved.await?;
        Ok(())
    }

    async fn instances_of(
        &self,
        context: &RequestContext,
        hosts: &[String],
    ) -> Result<Vec<Instance>, RecordsError> {
        match hosts.iter().any(|host| **host == *self.host) {
            true => self.instances(context, &[]).await,
            false => Ok(Vec::new()),
        }
    }

    async fn action_started(
        &self,
        _: &RequestContext,
        _: Uuid,
        _: &str,
    ) -> Result<(), RecordsError> {
        Ok(())
    }

    async fn forget_expired_consoles(&self, _: &RequestContext) -> Result<(), RecordsError> {
        Ok(())
    }
}
