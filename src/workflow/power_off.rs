//! Power off: the guest is asked to shut down, and after its time the power is cut.
//! nova: compute/manager.py, stop_instance

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, expecting, shut_down, shutdown_timeout};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PowerOff {
    pub subject: Subject,
    /// Whether the guest is asked first.
    clean: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    ShutDown,
    CutPower,
    Record,
}

impl PowerOff {
    pub fn new(subject: Subject, clean: bool) -> Self {
        Self { subject, clean }
    }
}

impl Workflow for PowerOff {
    type Step = Step;
    const NAME: &'static str = "power_off";
    const STEPS: &'static [Step] = &[Step::Begin, Step::ShutDown, Step::CutPower, Step::Record];
    /// A button that was pressed stays pressed: the guest may go off at any time after.
    const COMMITTED_FROM: usize = 1;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                self.subject.tell(Action::PowerOff, Phase::Start, stage);
                Ok(())
            }
            Step::ShutDown if self.clean => {
                let timeout = shutdown_timeout(&self.subject.instance, on);
                if !shut_down(stage, uuid, timeout).await? {
                    tracing::warn!(?timeout, "the guest did not shut down: its power is cut");
                }
                Ok(())
            }
            Step::ShutDown => Ok(()),
            Step::CutPower => cut_power(on, uuid).await,
            Step::Record => {
                let expected = expecting(&[TaskState::PoweringOff]);
                self.subject
                    .record(VmState::Stopped, PowerState::Shutdown, expected, stage)
                    .await?;
                self.subject.tell(Action::PowerOff, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        // The first step changes nothing on the host; the others are not undone.
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.subject.settle_by_domain(ending, stage).await
    }
}
