//! Attach an interface: the network gives a port, it is recorded and plugged, and the guest gets it. Nobody
//! waits for Neutron's word of the plug, as nova doesn't.
//! nova: compute/manager.py, `_attach_interface`; virt/libvirt/driver.py, attach_interface

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::engine::{Ending, Stage, Workflow};
use super::info_cache;
use super::instance::Subject;
use super::interface_device::{describe, interface_of};
use super::interfaces::{place_vifs, plug_owner};
use super::{StepError, StepResult, release};
use crate::hypervisor::HypervisorError;
use crate::network::{NetworkError, Refresh, RequestedNetwork, Vif, Wanted};
use crate::notify::{Action, Details, Phase};
use crate::records::InstancePart;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachInterface {
    pub subject: Subject,
    request: RequestedNetwork,
    /// The ports that the instance has already; `None`: nobody has looked yet.
    besides: Option<Vec<Uuid>>,
    vif: Option<Vif>,
    /// For whoever waits for the answer.
    #[serde(skip)]
    given: Arc<OnceLock<Uuid>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    AllocatePort,
    RecordPort,
    PlugVif,
    AttachDevice,
    Describe,
}

impl AttachInterface {
    pub fn new(subject: Subject, request: RequestedNetwork) -> Self {
        Self { subject, request, besides: None, vif: None, given: Arc::default() }
    }

    pub fn request(&self) -> &RequestedNetwork {
        &self.request
    }

    /// Says which port it was, once that is known.
    pub fn given(&self) -> Arc<OnceLock<Uuid>> {
        self.given.clone()
    }

    fn vif(&self) -> Result<&Vif, StepError> {
        let instance = self.subject.uuid()?;
        let missing = || NetworkError::NotOneInterface { instance, given: 0 };
        Ok(self.vif.as_ref().ok_or_else(missing)?)
    }

    /// The ports that the instance has: on record, and in the network.
    async fn ports(&self, stage: &Stage<'_>) -> Result<Vec<Uuid>, StepError> {
        let instance = &self.subject.instance;
        let recorded = super::interfaces::vifs(instance)?.into_iter().map(|vif| vif.id);
        let there = stage.on.network.addresses(stage.context, instance).await?.into_iter();
        Ok(recorded.chain(there.map(|port| port.port)).collect())
    }

    async fn allocate(&self, stage: &Stage<'_>) -> Result<Vif, StepError> {
        let wanted = Wanted {
            networks: vec![self.request.clone()],
            besides: self.besides.clone().unwrap_or_default(),
            ..Wanted::default()
        };
        let instance = &self.subject.instance;
        let mut vifs = stage.on.network.allocate(stage.context, instance, &wanted).await?;
        let given = vifs.len();
        match vifs.pop() {
            Some(vif) if given == 1 => Ok(vif),
            _ => {
                let instance = instance.uuid()?;
                Err(NetworkError::NotOneInterface { instance, given }.into())
            }
        }
    }

    /// Gives back what the network has for the instance beside what it had before.
    async fn give_back(&self, stage: &Stage<'_>) -> StepResult {
        // Where nobody has looked, nothing was made.
        let Some(besides) = &self.besides else { return Ok(()) };
        let network = &stage.on.network;
        let mut instance = self.subject.instance.clone();
        let there = network.refresh(stage.context, &instance, Refresh::All).await?;
        let made = there.into_iter().chain(self.vif.clone());
        let mut made: Vec<Vif> = made.filter(|vif| !besides.contains(&vif.id)).collect();
        made.sort_by_key(|vif| vif.id);
        made.dedup_by_key(|vif| vif.id);
        for mut vif in made {
            // The record says which ports are the user's, and has none of this one any more.
            vif.preserve_on_delete = self.request.port_id == Some(vif.id);
            let port = vif.id;
            place_vifs(&mut instance, &[vif]);
            network.release(stage.context, &instance, port).await?;
        }
        Ok(())
    }

