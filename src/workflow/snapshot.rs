//! Snapshot and backup: an image of the instance's root disk, kept in Glance or in a file.
//! nova: compute/manager.py, `snapshot_instance`, `backup_instance`; virt/libvirt/driver.py,
//! `snapshot`
//!
//! A guest that runs is copied as it runs. Where that isn't wanted its memory is saved for as long as
//! the image is being made of its disk; one that is off is left so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use uuid::Uuid;

use super::disk_copy::{DiskCopy, Quiesce};
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, expecting, is_active, unless_deleting};
use super::journal::Failure;
use super::part::Part;
use super::{Backends, StepError, StepResult, memory};
use crate::hypervisor::HypervisorError;
use crate::images::Disk;
use crate::images::glance::ImageUpdate;
use crate::images::sink::TargetImage;
use crate::images::snapshots::SnapshotFormat;
use crate::model::object::{ImageMeta, ObjectError};
use crate::model::state::{PowerState, TaskState};
use crate::notify::{Action, Details, Phase};
use crate::records::Expected;
use crate::telemetry::Chain;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Snapshot,
    /// The oldest backups of this type go, until `rotation` of them are left.
    Backup {
        backup_type: String,
        rotation: u64,
    },
    /// What a shelved instance goes on from. Its guest is off.
    Shelve,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    pub subject: Subject,
    kind: Kind,
    image: TargetImage,
    /// Its directory is named by it.
    id: Uuid,
    plan: Option<Plan>,
    /// Whether the image's place is taken.
    reserved: bool,
    /// As Glance has it.
    image_name: Option<String>,
    /// The copy that the image is made of, of a running guest.
    delta: Option<Disk>,
    made: Option<std::path::PathBuf>,
}

/// How the disk is read, decided once.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plan {
    disk: Disk,
    /// The disk's name in the guest.
    target: String,
    format: SnapshotFormat,
    power_state: PowerState,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum How {
    /// Copied beside the guest.
    Live,
    /// The guest's memory is saved meanwhile.
    Saved,
    /// The guest is off.
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    ReserveImage,
    CreateDirectory,
    SaveMemory,
    CopyDisk,
    ExtractImage,
    RestoreMemory,
    KeepImage,
    RemoveDirectory,
    Record,
    RotateBackups,
}

impl Snapshot {
    pub fn new(subject: Subject, kind: Kind, image: TargetImage) -> Self {
        Self {
            subject,
            kind,
            image,
            id: Uuid::new_v4(),
            plan: None,
            reserved: false,
            image_name: None,
            delta: None,
            made: None,
        }
    }

    pub fn is_backup(&self) -> bool {
        matches!(self.kind, Kind::Backup { .. })
    }

    /// Shows how far it is.
    async fn enter(&mut self, task: TaskState, stage: &Stage<'_>) -> StepResult {
        let task = match (&self.kind, task) {
            (Kind::Shelve, TaskState::ImagePendingUpload) => TaskState::ShelvingImagePendingUpload,
            (Kind::Shelve, TaskState::ImageUploading) => TaskState::ShelvingImageUploading,
            (_, task) => task,
        };
        self.subject.instance.task_state.set(Some(task));
        let expected = self.expected();
        Ok(stage.on.records.save(stage.context, &mut self.subject.instance, expected).await?)
    }

    /// The task states of a snapshot, in any order: a resumed one may be ahead of its record.
    fn expected(&self) -> Expected {
        use TaskState::{
            ImageBackup, ImagePendingUpload, ImageSnapshot, ImageSnapshotPending, ImageUploading,
            Shelving, ShelvingImagePendingUpload, ShelvingImageUploading,
        };
        match self.kind {
            Kind::Snapshot => expecting(&[
                ImageSnapshotPending,
                ImageSnapshot,
                ImagePendingUpload,
                ImageUploading,
            ]),
            Kind::Backup { .. } => expecting(&[ImageBackup, ImagePendingUpload, ImageUploading]),
            Kind::Shelve => {
                expecting(&[Shelving, ShelvingImagePendingUpload, ShelvingImageUploading])
            }
        }
    }

