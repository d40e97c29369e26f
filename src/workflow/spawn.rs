//! Spawn: from a build request to a running guest.
//! nova: compute/manager.py, _do_build_and_run_instance; virt/libvirt/driver.py, spawn
//!
//! `CheckAbsent` comes before anything is made: an instance that has a domain or a directory on
//! this host already is refused and left alone, so that no later undo can take away what this
//! build didn't make.

use serde::{Deserialize, Serialize};

use std::path::Path;

use super::domain::{GuestDisks, ImageDefaults, Parts, define_new, keep_defaults};
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, expecting, now};
use super::interfaces::{place_vifs, plug_vifs, unplug_vifs};
use super::part::Part;
use super::plug_events::{self, Awaited};
use super::reschedule::BuildArguments;
use super::spawn_failure::NETWORK_ALLOCATED;
use super::{Settings, block_devices, build_volumes, config_drive, domain, volume_connections};
use super::{StepError, StepResult};
use crate::hypervisor::spec::DomainSpec;
use crate::images::cache::check_fits;
use crate::images::{CachedImage, Disk, ImageRequest};
use crate::model::object::{BlockDeviceMapping, ImageMeta, Instance, SchedulerLimits};
use crate::model::secret::Secret;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::{Vif, Wanted};
use crate::notify::{Action, Details, Phase};
use crate::records::Expected;

/// What a build asks for, beside the instance itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Build {
    pub image_meta: ImageMeta,
    /// `None`: the guest is to boot from something else.
    pub image: Option<ImageRequest>,
    /// For a guest that is booted without a boot loader.
    pub kernel: Option<ImageRequest>,
    pub ramdisk: Option<ImageRequest>,
    pub wanted: Wanted,
    pub admin_password: Option<Secret>,
    /// (path in the guest, content in base64): they go on the config drive.
    pub injected_files: Vec<(String, Secret)>,
    /// Its disks, as nova-api recorded them.
    pub block_devices: Vec<BlockDeviceMapping>,
    /// What the scheduler counted on, where it oversubscribes.
    pub limits: Option<SchedulerLimits>,
    /// For the next host, if this one fails.
    pub arguments: BuildArguments,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    pub subject: Subject,
    pub(super) build: Build,
    pub(super) vifs: Vec<Vif>,
    base: Option<CachedImage>,
    pub(super) disks: GuestDisks,
    /// What the image left open, and the domain was defined with.
    #[serde(default)]
    pub(super) defaults: ImageDefaults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    CheckAbsent,
    Claim,
    MapBlockDevices,
    PrepareVolumes,
    AllocateNetwork,
    FetchImage,
    CreateDirectory,
    CreateDisk,
    CreateBlankDisks,
    CreateBootFiles,
    CreateConfigDrive,
    ConnectVolumes,
    PlugVifs,
    DefineDomain,
    StartDomain,
    Activate,
}

impl Spawn {
    pub fn new(subject: Subject, build: Build) -> Self {
        let subject = subject.with_disks(&build.block_devices);
        Self {
            subject,
            build,
            vifs: Vec::new(),
            base: None,
            disks: GuestDisks::default(),
            defaults: ImageDefaults::new(),
        }
    }

    #[cfg(test)]
    pub fn hand_back(&mut self, arguments: BuildArguments) {
        self.build.arguments = arguments;
    }

    /// The build asks for these disks instead.
    #[cfg(test)]
    pub fn ask_for(&mut self, devices: Vec<BlockDeviceMapping>) {
        self.subject = self.subject.clone().with_disks(&devices);
        self.build.block_devices = devices;
    }

    /// Shows the user how far the build is.
    async fn enter(&mut self, task: TaskState, stage: &Stage<'_>) -> StepResult {
        self.subject.instance.task_state.set(Some(task));
        Ok(stage.on.records.save(stage.context, &mut self.subject.instance, building()).await?)
    }

