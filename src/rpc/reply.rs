//! Errors to nova's exceptions: the only place that knows which is which.
//!
//! The class decides what the caller does: nova-api its HTTP status, conductor whether it
//! reschedules. What has no class of its own in nova.exception goes out as `NovaException`.

use super::failure::Fault;
use crate::dispatch::Outcome;
use crate::dispatch::admission::Refusal;
use crate::dispatch::query::QueryError;
use crate::hypervisor::HypervisorError;
use crate::images::ImageError;
use crate::model::object::ObjectError;
use crate::model::state::{TaskState, VmState};
use crate::network::NetworkError;
use crate::node::ClaimError;
use crate::records::RecordsError;
use crate::telemetry::Chain;
use crate::workflow::StepError;
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

pub fn object_fault(error: &ObjectError) -> Fault {
    let message = error.to_string();
    match error {
        ObjectError::IncompatibleVersion { class, found, supported } => {
            Fault::new("IncompatibleObjectVersion", "oslo_versionedobjects.exception", message)
                .with("objname", *class)
                .with("objver", found.as_str())
                .with("supported", *supported)
        }
        ObjectError::WrongClass { .. }
        | ObjectError::WrongType { .. }
        | ObjectError::Missing { .. } => Fault::builtin("ValueError", message),
    }
}

pub fn query_fault(error: &QueryError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        QueryError::NoDomain(uuid) => not_found(*uuid, message),
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

pub fn records_fault(error: &RecordsError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        RecordsError::NotFound(uuid) => not_found(*uuid, message),
        RecordsError::UnexpectedTaskState { uuid, expected, found } => {
            Fault::nova("UnexpectedTaskStateError", message)
                .with("instance_uuid", uuid.to_string())
                .with("expected", expected.as_str())
                .with("actual", found.as_str())
        }
        RecordsError::Deleting(uuid) => Fault::nova("UnexpectedDeletingTaskStateError", message)
            .with("instance_uuid", uuid.to_string()),
        RecordsError::Clash { uuid, .. } => {
            Fault::nova("InstanceExists", message).with("name", uuid.to_string())
        }
        RecordsError::Object(error) => object_fault(error),
        RecordsError::Storage { .. } => Fault::nova("NovaException", message),
    }
}

pub fn step_fault(error: &StepError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        StepError::Hypervisor(error) => hypervisor_fault(error),
        StepError::Image(error) => image_fault(error),
        StepError::Network(error) => network_fault(error),
        StepError::Records(error) => records_fault(error),
        StepError::Object(error) => object_fault(error),
        StepError::Claim(ClaimError::Insufficient(_)) => {
            Fault::nova("ComputeResourcesUnavailable", message)
        }
        StepError::Claim(_) | StepError::Scheduling(_) => Fault::nova("NovaException", message),
        StepError::NoRandom => Fault::nova("NovaException", message),
        StepError::Guest(error) => Fault::nova(error.exception(), message),
        StepError::NoSerialPort => Fault::nova("SocketPortRangeExhaustedException", message),
        StepError::Name(_) | StepError::NotSupported(_) | StepError::BadUserData => {
            Fault::nova("InvalidInput", message)
        }
        StepError::Cancelled => Fault::nova("UnexpectedDeletingTaskStateError", message),
        StepError::Panicked(_) => Fault::nova("NovaException", message),
        StepError::NoDisk(_) | StepError::UnknownDisk(_) => {
            Fault::nova("InstanceUnacceptable", message)
        }
        StepError::NotThere { .. } => Fault::nova("NovaException", message),
        StepError::AlreadyThere { uuid, .. } => {
            Fault::nova("InstanceExists", message).with("name", uuid.to_string())
        }
    }
}

fn hypervisor_fault(error: &HypervisorError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        HypervisorError::NoDomain(uuid) => not_found(*uuid, message),
        HypervisorError::TimedOut { .. } | HypervisorError::Unreachable { .. } => {
            Fault::nova("HypervisorUnavailable", message)
        }
        HypervisorError::NotSupported { .. } => Fault::builtin("NotImplementedError", message),
        HypervisorError::NotOurs { .. }
        | HypervisorError::Refused { .. }
        | HypervisorError::Garbled { .. } => Fault::nova("NovaException", message),
    }
}

fn image_fault(error: &ImageError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        ImageError::NotFound(image) => {
            Fault::nova("ImageNotFound", message).with("image_id", image.as_str())
        }
        ImageError::Unacceptable { image, reason } => Fault::nova("ImageUnacceptable", message)
            .with("image_id", image.as_str())
            .with("reason", reason.as_str()),
        ImageError::TooLarge { .. } => Fault::nova("FlavorDiskSmallerThanImage", message),
        ImageError::WrongChecksum { image, .. } => {
            Fault::nova("ImageUnacceptable", message).with("image_id", image.as_str())
        }
        ImageError::BadPath(_) | ImageError::Unsupported(_) => Fault::nova("InvalidInput", message),
        ImageError::NoSpace { .. }
        | ImageError::BaseMissing { .. }
        | ImageError::Unreachable { .. }
        | ImageError::Io { .. }
        | ImageError::Command { .. }
        | ImageError::TimedOut { .. } => Fault::nova("NovaException", message),
    }
}

fn network_fault(error: &NetworkError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        NetworkError::NotFound(network) => {
            Fault::nova("NetworkNotFound", message).with("network_id", network.as_str())
        }
        NetworkError::Unacceptable { .. } => Fault::nova("InvalidInput", message),
        NetworkError::Host { .. } => Fault::nova("VirtualInterfacePlugException", message),
    }
}

fn not_found(uuid: uuid::Uuid, message: String) -> Fault {
    Fault::nova("InstanceNotFound", message).with("instance_id", uuid.to_string()).with("code", 404)
}
