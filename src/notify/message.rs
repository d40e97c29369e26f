//! A notification ready to be sent, and who sends it.

use serde_json::Value;

use crate::model::context::RequestContext;

/// How urgent; part of the queue's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    Info,
    Error,
}

impl Priority {
    /// As a message has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Error => "ERROR",
        }
    }
}

/// One thing that happened, in one format.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    /// `notifications`, `versioned_notifications` or as configured: each gets the same message.
    pub topics: Vec<String>,
    pub priority: Priority,
    /// `compute.<host>`, or `nova-compute:<host>` for a versioned one.
    pub publisher_id: String,
    pub event_type: String,
    pub payload: Value,
}

/// Sends notifications, in order. It never waits: what can't be sent now is kept for a while, and
/// what is too much is dropped and counted.
pub trait Outbox: Send + Sync {
    fn send(&self, context: &RequestContext, notification: &Notification);
}
