//! Unshelve: an instance that is on no host gets one, and goes on from its image.
//! nova: compute/manager.py, `unshelve_instance`

use serde::{Deserialize, Serialize};
use tracing::info;

use super::domain::keep_defaults;
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, expecting, now, unless_deleting};
use super::interfaces::place_vifs;
use super::named_image::by_id;
use super::part::{self, nobody};
use super::spawn::{self, Build, Spawn, root_gib};
use super::volume_rights::{self, Rights};
use super::{StepError, StepResult, block_devices, info_cache, shelved};
use crate::images::CachedImage;
use crate::model::class::Class;
use crate::model::object::{ImageMeta, Instance};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Refresh;
use crate::notify::{Action, Phase};
use crate::records::Expected;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unshelve {
    pub subject: Subject,
    spawn: Box<Spawn>,
    /// To its volumes, as they were on record when it began.
    #[serde(default)]
    rights: Rights,
    /// The image that it was shelved as, by its record.
    shelved: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    Claim,
    BindNetwork,
    Build(spawn::Step),
    CreateDisk,
    Activate,
    DiscardImage,
}

impl Unshelve {
    /// `build`: what it is made of, with the image that it was shelved as.
    pub fn new(subject: Subject, build: Build) -> Self {
        let spawn = Box::new(Spawn::new(nobody(), build));
        Self { subject, spawn, rights: Rights::new(), shelved: None }
    }

    fn expected(&self) -> Expected {
        expecting(&[TaskState::Unshelving, TaskState::Spawning])
    }