    /// The domain that this build would define: with the paths it would use, and the network as
    /// it is asked for. Nothing is made.
    ///
    /// # Errors
    /// What `DefineDomain` would fail with.
    pub fn preview(
        &self,
        settings: &Settings,
        directory: &Path,
        vifs: &[Vif],
    ) -> Result<DomainSpec, StepError> {
        self.check_supported()?;
        let mut instance = self.subject.instance.clone();
        // The record gives the number that its domain is named by.
        instance.id.load(Some(instance.id.get().copied().unwrap_or(0)));
        let (instance, image) = (&instance, &self.build.image_meta);
        let disk = |name: &str, format: &str| Disk {
            path: directory.join(name),
            format: format.to_owned(),
        };
        let wants_drive = config_drive::is_wanted(instance, image, settings);
        let wanted = block_devices::wanted(instance, &self.build.block_devices)?;
        let disks = GuestDisks {
            root: (!self.boots_from_volume()).then(|| disk("disk", "qcow2")),
            blank: wanted.iter().map(|wanted| disk(&wanted.file, "qcow2")).collect(),
            config_drive: wants_drive.then(|| disk("disk.config", "raw")),
            kernel: self.build.kernel.as_ref().map(|_| directory.join("kernel")),
            ramdisk: self.build.ramdisk.as_ref().map(|_| directory.join("ramdisk")),
            volumes: Default::default(),
        };
        let log = directory.join("console.log");
        let devices = &self.build.block_devices;
        let parts = Parts { image, devices, disks: &disks, vifs };
        domain::spec(instance, parts, settings, log, None)
    }

    pub fn wanted(&self) -> &Wanted {
        &self.build.wanted
    }

    /// What isn't built is refused before anything is made, and never left out.
    fn check_supported(&self) -> StepResult {
        block_devices::check(&self.subject.instance, &self.build.block_devices)?;
        match self.boots_from_volume() {
            true => Ok(()),
            false => self.image().map(drop),
        }
    }

    fn boots_from_volume(&self) -> bool {
        block_devices::boots_from_volume(&self.build.block_devices)
    }

    fn image(&self) -> Result<&ImageRequest, StepError> {
        self.build.image.as_ref().ok_or(StepError::NotSupported("a guest without an image"))
    }

    pub(super) fn base(&self) -> Result<&CachedImage, StepError> {
        let missing = crate::model::object::ObjectError::Missing { class: "Spawn", field: "base" };
        self.base.as_ref().ok_or(StepError::Object(missing))
    }
}

/// The flavor's root disk in GiB; 0: as large as its image.
pub(super) fn root_gib(instance: &Instance) -> u64 {
    let flavor = instance.flavor.get();
    let gib = flavor.and_then(|flavor| flavor.root_gb.get()).copied().unwrap_or(0);
    u64::try_from(gib).unwrap_or(0)
}

impl Part for Spawn {
    fn subject(&mut self) -> &mut Subject {
        &mut self.subject
    }
}

/// The task states of a build, in any order: a resumed one may be ahead of its record.
fn building() -> Expected {
    expecting(&[
        TaskState::Scheduling,
        TaskState::Networking,
        TaskState::BlockDeviceMapping,
        TaskState::Spawning,
    ])
}

