//! Soft delete: the guest is off, and can be had back for a while.
//! nova: compute/manager.py, `soft_delete_instance`

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, expecting, now};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SoftDelete {
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    CutPower,
    Record,
}

impl SoftDelete {
    pub fn new(subject: Subject) -> Self {
        Self { subject }
    }
}

impl Workflow for SoftDelete {
    type Step = Step;
    const NAME: &'static str = "soft_delete";
    const STEPS: &'static [Step] = &[Step::Begin, Step::CutPower, Step::Record];
    const COMMITTED_FROM: usize = 1;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                self.subject.tell(Action::SoftDelete, Phase::Start, stage);
                Ok(())
            }
            Step::CutPower => cut_power(on, uuid).await,
            Step::Record => {
                // nova-api has set it: since then its time to be restored is counted.
                if self.subject.instance.deleted_at.value().is_none() {
                    self.subject.instance.deleted_at.set(now());
                }
                let found = on.hypervisor.domain(uuid).await?;
                let power = found.map_or(PowerState::NoState, |info| info.power_state);
                let expected = expecting(&[TaskState::SoftDeleting]);
                self.subject.record(VmState::SoftDeleted, power, expected, stage).await?;
                self.subject.tell(Action::SoftDelete, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        // The first step changes nothing on the host; the others are not undone.
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let expected = expecting(&[TaskState::SoftDeleting]);
        if !matches!(ending, Ending::Done) {
            // nova tells of an end, whichever it is.
            self.subject.tell(Action::SoftDelete, Phase::End, stage);
        }
        self.subject.settle_expecting(ending, expected, stage).await
    }
}
