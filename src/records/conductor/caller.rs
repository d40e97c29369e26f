//! The way to nova-conductor, as these records need it: over the bus in `rpc`, in memory in
//! `fake.rs`. What travels is already in nova's spelling; how it travels isn't known here.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::model::context::RequestContext;

/// A method of a service of the control plane, with its arguments.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// `conductor`, `scheduler`
    pub topic: &'static str,
    pub namespace: Option<&'static str>,
    pub version: &'static str,
    pub method: &'static str,
    pub args: Map<String, Value>,
    pub context: &'a RequestContext,
}

/// Sends calls. None of its methods tries again by itself, apart from looking for a broker.
#[async_trait]
pub trait Caller: Send + Sync {
    /// Asks any server of the topic, and waits for the answer.
    async fn call(&self, call: Call<'_>, within: Duration) -> Result<Value, CallFailure>;

    /// Sends to any server of the topic; returns when the broker has it.
    async fn cast(&self, call: Call<'_>, within: Duration) -> Result<(), CallFailure>;

    /// Sends to every server of the topic; returns when the broker has it.
    async fn fanout(&self, call: Call<'_>, within: Duration) -> Result<(), CallFailure>;
}

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq)]
pub enum CallFailure {
    /// The method raised an exception.
    Raised(Box<Raised>),
    /// There was no answer: the method may have run, may run yet, or never.
    NoAnswer,
    /// The broker didn't confirm that it has the request. It may have it all the same.
    Unsent(String),
}

/// An exception of the other side's.
#[derive(Debug, Clone, PartialEq)]
pub struct Raised {
    /// `InstanceNotFound`
    pub class: String,
    /// `nova.exception`
    pub module: String,
    pub message: String,
    pub kwargs: Map<String, Value>,
}

impl Raised {
    /// An exception of `nova.exception`.
    pub fn nova(class: &str, message: impl Into<String>) -> Self {
        let (class, module) = (class.to_owned(), "nova.exception".to_owned());
        Self { class, module, message: message.into(), kwargs: Map::new() }
    }
}

/// The first line of the message: conductor's exceptions may have a traceback after it.
impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message.lines().next().unwrap_or_default())
    }
}
