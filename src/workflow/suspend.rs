//! Suspend: the guest's memory goes to disk (libvirt's managed save) and the domain stops.
//! nova: compute/manager.py, suspend_instance

use serde::{Deserialize, Serialize};

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, expecting};
use super::{StepResult, memory};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};

/// Where nova keeps the state to go back to.
pub const OLD_VM_STATE: &str = "old_vm_state";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Suspend {
    pub subject: Subject,
    /// The power state before: an undo goes back to it.
    power_state: Option<PowerState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    SaveMemory,
    Record,
}

impl Suspend {
    pub fn new(subject: Subject) -> Self {
        Self { subject, power_state: None }
    }
}

impl Workflow for Suspend {
    type Step = Step;
    const NAME: &'static str = "suspend";
    const STEPS: &'static [Step] = &[Step::Begin, Step::SaveMemory, Step::Record];
    /// The guest is saved: only the record is left to write.
    const COMMITTED_FROM: usize = 2;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                if self.power_state.is_none() {
                    let found = on.hypervisor.domain(uuid).await?;
                    self.power_state = found.map(|info| info.power_state);
                }
                self.subject.begin(stage).await?;
                self.subject.tell(Action::Suspend, Phase::Start, stage);
                Ok(())
            }
            Step::SaveMemory => memory::save(stage, uuid).await,
            Step::Record => {
                let old = self.subject.vm_state_before().map(|state| state.as_str().to_owned());
                self.subject.instance.system_metadata.update(|metadata| {
                    metadata.insert(OLD_VM_STATE.to_owned(), old);
                });
                let expected = expecting(&[TaskState::Suspending]);
                self.subject
                    .record(VmState::Suspended, PowerState::Shutdown, expected, stage)
                    .await?;
                self.subject.tell(Action::Suspend, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => Ok(()),
            Step::SaveMemory => memory::take_back(on, uuid, self.power_state).await,
            // It is never undone.
            Step::Record => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.subject.settle(ending, stage).await
    }
}