    fn tell(&mut self, phase: Phase, stage: &Stage<'_>) {
        let image = self.image.id.clone();
        let details = Details { snapshot_image_id: Some(&image), ..Details::default() };
        self.subject.tell_of(Action::Snapshot, phase, details, stage);
    }

    fn plan(&self) -> Result<&Plan, StepError> {
        self.plan.as_ref().ok_or_else(|| missing("plan"))
    }

    /// The copy beside the guest, if there is to be one.
    fn copy<'a>(&self, plan: &'a Plan, on: &Backends) -> Result<Option<DiskCopy<'a>>, StepError> {
        if plan.how != How::Live {
            return Ok(None);
        }
        let instance = &self.subject.instance;
        let image = ImageMeta::from_instance(instance)?;
        Ok(Some(DiskCopy {
            uuid: instance.uuid()?,
            snapshot: self.id,
            target: &plan.target,
            disk: &plan.disk,
            quiesce: Quiesce::of(instance, image.properties(), on)?,
        }))
    }

    pub(super) fn image(&self) -> &TargetImage {
        &self.image
    }

    /// Looks at the guest, and decides.
    async fn decide(&self, on: &Backends) -> Result<Plan, StepError> {
        let uuid = self.subject.uuid()?;
        let found = on.hypervisor.domain(uuid).await?;
        let found = found.ok_or(HypervisorError::NoDomain(uuid))?;
        let (disk, target) = root_disk(uuid, on).await?;
        let settings = &on.settings.snapshots;
        let own = SnapshotFormat::parse(&disk.format);
        let unknown = StepError::NotSupported("a snapshot of a disk of this format");
        let format = settings.format.or(own).ok_or(unknown)?;
        let how = match is_active(Some(&found)) {
            true if settings.live => How::Live,
            true => How::Saved,
            false => How::Off,
        };
        let plan = Plan { disk, target, format, power_state: found.power_state, how };
        // What is required and can't be had is said before anything is made.
        self.copy(&plan, on)?;
        Ok(plan)
    }

    /// What Glance is told of the image. nova: virt/libvirt/driver.py, `_create_snapshot_metadata`
    fn known(&self, format: SnapshotFormat) -> Result<ImageUpdate, StepError> {
        let instance = &self.subject.instance;
        let image = ImageMeta::from_instance(instance)?;
        let container = image.container_format.get().cloned();
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let mut properties = BTreeMap::from([
            ("image_location".to_owned(), "snapshot".to_owned()),
            ("image_state".to_owned(), "available".to_owned()),
            ("owner_id".to_owned(), text(instance.project_id.value())),
            ("kernel_id".to_owned(), text(instance.kernel_id.value())),
            ("ramdisk_id".to_owned(), text(instance.ramdisk_id.value())),
        ]);
        let os_type = instance.os_type.value().filter(|os_type| !os_type.is_empty());
        properties.extend(os_type.map(|os_type| ("os_type".to_owned(), os_type.clone())));
        Ok(ImageUpdate {
            name: self.image_name.clone(),
            disk_format: Some(format.as_str().to_owned()),
            container_format: Some(container.unwrap_or_else(|| "bare".to_owned())),
            properties,
        })
    }

    /// Deletes the backups that are too many. One that can't be deleted now is left for the next
    /// time. nova: compute/manager.py, `_rotate_backups`
    async fn rotate(&self, stage: &Stage<'_>) -> StepResult {
        let Kind::Backup { backup_type, rotation } = &self.kind else { return Ok(()) };
        let (sink, context) = (&stage.on.sink, stage.context);
        let all = sink.backups(context, self.subject.uuid()?, backup_type).await?;
        let kept = usize::try_from(*rotation).unwrap_or(usize::MAX);
        for old in all.iter().skip(kept).rev() {
            info!(image = old.id, kept, "a backup is rotated out");
            if let Err(error) = sink.discard(context, old).await {
                warn!(image = old.id, error = %Chain(&error), "an old backup is left");
            }
        }
        Ok(())
    }
}

