//! How a submitted workflow ended: for its caller, its log line and its metric.

use std::time::Duration;

use tracing::{info, warn};

use super::admission::Refusal;
use crate::health;
use crate::model::class::Class;
use crate::records::RecordsError;
use crate::telemetry::Chain;
use crate::workflow::StepError;
use crate::workflow::exception::records_fault;
use crate::workflow::journal::{Failure, Phase};

/// How a submitted workflow ended.
#[derive(Debug)]
pub enum Outcome {
    Done,
    /// Nothing was left to do.
    AlreadyDone,
    /// The instance's state doesn't allow it.
    Refused(Refusal),
    /// The instance's record couldn't be had.
    Unrecorded(RecordsError),
    /// It failed, and was undone or is stuck.
    Failed(StepError),
    /// It had failed before: the error itself is gone, this is what the journal keeps of it.
    FailedBefore(Failure),
    /// It came before, and nothing of it can be read any more.
    Unreadable,
    /// The agent stopped, or its journal broke: the next start goes on.
    Parked,
}

impl Outcome {
    /// Logs it, once for each workflow.
    pub(super) fn tell(&self, elapsed: Duration) {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Done => info!(elapsed_ms, "done"),
            Self::AlreadyDone => info!(elapsed_ms, "nothing left to do"),
            Self::Refused(refusal) => warn!(elapsed_ms, error = %refusal, "refused"),
            Self::Unrecorded(error) => {
                warn!(elapsed_ms, error = %Chain(error), "not started: no record");
            }
            Self::Failed(error) => warn!(elapsed_ms, error = %Chain(error), "failed"),
            Self::FailedBefore(failure) => {
                warn!(
                    elapsed_ms,
                    error = failure.message,
                    "undone, after a failure before the restart"
                );
            }
            // Nothing that ran ends so.
            Self::Unreadable => {}
            Self::Parked => info!(elapsed_ms, "parked"),
        }
    }

    /// Why it didn't run, for a redelivery.
    pub(super) fn refusal(&self) -> Option<Failure> {
        let (message, fault) = match self {
            Self::Refused(refusal) => (refusal.to_string(), refusal.fault()),
            Self::Unrecorded(error) => (Chain(error).to_string(), records_fault(error)),
            _ => return None,
        };
        Some(Failure {
            message,
            class: Class::Refused,
            step: "-".to_owned(),
            cancelled: false,
            number: 0,
            fault: Some(fault),
        })
    }

    /// The metrics' label.
    pub(super) fn label(&self, phase: Phase) -> health::Outcome {
        match self {
            Self::Done | Self::AlreadyDone => health::Outcome::Done,
            Self::Refused(_) | Self::Unrecorded(_) => health::Outcome::Refused,
            Self::Failed(_) | Self::FailedBefore(_) if phase == Phase::Stuck => {
                health::Outcome::Stuck
            }
            Self::Failed(_) | Self::FailedBefore(_) | Self::Unreadable => health::Outcome::Undone,
            Self::Parked => health::Outcome::Parked,
        }
    }
}
