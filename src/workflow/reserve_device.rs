//! Reserve a device's name: nova-api asks for a record of the volume before it attaches it.
//! nova: compute/manager.py, reserve_block_device_name

use serde::{Deserialize, Serialize};

use super::engine::{Ending, Stage, Workflow};
use super::instance::Subject;
use super::{StepResult, block_devices};
use crate::model::object::{BlockDeviceMapping, DestinationType, DeviceType, SourceType};
use crate::records::InstancePart;
use crate::volumes::VolumeError;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub volume_id: String,
    pub disk_bus: Option<String>,
    pub device_type: Option<DeviceType>,
    pub tag: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReserveDevice {
    pub subject: Subject,
    asked: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Check,
    Record,
}

impl ReserveDevice {
    pub fn new(subject: Subject, asked: Asked) -> Self {
        Self { subject, asked }
    }

    pub fn volume_id(&self) -> &str {
        &self.asked.volume_id
    }

    fn is_it(&self, device: &BlockDeviceMapping) -> bool {
        device.volume_id.text() == Some(&self.asked.volume_id)
    }
}

impl Workflow for ReserveDevice {
    type Step = Step;
    const NAME: &'static str = "reserve_device";
    const STEPS: &'static [Step] = &[Step::Check, Step::Record];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        let devices = on.records.block_devices(stage.context, uuid).await?.into_items();
        let there = devices.iter().any(|device| self.is_it(device));
        match step {
            Step::Check if there => {
                let message = format!("volume {} already attached", self.asked.volume_id);
                Err(VolumeError::Invalid(message).into())
            }
            Step::Check => Ok(()),
            // An earlier attempt's.
            Step::Record if there => Ok(()),
            Step::Record => {
                let instance = &mut self.subject.instance;
                on.records.load(stage.context, instance, InstancePart::FOR_GUEST).await?;
                let mut device = BlockDeviceMapping::default();
                device.source_type.set(Some(SourceType::Volume));
                device.destination_type.set(Some(DestinationType::Volume));
                device.instance_uuid.set(uuid);
                device.boot_index.set(None);
                device.volume_id.set(Some(self.asked.volume_id.clone()));
                device.guest_format.set(None);
                device.disk_bus.set(self.asked.disk_bus.clone());
                device.device_type.set(self.asked.device_type);
                device.tag.set(self.asked.tag.clone());
                let name = block_devices::next_name(instance, &devices, &device, &on.settings)?;
                device.device_name.set(Some(name));
                Ok(on.records.save_block_device(stage.context, &mut device).await?)
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        if step == Step::Check {
            return Ok(());
        }
        let devices = on.records.block_devices(stage.context, uuid).await?.into_items();
        for mut device in devices.into_iter().filter(|device| self.is_it(device)) {
            on.records.destroy_block_device(stage.context, &mut device).await?;
        }
        Ok(())
    }

    /// nova keeps the fault of a request that no event belongs to.
    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Undone(failure) | Ending::Stuck(failure) = ending {
            let raised = self.subject.raised(failure);
            self.subject.record_fault(&raised, raised.fault.shown(), stage).await?;
            self.subject.tell_exception(&raised, stage);
        }
        Ok(())
    }
}
