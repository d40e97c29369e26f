//! Pause: the guest's virtual CPUs stop, its memory stays. nova: compute/manager.py, pause_instance

use serde::{Deserialize, Serialize};

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, await_domain, expecting, is_running};
use super::{StepError, StepResult};
use crate::hypervisor::HypervisorError;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pause {
    pub subject: Subject,
    /// Whether the guest ran before: only then does an undo let it run again.
    was_running: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    PauseDomain,
    Record,
}

impl Pause {
    pub fn new(subject: Subject) -> Self {
        Self { subject, was_running: false }
    }
}

impl Workflow for Pause {
    type Step = Step;
    const NAME: &'static str = "pause";
    const STEPS: &'static [Step] = &[Step::Begin, Step::PauseDomain, Step::Record];
    /// The guest is paused and its user may see it: only the record is left to write.
    const COMMITTED_FROM: usize = 2;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.was_running |= is_running(on.hypervisor.domain(uuid).await?.as_ref());
                self.subject.begin(stage).await?;
                self.subject.tell(Action::Pause, Phase::Start, stage);
                Ok(())
            }
            Step::PauseDomain => {
                on.hypervisor.pause(uuid).await?;
                await_domain(
                    on,
                    uuid,
                    "paused",
                    on.settings.state_timeout,
                    stage.give_up,
                    |found| found.is_some_and(|info| info.power_state == PowerState::Paused),
                )
                .await?;
                Ok(())
            }
            Step::Record => {
                let expected = expecting(&[TaskState::Pausing]);
                self.subject.record(VmState::Paused, PowerState::Paused, expected, stage).await?;
                self.subject.tell(Action::Pause, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::Begin => Ok(()),
            Step::PauseDomain if self.was_running => {
                match stage.on.hypervisor.unpause(self.subject.uuid()?).await {
                    Ok(()) | Err(HypervisorError::NoDomain(_)) => Ok(()),
                    Err(error) => Err(StepError::from(error)),
                }
            }
            Step::PauseDomain => Ok(()),
            // It is never undone.
            Step::Record => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.subject.settle(ending, stage).await
    }
}
