//! nova-conductor, which keeps the records in nova mode: its *indirection API* runs a method of a
//! versioned object over there, next to the database, and answers with the result.
//!
//! ```text
//!  a class's method   object_class_action_versions ─▶ an object, a list, a number
//!  an object's method object_action ─▶ [what changed in the object, result]
//! ```
//!
//! `Conductor` does either, and tries again where that is safe; the files beside it have the calls
//! by what they are about; `instances.rs` makes [`Records`](super::Records) of them.
//!
//! nova: conductor/rpcapi.py, objects/base.py

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::model::context::RequestContext;
use crate::model::object::{VersionedObject, apply_action_result, manifest};
pub use caller::{Call, CallFailure, Caller, Raised};
pub use error::ConductorError;
pub use instances::ConductorRecords;
pub use levels::{UnknownLevel, VersionCap};
pub use migrations::MigrationFilter;

mod actions;
mod block_devices;
mod caller;
mod changes;
mod consoles;
mod error;
pub mod fake;
mod history;
mod instances;
mod interfaces;
mod levels;
mod migrations;
mod nodes;
mod scheduler;
mod services;
mod tasks;
mod upkeep;

/// The indirection API's version: the same from 2025.1 to 2026.2.
const OBJECTS_VERSION: &str = "3.0";
/// How often a call is sent at most, the first time included.
const ATTEMPTS: u32 = 3;
/// Between two tries of what could not be sent; doubled each time, and up to twice as long.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// The first tries of the ping at start. nova: conductor/api.py, wait_until_ready
const EARLY_PINGS: u32 = 10;
const EARLY_PING_WITHIN: Duration = Duration::from_secs(10);

/// What a conductor's client needs to know.
#[derive(Debug, Clone)]
pub struct ConductorOptions {
    /// `[DEFAULT] rpc_response_timeout`: how long one try of a call waits.
    pub response_timeout: Duration,
    /// `[upgrade_levels] conductor`; `None`: no limit.
    pub conductor_cap: Option<VersionCap>,
    /// `[upgrade_levels] scheduler`; `None`: no limit.
    pub scheduler_cap: Option<VersionCap>,
}

impl ConductorOptions {
    /// # Errors
    /// [`UnknownLevel`] for a level that nova doesn't know either.
    pub fn from_config(config: &Config) -> Result<Self, UnknownLevel> {
        let levels = &config.upgrade_levels;
        Ok(Self {
            response_timeout: config.default_.rpc_response_timeout,
            conductor_cap: VersionCap::of("conductor", levels.conductor.as_deref())?,
            scheduler_cap: VersionCap::of("scheduler", levels.scheduler.as_deref())?,
        })
    }

    pub fn new(response_timeout: Duration) -> Self {
        Self { response_timeout, conductor_cap: None, scheduler_cap: None }
    }
}

/// Whether a call may be sent again when its answer didn't come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Done twice, it ends the same.
    Harmless,
    /// Who calls looks what became of the first try.
    Never,
}

/// nova-conductor. Cheap to clone.
#[derive(Clone)]
pub struct Conductor {
    caller: Arc<dyn Caller>,
    options: Arc<ConductorOptions>,
}

