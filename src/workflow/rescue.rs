//! Rescue: the guest boots from another image, and finds its own disk beside it.
//! nova: compute/manager.py, `rescue_instance`; virt/libvirt/driver.py, `rescue`
//!
//! Everything is made ready before the guest goes off. Where nova leaves an error when a rescue fails,
//! the guest gets its definition back and runs again.

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, expecting, now, shut_down, shutdown_timeout};
use super::interfaces::{plug_vifs, vifs};
use super::journal::Failure;
use super::named_image::{Image, NamedImage, by_id};
use super::plug_events::{self, Awaited};
use super::rescue_domain::{self, RescueParts};
use super::was_on::WasOn;
use super::{StepError, StepResult, config_drive, domain, info_cache};
use crate::hypervisor::guest::GuestKernel;
use crate::images::{Disk, ImageRequest};
use crate::model::class::Class;
use crate::model::object::{ImageMeta, ObjectError};
use crate::model::secret::Secret;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Refresh;
use crate::notify::{Action, Details, Phase};

/// What a rescue asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// `None`: the image that the instance was built from, or the configured one.
    pub image: Option<NamedImage>,
    pub password: Option<Secret>,
    /// Whether the guest is asked to shut down.
    pub clean: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rescue {
    pub subject: Subject,
    asked: Asked,
    image: Option<Image>,
    /// The instance's own image, where its devices stay what they are.
    #[serde(default)]
    own_image: Option<ImageMeta>,
    kernel: Option<ImageRequest>,
    ramdisk: Option<ImageRequest>,
    before: Option<WasOn>,
    /// Whether there was a definition kept already: the domain was a rescue's.
    kept_before: bool,
    disk: Option<Disk>,
    boot: Option<GuestKernel>,
    drive: Option<Disk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    KeepDefinition,
    FetchImage,
    CreateDisk,
    CreateBootFiles,
    CreateConfigDrive,
    ShutDown,
    CutPower,
    PlugVifs,
    DefineDomain,
    StartDomain,
    Record,
}

impl Rescue {
    pub fn new(subject: Subject, asked: Asked) -> Self {
        Self {
            subject,
            asked,
            image: None,
            own_image: None,
            kernel: None,
            ramdisk: None,
            before: None,
            kept_before: false,
            disk: None,
            boot: None,
            drive: None,
        }
    }

    fn tell(&mut self, phase: Phase, stage: &Stage<'_>) {
        let asked = self.asked.image.as_ref().map(|image| image.id().to_owned());
        let name = self.image.as_ref().and_then(|image| image.meta.name.get().cloned());
        let details = Details {
            rescue_image_name: Some(name.as_deref().unwrap_or_default()),
            rescue_image_ref: asked.as_deref(),
            ..Details::default()
        };
        self.subject.tell_of(Action::Rescue, phase, details, stage);
    }

    fn image(&self) -> Result<&Image, StepError> {
        self.image.as_ref().ok_or_else(|| missing("image"))
    }

    /// The image to boot from. nova: compute/manager.py, `_get_rescue_image`
    async fn find_image(&self, stage: &Stage<'_>) -> Result<Image, StepError> {
        let instance = &self.subject.instance;
        if let Some(asked) = &self.asked.image {
            return asked.find(instance, stage).await;
        }
        let base = instance.system_metadata("image_base_image_ref").filter(|id| !id.is_empty());
        let configured = stage.on.settings.rescue.image_id.as_deref();
        let id = base.or(instance.image_ref()).or(configured);
        let Some(id) = id else {
            let (uuid, reason) = (instance.uuid()?, "it has no image".to_owned());
            return Err(StepError::NotRescuable { uuid, reason });
        };
        NamedImage::Id { id: id.to_owned(), any_file: false }.find(instance, stage).await
    }

    /// The image whose properties say what devices a rescue in place keeps; one that is gone is as the
    /// instance's record has it. nova: virt/libvirt/driver.py, `rescue`
    async fn find_own_image(&self, stage: &Stage<'_>) -> Result<Option<ImageMeta>, StepError> {
        let instance = &self.subject.instance;
        let (true, Some(id)) =
            (rescue_domain::is_stable(&self.image()?.meta), instance.image_ref())
        else {
            return Ok(None);
        };
        let named = NamedImage::Id { id: id.to_owned(), any_file: false };
        match named.find(instance, stage).await {
            Err(error) if error.class() == Class::Absent => Ok(None),
            found => Ok(Some(found?.meta)),
        }
    }

