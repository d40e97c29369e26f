//! Terminate: the instance goes, with everything of it on this host.
//! nova: compute/manager.py, terminate_instance
//!
//! There is no way back: a step that fails is asked again, then left for an operator, and a new
//! delete takes it up.

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::StepResult;
use super::build_volumes;
use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, note_cleaned, now};
use super::interfaces::{place_vifs, unplug_vifs};
use super::volume_connections;
use crate::model::class::Class;
use crate::model::object::BlockDeviceMapping;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Phase};
use crate::records::Expected;
use crate::telemetry::Chain;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Terminate {
    pub subject: Subject,
    /// Its disks, as they were on record when it began; `None`: not read yet.
    #[serde(default)]
    devices: Option<Vec<BlockDeviceMapping>>,
    /// Whether it is on record that nothing of it is left on the disk.
    #[serde(default)]
    is_noted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    CutPower,
    UndefineDomain,
    UnplugVifs,
    DisconnectVolumes,
    RemoveDirectory,
    DeallocateNetwork,
    CloseVolumes,
    DeleteVolumes,
    RecordDeleted,
}

impl Workflow for Terminate {
    type Step = Step;
    const NAME: &'static str = "terminate";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::CutPower,
        Step::UndefineDomain,
        Step::UnplugVifs,
        Step::DisconnectVolumes,
        Step::RemoveDirectory,
        Step::DeallocateNetwork,
        Step::CloseVolumes,
        Step::DeleteVolumes,
        Step::RecordDeleted,
    ];
    const COMMITTED_FROM: usize = 0;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                self.load_devices(stage).await?;
                let instance = &mut self.subject.instance;
                // nova-api has set it, unless the agent itself decided on the delete.
                if instance.task_state.value() != Some(&TaskState::Deleting) {
                    instance.task_state.set(Some(TaskState::Deleting));
                    on.records.save(stage.context, instance, Expected::Any).await?;
                }
                self.subject.tell(Action::Delete, Phase::Start, stage);
                self.subject.tell(Action::Shutdown, Phase::Start, stage);
                Ok(())
            }
            Step::CutPower => cut_power(on, uuid).await,
            Step::UndefineDomain => {
                on.hypervisor.undefine(uuid).await?;
                on.settings.serial_ports.iter().for_each(|ports| ports.release(uuid));
                Ok(())
            }
            Step::UnplugVifs => unplug_vifs(&self.subject.instance, on).await,
            Step::DisconnectVolumes => {
                volume_connections::disconnect_all(on, uuid, self.devices()).await
            }
            Step::RemoveDirectory => {
                on.images.remove_directory(uuid).await?;
                Ok(())
            }
            Step::DeallocateNetwork => {
                if !self.is_noted {
                    self.save_cleaned(stage).await?;
                    self.is_noted = true;
                }
                self.deallocate_network(stage).await
            }
            Step::CloseVolumes => {
                build_volumes::close(stage, self.devices()).await?;
                self.subject.tell(Action::Shutdown, Phase::End, stage);
                Ok(())
            }
            Step::DeleteVolumes => {
                build_volumes::delete(stage, self.devices()).await;
                Ok(())
            }
            Step::RecordDeleted => {
                let instance = &mut self.subject.instance;
                instance.vm_state.set(Some(VmState::Deleted));
                instance.task_state.set(None);
                instance.power_state.set(Some(PowerState::NoState.number()));
                instance.terminated_at.set(now());
                match on.records.save(stage.context, instance, Expected::Any).await {
                    // An earlier attempt got as far as the end.
                    Err(error) if error.class() == Class::Absent => {
                        self.tell_deleted(stage);
                        return Ok(());
                    }
                    saved => saved?,
                }
                on.records.event_finished(stage.context, uuid, &self.subject.event, None).await?;
                on.claims.note(stage.context, instance).await;
                on.claims.release_allocation(stage.context, instance).await?;
                on.records.forget_consoles(stage.context, uuid).await?;
                on.scheduling.gone(stage.context, uuid).await;
                on.records.destroy(stage.context, instance).await?;
                self.tell_deleted(stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        match ending {
            // The record is gone; its event was finished before.
            Ending::Done => Ok(()),
            // The task state `deleting` is its own.
            ending => self.subject.settle_expecting(ending, Expected::Any, stage).await,
        }
    }
}

impl Terminate {
    pub fn new(subject: Subject) -> Self {
        Self { subject, devices: None, is_noted: false }
    }

    fn devices(&self) -> &[BlockDeviceMapping] {
        self.devices.as_deref().unwrap_or_default()
    }

    /// The message's disks are as old as the message: the record's are what there is.
    async fn load_devices(&mut self, stage: &Stage<'_>) -> StepResult {
        if self.devices.is_none() {
            let (records, uuid) = (&stage.on.records, self.subject.uuid()?);
            let devices = records.block_devices(stage.context, uuid).await?;
            self.devices = Some(devices.into_items());
        }
        Ok(())
    }

    /// Takes away everything of the instance but its record, and tells nobody: for one that is deleted
    /// on record already. nova: compute/manager.py, `_shutdown_instance` with `notify=False`
    pub async fn clear_host(&mut self, stage: &Stage<'_>) -> StepResult {
        self.load_devices(stage).await?;
        let domain = [Step::CutPower, Step::UndefineDomain, Step::UnplugVifs];
        for step in domain.into_iter().chain([Step::DisconnectVolumes]) {
            self.apply(step, stage).await?;
        }
        if self.subject.instance.vifs().unwrap_or_default().is_empty() {
            // nova-api deletes the ports of an instance whose host is down, and then its record has none.
            // A host without Open vSwitch has nothing to ask.
            let uuid = self.subject.uuid()?;
            if let Err(error) = stage.on.network.unplug_rest(uuid).await {
                debug!(instance_uuid = %uuid, error = %Chain(&error), "ports may be left");
            }
        }
        stage.on.images.remove_directory(self.subject.uuid()?).await?;
        self.deallocate_network(stage).await?;
        build_volumes::close(stage, self.devices()).await
    }

    /// Saves that nothing of it is left on the disk. nova: `_run_pending_deletes` looks for others.
    async fn save_cleaned(&mut self, stage: &Stage<'_>) -> StepResult {
        let instance = &mut self.subject.instance;
        note_cleaned(instance);
        match stage.on.records.save(stage.context, instance, Expected::Any).await {
            // An earlier attempt got as far as the end.
            Err(error) if error.class() == Class::Absent => Ok(()),
            saved => Ok(saved?),
        }
    }

    async fn deallocate_network(&mut self, stage: &Stage<'_>) -> StepResult {
        let network = &stage.on.network;
        network.deallocate(stage.context, &self.subject.instance, &[]).await?;
        place_vifs(&mut self.subject.instance, &[]);
        Ok(())
    }

    fn tell_deleted(&mut self, stage: &Stage<'_>) {
        let deleted_at = &mut self.subject.instance.deleted_at;
        if deleted_at.value().is_none() {
            deleted_at.load(Some(now()));
        }
        self.subject.tell(Action::Delete, Phase::End, stage);
    }
}
