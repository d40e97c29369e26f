//! Snapshots that are made for as long as they are told to be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{VolumeError, VolumeSnapshots};
use crate::model::context::RequestContext;
use crate::openstack::ApiError;

/// A volume service in memory.
#[derive(Default)]
pub struct FakeVolumes {
    until: Mutex<BTreeMap<String, Instant>>,
    broken: Mutex<bool>,
}

impl FakeVolumes {
    /// The snapshot is being made for that long.
    pub fn make(&self, snapshot: &str, time: Duration) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.insert(snapshot.to_owned(), Instant::now() + time);
    }

    /// Nobody answers any more.
    pub fn break_off(&self) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

#[async_trait]
impl VolumeSnapshots for FakeVolumes {
    async fn is_being_made(&self, _: &RequestContext, snapshot: &str) -> Result<bool, VolumeError> {
        if *self.broken.lock().unwrap_or_else(PoisonError::into_inner) {
            let message = "told to".to_owned();
            let source = ApiError::Unreachable { service: "cinder", message };
            return Err(VolumeError::Snapshot { snapshot: snapshot.to_owned(), source });
        }
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(until.get(snapshot).is_some_and(|until| *until > Instant::now()))
    }
}