    /// The kernel and the ramdisk: the configured ones, or the instance's own.
    fn boot_images(&self, stage: &Stage<'_>) -> (Option<ImageRequest>, Option<ImageRequest>) {
        let (instance, rescue) = (&self.subject.instance, &stage.on.settings.rescue);
        let own = |id: Option<&String>| id.filter(|id| !id.is_empty()).cloned();
        let kernel = rescue.kernel_id.clone().or_else(|| own(instance.kernel_id.value()));
        let ramdisk = rescue.ramdisk_id.clone().or_else(|| own(instance.ramdisk_id.value()));
        // A ramdisk without a kernel boots nothing.
        let ramdisk = ramdisk.filter(|_| kernel.is_some());
        (kernel.map(|id| by_id(&id, false)), ramdisk.map(|id| by_id(&id, false)))
    }

    /// Notes how the guest is, once: before anything is done to it.
    async fn look(&mut self, stage: &Stage<'_>) -> StepResult {
        if self.before.is_some() {
            return Ok(());
        }
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        self.kept_before = match on.images.kept_definition(uuid).await? {
            Some(_) => {
                let disks = on.hypervisor.disks(uuid).await.unwrap_or_default();
                disks.iter().any(|disk| {
                    let name = disk.source.as_ref().and_then(|path| path.file_name());
                    name.is_some_and(|name| name == "disk.rescue")
                })
            }
            None => false,
        };
        self.before = Some(WasOn::of(&self.subject.instance, stage).await?);
        Ok(())
    }
}

fn missing(field: &'static str) -> StepError {
    ObjectError::Missing { class: "Rescue", field }.into()
}