    /// The image that the instance was built from, which its root disk stands on again: the shelved one
    /// goes. `None`: it is gone itself.
    /// nova: virt/libvirt/driver.py, `_rebase_original_qcow2_image`
    async fn original(&self, stage: &Stage<'_>) -> Result<Option<CachedImage>, StepError> {
        let instance = &self.subject.instance;
        let id = instance.system_metadata("image_base_image_ref").filter(|id| !id.is_empty());
        let Some(id) = id else { return Ok(None) };
        let (image, report) = (by_id(id, false), |done, total| stage.running.progress(done, total));
        let fetch = stage.on.images.cache(stage.context, &image, &report);
        match stage.unless_given_up(fetch).await {
            Ok(base) => Ok(Some(base)),
            Err(StepError::Image(error)) if error.class() == Class::Refused => {
                info!(image = id, "the original image is gone: the disk is whole by itself");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Workflow for Unshelve {
    type Step = Step;
    const NAME: &'static str = "unshelve";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::Build(spawn::Step::CheckAbsent),
        Step::Claim,
        Step::BindNetwork,
        Step::Build(spawn::Step::PrepareVolumes),
        Step::Build(spawn::Step::FetchImage),
        Step::Build(spawn::Step::CreateDirectory),
        Step::CreateDisk,
        Step::Build(spawn::Step::CreateBlankDisks),
        Step::Build(spawn::Step::CreateBootFiles),
        Step::Build(spawn::Step::CreateConfigDrive),
        Step::Build(spawn::Step::ConnectVolumes),
        Step::Build(spawn::Step::PlugVifs),
        Step::Build(spawn::Step::DefineDomain),
        Step::Build(spawn::Step::StartDomain),
        Step::Activate,
        Step::DiscardImage,
    ];
    /// The guest runs and may be in use.
    const COMMITTED_FROM: usize = 15;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                let devices = on.records.block_devices(stage.context, uuid).await?.into_items();
                self.subject = self.subject.clone().with_disks(&devices);
                self.rights = volume_rights::of(&devices);
                self.spawn.build.block_devices = devices;
                if self.spawn.build.image.is_none() {
                    // Its root disk is a volume.
                    self.spawn.build.image_meta = ImageMeta::from_instance(&self.subject.instance)?;
                }
                self.shelved = shelved::image(&self.subject.instance).map(str::to_owned);
                self.subject.tell(Action::Unshelve, Phase::Start, stage);
                let instance = &mut self.subject.instance;
                instance.task_state.set(Some(TaskState::Spawning));
                let expected = expecting(&[TaskState::Unshelving, TaskState::Spawning]);
                Ok(on.records.save(stage.context, instance, expected).await?)
            }
            Step::Claim => {
                let instance = &mut self.subject.instance;
                let limits = self.spawn.build.limits.as_ref();
                on.claims.claim(stage.context, instance, limits).await?;
                let expected = self.expected();
                let instance = &mut self.subject.instance;
                Ok(on.records.save(stage.context, instance, expected).await?)
            }
            Step::BindNetwork => {
                let instance = &mut self.subject.instance;
                on.network.bind(stage.context, instance, &on.settings.host).await?;
                let which = Refresh::Recorded;
                let vifs = info_cache::refresh(on, stage.context, instance, which).await?;
                place_vifs(instance, &vifs);
                self.spawn.vifs = vifs;
                Ok(())
            }
            Step::Build(step) => {
                part::apply(&mut self.subject, self.spawn.as_mut(), step, stage).await
            }
            // The root disk is a volume.
            Step::CreateDisk
                if block_devices::boots_from_volume(&self.spawn.build.block_devices) =>
            {
                Ok(())
            }
            Step::CreateDisk => {
                let original = self.original(stage).await?;
                let (image, gib) = (self.spawn.base()?, root_gib(&self.subject.instance));
                let disk = on.images.create_root_on(uuid, image, original.as_ref(), gib).await?;
                self.spawn.disks.root = Some(disk);
                Ok(())
            }
            Step::Activate => {
                let recorded = on.records.instance(stage.context, uuid).await?;
                let is_on = |one: &Instance| {
                    one.vm_state.value().is_some_and(|state| *state != VmState::ShelvedOffloaded)
                };
                if let Some(recorded) = recorded.filter(is_on) {
                    // An earlier attempt recorded it, and the guest may be in use since.
                    self.subject.instance = recorded;
                    return Ok(());
                }
                let expected = self.expected();
                let instance = &mut self.subject.instance;
                keep_defaults(instance, &self.spawn.defaults);
                shelved::forget(instance);
                instance.launched_at.set(now());
                self.subject.record(VmState::Active, PowerState::Running, expected, stage).await
            }
            Step::DiscardImage => {
                if let Some(image) = &self.shelved {
                    shelved::discard(image, stage).await;
                }
                on.claims.note(stage.context, &self.subject.instance).await;
                on.scheduling.placed(stage.context, &self.subject.instance).await;
                self.subject.tell(Action::Unshelve, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let on = stage.on;
        match step {
            // A disk lies in the directory, which goes next.
            Step::Begin | Step::CreateDisk => Ok(()),
            Step::Claim => {
                let instance = &mut self.subject.instance;
                on.claims.abort(stage.context, instance).await?;
                instance.availability_zone.set(None);
                match on.records.save(stage.context, instance, Expected::Any).await {
                    Err(error) if error.class() == Class::Absent => Ok(()),
                    saved => Ok(saved?),
                }
            }
            Step::BindNetwork => {
                Ok(on.network.unbind(stage.context, &self.subject.instance).await?)
            }
            // They stay the instance's, which is on no host.
            Step::Build(spawn::Step::PrepareVolumes) => {
                volume_rights::renew(stage, self.subject.uuid()?, &self.rights).await
            }
            // It only fills the cache.
            Step::Build(spawn::Step::FetchImage) => Ok(()),
            Step::Build(step) => {
                part::undo(&mut self.subject, self.spawn.as_mut(), step, stage).await
            }
            // They are never undone.
            Step::Activate | Step::DiscardImage => Ok(()),
        }
    }

    /// One that failed is shelved as before, and on no host; nova deletes the allocation that the
    /// scheduler made.
    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Undone(_) = ending {
            stage.on.claims.release_allocation(stage.context, &self.subject.instance).await?;
        }
        self.subject.settle_expecting(ending, unless_deleting(), stage).await
    }
}
