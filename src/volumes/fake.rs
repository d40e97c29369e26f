//! A volume service in memory: volumes, who has a right to them, and snapshots that are made for as long as
//! they are told to be.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{ConnectionInfo, NewVolume, Volume, VolumeError, VolumeSnapshots, Volumes};
use crate::model::context::RequestContext;
use crate::model::object::BlockDeviceMapping;
use crate::model::secret::Secret;
use crate::openstack::ApiError;

/// A volume service in memory.
#[derive(Default)]
pub struct FakeVolumes {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    until: BTreeMap<String, Instant>,
    broken: bool,
    volumes: BTreeMap<String, FakeVolume>,
    attachments: BTreeMap<Uuid, Attachment>,
    failures: BTreeMap<String, u32>,
    made: u32,
    reserved: u128,
}

/// A volume of the fake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeVolume {
    pub status: String,
    pub size_gib: i64,
    pub is_multiattach: bool,
    pub passphrase: Option<String>,
    pub made_of: NewVolume,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attachment {
    volume: String,
    instance: Uuid,
    open: bool,
    complete: bool,
}

impl FakeVolumes {
    /// The snapshot is being made for that long.
    pub fn make(&self, snapshot: &str, time: Duration) {
        self.lock().until.insert(snapshot.to_owned(), Instant::now() + time);
    }

    /// Nobody answers any more.
    pub fn break_off(&self) {
        self.lock().broken = true;
    }

    /// A volume that is there.
    pub fn add(&self, id: &str, volume: FakeVolume) {
        self.lock().volumes.insert(id.to_owned(), volume);
    }

    /// A right to a volume, as nova-api asks for one before it sends an attach.
    pub fn attachment(&self, volume: &str, instance: Uuid) -> Uuid {
        let mut state = self.lock();
        let id = Uuid::from_u128(0xa77a_c000 + state.reserved);
        state.reserved += 1;
        let volume = volume.to_owned();
        state.attachments.insert(id, Attachment { volume, instance, open: false, complete: false });
        id
    }

    /// The next `call` fails and changes nothing.
    pub fn fail_at(&self, call: &str) {
        self.lock().failures.insert(call.to_owned(), 1);
    }

    /// The volumes that are there.
    pub fn all(&self) -> BTreeMap<String, FakeVolume> {
        self.lock().volumes.clone()
    }

    /// (volume, instance, whether it is open to a host, whether it is complete) of every attachment.
    pub fn attachments(&self) -> Vec<(String, Uuid, bool, bool)> {
        let state = self.lock();
        let all = state.attachments.values();
        all.map(|a| (a.volume.clone(), a.instance, a.open, a.complete)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: &str, volume: &str) -> Result<MutexGuard<'_, State>, VolumeError> {
        let mut state = self.lock();
        let planned = state.failures.get_mut(call).filter(|left| **left > 0);
        let fails = planned.map(|left| *left -= 1).is_some();
        if fails || state.broken {
            let what = format!("told to fail at {call}");
            let source = ApiError::Status { what, status: 500, message: String::new() };
            let volume_id = volume.to_owned();
            return Err(VolumeError::Service { operation: "ask for", volume_id, source });
        }
        Ok(state)
    }
}

impl State {
    fn attachment(&mut self, device: &BlockDeviceMapping) -> Result<&mut Attachment, VolumeError> {
        let volume = device.volume_id.text().unwrap_or_default().to_owned();
        let id = device.attachment_id.value().copied().unwrap_or_default();
        let found = self.attachments.get_mut(&id).filter(|found| found.volume == volume);
        found.ok_or(VolumeError::NotFound(volume))
    }
}

#[async_trait]
impl VolumeSnapshots for FakeVolumes {
    async fn is_being_made(&self, _: &RequestContext, snapshot: &str) -> Result<bool, VolumeError> {
        let state = self.lock();
        if state.broken {
            let message = "told to".to_owned();
            let source = ApiError::Unreachable { service: "cinder", message };
            return Err(VolumeError::Snapshot { snapshot: snapshot.to_owned(), source });
        }
        Ok(state.until.get(snapshot).is_some_and(|until| *until > Instant::now()))
    }
}

