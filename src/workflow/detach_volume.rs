//! Detach a volume: the guest lets go of it first, then this host, then its service.
//! nova: compute/manager.py, detach_volume; virt/block_device.py, `_do_detach`
//!
//! A guest may take its time. What was begun is in the journal, and the next start waits on. While the guest
//! has the disk it stays connected, whatever happens.

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::engine::{Ending, Stage, Workflow};
use super::instance::Subject;
use super::part::Part;
use super::volume_connections::{connect, connection_of, disconnect, volume_disk_of};
use super::volume_usage::{disk_of, note};
use super::{StepError, StepResult, release};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::guest::{self, set_cache};
use crate::model::object::BlockDeviceMapping;
use crate::notify::{Action, Details, Phase};
use crate::telemetry::Chain;
use crate::volumes::VolumeError;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DetachVolume {
    pub subject: Subject,
    volume_id: String,
    /// Its record; `None`: not looked up yet.
    device: Option<BlockDeviceMapping>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    CountUse,
    ForgetDevice,
    ReleaseDevice,
    DisconnectVolume,
    CloseVolume,
    ForgetRecord,
}

impl DetachVolume {
    pub fn new(subject: Subject, volume_id: String) -> Self {
        Self { subject, volume_id, device: None }
    }

    /// Says which record it is, where that was looked up already.
    pub(super) fn found(&mut self, device: BlockDeviceMapping) {
        self.device = Some(device);
    }

    /// Whether the instance has such a volume.
    pub(super) fn is_found(&self) -> bool {
        self.device.is_some()
    }

    fn device(&self) -> Result<&BlockDeviceMapping, StepError> {
        let missing = || VolumeError::NotAttached(self.volume_id.clone());
        Ok(self.device.as_ref().ok_or_else(missing)?)
    }

    fn tell(&mut self, phase: Phase, stage: &Stage<'_>) {
        let volume_id = self.volume_id.clone();
        let details = Details { volume_id: Some(&volume_id), ..Details::default() };
        self.subject.tell_of(Action::VolumeDetach, phase, details, stage);
    }

    /// Gives the domain what it was to lose: its definition, and a guest that had let go already.
    async fn give_back(&self, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        let Some(device) = &self.device else { return Ok(()) };
        let Some(mut connection) = connection_of(device)? else { return Ok(()) };
        let mut disk = connect(on, stage.context, &mut connection, uuid).await?;
        let name = device.device_name.text().unwrap_or_default();
        let kind = device.device_type.value().map(|kind| kind.as_str());
        (disk.device, disk.bus, disk.target) =
            guest::named_place(name, device.disk_bus.text(), kind)?;
        set_cache(&mut disk, &on.settings.guest.disk_cachemodes);
        match on.hypervisor.attach_disk(uuid, &disk).await {
            Err(HypervisorError::NoDomain(_)) => Ok(()),
            attached => Ok(attached?),
        }
    }
}

impl Workflow for DetachVolume {
    type Step = Step;
    const NAME: &'static str = "detach_volume";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::CountUse,
        Step::ForgetDevice,
        Step::ReleaseDevice,
        Step::DisconnectVolume,
        Step::CloseVolume,
        Step::ForgetRecord,
    ];
    /// The guest has no such disk any more.
    const COMMITTED_FROM: usize = 4;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                let recorded = on.records.block_devices(stage.context, uuid).await?.into_items();
                let is_it =
                    |device: &BlockDeviceMapping| device.volume_id.text() == Some(&self.volume_id);
                self.device = recorded.into_iter().find(is_it);
                self.device()?;
                self.tell(Phase::Start, stage);
                Ok(())
            }
            Step::CountUse if !on.settings.volumes.counts_use => Ok(()),
            // Nobody is kept from a detach by that.
            Step::CountUse => {
                let counted = async {
                    let stats = on.hypervisor.stats(uuid).await?;
                    let device = self.device()?;
                    let Some(disk) = disk_of(device, &stats.disks) else { return Ok(()) };
                    note(on, stage.context, &self.subject.instance, (device, disk), true).await
                };
                let counted: StepResult = counted.await;
                if let Err(error) = counted {
                    warn!(error = %Chain(&error), "the use of the volume isn't counted");
                }
                Ok(())
            }
            Step::ForgetDevice => {
                let disk = volume_disk_of(self.device()?)?;
                Ok(on.hypervisor.forget_disk(uuid, &disk).await?)
            }
            Step::ReleaseDevice => {
                let disk = volume_disk_of(self.device()?)?;
                release::release(on, uuid, &disk, stage.give_up).await
            }
            Step::DisconnectVolume => match connection_of(self.device()?)? {
                Some(connection) => disconnect(on, &connection, uuid).await,
                None => Ok(()),
            },
            Step::CloseVolume => Ok(on.volumes.close(stage.context, self.device()?).await?),
            Step::ForgetRecord => {
                let missing = || VolumeError::NotAttached(self.volume_id.clone());
                let device = self.device.as_mut().ok_or_else(missing)?;
                Ok(on.records.destroy_block_device(stage.context, device).await?)
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::ReleaseDevice | Step::ForgetDevice => self.give_back(stage).await,
            // nova-api has marked the volume as one that is being detached.
            Step::Begin => match self.device {
                Some(_) => {
                    Ok(stage.on.volumes.keep_attached(stage.context, &self.volume_id).await?)
                }
                None => Ok(()),
            },
            // They are never undone.
            Step::CountUse | Step::DisconnectVolume | Step::CloseVolume | Step::ForgetRecord => {
                Ok(())
            }
        }
    }

    /// The request was refused in the instance's state: the guest keeps the volume.
    async fn turned_away(&mut self, stage: &Stage<'_>) -> StepResult {
        Ok(stage.on.volumes.keep_attached(stage.context, &self.volume_id).await?)
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Done = ending {
            self.tell(Phase::End, stage);
        }
        self.subject.settle_as_it_is(ending, stage).await
    }
}

impl Part for DetachVolume {
    fn subject(&mut self) -> &mut Subject {
        &mut self.subject
    }
}
