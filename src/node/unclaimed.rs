//! Standalone mode: nobody schedules onto this host, so nothing is counted.

use async_trait::async_trait;

use super::{ClaimError, Claims};
use crate::model::context::RequestContext;
use crate::model::object::{Instance, Migration, SchedulerLimits};

pub struct Unclaimed {
    host: String,
    node: String,
}

impl Unclaimed {
    pub fn new(host: &str, node: &str) -> Self {
        Self { host: host.to_owned(), node: node.to_owned() }
    }
}

#[async_trait]
impl Claims for Unclaimed {
    async fn claim(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
        _: Option<&SchedulerLimits>,
    ) -> Result<(), ClaimError> {
        instance.host.set(Some(self.host.clone()));
        instance.node.set(Some(self.node.clone()));
        instance.launched_on.set(Some(self.host.clone()));
        Ok(())
    }

    async fn abort(&self, _: &RequestContext, instance: &mut Instance) -> Result<(), ClaimError> {
        instance.host.set(None);
        instance.node.set(None);
        instance.launched_on.set(None);
        Ok(())
    }

    async fn note(&self, _: &RequestContext, _: &Instance) {}

    async fn built(&self, _: &RequestContext, _: bool) {}

    async fn set_enabled(&self, _: &RequestContext, _: bool) {}

    /// Nobody evacuates to a standalone host: there is neither a migration nor an allocation.
    async fn refuse_evacuation(
        &self,
        _: &RequestContext,
        _: &Instance,
        _: Option<&Migration>,
    ) -> Result<(), ClaimError> {
        Ok(())
    }

    async fn release_allocation(&self, _: &RequestContext, _: &Instance) -> Result<(), ClaimError> {
        Ok(())
    }
}
