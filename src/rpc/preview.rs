//! `hypernova xml`: the domain that a build request would define, without building it.

use serde_json::{Map, Value};

use super::failure::Fault;
use crate::config::Config;

/// # Errors
/// What the request's build would fail with.
pub fn xml(_config: &Config, _build: Map<String, Value>) -> Result<String, Fault> {
    Err(Fault::nova("NovaException", "x"))
}
