//! Unquiesce: the guest may write to its file systems again.
//! nova: compute/manager.py, unquiesce_instance

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::disk_copy::can_quiesce;
use super::engine::{Ending, Stage, Workflow};
use super::instance::Subject;
use super::quiesce::refused;
use crate::model::object::ImageMeta;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unquiesce {
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Thaw,
}

impl Unquiesce {
    pub fn new(subject: Subject) -> Self {
        Self { subject }
    }
}

impl Workflow for Unquiesce {
    type Step = Step;
    const NAME: &'static str = "unquiesce";
    const STEPS: &'static [Step] = &[Step::Thaw];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let Step::Thaw = step;
        let instance = &self.subject.instance;
        let image = ImageMeta::from_instance(instance)?;
        can_quiesce(instance, image.properties(), stage.on)?;
        stage.on.hypervisor.thaw(self.subject.uuid()?).await.map_err(refused)
    }

    /// A guest that could not be thawed is as it was.
    async fn undo(&mut self, _step: Step, _stage: &Stage<'_>) -> StepResult {
        Ok(())
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Undone(failure) | Ending::Stuck(failure) = ending {
            self.subject.tell_exception(&self.subject.raised(failure), stage);
        }
        Ok(())
    }
}
