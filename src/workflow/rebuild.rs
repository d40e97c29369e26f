//! Rebuild: the guest gets new disks of an image, and stays who and where it is.
//! nova: compute/manager.py, `rebuild_instance`, `_rebuild_default_impl`
//!
//! The image is looked at and fetched before anything of the guest is taken away: one that can't be had
//! costs the user nothing. nova's libvirt driver preserves no ephemeral disks; this agent does.

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::block_devices;
use super::domain::keep_defaults;
use super::engine::{Ending, Stage, Workflow};
use super::instance::{
    Subject, cut_power, expecting, note_cleaned, now, shut_down, shutdown_timeout,
};
use super::interfaces::{unplug_vifs, vifs};
use super::journal::Failure;
use super::named_image::{Image, NamedImage};
use super::part::{self, nobody};
use super::reschedule::BuildArguments;
use super::spawn::{self, Build, Spawn};
use super::{StepError, StepResult};
use crate::hypervisor::guest::DiskRole;
use crate::model::class::Class;
use crate::model::object::{BlockDeviceMapping, Instance, Migration, ObjectError};
use crate::model::secret::Secret;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Wanted;
use crate::notify::{Action, Details, Phase};
use crate::records::Expected;

/// What a rebuild asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// `None` for a guest that boots from a volume.
    pub image: Option<NamedImage>,
    /// The image from before, and what the record said of it: nova-api has written the new ones.
    pub original_image: Option<String>,
    pub original_metadata: Option<std::collections::BTreeMap<String, Option<String>>>,
    pub admin_password: Option<Secret>,
    /// (path in the guest, content in base64)
    pub injected_files: Vec<(String, Secret)>,
    /// `None`: those on record.
    pub block_devices: Option<Vec<BlockDeviceMapping>>,
    pub preserve_ephemeral: bool,
    /// The instance comes from a host that is gone.
    pub is_evacuation: bool,
    /// Of an evacuation.
    pub migration: Option<Migration>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rebuild {
    pub subject: Subject,
    asked: Asked,
    image: Option<Image>,
    spawn: Option<Box<Spawn>>,
    /// Whether the record counts that its files are gone.
    cleaned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    CheckDisks,
    Build(spawn::Step),
    ShutDown,
    CutPower,
    UndefineDomain,
    UnplugVifs,
    RemoveDisks,
    Activate,
    StopAgain,
    Tell,
}

/// Its own event is inside the rebuild's.
const STOP: &str = "compute_stop_instance";

impl Rebuild {
    pub fn new(subject: Subject, asked: Asked) -> Self {
        Self { subject, asked, image: None, spawn: None, cleaned: false }
    }

    #[cfg(test)]
    pub fn set_evacuation(&mut self) {
        self.asked.is_evacuation = true;
    }

    fn was_stopped(&self) -> bool {
        self.subject.vm_state_before() == Some(VmState::Stopped)
    }

    fn spawn(&mut self) -> Result<&mut Spawn, StepError> {
        let missing = ObjectError::Missing { class: "Rebuild", field: "build" };
        self.spawn.as_deref_mut().ok_or(StepError::Object(missing))
    }

    async fn enter(&mut self, task: TaskState, stage: &Stage<'_>) -> StepResult {
        let instance = &mut self.subject.instance;
        instance.task_state.set(Some(task));
        Ok(stage.on.records.save(stage.context, instance, rebuilding()).await?)
    }

    /// The build that makes the new disks.
    async fn plan(&self, image: &Image, stage: &Stage<'_>) -> Result<Spawn, StepError> {
        let (records, uuid) = (&stage.on.records, self.subject.uuid()?);
        let block_devices = match &self.asked.block_devices {
            Some(devices) if !devices.iter().any(BlockDeviceMapping::is_volume) => devices.clone(),
            // How a volume is reached is taken from nobody but the record.
            Some(_) | None => records.block_devices(stage.context, uuid).await?.into_items(),
        };
        let mut spawn = Spawn::new(
            nobody(),
            Build {
                image_meta: image.meta.clone(),
                image: Some(image.request.clone()),
                kernel: image.kernel.clone(),
                ramdisk: image.ramdisk.clone(),
                wanted: Wanted::default(),
                admin_password: self.asked.admin_password.clone(),
                injected_files: self.asked.injected_files.clone(),
                block_devices,
                limits: None,
                arguments: BuildArguments::default(),
            },
        );
        spawn.vifs = vifs(&self.subject.instance)?;
        Ok(spawn)
    }

