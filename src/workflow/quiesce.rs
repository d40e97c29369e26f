//! Quiesce: the guest's file systems are frozen, while nova-api has snapshots made of its volumes. An
//! unquiesce follows. nova: compute/manager.py, quiesce_instance
//!
//! nova keeps no event of it, and no fault: its caller is told.

use serde::{Deserialize, Serialize};

use super::disk_copy::can_quiesce;
use super::engine::{Ending, Stage, Workflow};
use super::instance::Subject;
use super::{StepError, StepResult};
use crate::hypervisor::HypervisorError;
use crate::model::object::ImageMeta;
use crate::telemetry::Chain;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quiesce {
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Check,
    Freeze,
}

impl Quiesce {
    pub fn new(subject: Subject) -> Self {
        Self { subject }
    }
}

impl Workflow for Quiesce {
    type Step = Step;
    const NAME: &'static str = "quiesce";
    const STEPS: &'static [Step] = &[Step::Check, Step::Freeze];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let instance = &self.subject.instance;
        match step {
            Step::Check => {
                let image = ImageMeta::from_instance(instance)?;
                can_quiesce(instance, image.properties(), stage.on)
            }
            Step::Freeze => {
                let frozen = stage.on.hypervisor.freeze(self.subject.uuid()?).await;
                frozen.map_err(refused)
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::Check => Ok(()),
            Step::Freeze => match stage.on.hypervisor.thaw(self.subject.uuid()?).await {
                // Nobody there to have been frozen, or nothing frozen.
                Err(
                    HypervisorError::NoAgent { .. }
                    | HypervisorError::NoDomain(_)
                    | HypervisorError::Refused { .. },
                ) => Ok(()),
                thawed => Ok(thawed?),
            },
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Undone(failure) | Ending::Stuck(failure) = ending {
            self.subject.tell_exception(&self.subject.raised(failure), stage);
        }
        Ok(())
    }
}

/// nova: virt/libvirt/driver.py, `_set_quiesced`
pub(super) fn refused(error: HypervisorError) -> StepError {
    match error {
        HypervisorError::NoAgent { .. } => StepError::QuiesceFailed(Chain(&error).to_string()),
        error => error.into(),
    }
}
