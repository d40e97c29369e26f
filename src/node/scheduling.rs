//! What the services that place instances are told by this node: where an instance went, and that
//! it must go elsewhere. nova: conductor/rpcapi.py, ComputeTaskAPI; scheduler/rpcapi.py

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::model::object::Instance;

#[async_trait]
pub trait Scheduling: Send + Sync {
    /// Asks for the instance to be built on another host: the arguments of `build_instances`. A
    /// cast; a repeat may build it twice, so it is sent when the record says that it waits.
    ///
    /// # Errors
    /// The bus's, in its words.
    async fn build_elsewhere(
        &self,
        context: &RequestContext,
        args: Map<String, Value>,
    ) -> Result<(), SchedulingError>;

    /// Tells the schedulers that the instance is on this host. Best effort: they also ask now and
    /// then. nova: `update_instance_info`, with `[filter_scheduler] track_instance_changes`
    async fn placed(&self, context: &RequestContext, instance: &Instance);

    /// Tells them that it is not any more. nova: `delete_instance_info`
    async fn gone(&self, context: &RequestContext, uuid: Uuid);

    /// Tells them of all the instances of this host, when the agent starts.
    /// nova: `update_instance_info`
    async fn here(&self, context: &RequestContext, instances: &[Instance]);

    /// Tells them which instances there are: who knows others asks for all of them.
    /// nova: `sync_instance_info`
    async fn compare(&self, context: &RequestContext, instances: &[Uuid]);
}

#[derive(Debug, thiserror::Error)]
#[error("the conductor can't be asked to build elsewhere: {0}")]
pub struct SchedulingError(pub String);

/// Standalone mode: there is nobody to tell, and nowhere else.
pub struct Unscheduled;

#[async_trait]
impl Scheduling for Unscheduled {
    async fn build_elsewhere(
        &self,
        _: &RequestContext,
        _: Map<String, Value>,
    ) -> Result<(), SchedulingError> {
        Err(SchedulingError("there is no other host in standalone mode".to_owned()))
    }

    async fn placed(&self, _: &RequestContext, _: &Instance) {}

    async fn gone(&self, _: &RequestContext, _: Uuid) {}

    async fn here(&self, _: &RequestContext, _: &[Instance]) {}

    async fn compare(&self, _: &RequestContext, _: &[Uuid]) {}
}
