//! What periodic tasks and recovery ask of nova-conductor.

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::instances::{ConductorRecords, with_deleted};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::records::upkeep::Upkeep;
use crate::records::{Expected, InstancePart, Records, RecordsError, rules};

/// What taking an instance from this host looks at.
const TO_CLEAN: &[InstancePart] = &[InstancePart::InfoCache, InstancePart::SystemMetadata];

impl ConductorRecords {
    /// Deleted instances; soft-deleted ones are none, and whatever else the answer holds.
    async fn deleted(
        &self,
        context: &RequestContext,
        filters: Value,
    ) -> Result<Vec<Instance>, RecordsError> {
        let mut filters: Map<String, Value> = filters.as_object().cloned().unwrap_or_default();
        filters.insert("deleted".to_owned(), json!(true));
        filters.insert("soft_deleted".to_owned(), json!(false));
        let context = with_deleted(context);
        let mut found = self.instances_by_filters(&context, filters, TO_CLEAN).await?;
        found.retain(rules::is_deleted);
        Ok(found)
    }
}

#[async_trait]
impl Upkeep for ConductorRecords {
    async fn deleted_among(
        &self,
        context: &RequestContext,
        uuids: &[Uuid],
    ) -> Result<Vec<Instance>, RecordsError> {
        if uuids.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<String> = uuids.iter().map(Uuid::to_string).collect();
        let mut found = self.deleted(context, json!({"uuid": asked})).await?;
        found.retain(|instance| instance.uuid.get().is_some_and(|uuid| uuids.contains(uuid)));
        Ok(found)
    }

    async fn uncleaned(&self, context: &RequestContext) -> Result<Vec<Instance>, RecordsError> {
        let filters = json!({"host": self.host(), "cleaned": false});
        let mut found = self.deleted(context, filters).await?;
        found.retain(|instance| instance.host.value().is_some_and(|host| host == self.host()));
        Ok(found)
    }

    async fn save_deleted(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        self.save(&with_deleted(context), instance, Expected::Any).await
    }

    async fn instances_of(
        &self,
        context: &RequestContext,
        hosts: &[String],
    ) -> Result<Vec<Instance>, RecordsError> {
        let filters = json!({"deleted": false, "soft_deleted": true, "host": hosts});
        let filters = filters.as_object().cloned().unwrap_or_default();
        self.instances_by_filters(context, filters, &[]).await
    }

    async fn action_started(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        action: &str,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor().start_action(context, uuid, action).await?)
    }

    async fn forget_expired_consoles(&self, context: &RequestContext) -> Result<(), RecordsError> {
        Ok(self.conductor().forget_expired_consoles(context, self.host()).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::model::state::VmState;
    use crate::records::conductor::fake::FakeConductor;
    use crate::records::conductor::{Conductor, ConductorOptions};

    fn world() -> (Arc<FakeConductor>, ConductorRecords) {
        let fake = Arc::new(FakeConductor::new());
        let options = ConductorOptions::new(Duration::from_secs(60));
        let conductor = Conductor::new(fake.clone(), options);
        (fake, ConductorRecords::new(conductor, "h1"))
    }

    fn add(fake: &FakeConductor, number: u128, change: impl FnOnce(&mut Instance)) -> Uuid {
        let uuid = Uuid::from_u128(number);
        let mut instance = Instance::default();
        instance.id.load(Some(i64::try_from(number).unwrap()));
        instance.uuid.load(Some(uuid));
        instance.host.load(Some(Some("h1".to_owned())));
        instance.vm_state.load(Some(Some(VmState::Active)));
        instance.deleted.load(Some(false));
        instance.cleaned.load(Some(false));
        change(&mut instance);
        fake.add(&instance);
        uuid
    }

    #[tokio::test]
    async fn only_deleted_instances_that_were_asked_for_are_deleted() {
        let (fake, records) = world();
        let context = RequestContext::admin();
        let there = add(&fake, 1, |_| {});
        let gone = add(&fake, 2, |instance| instance.deleted.load(Some(true)));
        let soft = add(&fake, 3, |i| i.vm_state.load(Some(Some(VmState::SoftDeleted))));
        add(&fake, 4, |instance| instance.deleted.load(Some(true)));
        let unknown = Uuid::from_u128(9);
        let asked = [there, gone, soft, unknown];
        let found = records.deleted_among(&context, &asked).await.unwrap();
        assert_eq!(found.iter().filter_map(|i| i.uuid.get()).collect::<Vec<_>>(), [&gone]);
        fake.take_calls();
        assert!(records.deleted_among(&context, &[]).await.unwrap().is_empty());
        assert_eq!(fake.take_calls(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_deleted_instance_can_be_marked_as_clean() {
        let (fake, records) = world();
        let context = RequestContext::admin();
        add(&fake, 1, |instance| instance.deleted.load(Some(true)));
        add(&fake, 2, |instance| {
            instance.deleted.load(Some(true));
            instance.host.load(Some(Some("h2".to_owned())));
        });
        let mut left = records.uncleaned(&context).await.unwrap();
        assert_eq!(left.len(), 1);
        left[0].cleaned.set(true);
        records.save_deleted(&context, &mut left[0]).await.unwrap();
        assert!(records.uncleaned(&context).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn instances_of_several_hosts_come_in_one_answer() {
        let (fake, records) = world();
        for (number, host) in [(1, "h1"), (2, "h2"), (3, "h3")] {
            add(&fake, number, |instance| instance.host.load(Some(Some(host.to_owned()))));
        }
        let hosts = ["h1".to_owned(), "h2".to_owned()];
        let found = records.instances_of(&RequestContext::admin(), &hosts).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(fake.take_calls(), ["InstanceList.get_by_filters"]);
    }

    #[tokio::test]
    async fn an_action_of_the_agents_own_is_on_record() {
        let (fake, records) = world();
        let context = RequestContext::admin();
        let uuid = add(&fake, 1, |_| {});
        records.action_started(&context, uuid, "stop").await.unwrap();
        records.event_started(&context, uuid, "compute_stop_instance").await.unwrap();
        records.forget_expired_consoles(&context).await.unwrap();
        let calls = fake.take_calls();
        assert!(calls.contains(&"InstanceAction.action_start".to_owned()), "{calls:?}");
    }
}
