//! Attach a volume: the service opens it, this host connects it, the guest gets it, and the record says how.
//! nova: compute/manager.py, attach_volume; virt/block_device.py, `_volume_attach`

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::engine::{Ending, Stage, Workflow};
use super::instance::Subject;
use super::volume_connections::{connect, connection_of, disconnect, note, volume_disk_of};
use super::{StepError, StepResult, release};
use crate::hypervisor::guest::{self, set_cache};
use crate::hypervisor::spec::DiskSpec;
use crate::model::class::Class;
use crate::model::object::BlockDeviceMapping;
use crate::notify::{Action, Details, Phase};
use crate::volumes::{ConnectionInfo, VolumeError};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachVolume {
    pub subject: Subject,
    /// Its record, which nova-api has had made: with the name that the guest is to know it by.
    device: BlockDeviceMapping,
    connection: Option<ConnectionInfo>,
    /// Whether the record was found to be this instance's and of a volume that it doesn't have yet: what
    /// isn't this attempt's is never undone.
    is_ours: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    OpenVolume,
    ConnectVolume,
    AttachDevice,
    RecordConnection,
    Complete,
}

impl AttachVolume {
    pub fn new(subject: Subject, device: BlockDeviceMapping) -> Self {
        Self { subject, device, connection: None, is_ours: false }
    }

    /// Its disk in the guest, connected. Doing it again is cheap, and makes sure of what another guest's
    /// end may have taken away.
    async fn disk(&mut self, stage: &Stage<'_>) -> Result<DiskSpec, StepError> {
        let uuid = self.subject.uuid()?;
        let missing = || VolumeError::Invalid("it isn't open to this host".to_owned());
        let connection = self.connection.as_mut().ok_or_else(missing)?;
        let mut disk = connect(stage.on, stage.context, connection, uuid).await?;
        let name = self.device.device_name.text().unwrap_or_default();
        let bus = self.device.disk_bus.text();
        let kind = self.device.device_type.value().map(|kind| kind.as_str());
        (disk.device, disk.bus, disk.target) = guest::named_place(name, bus, kind)?;
        set_cache(&mut disk, &stage.on.settings.guest.disk_cachemodes);
        Ok(disk)
    }

    /// The record that the message speaks of, among those of this very instance.
    async fn recorded(&self, stage: &Stage<'_>) -> Result<Option<BlockDeviceMapping>, StepError> {
        let uuid = self.subject.uuid()?;
        let recorded = stage.on.records.block_devices(stage.context, uuid).await?.into_items();
        let is_it = |device: &BlockDeviceMapping| {
            device.uuid.get() == self.device.uuid.get()
                && device.volume_id.value() == self.device.volume_id.value()
                && device.volume_id.value().is_some()
        };
        Ok(recorded.into_iter().find(is_it))
    }

    /// Whether the record is one of a volume that the instance doesn't have yet.
    async fn is_reserved(&self, stage: &Stage<'_>) -> Result<bool, StepError> {
        let recorded = self.recorded(stage).await?;
        let connection = recorded.as_ref().map(connection_of).transpose()?;
        Ok(connection.is_some_and(|connection| connection.is_none()))
    }

    /// Gives the right to the volume back, if it was this attempt's.
    async fn close(&self, stage: &Stage<'_>) -> StepResult {
        if !self.is_ours {
            return Ok(());
        }
        match stage.on.volumes.close(stage.context, &self.device).await {
            Err(error) if error.class() == Class::Absent => Ok(()),
            // There never was one.
            Err(VolumeError::NotSupported(_) | VolumeError::Invalid(_)) => Ok(()),
            closed => Ok(closed?),
        }
    }

    fn tell(&mut self, phase: Phase, details: Details<'_>, stage: &Stage<'_>) {
        let volume_id = self.device.volume_id.text().map(str::to_owned);
        let details = Details { volume_id: volume_id.as_deref(), ..details };
        self.subject.tell_of(Action::VolumeAttach, phase, details, stage);
    }
}

impl Workflow for AttachVolume {
    type Step = Step;
    const NAME: &'static str = "attach_volume";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::OpenVolume,
        Step::ConnectVolume,
        Step::AttachDevice,
        Step::RecordConnection,
        Step::Complete,
    ];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                self.tell(Phase::Start, Details::default(), stage);
                match self.recorded(stage).await? {
                    Some(recorded) if connection_of(&recorded)?.is_none() => self.is_ours = true,
                    Some(_) => {
                        let message = "it is attached already".to_owned();
                        return Err(VolumeError::Invalid(message).into());
                    }
                    None => {
                        let volume_id = self.device.volume_id.text().unwrap_or("-").to_owned();
                        return Err(VolumeError::NotAttached(volume_id).into());
                    }
                }
                Ok(())
            }
            Step::OpenVolume => {
                let disk = volume_disk_of(&self.device)?;
                let volume = on.volumes.volume(stage.context, &disk.volume_id).await?;
                if self.device.volume_size.value().is_none() && volume.size_gib.is_some() {
                    self.device.volume_size.set(volume.size_gib);
                }
                let connector = on.host_volumes.connector().await;
                let mut opened = on.volumes.open(stage.context, &self.device, &connector).await?;
                opened.default_serial(&disk.volume_id);
                if volume.is_multiattach {
                    opened.set_multiattach();
                }
                self.connection = Some(opened);
                Ok(())
            }
            Step::ConnectVolume => self.disk(stage).await.map(drop),
            Step::AttachDevice => {
                let disk = self.disk(stage).await?;
                Ok(on.hypervisor.attach_disk(uuid, &disk).await?)
            }
            // Before the volume is in use: from then on it can be detached, which takes the connection.
            Step::RecordConnection => match self.connection.clone() {
                Some(connection) => note(on, stage.context, &mut self.device, &connection).await,
                None => Ok(()),
            },
            Step::Complete => Ok(on.volumes.complete(stage.context, &self.device).await?),
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Complete | Step::RecordConnection => Ok(()),
            Step::AttachDevice => {
                let disk = volume_disk_of(&self.device)?;
                on.hypervisor.forget_disk(uuid, &disk).await?;
                release::release(on, uuid, &disk, &CancellationToken::new()).await
            }
            Step::ConnectVolume => match &self.connection {
                Some(connection) => disconnect(on, connection, uuid).await,
                None => Ok(()),
            },
            Step::OpenVolume => self.close(stage).await,
            // The record goes with the attempt; one that isn't this instance's is another's.
            Step::Begin => {
                if let Some(failure) = stage.failure {
                    let raised = self.subject.raised(failure);
                    let details = Details { raised: Some(&raised), ..Details::default() };
                    self.tell(Phase::Error, details, stage);
                }
                // One that failed before it was looked at.
                self.is_ours = self.is_ours || self.is_reserved(stage).await?;
                self.close(stage).await?;
                match self.recorded(stage).await?.filter(|_| self.is_ours) {
                    Some(mut device) => {
                        Ok(on.records.destroy_block_device(stage.context, &mut device).await?)
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// The request was refused in the instance's state: the right to the volume goes back.
    async fn turned_away(&mut self, stage: &Stage<'_>) -> StepResult {
        self.undo(Step::Begin, stage).await
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Done = ending {
            self.tell(Phase::End, Details::default(), stage);
        }
        self.subject.settle_as_it_is(ending, stage).await
    }
}
