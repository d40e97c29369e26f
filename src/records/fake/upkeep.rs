//! What periodic tasks ask of the records in memory.

use async_trait::async_trait;
use uuid::Uuid;

use super::FakeRecords;
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::time::Timestamp;
use crate::records::upkeep::Upkeep;
use crate::records::{Records, RecordsError, rules};

#[async_trait]
impl Upkeep for FakeRecords {
    async fn deleted_among(
        &self,
        _: &RequestContext,
        uuids: &[Uuid],
    ) -> Result<Vec<Instance>, RecordsError> {
        let state = self.enter("deleted_among")?;
        let found = uuids.iter().filter_map(|uuid| state.instances.get(uuid));
        Ok(found.filter(|record| rules::is_deleted(record)).cloned().collect())
    }

    async fn uncleaned(&self, _: &RequestContext) -> Result<Vec<Instance>, RecordsError> {
        let state = self.enter("uncleaned")?;
        let left = |record: &&Instance| {
            let ours = record.host.value().is_none_or(|host| *host == self.host);
            ours && rules::is_deleted(record) && record.cleaned.get() != Some(&true)
        };
        Ok(state.instances.values().filter(left).cloned().collect())
    }

    async fn save_deleted(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("save_deleted")?;
        let uuid = rules::uuid_of(instance)?;
        let record = state.instances.get(&uuid).filter(|record| rules::is_deleted(record));
        let record = record.ok_or(RecordsError::NotFound(uuid))?;
        let record = rules::merge(record, instance, Timestamp::now())?;
        *instance = record.clone();
        state.instances.insert(uuid, record);
        Ok(())
    }

    async fn instances_of(
        &self,
        context: &RequestContext,
        hosts: &[String],
    ) -> Result<Vec<Instance>, RecordsError> {
        match hosts.contains(&self.host) {
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
        self.enter("action_started").map(drop)
    }

    async fn forget_expired_consoles(&self, _: &RequestContext) -> Result<(), RecordsError> {
        self.enter("forget_expired_consoles").map(drop)
    }
}
