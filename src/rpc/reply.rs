//! What a request is answered with when it fails. The rooms' errors get their exceptions in
//! `workflow/exception.rs`.
//!
//! The class decides what the caller does: nova-api its HTTP status, conductor whether it
//! reschedules. What has no class of its own in nova.exception goes out as `NovaException`.

use super::failure::Fault;
use crate::dispatch::Outcome;
use crate::dispatch::query::QueryError;
use crate::telemetry::Chain;
use crate::workflow::exception::{hypervisor_fault, instance_not_found, records_fault, step_fault};
use crate::workflow::journal::JournalError;

/// How a workflow ended, for a caller that waits. `Ok`: nova's methods answer `None`.
///
/// # Errors
/// The exception that nova-compute would raise.
pub fn outcome_reply(outcome: &Outcome) -> Result<(), Fault> {
    match outcome {
        Outcome::Done | Outcome::AlreadyDone => Ok(()),
        Outcome::Refused(refusal) => Err(refusal.fault()),
        Outcome::Unrecorded(error) => Err(records_fault(error)),
        Outcome::Failed(error) => Err(step_fault(error)),
        Outcome::FailedBefore(failure) => {
            let unnamed = || Fault::nova("NovaException", failure.message.as_str());
            Err(failure.fault.clone().unwrap_or_else(unnamed))
        }
        Outcome::Unreadable => {
            let message = "the request was taken up before, and nothing of it can be read any more";
            Err(Fault::nova("NovaException", message))
        }
        Outcome::Parked => {
            let message = "the agent is stopping; the request goes on when it starts again";
            Err(Fault::nova("NovaException", message))
        }
    }
}

pub fn query_fault(error: &QueryError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        QueryError::NoDomain(uuid) => instance_not_found(*uuid),
        QueryError::NotReady(uuid) => {
            Fault::nova("InstanceNotReady", format!("Instance {uuid} is not ready"))
                .with("instance_id", uuid.to_string())
                .with("code", 400)
        }
        QueryError::NotRunning { power_state, .. } => Fault::nova("InstanceInvalidState", message)
            .with("attr", "power_state")
            .with("state", *power_state),
        QueryError::ConsoleUnavailable(kind) => {
            Fault::nova("ConsoleTypeUnavailable", message).with("console_type", kind.as_str())
        }
        QueryError::ConsoleInvalid(kind) => {
            Fault::nova("ConsoleTypeInvalid", message).with("console_type", kind.as_str())
        }
        QueryError::Log(_) => Fault::nova("ConsoleNotAvailable", message),
        QueryError::Uptime(_) => Fault::nova("NovaException", message),
        QueryError::Records(error) => records_fault(error),
        QueryError::Hypervisor(error) => hypervisor_fault(error),
    }
}

pub fn journal_fault(error: &JournalError) -> Fault {
    Fault::nova("NovaException", Chain(error).to_string())
}
