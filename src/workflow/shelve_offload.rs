//! Shelve offload: a shelved instance leaves its host. What it goes on from is its image.
//! nova: compute/manager.py, `shelve_offload_instance`

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, cut_power, expecting, note_cleaned, shut_down, shutdown_timeout};
use super::interfaces::unplug_vifs;
use super::part::Part;
use super::volume_rights::{self, Rights};
use super::{StepError, StepResult, block_devices, info_cache, shelved, volume_connections};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::network::Refresh;
use crate::notify::{Action, Phase};
use crate::records::Expected;
use crate::telemetry::Chain;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShelveOffload {
    pub subject: Subject,
    /// Whether the guest is asked to shut down.
    clean: bool,
    /// Whether the record counts that its files are gone.
    cleaned: bool,
    /// To its volumes, as they were on record when it began.
    #[serde(default)]
    rights: Rights,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    ShutDown,
    CutPower,
    UnbindPorts,
    UndefineDomain,
    UnplugVifs,
    DisconnectVolumes,
    RemoveDirectory,
    ReserveVolumes,
    Record,
    LeaveHost,
}

impl ShelveOffload {
    pub fn new(subject: Subject, clean: bool) -> Self {
        Self { subject, clean, cleaned: false, rights: Rights::new() }
    }
}

impl Workflow for ShelveOffload {
    type Step = Step;
    const NAME: &'static str = "shelve_offload";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::ShutDown,
        Step::CutPower,
        Step::UnbindPorts,
        Step::UndefineDomain,
        Step::UnplugVifs,
        Step::DisconnectVolumes,
        Step::RemoveDirectory,
        Step::ReserveVolumes,
        Step::Record,
        Step::LeaveHost,
    ];
    const COMMITTED_FROM: usize = 1;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                let devices = on.records.block_devices(stage.context, uuid).await?.into_items();
                self.rights = volume_rights::of(&devices);
                // Its disk is about to go, unless that is a volume.
                let is_kept = shelved::image(&self.subject.instance).is_some();
                if !is_kept && !block_devices::boots_from_volume(&devices) {
                    return Err(StepError::NothingShelved(uuid));
                }
                self.subject.load_disks(stage).await?;
                self.subject.tell(Action::ShelveOffload, Phase::Start, stage);
                Ok(())
            }
            Step::ShutDown => {
                let timeout = shutdown_timeout(&self.subject.instance, on);
                if self.clean && !shut_down(stage, uuid, timeout).await? {
                    warn!(?timeout, "the guest did not shut down: its power is cut");
                }
                Ok(())
            }
            Step::CutPower => cut_power(on, uuid).await,
            Step::UnbindPorts => {
                let instance = &mut self.subject.instance;
                info_cache::refresh(on, stage.context, instance, Refresh::Recorded).await?;
                Ok(on.network.unbind(stage.context, instance).await?)
            }
            Step::UndefineDomain => {
                on.hypervisor.undefine(uuid).await?;
                on.settings.serial_ports.iter().for_each(|ports| ports.release(uuid));
                Ok(())
            }
            Step::UnplugVifs => unplug_vifs(&self.subject.instance, on).await,
            Step::DisconnectVolumes => {
                let devices = on.records.block_devices(stage.context, uuid).await?;
                volume_connections::disconnect_all(on, uuid, devices.items()).await
            }
            Step::ReserveVolumes => volume_rights::renew(stage, uuid, &self.rights).await,
            Step::RemoveDirectory => {
                on.images.remove_directory(uuid).await?;
                let instance = &mut self.subject.instance;
                if !self.cleaned {
                    note_cleaned(instance);
                    self.cleaned = true;
                }
                Ok(on.records.save(stage.context, instance, Expected::Any).await?)
            }
            Step::Record => {
                // What Neutron has to say of a port that was let go comes after the instance has left,
                // when nobody hears it.
                let instance = &mut self.subject.instance;
                if let Err(error) =
                    info_cache::refresh(on, stage.context, instance, Refresh::Recorded).await
                {
                    warn!(error = %Chain(&error), "the network is on record as it was");
                }
                // Before the state says so: whoever waits for that may ask for its room at once.
                on.claims.release_allocation(stage.context, &self.subject.instance).await?;
                let expected = expecting(&[TaskState::Shelving, TaskState::ShelvingOffloading]);
                self.subject
                    .record(VmState::ShelvedOffloaded, PowerState::Shutdown, expected, stage)
                    .await
            }
            Step::LeaveHost => {
                let instance = &mut self.subject.instance;
                on.claims.note(stage.context, instance).await;
                instance.host.set(None);
                instance.node.set(None);
                instance.compute_id.set(None);
                instance.launched_on.set(None);
                // Without a host it is in no aggregate.
                instance.availability_zone.set(None);
                on.records.save(stage.context, instance, expecting(&[])).await?;
                on.scheduling.gone(stage.context, uuid).await;
                self.subject.tell(Action::ShelveOffload, Phase::End, stage);
                Ok(())
            }
        }
    }

    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        // The first step changes nothing on the host; the others are not undone.
        Ok(())
    }

    /// What is left half-way is in its image all the same: the instance stays what it was, and the next
    /// offload takes it up.
    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let ending = match ending {
            Ending::Stuck(failure) => Ending::Undone(failure),
            ending => ending,
        };
        self.subject.settle(ending, stage).await
    }
}

impl Part for ShelveOffload {
    fn subject(&mut self) -> &mut Subject {
        &mut self.subject
    }
}