/// The instance's root disk, which must be a file of its own, and its name in the guest.
/// nova: virt/libvirt/utils.py, `find_disk`
async fn root_disk(uuid: Uuid, on: &Backends) -> Result<(Disk, String), StepError> {
    let first = on.hypervisor.disks(uuid).await?.into_iter().next();
    let directory = on.images.console_log(uuid);
    let found = first.and_then(|disk| Some((disk.source?, disk.format?, disk.target)));
    let Some((path, format, target)) = found else {
        return Err(StepError::NoDisk { path: directory.with_file_name("disk") });
    };
    if path.parent() != directory.parent() {
        return Err(StepError::NotSupported("a snapshot of a disk from a volume"));
    }
    Ok((Disk { path, format }, target))
}

fn missing(field: &'static str) -> StepError {
    ObjectError::Missing { class: "Snapshot", field }.into()
}

impl Workflow for Snapshot {
    type Step = Step;
    const NAME: &'static str = "snapshot";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::ReserveImage,
        Step::CreateDirectory,
        Step::SaveMemory,
        Step::CopyDisk,
        Step::ExtractImage,
        Step::RestoreMemory,
        Step::KeepImage,
        Step::RemoveDirectory,
        Step::Record,
        Step::RotateBackups,
    ];
    /// The image is kept, and somebody may use it.
    const COMMITTED_FROM: usize = 8;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        let report = |done, total| stage.running.progress(done, total);
        match step {
            // The shelving has begun, and tells of itself.
            Step::Begin if self.kind == Kind::Shelve => {
                if self.plan.is_none() {
                    self.plan = Some(self.decide(on).await?);
                }
                Ok(())
            }
            Step::Begin => {
                self.subject.begin(stage).await?;
                let plan = match self.plan.take() {
                    Some(plan) => plan,
                    None => self.decide(on).await?,
                };
                info!(how = ?plan.how, format = plan.format.as_str(), "snapshot");
                let power_state = plan.power_state.number();
                self.plan = Some(plan);
                // nova notes a snapshot's state, and then the guest's.
                let task = match self.kind {
                    Kind::Snapshot | Kind::Shelve => {
                        self.enter(TaskState::ImageSnapshot, stage).await?;
                        TaskState::ImageSnapshot
                    }
                    Kind::Backup { .. } => TaskState::ImageBackup,
                };
                self.subject.instance.power_state.set(Some(power_state));
                self.enter(task, stage).await?;
                self.tell(Phase::Start, stage);
                Ok(())
            }
            Step::ReserveImage => {
                // Its own work, done before.
                if !self.reserved {
                    self.image_name = on.sink.reserve(stage.context, &self.image).await?;
                    self.reserved = true;
                }
                // nova tries whether the storage can make the image by itself, and comes back.
                self.enter(TaskState::ImagePendingUpload, stage).await?;
                self.enter(TaskState::ImageUploading, stage).await?;
                self.enter(TaskState::ImagePendingUpload, stage).await
            }
            Step::CreateDirectory => {
                let plan = self.plan()?;
                let live = plan.how == How::Live;
                Ok(on.snapshots.begin(self.id, &plan.disk, live).await?)
            }
            Step::SaveMemory if self.plan()?.how == How::Saved => memory::save(stage, uuid).await,
            Step::SaveMemory => Ok(()),
            Step::CopyDisk => {
                let plan = self.plan()?;
                if let Some(copy) = self.copy(plan, on)? {
                    self.delta = Some(copy.make(stage).await?);
                }
                Ok(())
            }
            Step::ExtractImage => {
                let plan = self.plan()?;
                let disk = match plan.how {
                    How::Live => self.delta.as_ref().ok_or_else(|| missing("delta"))?,
                    How::Saved | How::Off => &plan.disk,
                };
                let making = on.snapshots.extract(self.id, disk, plan.format, &report);
                self.made = Some(stage.unless_given_up(making).await?);
                Ok(())
            }
            Step::RestoreMemory => {
                let plan = self.plan()?;
                if plan.how == How::Saved {
                    memory::restore(on, uuid, Some(plan.power_state)).await?;
                }
                Ok(())
            }
            Step::KeepImage => {
                self.enter(TaskState::ImageUploading, stage).await?;
                let known = self.known(self.plan()?.format)?;
                let file = self.made.as_ref().ok_or_else(|| missing("image"))?;
                let filling = on.sink.fill(stage.context, &self.image, &known, file, &report);
                stage.unless_given_up(filling).await
            }
            Step::RemoveDirectory => Ok(on.snapshots.remove(self.id).await?),
            Step::Record => {
                self.subject.instance.task_state.set(None);
                let expected = expecting(&[TaskState::ImageUploading]);
                // Who has gone over it meanwhile has taken the instance, and the image stays.
                if self.subject.save_end(expected, stage).await? {
                    self.tell(Phase::End, stage);
                }
                Ok(())
            }
            Step::RotateBackups => self.rotate(stage).await,
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin if self.reserved => Ok(()),
            Step::Begin => Ok(on.sink.discard_empty(stage.context, &self.image).await?),
            // Not before the directory is gone: a move out of it could come later.
            Step::ReserveImage if self.reserved => {
                Ok(on.sink.discard(stage.context, &self.image).await?)
            }
            Step::CreateDirectory => Ok(on.snapshots.remove(self.id).await?),
            Step::SaveMemory => match &self.plan {
                Some(plan) if plan.how == How::Saved => {
                    memory::take_back(on, uuid, Some(plan.power_state)).await
                }
                _ => Ok(()),
            },
            Step::CopyDisk => match &self.plan {
                Some(plan) => match self.copy(plan, on)? {
                    Some(copy) => copy.take_back(on).await,
                    None => Ok(()),
                },
                None => Ok(()),
            },
            Step::ReserveImage | Step::ExtractImage | Step::RestoreMemory | Step::KeepImage => {
                Ok(())
            }
            // They are never undone.
            Step::RemoveDirectory | Step::Record | Step::RotateBackups => Ok(()),
        }
    }

    async fn turned_away(&mut self, stage: &Stage<'_>) -> StepResult {
        Ok(stage.on.sink.discard_empty(stage.context, &self.image).await?)
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let failure = match ending {
            Ending::Done => return self.subject.finish(None, stage).await,
            Ending::Undone(failure) => failure,
            // Its memory may still be saved.
            Ending::Stuck(_) if self.saves_memory() => {
                return self.subject.settle_by_domain(ending, stage).await;
            }
            Ending::Stuck(failure) => failure,
        };
        if is_nobodys_fault(failure) {
            self.subject.end_task(failure, unless_deleting(), stage).await?;
            return self.subject.finish(None, stage).await;
        }
        self.subject.settle(Ending::Undone(failure), stage).await
    }
}

impl Snapshot {
    fn saves_memory(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.how == How::Saved)
    }
}

impl Part for Snapshot {
    fn subject(&mut self) -> &mut Subject {
        &mut self.subject
    }
}

/// The instance or the image was deleted meanwhile: its owner knows.
/// nova: compute/manager.py, `_snapshot_instance`
fn is_nobodys_fault(failure: &Failure) -> bool {
    let class = failure.fault.as_ref().map(|fault| &*fault.class);
    failure.cancelled || matches!(class, Some("InstanceNotFound" | "ImageNotFound"))
}
