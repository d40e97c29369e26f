//! Shelve: the instance's disk becomes an image, and the guest is off. Where the configuration says so
//! the instance leaves its host at once.
//! nova: compute/manager.py, `shelve_instance`

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, expecting, shut_down, shutdown_timeout};
use super::part::{self, nobody};
use super::shelve_offload::{self as offload, ShelveOffload};
use super::snapshot::{self, Kind, Snapshot};
use super::was_on::WasOn;
use super::{StepResult, shelved};
use crate::images::sink::TargetImage;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shelve {
    pub subject: Subject,
    /// Whether the guest is asked to shut down.
    clean: bool,
    before: Option<WasOn>,
    /// Whether it leaves the host, decided once.
    offloads: Option<bool>,
    snapshot: Box<Snapshot>,
    offload: Box<ShelveOffload>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    ShutDown,
    CutPower,
    Snapshot(snapshot::Step),
    Record,
    Offload(offload::Step),
}

impl Shelve {
    pub fn new(subject: Subject, image: TargetImage, clean: bool) -> Self {
        Self {
            subject,
            clean,
            before: None,
            offloads: None,
            snapshot: Box::new(Snapshot::new(nobody(), Kind::Shelve, image)),
            offload: Box::new(ShelveOffload::new(nobody(), false)),
        }
    }
}

impl Workflow for Shelve {
    type Step = Step;
    const NAME: &'static str = "shelve";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::ShutDown,
        Step::CutPower,
        Step::Snapshot(snapshot::Step::Begin),
        Step::Snapshot(snapshot::Step::ReserveImage),
        Step::Snapshot(snapshot::Step::CreateDirectory),
        Step::Snapshot(snapshot::Step::ExtractImage),
        Step::Snapshot(snapshot::Step::KeepImage),
        Step::Snapshot(snapshot::Step::RemoveDirectory),
        Step::Record,
        Step::Offload(offload::Step::Begin),
        Step::Offload(offload::Step::CutPower),
        Step::Offload(offload::Step::UnbindPorts),
        Step::Offload(offload::Step::UndefineDomain),
        Step::Offload(offload::Step::UnplugVifs),
        Step::Offload(offload::Step::DisconnectVolumes),
        Step::Offload(offload::Step::RemoveDirectory),
        Step::Offload(offload::Step::ReserveVolumes),
        Step::Offload(offload::Step::Record),
        Step::Offload(offload::Step::LeaveHost),
    ];
    /// The image is kept, and the record will name it.
    const COMMITTED_FROM: usize = 8;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                let offloads = *self.offloads.get_or_insert(on.settings.offload_at_once);
                if self.before.is_none() {
                    self.before = Some(WasOn::of(&self.subject.instance, stage).await?);
                }
                self.subject.begin(stage).await?;
                if offloads {
                    self.subject.load_disks(stage).await?;
                }
                if !self.subject.has_told(Action::Shelve, Phase::Start) {
                    self.subject.tell_exists(None, stage);
                }
                self.subject.tell(Action::Shelve, Phase::Start, stage);
                Ok(())
            }
            Step::ShutDown => {
                let timeout = shutdown_timeout(&self.subject.instance, on);
                // A paused guest can't hear it.
                let clean = self.clean && !self.before.is_some_and(WasOn::is_paused);
                if clean && !shut_down(stage, uuid, timeout).await? {
                    warn!(?timeout, "the guest did not shut down: its power is cut");
                }
                Ok(())
            }
            Step::CutPower => cut_power(on, uuid).await,
            Step::Snapshot(step) => {
                part::apply(&mut self.subject, self.snapshot.as_mut(), step, stage).await
            }
            Step::Record => {
                let found = on.hypervisor.domain(uuid).await?;
                let power = found.map_or(PowerState::NoState, |info| info.power_state);
                let image = self.snapshot.image().clone();
                let instance = &mut self.subject.instance;
                shelved::note(instance, &image, &on.settings.host);
                instance.vm_state.set(Some(VmState::Shelved));
                let offloads = self.offloads == Some(true);
                instance.task_state.set(offloads.then_some(TaskState::ShelvingOffloading));
                instance.power_state.set(Some(power.number()));
                let expected = expecting(&[
                    TaskState::Shelving,
                    TaskState::ShelvingImageUploading,
                    // An earlier attempt.
                    TaskState::ShelvingOffloading,
                ]);
                on.records.save(stage.context, instance, expected).await?;
                self.subject.tell(Action::Shelve, Phase::End, stage);
                Ok(())
            }
            Step::Offload(_) if self.offloads != Some(true) => Ok(()),
            Step::Offload(step) => {
                part::apply(&mut self.subject, self.offload.as_mut(), step, stage).await
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::ShutDown => match self.before {
                Some(before) => before.restore(&self.subject.instance, stage).await,
                None => Ok(()),
            },
            Step::Snapshot(step) => {
                part::undo(&mut self.subject, self.snapshot.as_mut(), step, stage).await
            }
            Step::Begin => {
                let first = snapshot::Step::Begin;
                part::undo(&mut self.subject, self.snapshot.as_mut(), first, stage).await
            }
            // The step before starts it again; the others are never undone.
            Step::CutPower | Step::Record | Step::Offload(_) => Ok(()),
        }
    }

    async fn turned_away(&mut self, stage: &Stage<'_>) -> StepResult {
        Ok(stage.on.sink.discard_empty(stage.context, self.snapshot.image()).await?)
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let ending = match ending {
            // It is shelved, and the next offload goes on.
            Ending::Stuck(failure) if failure.step.starts_with("Offload") => {
                Ending::Undone(failure)
            }
            ending => ending,
        };
        self.subject.settle(ending, stage).await
    }
}
