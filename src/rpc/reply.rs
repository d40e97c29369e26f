//! What a request is answered with when it fails. The rooms' errors get their exceptions in
//! `workflow/exception.rs`.
//!
//! The class decides what the caller does: nova-api its HTTP status, conductor whether it
//! reschedules. What has no class of its own in nova.exception goes out as `NovaException`.

use super::failure::Fault;
use crate::dispatch::Outcome;
use crate::dispatch::admission::Refusal;
use crate::dispatch::query::QueryError;
use crate::model::state::{TaskState, VmState};
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
        Outcome::Refused(refusal) => Err(refusal_fault(refusal)),
        Outcome::Unrecorded(error) => Err(records_fault(error)),
        Outcome::Failed(error) => Err(step_fault(error)),
        Outcome::FailedBefore(message) => Err(Fault::nova("NovaException", message.as_str())),
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

pub fn refusal_fault(refusal: &Refusal) -> Fault {
    let state = refusal.vm_state.map_or("unknown", VmState::as_str);
    Fault::nova("InstanceInvalidState", refusal.to_string())
        .with("attr", if refusal.task_state.is_some() { "task_state" } else { "vm_state" })
        .with("state", refusal.task_state.map_or(state, TaskState::as_str))
        .with("method", format!("{:?}", refusal.request).to_lowercase())
}

pub fn query_fault(error: &QueryError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        QueryError::NoDomain(uuid) => instance_not_found(*uuid),
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
