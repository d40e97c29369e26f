//! Records in memory, by the same rules as `sqlite.rs`: for tests of the rooms above, and for an
//! agent that keeps nothing. What is left at its end can be asked for, and a named call can fail.

mod upkeep;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::history::{History, RecordedEvent, RecordedFault, fault_message};
use super::{Expected, InstanceFault, InstancePart, Records, RecordsError, parts, rules};
use crate::model::context::RequestContext;
use crate::model::object::{
    BlockDeviceMapping, BlockDeviceMappingList, ConsoleAuthToken, Instance, InstanceInfoCache,
    VersionedObject, VolumeUsage,
};
use crate::model::time::Timestamp;

/// Records that live as long as the process.
#[derive(Debug)]
pub struct FakeRecords {
    host: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    instances: BTreeMap<Uuid, Instance>,
    last_id: i64,
    disks: BTreeMap<Uuid, BlockDeviceMapping>,
    last_disk: i64,
    usages: Vec<(VolumeUsage, bool)>,
    events: BTreeMap<Uuid, Vec<RecordedEvent>>,
    faults: BTreeMap<Uuid, Vec<RecordedFault>>,
    fail_at: Option<String>,
}

impl FakeRecords {
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), state: Mutex::default() }
    }

    /// Makes the next call of the method named `call` fail as a broken storage would.
    pub fn fail_at(&self, call: &str) {
        self.state().fail_at = Some(call.to_owned());
    }

    /// Ids of the ports that are recorded for the instance.
    pub fn network_of(&self, uuid: Uuid) -> Vec<Uuid> {
        let state = self.state();
        let vifs = state.instances.get(&uuid).and_then(|record| record.vifs().ok());
        vifs.unwrap_or_default().into_iter().map(|vif| vif.id).collect()
    }

    /// Every record, deleted ones included.
    pub fn all(&self) -> Vec<Instance> {
        self.state().instances.values().cloned().collect()
    }

    /// The counters of volumes that were saved, and whether they ended.
    pub fn usages(&self) -> Vec<(VolumeUsage, bool)> {
        self.state().usages.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: &'static str) -> Result<MutexGuard<'_, State>, RecordsError> {
        let mut state = self.state();
        if state.fail_at.as_deref() == Some(call) {
            state.fail_at = None;
            let message = format!("told to fail at {call}");
            return Err(RecordsError::Storage { operation: "used", message });
        }
        Ok(state)
    }
}

impl State {
    fn live(&self, uuid: Uuid) -> Result<&Instance, RecordsError> {
        let record = self.instances.get(&uuid).filter(|record| !rules::is_deleted(record));
        record.ok_or(RecordsError::NotFound(uuid))
    }

    fn known(&self, uuid: Uuid) -> Result<(), RecordsError> {
        self.instances.contains_key(&uuid).then_some(()).ok_or(RecordsError::NotFound(uuid))
    }
}

#[async_trait]
impl Records for FakeRecords {
    async fn receive(
        &self,
        _: &RequestContext,
        instance: Instance,
    ) -> Result<Instance, RecordsError> {
        let mut state = self.enter("receive")?;
        let uuid = rules::uuid_of(&instance)?;
        let id = rules::id_of(uuid, &instance)?;
        if let Some(record) = state.instances.get_mut(&uuid) {
            if rules::is_deleted(record) {
                return Err(rules::refuse_deleted(uuid, &instance));
            }
            rules::check_id(record, id)?;
            rules::adopt_task_state(record, &instance, Timestamp::now());
            return Ok(record.clone());
        }
        let id = id.unwrap_or(state.last_id + 1);
        if state.instances.values().any(|other| other.id.get() == Some(&id)) {
            return Err(RecordsError::Clash { uuid, what: format!("id {id} is taken") });
        }
        let record = rules::enter(instance, id, &self.host, Timestamp::now())?;
        state.last_id = state.last_id.max(id);
        state.instances.insert(uuid, record.clone());
        Ok(record)
    }

