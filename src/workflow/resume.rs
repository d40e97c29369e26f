//! Resume: the guest's memory comes back from disk. nova: compute/manager.py, resume_instance

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::StepResult;
use super::engine::{Ending, Stage, Workflow};
use super::info_cache;
use super::instance::{Subject, await_no_job, await_running, expecting, is_active};
use super::interfaces::plug_vifs;
use super::suspend::OLD_VM_STATE;
use super::volume_connections::connect_all;
use crate::hypervisor::{HypervisorError, StartOptions};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Refresh;
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resume {
    pub subject: Subject,
    /// Whether a saved memory image was there before: an undo saves the memory again.
    was_saved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    PlugVifs,
    StartDomain,
    Record,
}

impl Resume {
    pub fn new(subject: Subject) -> Self {
        Self { subject, was_saved: false }
    }

    /// The state that suspend noted. A guest that was paused then comes back running: its saved
    /// memory holds it paused, and it is asked to run.
    fn vm_state_after(&self) -> VmState {
        let metadata = self.subject.instance.system_metadata.get();
        let old = metadata.and_then(|all| all.get(OLD_VM_STATE)).cloned().flatten();
        match old.as_deref().and_then(VmState::parse) {
            Some(VmState::Rescued) => VmState::Rescued,
            _ => VmState::Active,
        }
    }
}

impl Workflow for Resume {
    type Step = Step;
    const NAME: &'static str = "resume";
    const STEPS: &'static [Step] = &[Step::Begin, Step::PlugVifs, Step::StartDomain, Step::Record];
    /// The guest runs and may be in use: only the record is left to write.
    const COMMITTED_FROM: usize = 3;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                let found = on.hypervisor.domain(uuid).await?;
                self.was_saved |= found.is_some_and(|info| info.managed_save);
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                info_cache::refresh(on, stage.context, instance, Refresh::Recorded).await?;
                self.subject.load_disks(stage).await?;
                self.subject.tell(Action::Resume, Phase::Start, stage);
                Ok(())
            }
            Step::PlugVifs => plug_vifs(&self.subject.instance, on).await,
            Step::StartDomain => {
                // The host may have been off meanwhile.
                let mut devices = on.records.block_devices(stage.context, uuid).await?.into_items();
                connect_all(on, stage.context, uuid, &mut devices).await?;
                on.hypervisor.start(uuid, StartOptions::default()).await?;
                if !is_active(on.hypervisor.domain(uuid).await?.as_ref()) {
                    await_running(stage, uuid).await?;
                }
                on.hypervisor.unpause(uuid).await?;
                await_running(stage, uuid).await?;
                Ok(())
            }
            Step::Record => {
                let after = self.vm_state_after();
                self.subject.instance.system_metadata.update(|metadata| {
                    metadata.remove(OLD_VM_STATE);
                });
                let expected = expecting(&[TaskState::Resuming]);
                self.subject.record(after, PowerState::Running, expected, stage).await?;
                self.subject.tell(Action::Resume, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin | Step::PlugVifs => Ok(()),
            Step::StartDomain => {
                // An earlier attempt's save may not be over yet.
                let never = CancellationToken::new();
                await_no_job(on, uuid, on.settings.save_timeout, &never).await?;
                let found = on.hypervisor.domain(uuid).await?;
                if self.was_saved && is_active(found.as_ref()) {
                    return match on.hypervisor.managed_save(uuid, on.settings.save_timeout).await {
                        Ok(()) | Err(HypervisorError::NoDomain(_)) => Ok(()),
                        Err(error) => Err(error.into()),
                    };
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
