//! Detach an interface: the guest lets go of it first, then this host, then the network.
//! nova: compute/manager.py, `_detach_interface`; virt/libvirt/driver.py, detach_interface
//!
//! A guest may take its time. What was begun is in the journal, and the next start waits on. While the guest
//! has the interface it stays plugged, and its port the instance's.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::engine::{Ending, Stage, Workflow};
use super::info_cache;
use super::instance::Subject;
use super::interface_device::{describe, interface_of};
use super::interfaces::{place_vifs, vifs};
use super::{StepError, StepResult, release};
use crate::hypervisor::HypervisorError;
use crate::network::{NetworkError, Vif};
use crate::notify::{Action, Phase};
use crate::records::InstancePart;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DetachInterface {
    pub subject: Subject,
    port_id: String,
    /// What is recorded of it; `None`: not looked up yet.
    vif: Option<Vif>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    ForgetDevice,
    ReleaseDevice,
    UnplugVif,
    ReleasePort,
    ForgetPort,
    Describe,
}

impl DetachInterface {
    pub fn new(subject: Subject, port_id: String) -> Self {
        Self { subject, port_id, vif: None }
    }

    fn vif(&self) -> Result<&Vif, StepError> {
        let missing = || NetworkError::PortNotAttached(self.port_id.clone());
        Ok(self.vif.as_ref().ok_or_else(missing)?)
    }

    /// Gives the domain what it was to lose: its definition, and a guest that had let go already.
    async fn give_back(&self, stage: &Stage<'_>) -> StepResult {
        let on = stage.on;
        let Some(vif) = &self.vif else { return Ok(()) };
        let interface = interface_of(&self.subject.instance, vif, on)?;
        match on.hypervisor.attach_interface(self.subject.uuid()?, &interface).await {
            Err(HypervisorError::NoDomain(_)) => Ok(()),
            attached => Ok(attached?),
        }
    }
}

impl Workflow for DetachInterface {
    type Step = Step;
    const NAME: &'static str = "detach_interface";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::ForgetDevice,
        Step::ReleaseDevice,
        Step::UnplugVif,
        Step::ReleasePort,
        Step::ForgetPort,
        Step::Describe,
    ];
    /// The guest has no such interface any more.
    const COMMITTED_FROM: usize = 3;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                on.records.load(stage.context, instance, InstancePart::FOR_GUEST).await?;
                // Others may have written the record since the message was sent.
                info_cache::change(on, stage.context, &mut self.subject.instance, |_| ()).await?;
                let is_it = |vif: &Vif| vif.id.to_string() == self.port_id;
                self.vif = vifs(&self.subject.instance)?.into_iter().find(is_it);
                self.vif()?;
                self.subject.tell(Action::InterfaceDetach, Phase::Start, stage);
                Ok(())
            }
            Step::ForgetDevice => {
                let forgotten = async {
                    let interface = interface_of(&self.subject.instance, self.vif()?, on)?;
                    Ok(on.hypervisor.forget_interface(uuid, &interface).await?)
                };
                forgotten.await.map_err(|error| not_detached(uuid, error))
            }
            Step::ReleaseDevice => {
                let released = async {
                    let interface = interface_of(&self.subject.instance, self.vif()?, on)?;
                    release::release(on, uuid, &interface, stage.give_up).await
                };
                released.await.map_err(|error| not_detached(uuid, error))
            }
            Step::UnplugVif => Ok(on.network.unplug(uuid, self.vif()?).await?),
            Step::ReleasePort => {
                let vif = self.vif()?.clone();
                let port = vif.id;
                // Its record says whether it is the user's.
                let mut instance = self.subject.instance.clone();
                place_vifs(&mut instance, &[vif]);
                Ok(on.network.release(stage.context, &instance, port).await?)
            }
            Step::ForgetPort => {
                let port = self.vif()?.id;
                let instance = &mut self.subject.instance;
                info_cache::change(on, stage.context, instance, |vifs| {
                    vifs.retain(|there| there.id != port);
                })
                .await
            }
            Step::Describe => {
                describe(&self.subject.instance, on).await;
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::ReleaseDevice | Step::ForgetDevice => self.give_back(stage).await,
            // They are never undone, and nothing was done.
            Step::Begin
            | Step::UnplugVif
            | Step::ReleasePort
            | Step::ForgetPort
            | Step::Describe => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Done = ending {
            self.subject.tell(Action::InterfaceDetach, Phase::End, stage);
        }
        self.subject.settle_as_it_is(ending, stage).await
    }
}

fn not_detached(uuid: Uuid, error: StepError) -> StepError {
    match error {
        StepError::Cancelled => StepError::Cancelled,
        error => StepError::InterfaceNotDetached { uuid, source: Box::new(error) },
    }
}
