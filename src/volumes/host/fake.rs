//! Connections in memory: which volumes this host has open, and for whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{DiskUser, HostVolumes};
use crate::volumes::{ConnectionInfo, VolumeError};

/// A host whose volumes are files below `/volumes`.
#[derive(Default)]
pub struct FakeConnectors {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: BTreeSet<(String, Uuid)>,
    failures: BTreeMap<String, u32>,
}

impl FakeConnectors {
    /// (volume, instance) of what is connected.
    pub fn connected(&self) -> Vec<(String, Uuid)> {
        self.lock().open.iter().cloned().collect()
    }

    /// The next `call` fails and changes nothing.
    pub fn fail_at(&self, call: &str) {
        self.lock().failures.insert(call.to_owned(), 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: &str) -> Result<MutexGuard<'_, State>, VolumeError> {
        let mut state = self.lock();
        if let Some(left) = state.failures.get_mut(call).filter(|left| **left > 0) {
            *left -= 1;
            let message = "the fake was told to fail".to_owned();
            return Err(VolumeError::Host { operation: "connect", what: call.to_owned(), message });
        }
        Ok(state)
    }
}

#[async_trait]
impl HostVolumes for FakeConnectors {
    async fn connector(&self) -> Value {
        json!({"host": "host1", "ip": "127.0.0.1", "multipath": false})
    }

    async fn connect(
        &self,
        connection: &mut ConnectionInfo,
        instance: Uuid,
    ) -> Result<(), VolumeError> {
        let mut state = self.enter("connect")?;
        if !["nfs", "local"].contains(&connection.kind()) {
            return Err(VolumeError::Unsupported(connection.kind().to_owned()));
        }
        let volume = connection.volume_id().unwrap_or_default().to_owned();
        connection.note("device_path", format!("/volumes/{volume}"));
        state.open.insert((volume, instance));
        Ok(())
    }

    async fn disconnect(
        &self,
        connection: &ConnectionInfo,
        instance: Uuid,
        _: &[DiskUser],
    ) -> Result<(), VolumeError> {
        let volume = connection.volume_id().unwrap_or_default().to_owned();
        self.enter("disconnect")?.open.remove(&(volume, instance));
        Ok(())
    }

    async fn grow(&self, _: &ConnectionInfo, bytes: u64) -> Result<u64, VolumeError> {
        self.enter("grow").map(|_| bytes)
    }
}
