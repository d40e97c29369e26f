//! Unrescue: the guest gets the definition back that it had before, and runs from its own disk.
//! nova: compute/manager.py, `unrescue_instance`; virt/libvirt/driver.py, `unrescue`

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::StepResult;
use super::domain::define;
use super::engine::{Ending, Stage, Workflow};
use super::info_cache;
use super::instance::{Subject, cut_power, expecting};
use super::interfaces::plug_vifs;
use super::plug_events::{self, Awaited};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Refresh;
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unrescue {
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    CutPower,
    RestoreDefinition,
    PlugVifs,
    StartDomain,
    RemoveRescue,
    Record,
}

impl Unrescue {
    pub fn new(subject: Subject) -> Self {
        Self { subject }
    }
}

impl Workflow for Unrescue {
    type Step = Step;
    const NAME: &'static str = "unrescue";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::CutPower,
        Step::RestoreDefinition,
        Step::PlugVifs,
        Step::StartDomain,
        Step::RemoveRescue,
        Step::Record,
    ];
    /// The rescue's guest is off: what helps from then on is to start the instance's own.
    const COMMITTED_FROM: usize = 1;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                info_cache::refresh(on, stage.context, instance, Refresh::Recorded).await?;
                self.subject.tell(Action::Unrescue, Phase::Start, stage);
                Ok(())
            }
            Step::CutPower => cut_power(on, uuid).await,
            Step::RestoreDefinition => match on.images.kept_definition(uuid).await? {
                Some(xml) => Ok(on.hypervisor.define_again(uuid, &xml).await?),
                None => {
                    warn!("no definition was kept: the domain is made from the record");
                    define(&self.subject.instance, stage).await
                }
            },
            Step::PlugVifs => plug_vifs(&self.subject.instance, on).await,
            Step::StartDomain => {
                plug_events::start(&self.subject.instance, &Awaited::default(), stage).await
            }
            Step::RemoveRescue => {
                on.images.remove_rescue(uuid).await?;
                Ok(on.images.forget_definition(uuid).await?)
            }
            Step::Record => {
                let expected = expecting(&[TaskState::Unrescuing]);
                self.subject.record(VmState::Active, PowerState::Running, expected, stage).await?;
                self.subject.tell(Action::Unrescue, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        // The first step changes nothing on the host; the others are not undone.
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.subject.settle(ending, stage).await
    }
}
