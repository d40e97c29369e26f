//! Set password: of the guest's administrator, through its agent.
//! nova: compute/manager.py, set_admin_password; virt/libvirt/driver.py, set_admin_password

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, expecting, is_running};
use super::{StepError, StepResult};
use crate::hypervisor::HypervisorError;
use crate::model::object::{FlexibleBoolean, ImageMeta, ImageMetaProps, Instance};
use crate::model::secret::Secret;
use crate::model::state::TaskState;
use crate::telemetry::Chain;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetPassword {
    pub subject: Subject,
    password: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    SetPassword,
    Record,
}

impl SetPassword {
    pub fn new(subject: Subject, password: Secret) -> Self {
        Self { subject, password }
    }
}

impl Workflow for SetPassword {
    type Step = Step;
    const NAME: &'static str = "set_password";
    const STEPS: &'static [Step] = &[Step::Begin, Step::SetPassword, Step::Record];
    /// The password is another now, and its owner may have used it.
    const COMMITTED_FROM: usize = 2;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                if !is_running(on.hypervisor.domain(uuid).await?.as_ref()) {
                    let reason = format!("instance {uuid} is not running");
                    return Err(StepError::PasswordNotSet { uuid, reason });
                }
                Ok(())
            }
            Step::SetPassword => {
                let instance = &self.subject.instance;
                let image = ImageMeta::from_instance(instance)?;
                let image = image.properties();
                if !image.hw_qemu_guest_agent.get().is_some_and(FlexibleBoolean::is_true) {
                    return Err(StepError::NoGuestAgent);
                }
                let user = administrator(instance, image);
                let set = on.hypervisor.set_user_password(uuid, user, &self.password).await;
                set.map_err(|error| match error {
                    HypervisorError::NoAgent { .. } => StepError::NotImplemented(
                        "set_admin_password is not implemented by this driver or guest instance.",
                    ),
                    error => {
                        // Its words could tell the password to whoever reads the fault.
                        warn!(error = %Chain(&error), "the guest agent sets no password");
                        let reason = "error setting admin password".to_owned();
                        StepError::PasswordNotSet { uuid, reason }
                    }
                })
            }
            Step::Record => {
                self.subject.instance.task_state.set(None);
                let expected = expecting(&[TaskState::UpdatingPassword]);
                self.subject.save_end(expected, stage).await?;
                Ok(())
            }
        }
    }

    /// The old password is nobody's to know.
    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        match ending {
            // The guest itself is as it was.
            Ending::Stuck(failure) => self.subject.settle(Ending::Undone(failure), stage).await,
            ending => self.subject.settle(ending, stage).await,
        }
    }
}

fn administrator<'a>(instance: &'a Instance, image: &'a ImageMetaProps) -> &'a str {
    match image.os_admin_user.text().filter(|user| !user.is_empty()) {
        Some(user) => user,
        None if instance.os_type.text() == Some("windows") => "Administrator",
        None => "root",
    }
}
