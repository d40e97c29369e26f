//! Swap a volume: the guest's disk is copied to another volume as it runs, and goes on there.
//! nova: compute/manager.py, swap_volume; virt/libvirt/driver.py, `_swap_volume`
//!
//! Until the pivot the guest is on the old volume, and the copy can be dropped. From then on it is on the new
//! one, and what is left is to say so everywhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, is_active};
use super::volume_connections::{connect, connection_of, disconnect, volume_disk_of};
use super::{StepError, StepResult};
use crate::hypervisor::guest::{self, set_cache};
use crate::hypervisor::spec::DiskSpec;
use crate::model::class::Class;
use crate::model::object::{BlockDeviceMapping, DestinationType, SourceType};
use crate::model::secret::Secret;
use crate::notify::{Action, Details, Phase};
use crate::volumes::{ConnectionInfo, Volume, VolumeError};
use uuid::Uuid;

/// How often the copy is looked at.
const POLL: Duration = Duration::from_millis(500);

/// What cinder calls a volume that it moves itself.
const MIGRATING: &str = "migrating";

const BYTES_PER_GIB: u64 = 1 << 30;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwapVolume {
    pub subject: Subject,
    asked: Swap,
    /// The disk's record, as it was before.
    device: Option<BlockDeviceMapping>,
    connection: Option<ConnectionInfo>,
    /// GiB, where the new volume is larger than the old one.
    grows_to: Option<i64>,
    /// Whether Cinder moves the volume: it says then which of the two ids stays.
    moves: bool,
    kept: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    pub old: String,
    pub new: String,
    pub attachment: Option<Uuid>,
    /// In standalone mode: how the new volume is reached, which nobody else knows.
    #[serde(default)]
    pub connection: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    OpenNew,
    ConnectNew,
    Copy,
    Pivot,
    Redefine,
    CompleteNew,
    DisconnectOld,
    CloseOld,
    Record,
}

impl SwapVolume {
    pub fn new(subject: Subject, asked: Swap) -> Self {
        let (device, connection, grows_to, kept) = (None, None, None, None);
        Self { subject, asked, device, connection, grows_to, moves: false, kept }
    }

    fn old(&self) -> Result<&BlockDeviceMapping, StepError> {
        let missing = || VolumeError::NotAttached(self.asked.old.clone());
        Ok(self.device.as_ref().ok_or_else(missing)?)
    }

    /// The record's copy that speaks of the new volume.
    fn new_device(&self) -> Result<BlockDeviceMapping, StepError> {
        let mut device = self.old()?.clone();
        device.volume_id.load(Some(Some(self.asked.new.clone())));
        device.attachment_id.load(Some(self.asked.attachment));
        device.connection_info.load(Some(self.asked.connection.clone()));
        Ok(device)
    }

    async fn new_disk(&mut self, stage: &Stage<'_>) -> Result<DiskSpec, StepError> {
        let uuid = self.subject.uuid()?;
        let device = self.old()?.clone();
        let missing = || VolumeError::Invalid("it isn't open to this host".to_owned());
        let connection = self.connection.as_mut().ok_or_else(missing)?;
        let mut disk = connect(stage.on, stage.context, connection, uuid).await?;
        let name = device.device_name.text().unwrap_or_default();
        let bus = device.disk_bus.text();
        (disk.device, disk.bus, disk.target) = guest::named_place(name, bus, Some("disk"))?;
        set_cache(&mut disk, &stage.on.settings.guest.disk_cachemodes);
        Ok(disk)
    }

    fn tell(&mut self, phase: Phase, details: Details<'_>, stage: &Stage<'_>) {
        let (old, new) = (self.asked.old.clone(), self.asked.new.clone());
        let details = Details { swapped: Some((&old, &new)), ..details };
        self.subject.tell_of(Action::VolumeSwap, phase, details, stage);
    }

    async fn check(&mut self, old: &Volume, new: &Volume, stage: &Stage<'_>) -> StepResult {
        let on = stage.on;
        let found = on.hypervisor.domain(self.subject.uuid()?).await?;
        if !is_active(found.as_ref()) {
            return Err(StepError::NotRunning(self.subject.uuid()?));
        }
        let is_encrypted = connection_of(self.old()?)?.is_some_and(|way| way.flag("encrypted"));
        if old.is_encrypted || new.is_encrypted || is_encrypted {
            let message = "Swap volume is not supported for encrypted volumes when native LUKS \
                           decryption is enabled.";
            return Err(StepError::NotImplemented(message));
        }
        self.grows_to = new.size_gib.filter(|size| Some(*size) > old.size_gib);
        self.moves = old.migration_status.as_deref() == Some(MIGRATING);
        Ok(())
    }

    /// Gives the right to the new volume back.
    async fn close_new(&self, stage: &Stage<'_>) -> StepResult {
        match stage.on.volumes.close(stage.context, &self.new_device()?).await {
            Err(error) if error.class() == Class::Absent => Ok(()),
            closed => Ok(closed?),
        }
    }

    /// Waits until the copy follows the disk.
    async fn await_copy(&self, target: &str, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        let within = on.settings.snapshots.copy_timeout;
        let deadline = Instant::now() + within;
        loop {
            let Some(job) = on.hypervisor.block_job(uuid, target).await? else {
                return Err(StepError::CopyFailed { target: target.to_owned() });
            };
            stage.running.progress(job.done, Some(job.total));
            if job.ready {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let (wanted, found) = ("copied", format!("{} of {}", job.done, job.total));
                return Err(StepError::NotThere { wanted, found, within });
            }
            let pause = stage.give_up.run_until_cancelled(tokio::time::sleep(POLL)).await;
            pause.ok_or(StepError::Cancelled)?;
        }
    }
}