impl std::fmt::Debug for Conductor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conductor").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Conductor {
    pub fn new(caller: Arc<dyn Caller>, options: ConductorOptions) -> Self {
        Self { caller, options: Arc::new(options) }
    }

    /// Waits until a conductor answers, for as long as it takes; says once that it waits and once
    /// that the wait is over. `false`: told to stop meanwhile. nova: wait_until_ready
    pub async fn wait_until_ready(&self, stop: &CancellationToken) -> bool {
        let pinged = stop.run_until_cancelled(async {
            let mut attempt = 0;
            loop {
                attempt += 1;
                let within = match attempt {
                    ..=EARLY_PINGS => EARLY_PING_WITHIN,
                    _ => self.options.response_timeout,
                };
                match self.ping(within).await {
                    Ok(()) if attempt > 1 => return info!("nova-conductor answers"),
                    Ok(()) => return,
                    Err(error) if attempt == 1 => warn!(%error, "waiting for nova-conductor"),
                    Err(error) => debug!(%error, attempt, "still waiting for nova-conductor"),
                }
                // What can't be sent fails at once.
                sleep(pause(RETRY_AFTER)).await;
            }
        });
        pinged.await.is_some()
    }

    async fn ping(&self, within: Duration) -> Result<(), ConductorError> {
        let context = RequestContext::admin();
        let call = Call {
            topic: "conductor",
            namespace: Some("baseapi"),
            version: "1.0",
            method: "ping",
            args: map(json!({"arg": "1.21 GigaWatts"})),
            context: &context,
        };
        let failed = |failure| failed("ping", failure, 1, within);
        self.caller.call(call, within).await.map(drop).map_err(failed)
    }

    /// Runs a method of the class `T`.
    async fn class_action<T: VersionedObject>(
        &self,
        context: &RequestContext,
        method: &str,
        args: Value,
        kwargs: Value,
        repeat: Repeat,
    ) -> Result<Value, ConductorError> {
        let args = json!({
            "objname": T::NAME,
            "objmethod": method,
            "object_versions": manifest::<T>(),
            "args": args,
            "kwargs": kwargs,
        });
        let operation = format!("{}.{method}", T::NAME);
        self.ask(context, "object_class_action_versions", args, operation, repeat).await
    }

    /// Runs a method of the class `T` that answers with an `R`.
    async fn fetch<T: VersionedObject, R: VersionedObject>(
        &self,
        context: &RequestContext,
        method: &str,
        args: Value,
        kwargs: Value,
    ) -> Result<R, ConductorError> {
        let found = self.class_action::<T>(context, method, args, kwargs, Repeat::Harmless).await?;
        R::from_primitive(&found).map_err(|source| {
            let operation = format!("{}.{method}", T::NAME);
            ConductorError::Answer { operation, source }
        })
    }

    /// Runs a method of `object`, sent as `primitive`, and takes what it changed into `object`.
    async fn object_action<T: VersionedObject + Clone>(
        &self,
        context: &RequestContext,
        object: &mut T,
        primitive: Value,
        method: &str,
        kwargs: Value,
        repeat: Repeat,
    ) -> Result<Value, ConductorError> {
        let args = json!({"objinst": primitive, "objmethod": method, "args": [], "kwargs": kwargs});
        let operation = format!("{}.{method}", T::NAME);
        let answer = self.ask(context, "object_action", args, operation.clone(), repeat).await?;
        apply_action_result(object, &answer)
            .map_err(|source| ConductorError::Answer { operation, source })
    }

    /// Saves the changed fields of `object`, if there are any, and marks them as saved.
    async fn save_object<T: VersionedObject + Clone>(
        &self,
        context: &RequestContext,
        object: &mut T,
    ) -> Result<(), ConductorError> {
        if object.what_changed().is_empty() {
            return Ok(());
        }
        let primitive = object.to_primitive();
        self.object_action(context, object, primitive, "save", json!({}), Repeat::Harmless).await?;
        // Objects inside that conductor has read from its database look changed to it.
        object.reset_changes();
        Ok(())
    }

    /// Asks for `object` at the versions that this build reads. Not needed for what conductor
    /// answers with, as that is at the asked versions. nova: object_backport_versions
    pub async fn backport<T: VersionedObject>(
        &self,
        context: &RequestContext,
        object: &Value,
    ) -> Result<T, ConductorError> {
        let args = json!({"objinst": object, "object_versions": manifest::<T>()});
        let operation = format!("backport of {}", T::NAME);
        let method = "object_backport_versions";
        let answer = self.ask(context, method, args, operation.clone(), Repeat::Harmless).await?;
        T::from_primitive(&answer).map_err(|source| ConductorError::Answer { operation, source })
    }

    async fn ask(
        &self,
        context: &RequestContext,
        method: &'static str,
        args: Value,
        operation: String,
        repeat: Repeat,
    ) -> Result<Value, ConductorError> {
        levels::check(
            self.options.conductor_cap.as_ref(),
            OBJECTS_VERSION,
            "conductor",
            &operation,
        )?;
        let args = map(args);
        let within = self.options.response_timeout;
        let mut attempt = 1;
        let mut wait = RETRY_AFTER;
        loop {
            let (namespace, version) = (None, OBJECTS_VERSION);
            let args = args.clone();
            let call = Call { topic: "conductor", namespace, version, method, args, context };
            let failure = match self.caller.call(call, within).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = repeat == Repeat::Harmless
                && attempt < ATTEMPTS
                && !matches!(failure, CallFailure::Raised(_));
            let error = failed(&operation, failure, attempt, within);
            if !again {
                return Err(error);
            }
            debug!(%error, operation, attempt, "asking nova-conductor again");
            attempt += 1;
            sleep(pause(wait)).await;
            wait *= 2;
        }
    }

    /// Sends without an answer, after a look at the cap of its topic.
    async fn tell(&self, call: Call<'_>, to_all: bool) -> Result<(), ConductorError> {
        let within = self.options.response_timeout;
        let method = call.method;
        let sent = match to_all {
            true => self.caller.fanout(call, within).await,
            false => self.caller.cast(call, within).await,
        };
        sent.map_err(|failure| failed(method, failure, 1, within))
    }
}

fn failed(operation: &str, failure: CallFailure, attempts: u32, each: Duration) -> ConductorError {
    let operation = operation.to_owned();
    match failure {
        CallFailure::Raised(raised) => ConductorError::Raised { operation, raised },
        CallFailure::NoAnswer => ConductorError::NoAnswer { operation, attempts, each },
        CallFailure::Unsent(reason) => ConductorError::Unsent { operation, reason },
    }
}

/// Up to twice as long: agents that lost the same conductor don't come back at once.
fn pause(at_least: Duration) -> Duration {
    at_least.mul_f64(1.0 + fastrand::f64())
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
