//! Unpause: the guest's virtual CPUs run again. nova: compute/manager.py, unpause_instance

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, await_running, expecting};
use crate::hypervisor::HypervisorError;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unpause {
    pub subject: Subject,
    /// Whether the guest was paused before: only then does an undo pause it again.
    was_paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    UnpauseDomain,
    Record,
}

impl Unpause {
    pub fn new(subject: Subject) -> Self {
        Self { subject, was_paused: false }
    }
}

impl Workflow for Unpause {
    type Step = Step;
    const NAME: &'static str = "unpause";
    const STEPS: &'static [Step] = &[Step::Begin, Step::UnpauseDomain, Step::Record];
    /// The guest runs and may be in use: only the record is left to write.
    const COMMITTED_FROM: usize = 2;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                let found = on.hypervisor.domain(uuid).await?;
                self.was_paused |= found.is_some_and(|i| i.power_state == PowerState::Paused);
                self.subject.begin(stage).await?;
                self.subject.tell(Action::Unpause, Phase::Start, stage);
                Ok(())
            }
            Step::UnpauseDomain => {
                on.hypervisor.unpause(uuid).await?;
                await_running(stage, uuid).await?;
                Ok(())
            }
            Step::Record => {
                let expected = expecting(&[TaskState::Unpausing]);
                self.subject.record(VmState::Active, PowerState::Running, expected, stage).await?;
                self.subject.tell(Action::Unpause, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::Begin => Ok(()),
            Step::UnpauseDomain if self.was_paused => {
                match stage.on.hypervisor.pause(self.subject.uuid()?).await {
                    Ok(()) | Err(HypervisorError::NoDomain(_)) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Step::UnpauseDomain => Ok(()),
            // It is never undone.
            Step::Record => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.subject.settle(ending, stage).await
    }
}