    fn tell(&mut self, phase: Phase, details: Details<'_>, stage: &Stage<'_>) {
        self.subject.tell_of(Action::InterfaceAttach, phase, details, stage);
    }
}

impl Workflow for AttachInterface {
    type Step = Step;
    const NAME: &'static str = "attach_interface";
    const STEPS: &'static [Step] = &[
        Step::Begin,
        Step::AllocatePort,
        Step::RecordPort,
        Step::PlugVif,
        Step::AttachDevice,
        Step::Describe,
    ];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                let instance = &mut self.subject.instance;
                on.records.load(stage.context, instance, InstancePart::FOR_GUEST).await?;
                self.tell(Phase::Start, Details::default(), stage);
                // Others may have written the record since the message was sent.
                info_cache::change(on, stage.context, &mut self.subject.instance, |_| ()).await?;
                let ports = self.ports(stage).await?;
                if let Some(port) = self.request.port_id.filter(|port| ports.contains(port)) {
                    return Err(NetworkError::PortInUse(port.to_string()).into());
                }
                self.besides = Some(ports);
                Ok(())
            }
            Step::AllocatePort => {
                let vif = self.allocate(stage).await?;
                self.given.set(vif.id).ok();
                self.vif = Some(vif);
                Ok(())
            }
            Step::RecordPort => {
                let vif = self.vif()?.clone();
                let instance = &mut self.subject.instance;
                info_cache::change(on, stage.context, instance, |vifs| {
                    vifs.retain(|there| there.id != vif.id);
                    vifs.push(vif);
                })
                .await
            }
            Step::PlugVif => {
                let owner = plug_owner(&self.subject.instance)?;
                let plugged = on.network.plug(owner, self.vif()?).await;
                plugged.map_err(|error| not_attached(uuid, error.into()))
            }
            Step::AttachDevice => {
                let attached = async {
                    let interface = interface_of(&self.subject.instance, self.vif()?, on)?;
                    Ok(on.hypervisor.attach_interface(uuid, &interface).await?)
                };
                attached.await.map_err(|error| not_attached(uuid, error))
            }
            Step::Describe => {
                describe(&self.subject.instance, on).await;
                Ok(())
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Describe => Ok(()),
            Step::AttachDevice => {
                let interface = interface_of(&self.subject.instance, self.vif()?, on)?;
                on.hypervisor.forget_interface(uuid, &interface).await?;
                release::release(on, uuid, &interface, &CancellationToken::new()).await
            }
            Step::PlugVif => Ok(on.network.unplug(uuid, self.vif()?).await?),
            Step::RecordPort => {
                let port = self.vif()?.id;
                let instance = &mut self.subject.instance;
                info_cache::change(on, stage.context, instance, |vifs| {
                    vifs.retain(|there| there.id != port);
                })
                .await?;
                describe(&self.subject.instance, on).await;
                Ok(())
            }
            Step::AllocatePort => self.give_back(stage).await,
            Step::Begin => {
                // nova tells of what its driver couldn't do.
                let of_driver = ["PlugVif", "AttachDevice"];
                let failure = stage.failure.filter(|why| of_driver.contains(&why.step.as_str()));
                if let Some(failure) = failure {
                    let raised = self.subject.raised(failure);
                    let details = Details { raised: Some(&raised), ..Details::default() };
                    self.tell(Phase::Error, details, stage);
                }
                Ok(())
            }
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Done = ending {
            self.tell(Phase::End, Details::default(), stage);
        }
        self.subject.settle_as_it_is(ending, stage).await
    }
}

fn not_attached(uuid: Uuid, error: StepError) -> StepError {
    // A hypervisor that can't be reached is asked again first.
    match error {
        StepError::Cancelled => StepError::Cancelled,
        StepError::Hypervisor(HypervisorError::NotOurs { .. }) => error,
        error => StepError::InterfaceNotAttached { uuid, source: Box::new(error) },
    }
}
