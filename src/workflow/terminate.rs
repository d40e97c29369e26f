//! Terminate: the instance goes, with everything of it on this host.
//! nova: compute/manager.py, terminate_instance
//!
//! There is no way back: a step that fails is asked again, then left for an operator, and a new
//! delete takes it up.

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, now};
use super::interfaces::unplug_vifs;
use crate::model::class::Class;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::records::Expected;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Terminate {
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    CutPower,
    UndefineDomain,
    UnplugVifs,
    RemoveDirectory,
    DeallocateNetwork,
    RecordDeleted,
}

impl Workflow for Terminate {
    type Step = Step;
    const NAME: &'static str = "terminate";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::CutPower,
        Step::UndefineDomain,
        Step::UnplugVifs,
        Step::RemoveDirectory,
        Step::DeallocateNetwork,
        Step::RecordDeleted,
    ];
    const COMMITTED_FROM: usize = 0;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                self.subject.instance.task_state.set(Some(TaskState::Deleting));
                let instance = &mut self.subject.instance;
                Ok(on.records.save(stage.context, instance, Expected::Any).await?)
            }
            Step::CutPower => cut_power(on, uuid).await,
            Step::UndefineDomain => {
                on.hypervisor.undefine(uuid).await?;
                on.settings.serial_ports.iter().for_each(|ports| ports.release(uuid));
                Ok(())
            }
            Step::UnplugVifs => unplug_vifs(&self.subject.instance, on).await,
            Step::RemoveDirectory => Ok(on.images.remove_directory(uuid).await?),
            Step::DeallocateNetwork => {
                let instance = &self.subject.instance;
                Ok(on.network.deallocate(stage.context, instance, &[]).await?)
            }
            Step::RecordDeleted => {
                let instance = &mut self.subject.instance;
                instance.vm_state.set(Some(VmState::Deleted));
                instance.task_state.set(None);
                instance.power_state.set(Some(PowerState::NoState.number()));
                instance.terminated_at.set(now());
                match on.records.save(stage.context, instance, Expected::Any).await {
                    // An earlier attempt got as far as the end.
                    Err(error) if error.class() == Class::Absent => return Ok(()),
                    saved => saved?,
                }
                on.records.event_finished(stage.context, uuid, &self.subject.event, None).await?;
                on.claims.note(stage.context, instance).await;
                on.claims.release_allocation(stage.context, instance).await?;
                on.records.forget_consoles(stage.context, uuid).await?;
                on.scheduling.gone(stage.context, uuid).await;
                Ok(on.records.destroy(stage.context, instance).await?)
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        match ending {
            // The record is gone; its event was finished before.
            Ending::Done => Ok(()),
            ending => self.subject.settle(ending, stage).await,
        }
    }
}

impl Terminate {
    pub fn new(subject: Subject) -> Self {
        Self { subject }
    }
}
