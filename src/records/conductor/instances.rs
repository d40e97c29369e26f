//! [`Records`] through nova-conductor.
//!
//! A save sends the fields that have changed and the few that name the record; conductor answers
//! with all it has, so that what others have changed is taken over.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::changes::{self, error_of};
use super::error::absent;
use super::{Conductor, Repeat};
use crate::model::context::RequestContext;
use crate::model::object::{
    BlockDeviceMapping, BlockDeviceMappingList, ConsoleAuthToken, Instance,
    InstanceFault as FaultObject, InstanceInfoCache, InstanceList, VersionedObject, VolumeUsage,
};
use crate::model::state::TaskState;
use crate::model::time::Timestamp;
use crate::records::changed::StateChange;
use crate::records::history::fault_message;
use crate::records::{Expected, InstanceFault, InstancePart, Records, RecordsError, parts, rules};

/// The records of one host with nova-conductor.
#[derive(Debug, Clone)]
pub struct ConductorRecords {
    conductor: Conductor,
    host: String,
    /// Requests older than this process may have begun their events already.
    since: Timestamp,
}

impl ConductorRecords {
    pub fn new(conductor: Conductor, host: &str) -> Self {
        Self { conductor, host: host.to_owned(), since: Timestamp::now() }
    }

    /// `[DEFAULT] host`
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A conductor that doesn't answer may have saved: the record says so.
    async fn save_until_answered(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        expected: Expected,
    ) -> Result<(), RecordsError> {
        let mut saved = self.save_once(context, instance, &expected).await;
        for _ in 1..super::ATTEMPTS {
            match saved {
                Err(RecordsError::Conductor(error)) if error.is_unanswered() => {}
                saved => return saved,
            }
            // A conductor that doesn't answer a question either is away.
            match self.look_after_save(context, instance, &expected).await? {
                Some(found) => saved = self.save_once(context, instance, &found).await,
                None => return Ok(()),
            }
        }
        saved
    }

    pub fn conductor(&self) -> &Conductor {
        &self.conductor
    }

    /// The instances of a node of this host, with these parts. nova: get_by_host_and_node
    pub async fn instances_of_node(
        &self,
        context: &RequestContext,
        node: &str,
        parts: &[InstancePart],
    ) -> Result<Vec<Instance>, RecordsError> {
        let args = json!([self.host, node]);
        let kwargs = json!({"expected_attrs": names(parts)});
        let method = "get_by_host_and_node";
        let found: InstanceList = self
            .conductor
            .fetch::<InstanceList, _>(context, method, args, kwargs)
            .await
            .map_err(RecordsError::from)?;
        Ok(clean(found))
    }

    /// Instances by conductor's own filters, such as `{"deleted": true, "host": …}`, with these
    /// parts. nova: InstanceList.get_by_filters
    pub async fn instances_by_filters(
        &self,
        context: &RequestContext,
        filters: Map<String, Value>,
        parts: &[InstancePart],
    ) -> Result<Vec<Instance>, RecordsError> {
        let kwargs = json!({"expected_attrs": names(parts)});
        let (method, args) = ("get_by_filters", json!([filters]));
        let found: InstanceList =
            self.conductor.fetch::<InstanceList, _>(context, method, args, kwargs).await?;
        Ok(clean(found))
    }

    /// The instance, wherever it is and also when it is deleted, with these parts; `None` when
    /// nobody knows of it.
    pub async fn instance_or_deleted(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        parts: &[InstancePart],
    ) -> Result<Option<Instance>, RecordsError> {
        self.read(&with_deleted(context), uuid, parts).await
    }

    async fn read(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        parts: &[InstancePart],
    ) -> Result<Option<Instance>, RecordsError> {
        let (args, kwargs) = (json!([uuid.to_string()]), json!({"expected_attrs": names(parts)}));
        let found = self.conductor.fetch::<Instance, _>(context, "get_by_uuid", args, kwargs);
        let found: Option<Instance> = absent(found.await, &["InstanceNotFound"])?;
        Ok(found.map(|mut instance| {
            instance.reset_changes();
            instance
        }))
    }

