//! The journal: every workflow's record, on disk before its next step starts.
//!
//! A message's `_unique_id` is its record's key, so that a redelivery finds the record and does
//! not start a second workflow.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::StepError;
use super::exception::step_fault;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::fault::{Fault, Raised};
use crate::model::time::Timestamp;
use crate::records::RecordsError;
use crate::telemetry::Chain;

/// The format of the records on disk. One of another version is refused at start, by name.
pub const FORMAT: i64 = 1;

/// Where a workflow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Accepted, and waiting for its turn.
    Queued,
    /// Doing its steps, in order.
    Forward,
    /// Taking them back, from the one that failed.
    Undoing,
    /// Every step is done.
    Done,
    /// Every step is taken back.
    Undone,
    /// Neither the next step nor its undo succeeds: an operator must look.
    Stuck,
    /// It never started: the instance's state didn't allow it.
    Refused,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Forward => "forward",
            Self::Undoing => "undoing",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
            Self::Refused => "refused",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        use Phase::{Done, Forward, Queued, Refused, Stuck, Undoing, Undone};
        [Queued, Forward, Undoing, Done, Undone, Stuck, Refused]
            .into_iter()
            .find(|phase| phase.as_str() == text)
    }

    /// Whether no step and no undo is left.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Undone | Self::Stuck | Self::Refused)
    }
}

/// The first failure of a workflow, as the instance's user is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error's whole chain.
    pub message: String,
    #[serde(with = "class_name")]
    pub class: Class,
    /// The step that failed.
    pub step: String,
    /// Whether a delete stopped it: then the delete owns the instance's states.
    pub cancelled: bool,
    /// The step's number, counted from 1; 0 for none.
    #[serde(default)]
    pub number: usize,
    /// nova's exception for it; `None` in a record of an earlier agent.
    #[serde(default)]
    pub fault: Option<Fault>,
}

impl Failure {
    /// What `error` did to the step number `number`.
    pub fn of(error: &StepError, step: String, number: usize) -> Self {
        Self {
            message: Chain(error).to_string(),
            class: error.class(),
            step,
            cancelled: matches!(
                error,
                StepError::Cancelled | StepError::Records(RecordsError::Deleting(_))
            ),
            number,
            fault: Some(step_fault(error)),
        }
    }

    /// Whether another request has set a task state of its own meanwhile: it stays.
    /// nova: compute/manager.py, reverts_task_state
    pub fn is_preempted(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| {
            matches!(&*fault.class, "UnexpectedTaskStateError" | "UnexpectedDeletingTaskStateError")
        })
    }

    /// The exception at its place in `method`.
    pub fn raised(&self, method: &str) -> Raised {
        let unnamed = || Fault::nova("NovaException", self.message.as_str());
        let fault = self.fault.clone().unwrap_or_else(unnamed);
        Raised::new(fault, method, &self.step, self.number)
    }
}

/// What every workflow's record has, and the journal keeps readable.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The message's `_unique_id`.
    pub id: String,
    pub workflow: String,
    pub instance_uuid: Uuid,
    pub request_id: String,
    pub phase: Phase,
    /// The step to do next, or to undo next.
    pub next: usize,
    pub failure: Option<Failure>,
    /// Why the undo failed; the first failure stays beside it.
    pub undo_failure: Option<String>,
    pub started_at: Timestamp,
    /// Whether the instance's record tells the end.
    pub settled: bool,
}

/// A workflow with its head.
#[derive(Debug, Clone)]
pub struct Record<W> {
    pub head: Head,
    pub context: RequestContext,
    pub workflow: W,
}

/// A record as the journal gives it back: `body` is the context and the workflow.
#[derive(Debug, Clone)]
pub struct Stored {
    pub head: Head,
    pub body: Vec<u8>,
}

/// Keeps records. A write has reached the disk when it returns.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Adds a new record. `false`: its id is there already, and nothing was written.
    async fn add(&self, head: &Head, body: &[u8]) -> Result<bool, JournalError>;

    /// Writes the record as it is now.
    async fn write(&self, head: &Head, body: &[u8]) -> Result<(), JournalError>;

    /// Records that aren't settled, in the order in which they were added.
    async fn unsettled(&self) -> Result<Vec<Stored>, JournalError>;

    /// The record of that id, if it isn't forgotten yet.
    async fn find(&self, id: &str) -> Result<Option<Head>, JournalError>;

    /// Heads of stuck records, for the operator.
    async fn stuck(&self) -> Result<Vec<Head>, JournalError>;

    /// Forgets stuck records of an instance that is gone.
    async fn forget_stuck(&self, instance: Uuid) -> Result<(), JournalError>;

    /// Forgets settled records that ended before `before`, but for stuck ones: after this a
    /// redelivery isn't recognised any more.
    async fn prune(&self, before: Timestamp) -> Result<usize, JournalError>;
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal {path} can't be {operation}: {message}")]
    Storage { path: String, operation: &'static str, message: String },
    #[error(
        "the journal {path} has format {found}, this agent reads {FORMAT}: finish its workflows \
         with the agent that wrote it, or move the file away"
    )]
    Format { path: String, found: i64 },
    #[error("the journal {path} is in use by another agent")]
    InUse { path: String },
    /// Sealed with another key, or damaged.
    #[error("record {id} of the journal can't be opened: {message}")]
    Unreadable { id: String, message: String },
}

impl JournalError {
    /// Whether the same write may succeed later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Storage { .. })
    }
}

mod class_name {
    //! A class by its name.

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Class;

    const NAMES: [(Class, &str); 4] = [
        (Class::Absent, "absent"),
        (Class::Transient, "transient"),
        (Class::Reschedule, "reschedule"),
        (Class::Refused, "refused"),
    ];

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(class: &Class, serializer: S) -> Result<S::Ok, S::Error> {
        let name = NAMES.iter().find(|(c, _)| c == class).map_or("refused", |(_, name)| name);
        serializer.serialize_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(class, _)| *class).ok_or_else(|| serde::de::Error::custom("unknown class"))
    }
}
