//! Suspend: the guest's memory goes to disk (libvirt's managed save) and the domain stops.
//! nova: compute/manager.py, suspend_instance

use serde::{Deserialize, Serialize};

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, await_domain, await_no_job, expecting, is_active};
use super::{StepError, StepResult};
use crate::hypervisor::StartOptions;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};

/// Between two requests for a save's end.
const ABORT_AGAIN: Duration = Duration::from_secs(1);

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
            Step::SaveMemory => {
                // What an agent that died had begun may not be over yet.
                await_no_job(on, uuid, on.settings.save_timeout, stage.give_up).await?;
                save_memory(stage, uuid).await?;
                await_domain(
                    on,
                    uuid,
                    "saved",
                    on.settings.state_timeout,
                    stage.give_up,
                    |found| found.is_some_and(|info| info.managed_save && !is_active(Some(info))),
                )
                .await?;
                Ok(())
            }
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
            Step::SaveMemory => {
                on.hypervisor.abort_job(uuid).await?;
                let never = CancellationToken::new();
                await_no_job(on, uuid, on.settings.state_timeout, &never).await?;
                let found = on.hypervisor.domain(uuid).await?;
                let saved = found.is_some_and(|info| info.managed_save);
                if saved {
                    // The image holds the guest's memory: it is restored, never dropped.
                    let paused = self.power_state == Some(PowerState::Paused);
                    let options = StartOptions { paused, force_boot: false };
                    on.hypervisor.start(uuid, options).await?;
                }
                Ok(())
            }
            // It is never undone.
            Step::Record => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.subject.settle(ending, stage).await
    }
}

/// Saves the guest's memory. When a delete comes, libvirt is asked to abort that, and the call is
/// still waited for.
async fn save_memory(stage: &Stage<'_>, uuid: Uuid) -> StepResult {
    let on = stage.on;
    let save = on.hypervisor.managed_save(uuid, on.settings.save_timeout);
    tokio::pin!(save);
    tokio::select! {
        saved = &mut save => return Ok(saved?),
        () = stage.give_up.cancelled() => {}
    }
    loop {
        // Asked too early, it finds no job yet.
        if let Err(error) = on.hypervisor.abort_job(uuid).await {
            tracing::debug!(%error, "the save could not be aborted");
        }
        tokio::select! {
            _ = &mut save => return Err(StepError::Cancelled),
            () = tokio::time::sleep(ABORT_AGAIN) => {}
        }
    }
}