impl Workflow for SwapVolume {
    type Step = Step;
    const NAME: &'static str = "swap_volume";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::OpenNew,
        Step::ConnectNew,
        Step::Copy,
        Step::Pivot,
        Step::Redefine,
        Step::CompleteNew,
        Step::DisconnectOld,
        Step::CloseOld,
        Step::Record,
    ];
    /// What the guest writes from then on is on the new volume alone.
    const COMMITTED_FROM: usize = 4;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                self.tell(Phase::Start, Details::default(), stage);
                let recorded = on.records.block_devices(stage.context, uuid).await?.into_items();
                let is_it =
                    |d: &BlockDeviceMapping| d.volume_id.text() == Some(self.asked.old.as_str());
                self.device = recorded.into_iter().find(is_it);
                self.old()?;
                let old = on.volumes.volume(stage.context, &self.asked.old).await?;
                let new = on.volumes.volume(stage.context, &self.asked.new).await?;
                self.check(&old, &new, stage).await
            }
            Step::OpenNew => {
                let connector = on.host_volumes.connector().await;
                let device = self.new_device()?;
                let mut opened = on.volumes.open(stage.context, &device, &connector).await?;
                opened.default_serial(&self.asked.new);
                self.connection = Some(opened);
                Ok(())
            }
            Step::ConnectNew => self.new_disk(stage).await.map(drop),
            Step::Copy => {
                let disk = self.new_disk(stage).await?;
                on.hypervisor.start_disk_swap(uuid, &disk).await?;
                self.await_copy(&disk.target, stage).await
            }
            Step::Pivot => {
                let disk = self.new_disk(stage).await?;
                let live = on.hypervisor.disks(uuid).await?;
                let there = live.iter().find(|there| there.target == disk.target);
                // An earlier attempt got there.
                if there.is_some_and(|there| there.source.as_deref() == disk.source.path()) {
                    return Ok(());
                }
                Ok(on.hypervisor.pivot_block_job(uuid, &disk.target).await?)
            }
            Step::Redefine => {
                let disk = self.new_disk(stage).await?;
                let old = volume_disk_of(self.old()?)?;
                on.hypervisor.forget_disk(uuid, &old).await?;
                on.hypervisor.attach_disk(uuid, &disk).await?;
                let grown = self.grows_to.and_then(|gib| u64::try_from(gib).ok());
                if let Some(bytes) = grown.and_then(|gib| gib.checked_mul(BYTES_PER_GIB)) {
                    on.hypervisor.resize_disk(uuid, &disk.target, bytes).await?;
                }
                Ok(())
            }
            Step::CompleteNew => {
                Ok(on.volumes.complete(stage.context, &self.new_device()?).await?)
            }
            Step::DisconnectOld => match connection_of(self.old()?)? {
                Some(connection) => disconnect(on, &connection, uuid).await,
                None => Ok(()),
            },
            Step::CloseOld => {
                on.volumes.close(stage.context, self.old()?).await?;
                if self.moves && self.kept.is_none() {
                    let Swap { old, new, .. } = &self.asked;
                    self.kept = Some(on.volumes.moved(stage.context, old, new, false).await?);
                }
                Ok(())
            }
            Step::Record => {
                let kept = self.kept.clone().unwrap_or_else(|| self.asked.new.clone());
                let mut device = self.old()?.clone();
                if let Some(connection) = &mut self.connection {
                    connection.set_volume(&kept);
                    device.connection_info.set(Some(connection.to_secret()));
                }
                device.source_type.set(Some(SourceType::Volume));
                device.destination_type.set(Some(DestinationType::Volume));
                device.snapshot_id.set(None);
                device.volume_id.set(Some(kept));
                device.attachment_id.set(self.asked.attachment);
                if self.grows_to.is_some() {
                    device.volume_size.set(self.grows_to);
                }
                Ok(on.records.save_block_device(stage.context, &mut device).await?)
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Copy => {
                let target = volume_disk_of(self.old()?)?.target;
                on.hypervisor.abort_block_job(uuid, &target).await?;
                Ok(())
            }
            Step::ConnectNew => match &self.connection {
                Some(connection) => disconnect(on, connection, uuid).await,
                None => Ok(()),
            },
            Step::OpenNew => self.close_new(stage).await,
            Step::Begin => {
                if let Some(failure) = stage.failure {
                    let raised = self.subject.raised(failure);
                    let details = Details { raised: Some(&raised), ..Details::default() };
                    self.tell(Phase::Error, details, stage);
                }
                if self.device.is_none() {
                    return Ok(());
                }
                on.volumes.keep_attached(stage.context, &self.asked.old).await?;
                // A failure before the new volume was opened leaves its attachment to be given back.
                self.close_new(stage).await?;
                if self.moves {
                    let Swap { old, new, .. } = &self.asked;
                    on.volumes.moved(stage.context, old, new, true).await?;
                }
                Ok(())
            }
            // They are never undone.
            _ => Ok(()),
        }
    }

    /// The request was refused in the instance's state: the guest keeps the old volume.
    async fn turned_away(&mut self, stage: &Stage<'_>) -> StepResult {
        Ok(stage.on.volumes.keep_attached(stage.context, &self.asked.old).await?)
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Done = ending {
            self.tell(Phase::End, Details::default(), stage);
        }
        self.subject.settle_as_it_is(ending, stage).await
    }
}