#[async_trait]
impl Volumes for FakeVolumes {
    async fn volume(&self, _: &RequestContext, id: &str) -> Result<Volume, VolumeError> {
        let state = self.enter("volume", id)?;
        let volume = state.volumes.get(id).ok_or_else(|| VolumeError::NotFound(id.to_owned()))?;
        let of_it = state.attachments.values().filter(|a| a.volume == id);
        Ok(Volume {
            id: id.to_owned(),
            status: volume.status.clone(),
            size_gib: Some(volume.size_gib),
            is_multiattach: volume.is_multiattach,
            is_encrypted: volume.passphrase.is_some(),
            volume_type: volume.made_of.volume_type.clone(),
            migration_status: None,
            servers: of_it.map(|a| a.instance.to_string()).collect(),
        })
    }

    async fn open(
        &self,
        _: &RequestContext,
        device: &BlockDeviceMapping,
        _: &Value,
    ) -> Result<ConnectionInfo, VolumeError> {
        let mut state = self.enter("open", device.volume_id.text().unwrap_or_default())?;
        let attachment = state.attachment(device)?;
        attachment.open = true;
        let id = attachment.volume.clone();
        let encrypted = state.volumes.get(&id).is_some_and(|v| v.passphrase.is_some());
        let info = json!({
            "driver_volume_type": "nfs",
            "data": {"export": "h:/v", "name": format!("volume-{id}"), "encrypted": encrypted},
            "serial": id,
        });
        Ok(ConnectionInfo::new(info.as_object().cloned().unwrap_or_default()))
    }

    async fn complete(
        &self,
        _: &RequestContext,
        device: &BlockDeviceMapping,
    ) -> Result<(), VolumeError> {
        let mut state = self.enter("complete", device.volume_id.text().unwrap_or_default())?;
        let attachment = state.attachment(device)?;
        attachment.complete = true;
        let volume = attachment.volume.clone();
        if let Some(volume) = state.volumes.get_mut(&volume) {
            "in-use".clone_into(&mut volume.status);
        }
        Ok(())
    }

    async fn close(
        &self,
        _: &RequestContext,
        device: &BlockDeviceMapping,
    ) -> Result<(), VolumeError> {
        let mut state = self.enter("close", device.volume_id.text().unwrap_or_default())?;
        let id = device.attachment_id.value().copied().unwrap_or_default();
        let Some(gone) = state.attachments.remove(&id) else { return Ok(()) };
        let is_used = state.attachments.values().any(|a| a.volume == gone.volume);
        if let Some(volume) = state.volumes.get_mut(&gone.volume).filter(|_| !is_used) {
            "available".clone_into(&mut volume.status);
        }
        Ok(())
    }

    async fn keep_attached(&self, _: &RequestContext, volume: &str) -> Result<(), VolumeError> {
        let mut state = self.enter("keep_attached", volume)?;
        if let Some(volume) = state.volumes.get_mut(volume) {
            "in-use".clone_into(&mut volume.status);
        }
        Ok(())
    }

    async fn create(&self, _: &RequestContext, asked: &NewVolume) -> Result<String, VolumeError> {
        let mut state = self.enter("create", &asked.name)?;
        state.made += 1;
        let id = format!("made-{}", state.made);
        let (status, size_gib) = ("available".to_owned(), asked.size_gib);
        let volume =
            FakeVolume { status, size_gib, made_of: asked.clone(), ..FakeVolume::default() };
        state.volumes.insert(id.clone(), volume);
        Ok(id)
    }

    async fn reserve(
        &self,
        _: &RequestContext,
        volume_id: &str,
        instance: Uuid,
    ) -> Result<Uuid, VolumeError> {
        drop(self.enter("reserve", volume_id)?);
        Ok(self.attachment(volume_id, instance))
    }

    async fn delete(&self, _: &RequestContext, volume_id: &str) -> Result<(), VolumeError> {
        self.enter("delete", volume_id)?.volumes.remove(volume_id);
        Ok(())
    }

    async fn type_of_snapshot(
        &self,
        _: &RequestContext,
        _: &str,
    ) -> Result<Option<String>, VolumeError> {
        Ok(Some("type-of-its-volume".to_owned()))
    }

    async fn passphrase(
        &self,
        _: &RequestContext,
        volume_id: &str,
        _: &ConnectionInfo,
    ) -> Result<Option<Secret>, VolumeError> {
        let state = self.enter("passphrase", volume_id)?;
        let volume = state.volumes.get(volume_id);
        Ok(volume.and_then(|volume| volume.passphrase.clone()).map(Secret::new))
    }

    async fn moved(
        &self,
        _: &RequestContext,
        old: &str,
        new: &str,
        failed: bool,
    ) -> Result<String, VolumeError> {
        drop(self.enter("moved", old)?);
        Ok(if failed { old } else { new }.to_owned())
    }
}