    /// Finds out what became of a save whose answer didn't come. `None`: it was done. Else what it
    /// may be done from, so that nobody's change is overwritten unseen.
    async fn look_after_save(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        expected: &Expected,
    ) -> Result<Option<Expected>, RecordsError> {
        let uuid = instance.uuid()?;
        let changed = instance.what_changed();
        let parts = InstancePart::FOR_GUEST.iter().copied();
        let parts: Vec<_> = parts.filter(|part| changed.contains(part.field())).collect();
        let record = self.read(context, uuid, &parts).await?.ok_or(RecordsError::NotFound(uuid))?;
        if changes::are_applied(instance, &record) {
            changes::take(instance, &record)?;
            return Ok(None);
        }
        rules::check(&record, expected)?;
        Ok(Some(Expected::OneOf(vec![record.task_state.value().copied()])))
    }

    async fn save_once(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        expected: &Expected,
    ) -> Result<(), RecordsError> {
        let uuid = instance.uuid()?;
        let kwargs = match expected {
            Expected::Any => json!({}),
            Expected::OneOf(states) => {
                let states: Vec<_> =
                    states.iter().map(|state| state.map(TaskState::as_str)).collect();
                json!({"expected_task_state": states})
            }
        };
        let primitive = changes::to_save(instance);
        let saved = self.conductor.object_action(
            context,
            instance,
            primitive,
            "save",
            kwargs,
            Repeat::Never,
        );
        saved.await.map_err(|error| error_of(uuid, error))?;
        // Conductor leaves the mark on what it has saved beside the instance's own row.
        instance.reset_changes();
        Ok(())
    }
}

#[async_trait]
impl Records for ConductorRecords {
    /// The control plane wrote its record before it sent the message.
    async fn receive(
        &self,
        _: &RequestContext,
        instance: Instance,
    ) -> Result<Instance, RecordsError> {
        rules::uuid_of(&instance)?;
        Ok(instance)
    }

