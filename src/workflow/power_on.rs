//! Power on: the domain is defined anew from the record, and started. A soft-deleted instance is
//! restored by it, and one that was shelved and is still on its host is unshelved.
//! nova: compute/manager.py, start_instance, restore_instance; its driver's power_on is a hard reboot
//! too

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::domain::define;
use super::engine::{Ending, Stage, Workflow};
use super::info_cache;
use super::instance::{Subject, cut_power, expecting, is_active};
use super::interfaces::{replug_vifs, vifs};
use super::plug_events::{self, Awaited};
use super::shelved;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Refresh;
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PowerOn {
    pub subject: Subject,
    /// Whether the domain was off before: only then does an undo cut its power again.
    was_off: bool,
    /// Whether the instance was soft-deleted.
    #[serde(default)]
    restores: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    PlugVifs,
    DefineDomain,
    StartDomain,
    Record,
}

impl PowerOn {
    pub fn new(subject: Subject) -> Self {
        Self { subject, was_off: false, restores: false }
    }

    /// Gives a soft-deleted instance back to its owner.
    pub fn restoring(subject: Subject) -> Self {
        Self { restores: true, ..Self::new(subject) }
    }

    pub fn is_restore(&self) -> bool {
        self.restores
    }

    fn action(&self) -> Action {
        if self.restores { Action::Restore } else { Action::PowerOn }
    }
}

impl Workflow for PowerOn {
    type Step = Step;
    const NAME: &'static str = "power_on";
    const STEPS: &'static [Step] =
        &[Step::Begin, Step::PlugVifs, Step::DefineDomain, Step::StartDomain, Step::Record];
    /// The guest runs and may be in use: only the record is left to write.
    const COMMITTED_FROM: usize = 4;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                let found = on.hypervisor.domain(uuid).await?;
                let alive = found.as_ref().is_some_and(|info| {
                    matches!(info.power_state, PowerState::Running | PowerState::Paused)
                });
                if is_active(found.as_ref()) && !alive {
                    // Crashed, or about to be off: there is nothing left to keep.
                    cut_power(on, uuid).await?;
                }
                self.was_off |= !alive;
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                info_cache::refresh(on, stage.context, instance, Refresh::Recorded).await?;
                self.subject.tell(self.action(), Phase::Start, stage);
                Ok(())
            }
            // A running domain keeps its interfaces.
            Step::PlugVifs if !self.was_off => Ok(()),
            Step::PlugVifs => replug_vifs(&self.subject.instance, on).await,
            // A running domain keeps its definition: it would not take a new one anyway.
            Step::DefineDomain if !self.was_off => Ok(()),
            Step::DefineDomain => define(&self.subject.instance, stage).await,
            Step::StartDomain => {
                let instance = &self.subject.instance;
                let awaited = match self.was_off {
                    true => Awaited::of_old(&vifs(instance)?, on),
                    false => Awaited::default(),
                };
                plug_events::start(instance, &awaited, stage).await
            }
            Step::Record => {
                let task = if self.restores { TaskState::Restoring } else { TaskState::PoweringOn };
                let instance = &mut self.subject.instance;
                if self.restores && instance.deleted_at.value().is_some() {
                    instance.deleted_at.set(None);
                }
                if let Some(image) = shelved::image(instance).filter(|_| !self.restores) {
                    shelved::discard(image, stage).await;
                }
                shelved::forget(instance);
                let expected = expecting(&[task]);
                self.subject.record(VmState::Active, PowerState::Running, expected, stage).await?;
                self.subject.tell(self.action(), Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::Begin | Step::PlugVifs | Step::DefineDomain => Ok(()),
            Step::StartDomain if self.was_off => cut_power(stage.on, self.subject.uuid()?).await,
            Step::StartDomain => Ok(()),
            // It is never undone.
            Step::Record => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.subject.settle(ending, stage).await
    }
}
