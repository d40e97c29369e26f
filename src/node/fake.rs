//! A node that keeps its claims in memory, and remembers what others were told.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::scheduling::{Scheduling, SchedulingError};
use super::{ClaimError, Claims};
use crate::model::context::RequestContext;
use crate::model::object::{Instance, Migration, SchedulerLimits};

#[derive(Debug, Default)]
struct State {
    claimed: BTreeSet<Uuid>,
    /// Instances that were to be evacuated to here.
    refused: BTreeSet<Uuid>,
    released: BTreeSet<Uuid>,
    known: BTreeSet<Uuid>,
    sent: Vec<Map<String, Value>>,
    refusal: Option<String>,
}

pub struct FakeNode {
    host: String,
    state: Mutex<State>,
}

impl FakeNode {
    pub fn new(host: &str) -> Self {
        Self { host: host.to_owned(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every claim from now on fails with this reason.
    pub fn refuse(&self, reason: &str) {
        self.state().refusal = Some(reason.to_owned());
    }

    /// Whose resources are set aside.
    pub fn refused_evacuations(&self) -> Vec<Uuid> {
        self.state().refused.iter().copied().collect()
    }

    pub fn claimed(&self) -> Vec<Uuid> {
        self.state().claimed.iter().copied().collect()
    }

    /// Whose allocations were removed.
    pub fn released(&self) -> Vec<Uuid> {
        self.state().released.iter().copied().collect()
    }

    /// Which instances the schedulers think are here.
    pub fn known(&self) -> Vec<Uuid> {
        self.state().known.iter().copied().collect()
    }

    /// The builds handed back, as arguments of `build_instances`.
    pub fn sent(&self) -> Vec<Map<String, Value>> {
        self.state().sent.clone()
    }
}

fn uuid_of(instance: &Instance) -> Uuid {
    instance.uuid.get().copied().unwrap_or_default()
}

#[async_trait]
impl Claims for FakeNode {
    async fn claim(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
        _: Option<&SchedulerLimits>,
    ) -> Result<(), ClaimError> {
        let mut state = self.state();
        if let Some(reason) = &state.refusal {
            return Err(ClaimError::Insufficient(reason.clone()));
        }
        state.claimed.insert(uuid_of(instance));
        instance.host.set(Some(self.host.clone()));
        instance.node.set(Some(self.host.clone()));
        instance.launched_on.set(Some(self.host.clone()));
        Ok(())
    }

    async fn abort(&self, _: &RequestContext, instance: &mut Instance) -> Result<(), ClaimError> {
        self.state().claimed.remove(&uuid_of(instance));
        instance.host.set(None);
        instance.node.set(None);
        instance.launched_on.set(None);
        Ok(())
    }

    async fn note(&self, _: &RequestContext, instance: &Instance) {
        if super::usage::is_off_the_node(instance) {
            self.state().claimed.remove(&uuid_of(instance));
        }
    }

    async fn built(&self, _: &RequestContext, _: bool) {}

    async fn set_enabled(&self, _: &RequestContext, _: bool) {}

    async fn refuse_evacuation(
        &self,
        _: &RequestContext,
        instance: &Instance,
        _: Option<&Migration>,
    ) -> Result<(), ClaimError> {
        self.state().refused.insert(uuid_of(instance));
        Ok(())
    }

    async fn release_allocation(
        &self,
        _: &RequestContext,
        instance: &Instance,
    ) -> Result<(), ClaimError> {
        self.state().released.insert(uuid_of(instance));
        Ok(())
    }
}

#[async_trait]
impl Scheduling for FakeNode {
    async fn build_elsewhere(
        &self,
        _: &RequestContext,
        args: Map<String, Value>,
    ) -> Result<(), SchedulingError> {
        self.state().sent.push(args);
        Ok(())
    }

    async fn placed(&self, _: &RequestContext, instance: &Instance) {
        self.state().known.insert(uuid_of(instance));
    }

    async fn gone(&self, _: &RequestContext, uuid: Uuid) {
        self.state().known.remove(&uuid);
    }

    async fn here(&self, _: &RequestContext, instances: &[Instance]) {
        self.state().known.extend(instances.iter().map(uuid_of));
    }

    async fn compare(&self, _: &RequestContext, instances: &[Uuid]) {
        self.state().known = instances.iter().copied().collect();
    }
}
