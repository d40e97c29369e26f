//! What happened to an instance, as an operator asks for it: its events and its faults.

use async_trait::async_trait;
use uuid::Uuid;

use super::RecordsError;
use crate::model::time::Timestamp;

/// How many characters of a fault's message are kept. nova: db/main/models.py, InstanceFault.
const FAULT_MESSAGE_CHARS: usize = 255;

/// An event of an instance's action. nova: objects/instance_action.py, InstanceActionEvent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// `compute_<method>`
    pub event: String,
    /// The request that it belongs to; `-` for work that nobody asked for.
    pub request_id: String,
    pub started_at: Timestamp,
    /// `None` while it runs, or when the agent was cut off in it.
    pub finished_at: Option<Timestamp>,
    /// What went wrong; `None` when nothing did, or while it runs.
    pub failure: Option<String>,
    pub details: Option<String>,
}

/// A fault on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedFault {
    pub code: u16,
    pub message: String,
    pub details: String,
    pub created_at: Timestamp,
}

impl RecordedFault {
    /// What went wrong, for whoever may read it all: where the message only names the exception's
    /// class, the traceback ends with its words.
    pub fn reason(&self) -> &str {
        let words =
            self.details.rsplit_once(&format!("{}: ", self.message)).map(|(_, words)| words);
        words.map_or(self.message.as_str(), str::trim_end)
    }
}

/// The records' second face: read-only, for the commands. Both lists are oldest first, and empty
/// for an instance that is not on record; those of a deleted instance stay.
#[async_trait]
pub trait History: Send + Sync {
    async fn events(&self, uuid: Uuid) -> Result<Vec<RecordedEvent>, RecordsError>;

    async fn faults(&self, uuid: Uuid) -> Result<Vec<RecordedFault>, RecordsError>;
}

/// A fault's message as it is kept: cut between characters, never inside one.
pub(super) fn fault_message(message: &str) -> String {
    message.chars().take(FAULT_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_message_or_the_end_of_the_traceback() {
        let fault = |message: &str, details: &str| {
            let (message, details) = (message.to_owned(), details.to_owned());
            RecordedFault { code: 500, message, details, created_at: Timestamp::from_second(0) }
        };
        let trace = "Traceback (most recent call last):\n  File \"x\", line 1, in y\n";
        let libvirt = fault("libvirtError", &format!("{trace}libvirt.libvirtError: no\nmemory\n"));
        assert_eq!(libvirt.reason(), "no\nmemory");
        let own = fault("No disk", &format!("{trace}nova.exception.DiskNotFound: No disk\n"));
        assert_eq!(own.reason(), "No disk");
        assert_eq!(fault("No disk", "").reason(), "No disk");
    }

    #[test]
    fn a_long_fault_is_cut_between_characters() {
        assert_eq!(fault_message("short"), "short");
        let kept = fault_message(&"ü".repeat(300));
        assert_eq!(kept.chars().count(), 255);
        assert_eq!(kept.len(), 510);
    }
}
