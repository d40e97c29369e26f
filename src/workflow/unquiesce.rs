//! Unquiesce: the guest may write to its file systems again, once the snapshots of its volumes are
//! made for which it was frozen. nova: compute/manager.py, unquiesce_instance

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::StepResult;
use super::disk_copy::can_quiesce;
use super::engine::{Ending, Stage, Workflow};
use super::instance::Subject;
use super::quiesce::refused;
use crate::model::object::ImageMeta;
use crate::telemetry::Chain;

/// Between two looks at a snapshot.
const POLL: Duration = Duration::from_millis(500);

/// A guest isn't kept frozen for longer, whatever becomes of the snapshots.
const LONGEST_WAIT: Duration = Duration::from_secs(1800);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unquiesce {
    pub subject: Subject,
    /// Of its volumes.
    snapshots: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    AwaitSnapshots,
    Thaw,
}

impl Unquiesce {
    pub fn new(subject: Subject, snapshots: Vec<String>) -> Self {
        Self { subject, snapshots }
    }

    /// Waits for the snapshots. When nobody knows of them, or a delete comes, it waits no longer.
    async fn await_snapshots(&self, stage: &Stage<'_>) {
        let deadline = Instant::now() + LONGEST_WAIT;
        for snapshot in &self.snapshots {
            loop {
                match stage.on.volumes.is_being_made(stage.context, snapshot).await {
                    Ok(false) => break,
                    Ok(true) if Instant::now() < deadline => sleep(POLL).await,
                    Ok(true) => {
                        warn!(snapshot, "the guest is thawed before the snapshot is made");
                        return;
                    }
                    Err(error) => {
                        warn!(error = %Chain(&error), "the guest is thawed without knowing more");
                        return;
                    }
                }
            }
        }
    }
}

impl Workflow for Unquiesce {
    type Step = Step;
    const NAME: &'static str = "unquiesce";
    const STEPS: &'static [Step] = &[Step::AwaitSnapshots, Step::Thaw];

    async fn apply(&mut self, step: Step, stage: &Stage<'_>) -> StepResult {
        if step == Step::AwaitSnapshots {
            stage.hurry.run_until_cancelled(self.await_snapshots(stage)).await;
            return Ok(());
        }
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