    /// Tells of the instance as it was, then of the rebuild.
    fn tell_start(&mut self, image: &Image, stage: &Stage<'_>) {
        if self.subject.has_told(Action::Rebuild, Phase::Start) {
            return;
        }
        let mut before = self.subject.instance.clone();
        before.image_ref.load(Some(self.asked.original_image.clone()));
        if let Some(metadata) = &self.asked.original_metadata {
            before.system_metadata.load(Some(metadata.clone()));
        }
        self.subject.tell_exists(Some(&before), stage);
        self.tell(Phase::Start, image, stage);
    }

    fn tell(&mut self, phase: Phase, image: &Image, stage: &Stage<'_>) {
        let image_name = Some(Some(image.meta.name.text().unwrap_or_default()));
        let details = Details { image_name, ..Details::default() };
        self.subject.tell_of(Action::Rebuild, phase, details, stage);
    }

    /// The disks that stay.
    fn kept(&mut self) -> Result<Vec<String>, StepError> {
        if !self.asked.preserve_ephemeral {
            return Ok(Vec::new());
        }
        let devices = self.spawn()?.build.block_devices.clone();
        let wanted = block_devices::wanted(&self.subject.instance, &devices)?;
        let stays = wanted.into_iter().filter(|disk| disk.role != DiskRole::Swap);
        Ok(stays.map(|disk| disk.file).collect())
    }

    fn tell_failed(&mut self, failure: &Failure, stage: &Stage<'_>) {
        let raised = self.subject.raised(failure);
        let details = Details { raised: Some(&raised), ..Details::default() };
        self.subject.tell_of(Action::Rebuild, Phase::Error, details, stage);
    }
}

/// The task states of a rebuild.
const TASKS: [TaskState; 3] =
    [TaskState::Rebuilding, TaskState::RebuildBlockDeviceMapping, TaskState::RebuildSpawning];

/// In any order: a resumed one may be ahead of its record.
fn rebuilding() -> Expected {
    expecting(&TASKS)
}

