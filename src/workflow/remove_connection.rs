//! Remove a volume's connection to this host: what is left of a migration that came to nothing, or whoever
//! wants to connect it anew. The record stays. nova: compute/manager.py, remove_volume_connection
//!
//! nova keeps no event of it, and no fault: its caller is told.

use serde::{Deserialize, Serialize};

use super::StepResult;
use super::detach_volume::{self, DetachVolume};
use super::engine::{Ending, Stage, Workflow};
use super::instance::Subject;
use super::part::{self, nobody};
use crate::model::object::BlockDeviceMapping;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveConnection {
    pub subject: Subject,
    volume_id: String,
    /// Whether the right to the volume goes back as well.
    closes: bool,
    detach: Box<DetachVolume>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Find,
    Detach(detach_volume::Step),
    Close,
}

impl RemoveConnection {
    pub fn new(subject: Subject, volume_id: String, closes: bool) -> Self {
        let detach = Box::new(DetachVolume::new(nobody(), volume_id.clone()));
        Self { subject, volume_id, closes, detach }
    }
}

impl Workflow for RemoveConnection {
    type Step = Step;
    const NAME: &'static str = "remove_connection";
    const STEPS: &'static [Step] = &[
        Step::Find,
        Step::Detach(detach_volume::Step::ForgetDevice),
        Step::Detach(detach_volume::Step::ReleaseDevice),
        Step::Detach(detach_volume::Step::DisconnectVolume),
        Step::Close,
    ];
    /// A guest that was here has no such disk any more.
    const COMMITTED_FROM: usize = 3;

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        let (on, uuid) = (stage.on, self.subject.uuid()?);
        match step {
            Step::Find => {
                let recorded = on.records.block_devices(stage.context, uuid).await?.into_items();
                let is_it =
                    |device: &BlockDeviceMapping| device.volume_id.text() == Some(&self.volume_id);
                if let Some(device) = recorded.into_iter().find(is_it) {
                    self.detach.found(device);
                }
                Ok(())
            }
            // nova: whoever has no such volume has no connection.
            _ if !self.detach.is_found() => Ok(()),
            Step::Detach(step) => {
                part::apply(&mut self.subject, self.detach.as_mut(), step, stage).await
            }
            Step::Close if !self.closes => Ok(()),
            Step::Close => {
                let step = detach_volume::Step::CloseVolume;
                part::apply(&mut self.subject, self.detach.as_mut(), step, stage).await
            }
        }
    }

    async fn undo(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        match step {
            Step::Detach(step) if self.detach.is_found() => {
                part::undo(&mut self.subject, self.detach.as_mut(), step, stage).await
            }
            Step::Find | Step::Detach(_) | Step::Close => Ok(()),
        }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        if let Ending::Undone(failure) | Ending::Stuck(failure) = ending {
            self.subject.tell_exception(&self.subject.raised(failure), stage);
        }
        Ok(())
    }
}
