//! What the commands ask of the running agent, whatever carries it: one request, one answer.
//!
//! The commands speak nova's own requests for what nova has a request for, so that both modes take
//! the same road, and the namespace `hypernova` for what only an operator asks.

use std::path::Path;

use async_trait::async_trait;
use serde_json::{Map, Value};

/// A request to the agent, as an envelope carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRequest {
    pub method: &'static str,
    /// `None` for nova's requests.
    pub namespace: Option<&'static str>,
    pub version: &'static str,
    pub args: Map<String, Value>,
}

impl AgentRequest {
    /// One of nova's requests, at the version nova's own clients send.
    pub fn nova<const N: usize>(method: &'static str, args: [(&str, Value); N]) -> Self {
        Self { method, namespace: None, version: "6.0", args: dict(args) }
    }

    /// One of the agent's own.
    pub fn own<const N: usize>(method: &'static str, args: [(&str, Value); N]) -> Self {
        Self { method, namespace: Some("hypernova"), version: "1.0", args: dict(args) }
    }
}

fn dict<const N: usize>(args: [(&str, Value); N]) -> Map<String, Value> {
    args.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The running agent. Several calls may be under way at once; a call lasts as long as the work
/// that it asks for.
#[async_trait]
pub trait Agent: Send + Sync {
    /// Sends `request` and waits for its answer.
    async fn call(&self, request: AgentRequest) -> Result<Value, CallFailure>;

    /// Sends `request`; its outcome is seen in the records.
    async fn cast(&self, request: AgentRequest) -> Result<(), CallFailure>;
}

/// Why a request had no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallFailure {
    /// The exception's name, such as `InstanceNotFound`, or [`CallFailure::UNREACHABLE`].
    pub class: String,
    pub message: String,
}

impl CallFailure {
    /// The class of a failure to reach the agent at all.
    pub const UNREACHABLE: &'static str = "AgentUnreachable";

    pub fn new(class: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class: class.into(), message: message.into() }
    }

    /// The agent isn't there, or went away.
    pub fn unreachable(socket: &Path, error: &std::io::Error) -> Self {
        let message = format!("can't reach the agent at {}: {error}", socket.display());
        Self::new(Self::UNREACHABLE, message)
    }

    pub fn is_unreachable(&self) -> bool {
        self.class == Self::UNREACHABLE
    }

    /// What the operator can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self.class.as_str() {
            Self::UNREACHABLE => {
                Some("start it with `hypernova serve`, or name its socket with --socket")
            }
            "InstanceNotFound" => Some("`hypernova list` shows the instances of this host"),
            "InstanceInvalidState" | "InstanceIsLocked" => {
                Some("`hypernova show NAME` tells its state; wait for what is under way")
            }
            "RPCVersionError" | "UnsupportedVersion" | "NoSuchMethod" => {
                Some("the agent is of another version than this command: restart it")
            }
            "MessagingTimeout" => Some("`hypernova workflows` shows what the agent is doing"),
            _ => None,
        }
    }
}