    async fn instance(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<Instance>, RecordsError> {
        let found = self.read(context, uuid, InstancePart::FOR_GUEST).await?;
        Ok(found.filter(|instance| !rules::is_deleted(instance)))
    }

    async fn instances(
        &self,
        context: &RequestContext,
        parts: &[InstancePart],
    ) -> Result<Vec<Instance>, RecordsError> {
        let (args, kwargs) = (json!([self.host]), json!({"expected_attrs": names(parts)}));
        let method = "get_by_host";
        let found: InstanceList =
            self.conductor.fetch::<InstanceList, _>(context, method, args, kwargs).await?;
        Ok(clean(found))
    }

    async fn load(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        wanted: &[InstancePart],
    ) -> Result<(), RecordsError> {
        let missing = parts::missing(instance, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let uuid = instance.uuid()?;
        // A deleted instance's files may be what is cleaned up.
        let context = with_deleted(context);
        let record = self.read(&context, uuid, &missing).await?;
        parts::fill(instance, record.ok_or(RecordsError::NotFound(uuid))?, &missing);
        Ok(())
    }

    async fn save(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        expected: Expected,
    ) -> Result<(), RecordsError> {
        let changed = instance.what_changed();
        if changed.iter().all(|name| changes::is_never_saved(name)) {
            instance.reset_changes();
            return Ok(());
        }
        let states = StateChange::of(instance);
        self.save_until_answered(context, instance, expected).await?;
        states.into_iter().for_each(|states| states.tell(context));
        Ok(())
    }

    async fn destroy(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        let uuid = instance.uuid()?;
        let primitive = changes::to_name(instance);
        let method = "destroy";
        let destroyed = self.conductor.object_action(
            context,
            instance,
            primitive,
            method,
            json!({}),
            Repeat::Harmless,
        );
        let error = match destroyed.await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if !error.is("InstanceNotFound") && !error.is("ObjectActionError") {
            return Err(error.into());
        }
        // It may have been destroyed before, by a call whose answer was lost.
        match self.read(&with_deleted(context), uuid, &[]).await? {
            Some(record) if rules::is_deleted(&record) => Ok(changes::take(instance, &record)?),
            Some(_) => Err(error.into()),
            None => Err(RecordsError::NotFound(uuid)),
        }
    }

    async fn info_cache(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<InstanceInfoCache>, RecordsError> {
        let (method, args) = ("get_by_instance_uuid", json!([uuid.to_string()]));
        let found = self.conductor.fetch::<InstanceInfoCache, _>(context, method, args, json!({}));
        Ok(absent(found.await, &["InstanceInfoCacheNotFound"])?)
    }

    async fn save_info_cache(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        network_info: String,
    ) -> Result<(), RecordsError> {
        let uuid = instance.uuid()?;
        let mut cache = InstanceInfoCache::default();
        cache.instance_uuid.set(uuid);
        cache.network_info.set(Some(network_info));
        let saved = self.conductor.save_object(context, &mut cache).await;
        saved.map_err(|error| error_of(uuid, error))?;
        instance.info_cache.load(Some(Some(cache)));
        Ok(())
    }

    async fn block_devices(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<BlockDeviceMappingList, RecordsError> {
        Ok(self.conductor.block_devices(context, uuid).await?)
    }

    async fn save_block_device(
        &self,
        context: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError> {
        match disk.id.is_set() {
            true => Ok(self.conductor.save_block_device(context, disk).await?),
            false => Ok(self.conductor.create_block_device(context, disk).await?),
        }
    }

    async fn destroy_block_device(
        &self,
        context: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor.destroy_block_device(context, disk).await?)
    }

    async fn save_volume_usage(
        &self,
        context: &RequestContext,
        usage: &mut VolumeUsage,
        ends: bool,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor.save_volume_usage(context, usage, ends).await?)
    }

    async fn authorize_console(
        &self,
        context: &RequestContext,
        token: &mut ConsoleAuthToken,
        ttl: Duration,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor.authorize_console(context, token, ttl).await?)
    }

    async fn forget_consoles(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor.forget_consoles(context, uuid).await?)
    }

    async fn event_started(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
    ) -> Result<(), RecordsError> {
        let conductor = &self.conductor;
        // Nobody can have begun it before this process got the request.
        let mut is_new = self.since < sent_at(context);
        for _ in 1..super::ATTEMPTS {
            if !is_new && conductor.has_event(context, uuid, event, &self.host).await? {
                return Ok(());
            }
            match conductor.start_event(context, uuid, event, &self.host).await {
                Err(error) if error.is_unanswered() => is_new = false,
                started => return started.map_err(|error| error_of(uuid, error)),
            }
        }
        if conductor.has_event(context, uuid, event, &self.host).await? {
            return Ok(());
        }
        let started = conductor.start_event(context, uuid, event, &self.host).await;
        started.map_err(|error| error_of(uuid, error))
    }

    async fn event_finished(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
        failure: Option<(&str, &str)>,
    ) -> Result<(), RecordsError> {
        let finished = self.conductor.finish_event(context, uuid, event, failure).await;
        finished.map_err(|error| error_of(uuid, error))
    }

    async fn record_fault(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        fault: InstanceFault,
    ) -> Result<(), RecordsError> {
        let mut object = FaultObject::default();
        object.instance_uuid.set(uuid);
        object.code.set(i64::from(fault.code));
        object.message.set(Some(fault_message(&fault.message)));
        object.details.set(Some(fault.details));
        object.host.set(Some(self.host.clone()));
        let created = self.conductor.create_fault(context, object).await;
        created.map_err(|error| error_of(uuid, error))
    }
}

/// When the request was made, by its sender's clock; long ago when it doesn't say.
fn sent_at(context: &RequestContext) -> Timestamp {
    let said = context.rest.get("timestamp").and_then(Value::as_str).and_then(Timestamp::parse);
    said.unwrap_or(Timestamp::from_second(0))
}

fn names(parts: &[InstancePart]) -> Vec<&'static str> {
    parts.iter().map(|part| part.field()).collect()
}

fn clean(list: InstanceList) -> Vec<Instance> {
    let mut instances = list.into_items();
    // Objects in the database may still be marked as changed, as they were when they were stored.
    instances.iter_mut().for_each(VersionedObject::reset_changes);
    instances
}

/// The same request, for which deleted records are there, too.
pub(super) fn with_deleted(context: &RequestContext) -> RequestContext {
    let mut context = context.clone();
    context.rest.insert("read_deleted".to_owned(), json!("yes"));
    context
}
