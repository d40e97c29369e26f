//! Reboot: soft asks the guest to go off, starts the domain again as it is, and falls back to hard;
//! hard cuts the power, defines the domain anew and starts it. nova: compute/manager.py, reboot_instance
//!
//! libvirt numbers a domain anew at each start. The number before the reboot is written down first,
//! so that a repeated step knows a guest that has been restarted already and leaves it alone.

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::domain::{define, definition};
use super::engine::{Ending, Stage, Workflow};
use super::info_cache;
use super::instance::{Subject, cut_power, expecting, is_active, is_running, shut_down};
use super::interfaces::{plug_vifs, replug_vifs, vifs};
use super::plug_events::{self, Awaited};
use crate::hypervisor::DomainInfo;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Refresh;
use crate::notify::{Action, Details, Phase};
use crate::records::Expected;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Soft,
    Hard,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reboot {
    pub subject: Subject,
    kind: Kind,
    /// libvirt's number of the domain before; `None`: it was off.
    old_id: Option<u32>,
    began: bool,
    /// The guest went off when it was asked: its domain starts again as it is.
    #[serde(default)]
    went_off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    ShutDown,
    CutPower,
    PlugVifs,
    DefineDomain,
    StartDomain,
    Record,
}

impl Reboot {
    pub fn new(subject: Subject, kind: Kind) -> Self {
        Self { subject, kind, old_id: None, began: false, went_off: false }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the domain that runs now is the one from before.
    fn is_old(&self, found: Option<&DomainInfo>) -> bool {
        is_active(found) && found.and_then(|info| info.id) == self.old_id
    }

    /// Shows how far the reboot is. nova tells that it starts before the first is on record.
    async fn enter(&mut self, task: TaskState, stage: &Stage<'_>) -> StepResult {
        self.subject.instance.task_state.set(Some(task));
        self.subject.tell(Action::Reboot, Phase::Start, stage);
        let expected = self.expected();
        let records = &stage.on.records;
        Ok(records.save(stage.context, &mut self.subject.instance, expected).await?)
    }

    fn vm_state_after(&self) -> VmState {
        match self.subject.vm_state_before() {
            Some(VmState::Rescued) => VmState::Rescued,
            _ => VmState::Active,
        }
    }

    fn pending(&self) -> TaskState {
        match self.kind {
            Kind::Soft => TaskState::RebootPending,
            Kind::Hard => TaskState::RebootPendingHard,
        }
    }

    fn started(&self) -> TaskState {
        match self.kind {
            Kind::Soft => TaskState::RebootStarted,
            Kind::Hard => TaskState::RebootStartedHard,
        }
    }

    fn expected(&self) -> Expected {
        use TaskState::{
            RebootPending, RebootPendingHard, RebootStarted, RebootStartedHard, Rebooting,
            RebootingHard,
        };
        expecting(&match self.kind {
            Kind::Soft => [Rebooting, RebootPending, RebootStarted],
            Kind::Hard => [RebootingHard, RebootPendingHard, RebootStartedHard],
        })
    }
}

impl Workflow for Reboot {
    type Step = Step;
    const NAME: &'static str = "reboot";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::ShutDown,
        Step::CutPower,
        Step::PlugVifs,
        Step::DefineDomain,
        Step::StartDomain,
        Step::Record,
    ];
    /// A button that was pressed stays pressed; from then on what helps the guest is to start it.
    const COMMITTED_FROM: usize = 1;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                if !self.began {
                    self.old_id = on.hypervisor.domain(uuid).await?.and_then(|info| info.id);
                    self.began = true;
                }
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                info_cache::refresh(on, stage.context, instance, Refresh::Recorded).await?;
                self.subject.load_disks(stage).await?;
                self.enter(self.pending(), stage).await?;
                self.enter(self.started(), stage).await?;
                // What can't be defined again is not cut off first.
                definition(&self.subject.instance, stage).await?;
                Ok(())
            }
            Step::ShutDown => {
                let found = on.hypervisor.domain(uuid).await?;
                if self.kind == Kind::Soft && self.is_old(found.as_ref()) {
                    let timeout = on.settings.soft_reboot_timeout;
                    self.went_off = shut_down(stage, uuid, timeout).await?;
                    if !self.went_off {
                        tracing::warn!(?timeout, "the guest did not shut down: rebooting it hard");
                    }
                }
                Ok(())
            }
            Step::CutPower => {
                let found = on.hypervisor.domain(uuid).await?;
                if self.is_old(found.as_ref()) {
                    cut_power(on, uuid).await?;
                }
                // A reboot starts from the disk, never from a saved memory.
                if found.is_some_and(|info| info.managed_save) {
                    on.hypervisor.drop_managed_save(uuid).await?;
                }
                Ok(())
            }
            Step::PlugVifs => {
                let instance = &self.subject.instance;
                match self.kind {
                    Kind::Soft => plug_vifs(instance, on).await,
                    // An attempt that got further has a guest on them.
                    Kind::Hard if is_active(on.hypervisor.domain(uuid).await?.as_ref()) => Ok(()),
                    Kind::Hard => replug_vifs(instance, on).await,
                }
            }
            Step::DefineDomain => {
                if !self.went_off && !is_active(on.hypervisor.domain(uuid).await?.as_ref()) {
                    define(&self.subject.instance, stage).await?;
                }
                Ok(())
            }
            Step::StartDomain => {
                let instance = &self.subject.instance;
                let awaited = match self.kind {
                    Kind::Soft => Awaited::default(),
                    Kind::Hard => Awaited::of_old(&vifs(instance)?, on),
                };
                plug_events::start(instance, &awaited, stage).await
            }
            Step::Record => {
                let after = self.vm_state_after();
                let expected = self.expected();
                self.subject.record(after, PowerState::Running, expected, stage).await?;
                self.subject.tell(Action::Reboot, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        // The first step changes nothing on the host; the others are not undone.
        Ok(())
    }

    /// A guest that runs in spite of the failure stays active, and its owner reads the fault; any
    /// other instance is an error. nova: compute/manager.py, _reboot_instance
    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let failure = match ending {
            Ending::Undone(failure) | Ending::Stuck(failure) if !failure.cancelled => failure,
            ending => return self.subject.settle(ending, stage).await,
        };
        let found = stage.on.hypervisor.domain(self.subject.uuid()?).await;
        if !found.is_ok_and(|found| is_running(found.as_ref())) {
            return self.subject.settle(Ending::Stuck(failure), stage).await;
        }
        let raised = self.subject.raised(failure);
        self.subject.record_fault(&raised, raised.fault.shown(), stage).await?;
        let details = Details { raised: Some(&raised), ..Details::default() };
        self.subject.tell_of(Action::Reboot, Phase::Error, details, stage);
        let after = self.vm_state_after();
        self.subject.record(after, PowerState::Running, Expected::Any, stage).await?;
        self.subject.tell(Action::Reboot, Phase::End, stage);
        self.subject.finish(None, stage).await
    }
}
