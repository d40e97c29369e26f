//! How a guest's power was before a workflow cut it, to have it run again when the workflow is taken back.

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::engine::Stage;
use super::instance::is_active;
use crate::hypervisor::StartOptions;
use crate::model::object::Instance;
use crate::model::state::PowerState;

/// Written down before anything is done to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasOn {
    on: bool,
    paused: bool,
}

impl WasOn {
    /// Looks at the guest.
    ///
    /// # Errors
    /// What the hypervisor says.
    pub async fn of(instance: &Instance, stage: &Stage<'_>) -> Result<Self, super::StepError> {
        let found = stage.on.hypervisor.domain(instance.uuid()?).await?;
        Ok(Self {
            on: is_active(found.as_ref()),
            paused: found.is_some_and(|info| info.power_state == PowerState::Paused),
        })
    }

    pub fn is_paused(self) -> bool {
        self.paused
    }

    /// Has the guest run as it did: it boots anew, and one that was paused waits to be let on. One that
    /// is about to be deleted isn't started.
    pub async fn restore(self, instance: &Instance, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, instance.uuid()?);
        let goes = stage.failure.is_some_and(|failure| failure.cancelled);
        if !self.on || goes || is_active(on.hypervisor.domain(uuid).await?.as_ref()) {
            return Ok(());
        }
        let options = StartOptions { paused: self.paused, ..StartOptions::default() };
        Ok(on.hypervisor.start(uuid, options).await?)
    }
}