impl Workflow for Rebuild {
    type Step = Step;
    const NAME: &'static str = "rebuild";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::CheckDisks,
        Step::Build(spawn::Step::FetchImage),
        Step::ShutDown,
        Step::CutPower,
        Step::UndefineDomain,
        Step::UnplugVifs,
        Step::RemoveDisks,
        Step::Build(spawn::Step::MapBlockDevices),
        Step::Build(spawn::Step::CreateDirectory),
        Step::Build(spawn::Step::CreateDisk),
        Step::Build(spawn::Step::CreateBlankDisks),
        Step::Build(spawn::Step::CreateBootFiles),
        Step::Build(spawn::Step::CreateConfigDrive),
        Step::Build(spawn::Step::ConnectVolumes),
        Step::Build(spawn::Step::PlugVifs),
        Step::Build(spawn::Step::DefineDomain),
        Step::Build(spawn::Step::StartDomain),
        Step::Activate,
        Step::StopAgain,
        Step::Tell,
    ];
    /// The guest goes off, and its disks go next.
    const COMMITTED_FROM: usize = 3;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                if self.asked.is_evacuation {
                    return Err(StepError::EvacuateNotSupported);
                }
                if self.image.is_none() {
                    let none = StepError::NotSupported("a rebuild without an image");
                    let named = self.asked.image.as_ref().ok_or(none)?;
                    self.image = Some(named.find(&self.subject.instance, stage).await?);
                }
                let Some(image) = self.image.clone() else { return Ok(()) };
                // nova-api has placed it; in standalone mode nobody has.
                image.place(&mut self.subject.instance);
                let spawn = self.plan(&image, stage).await?;
                let devices = spawn.build.block_devices.clone();
                self.subject = self.subject.clone().with_disks(&devices);
                self.spawn = Some(Box::new(spawn));
                self.tell_start(&image, stage);
                let found = on.hypervisor.domain(uuid).await?;
                let power = found.map_or(PowerState::NoState, |info| info.power_state);
                self.subject.instance.power_state.set(Some(power.number()));
                self.enter(TaskState::Rebuilding, stage).await
            }
            Step::CheckDisks => {
                let devices = self.spawn()?.build.block_devices.clone();
                if block_devices::boots_from_volume(&devices) {
                    return Err(StepError::NotSupported("a new image on a volume"));
                }
                block_devices::check(&self.subject.instance, &devices)
            }
            // The names that its disks have stay theirs.
            Step::Build(spawn::Step::MapBlockDevices) => {
                self.enter(TaskState::RebuildBlockDeviceMapping, stage).await?;
                self.enter(TaskState::RebuildSpawning, stage).await
            }
            Step::Build(step) => {
                let missing = ObjectError::Missing { class: "Rebuild", field: "build" };
                let spawn = self.spawn.as_deref_mut().ok_or(StepError::Object(missing))?;
                part::apply(&mut self.subject, spawn, step, stage).await
            }
            Step::ShutDown => {
                let timeout = shutdown_timeout(&self.subject.instance, on);
                if !shut_down(stage, uuid, timeout).await? {
                    warn!(?timeout, "the guest did not shut down: its power is cut");
                }
                Ok(())
            }
            Step::CutPower => cut_power(on, uuid).await,
            Step::UndefineDomain => Ok(on.hypervisor.undefine(uuid).await?),
            Step::UnplugVifs => unplug_vifs(&self.subject.instance, on).await,
            Step::RemoveDisks => {
                let kept = self.kept()?;
                on.images.clear_directory(uuid, &kept).await?;
                let instance = &mut self.subject.instance;
                if !self.cleaned {
                    note_cleaned(instance);
                    self.cleaned = true;
                }
                Ok(on.records.save(stage.context, instance, Expected::Any).await?)
            }
            Step::Activate => {
                let defaults = self.spawn()?.defaults.clone();
                let recorded = on.records.instance(stage.context, uuid).await?;
                let is_own = |task: Option<&TaskState>| task.is_some_and(|own| TASKS.contains(own));
                if let Some(recorded) = recorded.filter(|one| !is_own(one.task_state.value())) {
                    // An earlier attempt recorded it, and the guest may be in use since.
                    self.subject.instance = recorded;
                    return Ok(());
                }
                keep_defaults(&mut self.subject.instance, &defaults);
                self.enter(TaskState::RebuildSpawning, stage).await?;
                self.subject.instance.launched_at.set(now());
                self.subject.record(VmState::Active, PowerState::Running, rebuilding(), stage).await
            }
            Step::StopAgain if !self.was_stopped() => Ok(()),
            Step::StopAgain => {
                let recorded = on.records.instance(stage.context, uuid).await?;
                let is_off = |one: &Instance| one.vm_state.value() == Some(&VmState::Stopped);
                if let Some(recorded) = recorded.filter(is_off) {
                    // An earlier attempt recorded it, and its user may have started it since.
                    self.subject.instance = recorded;
                    return Ok(());
                }
                let instance = &mut self.subject.instance;
                instance.vm_state.set(Some(VmState::Active));
                instance.task_state.set(Some(TaskState::PoweringOff));
                instance.progress.set(Some(0));
                let expected = expecting(&[TaskState::PoweringOff]);
                on.records.save(stage.context, instance, expected).await?;
                on.records.event_started(stage.context, uuid, STOP).await?;
                self.subject.tell(Action::PowerOff, Phase::Start, stage);
                cut_power(on, uuid).await?;
                let expected = expecting(&[TaskState::PoweringOff]);
                self.subject
                    .record(VmState::Stopped, PowerState::Shutdown, expected, stage)
                    .await?;
                self.subject.tell(Action::PowerOff, Phase::End, stage);
                Ok(on.records.event_finished(stage.context, uuid, STOP, None).await?)
            }
            Step::Tell => {
                on.claims.note(stage.context, &self.subject.instance).await;
                on.scheduling.placed(stage.context, &self.subject.instance).await;
                if let Some(image) = self.image.clone() {
                    self.tell(Phase::End, &image, stage);
                }
                // nova ends a rebuild as it ends an evacuation. nova: compute/resource_tracker.py,
                // `finish_evacuation`
                let instance = &mut self.subject.instance;
                // The node stays: nova-conductor takes no new one without its `compute_id`.
                instance.host.set(Some(on.settings.host.clone()));
                match on.records.save(stage.context, instance, Expected::Any).await {
                    // A delete has come after it.
                    Err(error) if error.class() == Class::Absent => Ok(()),
                    saved => Ok(saved?),
                }
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        // The first steps change nothing on the host but the cache; the others are not undone.
        Ok(())
    }

    /// The record says another image than the guest has: an error, also where the guest runs on. Before
    /// there was a new image nothing was wrong with the instance.
    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let failure = match ending {
            Ending::Undone(failure) | Ending::Stuck(failure) if !failure.cancelled => failure,
            ending => return self.subject.settle(ending, stage).await,
        };
        self.tell_failed(failure, stage);
        if self.asked.is_evacuation {
            let (instance, migration) = (&self.subject.instance, self.asked.migration.as_ref());
            stage.on.claims.refuse_evacuation(stage.context, instance, migration).await?;
        }
        let ending = match (ending, failure.step.as_str()) {
            (ending, "Begin") => ending,
            _ => Ending::Stuck(failure),
        };
        self.subject.settle(ending, stage).await
    }
}
