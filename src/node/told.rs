//! Nova mode: schedulers and conductor are told over the bus.

use async_trait::async_trait;
use serde_json::{Map, Value};
use tracing::warn;
use uuid::Uuid;

use super::scheduling::{Scheduling, SchedulingError};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::records::conductor::Conductor;
use crate::telemetry::Chain;

pub struct ToldByBus {
    conductor: Conductor,
    host: String,
    /// `[filter_scheduler] track_instance_changes`: whether schedulers keep lists of instances.
    tracked: bool,
}

impl ToldByBus {
    pub fn new(conductor: Conductor, host: &str, tracked: bool) -> Self {
        Self { conductor, host: host.to_owned(), tracked }
    }
}

#[async_trait]
impl Scheduling for ToldByBus {
    async fn build_elsewhere(
        &self,
        context: &RequestContext,
        args: Map<String, Value>,
    ) -> Result<(), SchedulingError> {
        let sent = self.conductor.build_instances(context, args).await;
        sent.map_err(|error| SchedulingError(Chain(&error).to_string()))
    }

    async fn placed(&self, context: &RequestContext, instance: &Instance) {
        if !self.tracked {
            return;
        }
        let told = self.conductor.update_instance_info(context, &self.host, vec![instance.clone()]);
        if let Err(error) = told.await {
            warn!(error = %Chain(&error), "the schedulers don't know of the instance yet");
        }
    }

    async fn gone(&self, context: &RequestContext, uuid: Uuid) {
        if !self.tracked {
            return;
        }
        let told = self.conductor.delete_instance_info(context, &self.host, uuid).await;
        if let Err(error) = told {
            warn!(error = %Chain(&error), "the schedulers still count the instance");
        }
    }

    async fn here(&self, context: &RequestContext, instances: &[Instance]) {
        if !self.tracked {
            return;
        }
        let told = self.conductor.update_instance_info(context, &self.host, instances.to_vec());
        if let Err(error) = told.await {
            warn!(error = %Chain(&error), "the schedulers don't know of this host's instances yet");
        }
    }

    async fn compare(&self, context: &RequestContext, instances: &[Uuid]) {
        if !self.tracked {
            return;
        }
        let told = self.conductor.sync_instance_info(context, &self.host, instances).await;
        if let Err(error) = told {
            warn!(error = %Chain(&error), "the schedulers could not compare their instances");
        }
    }
}
