//! Crash dump: the guest gets a non-maskable interrupt; what it does then is as it is configured.
//! nova: compute/manager.py, trigger_crash_dump
//!
//! No state changes. After a crash of the agent in the middle of it the guest may get a second one.

use serde::{Deserialize, Serialize};

use super::engine::{Ending, Stage, Workflow};
use super::instance::{Subject, is_active};
use super::{StepError, StepResult};
use crate::hypervisor::HypervisorError;
use crate::notify::{Action, Phase};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CrashDump {
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    InjectNmi,
    Tell,
}

impl CrashDump {
    pub fn new(subject: Subject) -> Self {
        Self { subject }
    }
}

impl Workflow for CrashDump {
    type Step = Step;
    const NAME: &'static str = "crash_dump";
    const STEPS: &'static [Step] = &[Step::Begin, Step::InjectNmi, Step::Tell];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Begin => {
                self.subject.begin(stage).await?;
                self.subject.tell(Action::TriggerCrashDump, Phase::Start, stage);
                Ok(())
            }
            Step::InjectNmi => {
                let found = on.hypervisor.domain(uuid).await?;
                let found = found.ok_or(HypervisorError::NoDomain(uuid))?;
                if !is_active(Some(&found)) {
                    return Err(StepError::NotRunning(uuid));
                }
                match on.hypervisor.inject_nmi(uuid).await {
                    Err(HypervisorError::NotSupported { .. }) => {
                        Err(StepError::CrashDumpNotSupported)
                    }
                    sent => Ok(sent?),
                }
            }
            Step::Tell => {
                self.subject.tell(Action::TriggerCrashDump, Phase::End, stage);
                Ok(())
            }
        }
    }

    /// What was sent was sent.
    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let failure = match ending {
            Ending::Done => return self.subject.finish(None, stage).await,
            Ending::Undone(failure) | Ending::Stuck(failure) => failure,
        };
        // Its task state, if it has one, is somebody else's.
        let raised = self.subject.raised(failure);
        self.subject.fail(&raised, stage).await?;
        self.subject.tell_exception(&raised, stage);
        Ok(())
    }
}
