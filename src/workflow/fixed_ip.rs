//! Add a fixed IP to an instance's port, or remove one. The guest learns of it by itself, by DHCP say.
//! nova: compute/manager.py, add_fixed_ip_to_instance, remove_fixed_ip_from_instance
//!
//! What the ports had before is written down first, so that a repeat recognises its own work and an undo
//! knows what to go back to.

use serde::{Deserialize, Serialize};

use super::engine::{Ending, Stage, Workflow};
use super::info_cache;
use super::instance::Subject;
use super::interface_device::describe;
use super::{StepError, StepResult};
use crate::model::time::Timestamp;
use crate::network::{NetworkError, PortAddresses, Refresh};
use crate::notify::{Action, Phase};
use crate::records::{Expected, InstancePart};

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// An address more, on a network.
    Add {
        network_id: String,
    },
    Remove {
        address: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FixedIp {
    pub subject: Subject,
    change: Change,
    /// The ports that may be changed, as they were.
    before: Vec<PortAddresses>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    ChangePort,
    Record,
}

impl FixedIp {
    pub fn new(subject: Subject, change: Change) -> Self {
        Self { subject, change, before: Vec::new() }
    }

    fn action(&self) -> Action {
        match self.change {
            Change::Add { .. } => Action::CreateIp,
            Change::Remove { .. } => Action::DeleteIp,
        }
    }

    async fn ports(&self, stage: &Stage<'_>) -> Result<Vec<PortAddresses>, StepError> {
        Ok(stage.on.network.addresses(stage.context, &self.subject.instance).await?)
    }

    async fn add(&self, stage: &Stage<'_>) -> StepResult {
        let now = self.ports(stage).await?;
        let has_more = |before: &PortAddresses| {
            let now = now.iter().find(|port| port.port == before.port);
            now.is_some_and(|now| now.fixed_ips.iter().any(|(_, ip)| !before.has(ip)))
        };
        // It was done before a crash.
        if self.before.iter().any(has_more) {
            return Ok(());
        }
        for port in &self.before {
            if stage.on.network.add_address(stage.context, port).await? {
                return Ok(());
            }
        }
        Err(NetworkError::NotFoundForInstance(self.subject.uuid()?).into())
    }

    async fn remove(&self, address: &str, stage: &Stage<'_>) -> StepResult {
        let Some(port) = self.before.first() else {
            let (instance, address) = (self.subject.uuid()?, address.to_owned());
            return Err(NetworkError::FixedIpNotFound { instance, address }.into());
        };
        let mut port = port.clone();
        port.fixed_ips.retain(|(_, there)| there != address);
        Ok(stage.on.network.set_addresses(stage.context, &port).await?)
    }

    /// Asks the network what the instance has by now, and records it.
    async fn record(&mut self, stage: &Stage<'_>) -> StepResult {
        let instance = &mut self.subject.instance;
        info_cache::refresh(stage.on, stage.context, instance, Refresh::Recorded).await?;
        describe(instance, stage.on).await;
        Ok(())
    }
}

impl Workflow for FixedIp {
    type Step = Step;
    const NAME: &'static str = "fixed_ip";
    const STEPS: &'static [Step] = &[Step::Begin, Step::ChangePort, Step::Record];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::Begin => {
                let (on, instance) = (stage.on, &mut self.subject.instance);
                on.records.load(stage.context, instance, InstancePart::FOR_GUEST).await?;
                self.subject.tell(self.action(), Phase::Start, stage);
                let mut ports = self.ports(stage).await?;
                ports.retain(|port| match &self.change {
                    Change::Add { network_id } => port.network_id == *network_id,
                    Change::Remove { address } => port.has(address),
                });
                self.before = ports;
                Ok(())
            }
            Step::ChangePort => match &self.change {
                Change::Add { .. } => self.add(stage).await,
                Change::Remove { address } => self.remove(address, stage).await,
            },
            Step::Record => {
                self.record(stage).await?;
                // nova: bug 1143466, so that whoever lists changes sees it.
                let instance = &mut self.subject.instance;
                instance.updated_at.set(Some(Timestamp::now()));
                Ok(stage.on.records.save(stage.context, instance, Expected::Any).await?)
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::Begin => Ok(()),
            Step::ChangePort => {
                let now = self.ports(stage).await?;
                for port in self.before.iter().filter(|port| !now.contains(port)) {
                    stage.on.network.set_addresses(stage.context, port).await?;
                }
                self.record(stage).await
            }
            // With the port, when that is as it was.
            Step::Record => Ok(()),
        }
    }

    /// nova keeps the fault of a request that no event belongs to.
    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        match ending {
            Ending::Done => self.subject.tell(self.action(), Phase::End, stage),
            Ending::Undone(failure) | Ending::Stuck(failure) => {
                let raised = self.subject.raised(failure);
                self.subject.record_fault(&raised, raised.fault.shown(), stage).await?;
                self.subject.tell_exception(&raised, stage);
            }
        }
        Ok(())
    }
}