    async fn instance(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<Instance>, RecordsError> {
        Ok(self.enter("instance")?.live(uuid).ok().cloned())
    }

    async fn instances(
        &self,
        _: &RequestContext,
        _: &[InstancePart],
    ) -> Result<Vec<Instance>, RecordsError> {
        let state = self.enter("instances")?;
        let ours = |record: &&Instance| {
            !rules::is_deleted(record) && record.host.value().is_none_or(|host| *host == self.host)
        };
        let mut found: Vec<_> = state.instances.values().filter(ours).cloned().collect();
        found.sort_by_key(|record| record.id.get().copied());
        Ok(found)
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
        let state = self.enter("load")?;
        let uuid = rules::uuid_of(instance)?;
        let record = state.instances.get(&uuid).ok_or(RecordsError::NotFound(uuid))?;
        parts::fill(instance, record.clone(), &missing);
        Ok(())
    }

    async fn save(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
        expected: Expected,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("save")?;
        let uuid = rules::uuid_of(instance)?;
        let record = state.live(uuid)?;
        if instance.what_changed().is_empty() {
            return Ok(());
        }
        rules::check(record, &expected)?;
        let record = rules::merge(record, instance, Timestamp::now())?;
        *instance = record.clone();
        state.instances.insert(uuid, record);
        Ok(())
    }

    async fn destroy(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("destroy")?;
        let uuid = rules::uuid_of(instance)?;
        let mut record = state.instances.get(&uuid).ok_or(RecordsError::NotFound(uuid))?.clone();
        if !rules::is_deleted(&record) {
            record = rules::bury(&record, Timestamp::now())?;
            state.instances.insert(uuid, record.clone());
        }
        *instance = record;
        Ok(())
    }

    async fn info_cache(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<InstanceInfoCache>, RecordsError> {
        let state = self.enter("info_cache")?;
        Ok(state.live(uuid).ok().and_then(|record| record.info_cache.value().cloned()))
    }

    async fn save_info_cache(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
        network_info: String,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("save_info_cache")?;
        let uuid = rules::uuid_of(instance)?;
        let record = rules::connect(state.live(uuid)?, network_info, Timestamp::now())?;
        instance.info_cache = record.info_cache.clone();
        state.instances.insert(uuid, record);
        Ok(())
    }

    async fn block_devices(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<BlockDeviceMappingList, RecordsError> {
        let state = self.enter("block_devices")?;
        let of_it = |disk: &&BlockDeviceMapping| disk.instance_uuid.get() == Some(&uuid);
        let mut disks: Vec<_> = state.disks.values().filter(of_it).cloned().collect();
        disks.sort_by_key(|disk| disk.id.get().copied());
        let mut list = BlockDeviceMappingList::from(disks);
        list.reset_changes();
        Ok(list)
    }

    async fn save_block_device(
        &self,
        _: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("save_block_device")?;
        let uuid = rules::instance_of(disk)?;
        state.live(uuid)?;
        let record = disk.uuid.get().and_then(|uuid| state.disks.get(uuid));
        let mut kept = rules::keep_disk(record, disk, Timestamp::now())?;
        if record.is_none() {
            state.last_disk += 1;
            kept.id.load(Some(state.last_disk));
        }
        *disk = kept.clone();
        state.disks.extend(kept.uuid.get().copied().map(|uuid| (uuid, kept)));
        Ok(())
    }

    async fn destroy_block_device(
        &self,
        _: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("destroy_block_device")?;
        if let Some(uuid) = disk.uuid.get() {
            state.disks.remove(uuid);
        }
        disk.deleted.load(Some(true));
        Ok(())
    }

    async fn save_volume_usage(
        &self,
        _: &RequestContext,
        usage: &mut VolumeUsage,
        ends: bool,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("save_volume_usage")?;
        usage.curr_last_refreshed.load(Some(Some(Timestamp::now())));
        state.usages.push((usage.clone(), ends));
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
        let mut state = self.enter("event_started")?;
        state.known(uuid)?;
        let events = state.events.entry(uuid).or_default();
        let started = RecordedEvent {
            event: event.to_owned(),
            request_id: context.request_id().to_owned(),
            started_at: Timestamp::now(),
            finished_at: None,
            failure: None,
            details: None,
        };
        match events.iter_mut().find(|e| e.event == event && e.request_id == started.request_id) {
            Some(again) => *again = RecordedEvent { started_at: again.started_at, ..started },
            None => events.push(started),
        }
        Ok(())
    }

    async fn event_finished(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
        failure: Option<(&str, &str)>,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("event_finished")?;
        state.known(uuid)?;
        let events = state.events.entry(uuid).or_default();
        let now = Timestamp::now();
        let mut finished = RecordedEvent {
            event: event.to_owned(),
            request_id: context.request_id().to_owned(),
            started_at: now,
            finished_at: Some(now),
            failure: failure.map(|(message, _)| message.to_owned()),
            details: failure.map(|(_, details)| details.to_owned()),
        };
        match events.iter_mut().find(|e| e.event == event && e.request_id == finished.request_id) {
            Some(begun) => {
                finished.started_at = begun.started_at;
                *begun = finished;
            }
            None => events.push(finished),
        }
        Ok(())
    }

    async fn record_fault(
        &self,
        _: &RequestContext,
        uuid: Uuid,
        fault: InstanceFault,
    ) -> Result<(), RecordsError> {
        let mut state = self.enter("record_fault")?;
        state.known(uuid)?;
        state.faults.entry(uuid).or_default().push(RecordedFault {
            code: fault.code,
            message: fault_message(&fault.message),
            details: fault.details,
            created_at: Timestamp::now(),
        });
        Ok(())
    }
}

#[async_trait]
impl History for FakeRecords {
    async fn events(&self, uuid: Uuid) -> Result<Vec<RecordedEvent>, RecordsError> {
        Ok(self.enter("events")?.events.get(&uuid).cloned().unwrap_or_default())
    }

    async fn faults(&self, uuid: Uuid) -> Result<Vec<RecordedFault>, RecordsError> {
        Ok(self.enter("faults")?.faults.get(&uuid).cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_named_call_fails_once() {
        let records = FakeRecords::new("h1");
        let context = RequestContext::admin();
        records.fail_at("instances");
        assert!(records.instance(&context, Uuid::nil()).await.is_ok());
        assert!(matches!(
            records.instances(&context, &[]).await,
            Err(RecordsError::Storage { message, .. }) if message == "told to fail at instances"
        ));
        assert!(records.instances(&context, &[]).await.is_ok());
    }
}