impl Workflow for Spawn {
    type Step = Step;
    const NAME: &'static str = "spawn";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::CheckAbsent,
        Step::Claim,
        Step::MapBlockDevices,
        Step::PrepareVolumes,
        Step::AllocateNetwork,
        Step::FetchImage,
        Step::CreateDirectory,
        Step::CreateDisk,
        Step::CreateBlankDisks,
        Step::CreateBootFiles,
        Step::CreateConfigDrive,
        Step::ConnectVolumes,
        Step::PlugVifs,
        Step::DefineDomain,
        Step::StartDomain,
        Step::Activate,
    ];
    /// The guest runs and may be in use: only the record is left to write.
    const COMMITTED_FROM: usize = 16;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        let report = |done, total| stage.running.progress(done, total);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                instance.vm_state.set(Some(VmState::Building));
                instance.task_state.set(None);
                let roles = stage.context.roles.join(",");
                instance.system_metadata.update(|metadata| {
                    metadata.insert("boot_roles".to_owned(), Some(roles));
                });
                on.records.save(stage.context, instance, building()).await?;
                // Null where there is no image, or it has no name.
                let name = self.build.image_meta.name.text().filter(|name| !name.is_empty());
                let image_name = Some(name);
                let details = Details { image_name, ..Details::default() };
                self.subject.tell_of(Action::Create, Phase::Start, details, stage);
                Ok(())
            }
            Step::CheckAbsent => {
                self.check_supported()?;
                let there = |what| Err(StepError::AlreadyThere { uuid, what });
                if on.hypervisor.domain(uuid).await?.is_some() {
                    return there("a domain");
                }
                if on.images.has_directory(uuid).await? {
                    return there("a directory");
                }
                Ok(())
            }
            Step::Claim => {
                let instance = &mut self.subject.instance;
                let limits = self.build.limits.as_ref();
                on.claims.claim(stage.context, instance, limits).await?;
                Ok(on.records.save(stage.context, instance, building()).await?)
            }
            Step::AllocateNetwork => {
                self.enter(TaskState::Spawning, stage).await?;
                let instance = &mut self.subject.instance;
                self.vifs =
                    on.network.allocate(stage.context, instance, &self.build.wanted).await?;
                place_vifs(instance, &self.vifs);
                on.records.save(stage.context, instance, building()).await?;
                // Saved with the next step's.
                instance.system_metadata.update(|metadata| {
                    metadata.insert(NETWORK_ALLOCATED.to_owned(), Some("True".to_owned()));
                });
                Ok(())
            }
            // Before the network: nova makes the ports beside everything up to the guest's start.
            Step::MapBlockDevices => {
                self.enter(TaskState::Networking, stage).await?;
                let (instance, image) = (&mut self.subject.instance, &self.build.image_meta);
                let devices = &mut self.build.block_devices;
                block_devices::name_devices(instance, image, devices, &on.settings)?;
                for device in devices {
                    on.records.save_block_device(stage.context, device).await?;
                }
                self.enter(TaskState::BlockDeviceMapping, stage).await
            }
            Step::PrepareVolumes => {
                let (instance, devices) = (&self.subject.instance, &mut self.build.block_devices);
                build_volumes::prepare(stage, instance, devices).await?;
                self.subject = self.subject.clone().with_disks(&self.build.block_devices);
                Ok(())
            }
            // The root disk is a volume.
            Step::FetchImage | Step::CreateDisk if self.boots_from_volume() => Ok(()),
            Step::FetchImage => {
                let fetch = on.images.cache(stage.context, self.image()?, &report);
                let base = stage.unless_given_up(fetch).await?;
                check_fits(&base, root_gib(&self.subject.instance))?;
                self.base = Some(base);
                for image in self.build.kernel.iter().chain(&self.build.ramdisk) {
                    stage.unless_given_up(on.images.cache(stage.context, image, &report)).await?;
                }
                Ok(())
            }
            Step::CreateDirectory => {
                on.images.create_directory(uuid).await?;
                Ok(())
            }
            Step::CreateDisk => {
                let size_gib = root_gib(&self.subject.instance);
                self.disks.root = Some(on.images.create_root(uuid, self.base()?, size_gib).await?);
                Ok(())
            }
            Step::CreateBlankDisks => {
                self.disks.blank.clear();
                let wanted =
                    block_devices::wanted(&self.subject.instance, &self.build.block_devices)?;
                for disk in wanted {
                    let made = on.images.create_blank(uuid, &disk.file, &disk.blank).await?;
                    self.disks.blank.push(made);
                }
                Ok(())
            }
            Step::CreateBootFiles => {
                for (image, name) in
                    [(self.build.kernel.clone(), "kernel"), (self.build.ramdisk.clone(), "ramdisk")]
                {
                    let Some(image) = image else { continue };
                    let cached = on.images.cache(stage.context, &image, &report).await?;
                    let path = on.images.create_boot_file(uuid, &cached, name).await?;
                    self.disks.boot_file(name, path);
                }
                Ok(())
            }
            Step::CreateConfigDrive => {
                let (instance, settings) = (&mut self.subject.instance, &on.settings);
                if config_drive::is_wanted(instance, &self.build.image_meta, settings) {
                    instance.config_drive.set(Some("True".to_owned()));
                    let vendor_data = settings.vendor_data.load().await?;
                    let network = &on.network;
                    let security_groups = network.security_groups(stage.context, instance).await?;
                    let content = config_drive::Content {
                        admin_password: self.build.admin_password.as_ref(),
                        injected_files: &self.build.injected_files,
                        block_devices: &self.build.block_devices,
                        vifs: &self.vifs,
                        vendor_data,
                        security_groups,
                    };
                    let files = config_drive::files(instance, content, settings)?;
                    let disk = on.images.create_config_drive(uuid, &files).await?;
                    self.disks.config_drive = Some(disk);
                }
                Ok(())
            }
            Step::ConnectVolumes => {
                let devices = &mut self.build.block_devices;
                self.disks.volumes =
                    volume_connections::connect_all(on, stage.context, uuid, devices).await?;
                Ok(())
            }
            Step::PlugVifs => {
                Awaited::of_new(&self.vifs, on).expect(uuid, on);
                plug_vifs(&self.subject.instance, on).await
            }
            Step::DefineDomain => {
                let instance = &mut self.subject.instance;
                let (image, devices) = (&self.build.image_meta, &self.build.block_devices);
                let parts = Parts { image, devices, disks: &self.disks, vifs: &self.vifs };
                self.defaults = define_new(instance, parts, on).await?;
                Ok(())
            }
            Step::StartDomain => {
                let awaited = Awaited::of_new(&self.vifs, on);
                plug_events::start(&self.subject.instance, &awaited, stage).await
            }
            Step::Activate => {
                let recorded = on.records.instance(stage.context, uuid).await?;
                let state = recorded.as_ref().and_then(|found| found.vm_state.value());
                if state.is_some_and(|state| *state != VmState::Building) {
                    // An earlier attempt recorded it, and the guest may be in use since.
                    self.subject.tell(Action::Create, Phase::End, stage);
                    return Ok(());
                }
                let instance = &mut self.subject.instance;
                if keep_defaults(instance, &self.defaults) {
                    on.records.save(stage.context, instance, building()).await?;
                }
                instance.launched_at.set(now());
                // It is for the next host only, and there is none.
                instance.system_metadata.update(|metadata| {
                    metadata.remove(NETWORK_ALLOCATED);
                });
                self.subject
                    .record(VmState::Active, PowerState::Running, building(), stage)
                    .await?;
                on.scheduling.placed(stage.context, &self.subject.instance).await;
                self.subject.tell(Action::Create, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin | Step::CheckAbsent | Step::MapBlockDevices => Ok(()),
            Step::Claim => self.give_claim_back(stage).await,
            Step::AllocateNetwork => self.give_network_back(stage).await,
            Step::FetchImage => self.count_cleanups(stage).await,
            Step::PrepareVolumes => build_volumes::close(stage, &self.build.block_devices).await,
            Step::ConnectVolumes => {
                let devices = &self.build.block_devices;
                volume_connections::disconnect_all(on, uuid, devices).await
            }
            Step::CreateDirectory => Ok(on.images.remove_directory(uuid).await?),
            // They lie in the directory, which goes next.
            Step::CreateDisk
            | Step::CreateBlankDisks
            | Step::CreateBootFiles
            | Step::CreateConfigDrive => Ok(()),
            Step::PlugVifs => {
                on.events.forget(uuid);
                unplug_vifs(&self.subject.instance, on).await
            }
            Step::DefineDomain => Ok(on.hypervisor.undefine(uuid).await?),
            Step::StartDomain => cut_power(on, uuid).await,
            // It is never undone.
            Step::Activate => Ok(()),
        }
    }

    /// nova's event ends as a success however the build ends: the fault tells what went wrong.
    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let claims = &stage.on.claims;
        match ending {
            Ending::Done => {
                claims.built(stage.context, true).await;
                claims.note(stage.context, &self.subject.instance).await;
                self.subject.settle(ending, stage).await
            }
            Ending::Stuck(failure) => {
                claims.built(stage.context, false).await;
                self.tell_failed(failure, stage);
                self.subject.settle(ending, stage).await
            }
            Ending::Undone(failure) => self.end_failed(failure, stage).await,
        }
    }
}