impl Workflow for Rescue {
    type Step = Step;
    const NAME: &'static str = "rescue";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::KeepDefinition,
        Step::FetchImage,
        Step::CreateDisk,
        Step::CreateBootFiles,
        Step::CreateConfigDrive,
        Step::ShutDown,
        Step::CutPower,
        Step::PlugVifs,
        Step::DefineDomain,
        Step::StartDomain,
        Step::Record,
    ];
    /// The guest runs and may be in use: only the record is left to write.
    const COMMITTED_FROM: usize = 11;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        let report = |done, total| stage.running.progress(done, total);
        match step {
            Step::Begin => {
                self.look(stage).await?;
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                info_cache::refresh(on, stage.context, instance, Refresh::Recorded).await?;
                if self.image.is_none() {
                    self.image = Some(self.find_image(stage).await?);
                    (self.kernel, self.ramdisk) = self.boot_images(stage);
                    self.own_image = self.find_own_image(stage).await?;
                }
                self.tell(Phase::Start, stage);
                Ok(())
            }
            Step::KeepDefinition => {
                // Of an earlier rescue.
                on.images.remove_rescue(uuid).await?;
                if self.kept_before {
                    info!("the definition from before the last rescue is kept");
                    return Ok(());
                }
                if on.hypervisor.domain(uuid).await?.is_none() {
                    domain::define(&self.subject.instance, stage).await?;
                }
                let xml = on.hypervisor.domain_xml(uuid, true).await?;
                Ok(on.images.keep_definition(uuid, &xml).await?)
            }
            Step::FetchImage => {
                let images = std::iter::once(&self.image()?.request);
                for image in images.chain(&self.kernel).chain(&self.ramdisk) {
                    stage.unless_given_up(on.images.cache(stage.context, image, &report)).await?;
                }
                Ok(())
            }
            Step::CreateDisk => {
                let request = &self.image()?.request;
                let base = on.images.cache(stage.context, request, &report).await?;
                self.disk = Some(on.images.create_rescue_root(uuid, &base).await?);
                Ok(())
            }
            Step::CreateBootFiles => {
                let Some(kernel) = &self.kernel else { return Ok(()) };
                let mut paths = Vec::new();
                for (image, name) in std::iter::once((kernel, "kernel.rescue"))
                    .chain(self.ramdisk.iter().map(|image| (image, "ramdisk.rescue")))
                {
                    let cached = on.images.cache(stage.context, image, &report).await?;
                    paths.push(on.images.create_boot_file(uuid, &cached, name).await?);
                }
                let mut paths = paths.into_iter();
                let kernel = paths.next().ok_or_else(|| missing("kernel"))?;
                self.boot = Some(GuestKernel { kernel, ramdisk: paths.next() });
                Ok(())
            }
            Step::CreateConfigDrive => {
                let instance = &self.subject.instance;
                let is_stable = rescue_domain::is_stable(&self.image()?.meta);
                let own = ImageMeta::from_instance(instance)?;
                // Where everything stays as it was, the guest's own drive is there.
                if is_stable || !config_drive::is_wanted(instance, &own, &on.settings) {
                    return Ok(());
                }
                let devices = on.records.block_devices(stage.context, uuid).await?.into_items();
                let vendor_data = on.settings.vendor_data.load().await?;
                let vifs = vifs(instance)?;
                let content = config_drive::Content {
                    admin_password: self.asked.password.as_ref(),
                    injected_files: &[],
                    block_devices: &devices,
                    vifs: &vifs,
                    vendor_data,
                    security_groups: on.network.security_groups(stage.context, instance).await?,
                };
                let files = config_drive::files(instance, content, &on.settings)?;
                self.drive = Some(on.images.create_rescue_drive(uuid, &files).await?);
                Ok(())
            }
            Step::ShutDown => {
                // What can't be defined is not shut down for it.
                rescue_domain::definition(&self.subject.instance, self.parts()?, stage).await?;
                let timeout = shutdown_timeout(&self.subject.instance, on);
                if self.asked.clean && !shut_down(stage, uuid, timeout).await? {
                    warn!(?timeout, "the guest did not shut down: its power is cut");
                }
                Ok(())
            }
            Step::CutPower => {
                cut_power(on, uuid).await?;
                // A saved memory is of another disk than the one that is booted next.
                if on.hypervisor.domain(uuid).await?.is_some_and(|info| info.managed_save) {
                    on.hypervisor.drop_managed_save(uuid).await?;
                }
                Ok(())
            }
            Step::PlugVifs => plug_vifs(&self.subject.instance, on).await,
            Step::DefineDomain => {
                let instance = &self.subject.instance;
                let spec = rescue_domain::definition(instance, self.parts()?, stage).await?;
                Ok(on.hypervisor.define(&spec).await?)
            }
            Step::StartDomain => {
                plug_events::start(&self.subject.instance, &Awaited::default(), stage).await
            }
            Step::Record => {
                if !self.subject.has_told(Action::Rescue, Phase::End) {
                    self.subject.tell_exists(None, stage);
                }
                self.subject.instance.launched_at.set(now());
                let expected = expecting(&[TaskState::Rescuing]);
                self.subject.record(VmState::Rescued, PowerState::Running, expected, stage).await?;
                self.tell(Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin | Step::FetchImage | Step::PlugVifs => Ok(()),
            Step::KeepDefinition if self.kept_before => Ok(()),
            Step::KeepDefinition => Ok(on.images.forget_definition(uuid).await?),
            // With all that is beside it.
            Step::CreateDisk => Ok(on.images.remove_rescue(uuid).await?),
            Step::CreateBootFiles | Step::CreateConfigDrive => Ok(()),
            Step::ShutDown => match self.before {
                Some(before) => before.restore(&self.subject.instance, stage).await,
                None => Ok(()),
            },
            // The step before starts it again.
            Step::CutPower => Ok(()),
            Step::DefineDomain => match on.images.kept_definition(uuid).await? {
                Some(xml) => Ok(on.hypervisor.define_again(uuid, &xml).await?),
                None => Ok(()),
            },
            Step::StartDomain => cut_power(on, uuid).await,
            // It is never undone.
            Step::Record => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let failure = match ending {
            Ending::Undone(failure) | Ending::Stuck(failure) if !failure.cancelled => failure,
            ending => return self.subject.settle(ending, stage).await,
        };
        let failure = Failure { fault: self.fault(failure)?, ..failure.clone() };
        let ending = match ending {
            Ending::Undone(_) => Ending::Undone(&failure),
            _ => Ending::Stuck(&failure),
        };
        self.subject.settle(ending, stage).await
    }
}

impl Rescue {
    fn parts(&self) -> Result<RescueParts<'_>, StepError> {
        Ok(RescueParts {
            image: &self.image()?.meta,
            own_image: self.own_image.as_ref(),
            disk: self.disk.as_ref().ok_or_else(|| missing("disk"))?,
            kernel: self.boot.as_ref(),
            drive: self.drive.as_ref(),
        })
    }

    /// nova tells of whatever goes wrong with the guest as one exception.
    fn fault(&self, failure: &Failure) -> Result<Option<crate::model::fault::Fault>, StepError> {
        let Some(fault) = &failure.fault else { return Ok(None) };
        if failure.step == "Begin" || fault.class == "InstanceNotRescuable" {
            return Ok(Some(fault.clone()));
        }
        let (uuid, reason) = (self.subject.uuid()?, format!("Driver Error: {}", fault.message));
        let error = StepError::NotRescuable { uuid, reason };
        Ok(Some(super::exception::step_fault(&error)))
    }
}
