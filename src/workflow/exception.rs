//! The rooms' errors as nova's exceptions: the only place that knows which is which.
//!
//! The class decides what a caller does: nova-api its HTTP status, conductor whether it
//! reschedules; and what the instance's owner is told. Where nova has words for it they are used.
//! What has no class of its own in nova.exception is a plain `NovaException`.

use super::StepError;
use super::network_exception::{interface_not_attached, interface_not_detached, network_fault};
use super::volume_exception::volume_fault;
use crate::hypervisor::HypervisorError;
use crate::images::ImageError;
use crate::model::fault::Fault;
use crate::model::object::ObjectError;
use crate::node::ClaimError;
use crate::records::{ConductorError, RecordsError};
use crate::telemetry::Chain;

pub fn step_fault(error: &StepError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        StepError::Hypervisor(error) => hypervisor_fault(error),
        StepError::Image(error) => image_fault(error),
        StepError::Network(error) => network_fault(error),
        StepError::Volume(error) => volume_fault(error),
        StepError::InterfaceNotAttached { uuid, .. } => interface_not_attached(*uuid),
        StepError::InterfaceNotDetached { uuid, .. } => interface_not_detached(*uuid),
        StepError::Records(error) => records_fault(error),
        StepError::Object(error) => object_fault(error),
        StepError::Claim(ClaimError::Insufficient(_)) => {
            Fault::nova("ComputeResourcesUnavailable", message)
        }
        StepError::Claim(_) | StepError::Scheduling(_) => Fault::nova("NovaException", message),
        StepError::NoRandom | StepError::VendorData { .. } => Fault::nova("NovaException", message),
        StepError::Guest(error) => Fault::nova(error.exception(), message),
        StepError::InvalidBlockDevice { exception, .. } => Fault::nova(*exception, message),
        StepError::NoSerialPort => Fault::nova("SocketPortRangeExhaustedException", message),
        StepError::Name(_) | StepError::NotSupported(_) | StepError::BadUserData => {
            invalid_input(&message)
        }
        StepError::Cancelled => Fault::nova("UnexpectedDeletingTaskStateError", message),
        StepError::NoGuestAgent => {
            Fault::nova("QemuGuestAgentNotEnabled", "QEMU guest agent is not enabled")
        }
        StepError::QuiesceNotSupported(uuid) => {
            let message = format!("Quiescing is not supported in instance {uuid}");
            Fault::nova("InstanceQuiesceNotSupported", message)
                .with("instance_id", uuid.to_string())
        }
        StepError::QuiesceFailed(reason) => {
            let message = format!("Failed to quiesce instance: {reason}");
            Fault::nova("InstanceQuiesceFailed", message).with("reason", reason.as_str())
        }
        StepError::PasswordNotSet { uuid, reason } => {
            let message = format!("Failed to set admin password on {uuid} because {reason}");
            Fault::nova("InstancePasswordSetFailed", message)
                .with("instance", uuid.to_string())
                .with("reason", reason.as_str())
        }
        StepError::NotImplemented(_) => Fault::builtin("NotImplementedError", message),
        StepError::NotRunning(uuid) => {
            Fault::nova("InstanceNotRunning", format!("Instance {uuid} is not running."))
                .with("instance_id", uuid.to_string())
        }
        StepError::CrashDumpNotSupported => {
            let message = "Triggering crash dump is not supported";
            Fault::nova("TriggerCrashDumpNotSupported", message)
        }
        StepError::CopyFailed { .. } => Fault::nova("NovaException", message),
        StepError::Panicked(_) => Fault::nova("NovaException", message),
        StepError::NoDisk { path } => {
            let location = path.display().to_string();
            Fault::nova("DiskNotFound", format!("No disk at {location}")).with("location", location)
        }
        StepError::UnknownDisk(_) => Fault::nova("InstanceUnacceptable", message),
        StepError::NotRescuable { uuid, reason } => {
            let message = format!("Instance {uuid} cannot be rescued: {reason}");
            Fault::nova("InstanceNotRescuable", message)
                .with("instance_id", uuid.to_string())
                .with("reason", reason.as_str())
        }
        StepError::EvacuateNotSupported => {
            Fault::nova("InstanceEvacuateNotSupported", "Instance evacuate is not supported.")
        }
        StepError::NothingShelved(_) => Fault::nova("InstanceUnacceptable", message),
        StepError::NotThere { .. } => Fault::nova("NovaException", message),
        StepError::AlreadyThere { uuid, .. } => {
            Fault::nova("InstanceExists", message).with("name", uuid.to_string())
        }
    }
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
        ObjectError::UnsupportedClass { found, .. } => {
            Fault::new("UnsupportedObjectError", "oslo_versionedobjects.exception", message)
                .with("objtype", found.as_str())
        }
        ObjectError::WrongClass { .. }
        | ObjectError::WrongType { .. }
        | ObjectError::Missing { .. } => Fault::builtin("ValueError", message),
    }
}

pub fn records_fault(error: &RecordsError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        RecordsError::NotFound(uuid) => instance_not_found(*uuid),
        RecordsError::UnexpectedTaskState { uuid, expected, found } => {
            let message =
                format!("Conflict updating instance {uuid}. Expected: {expected}. Actual: {found}");
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
        RecordsError::Conductor(error) => conductor_fault(error),
        RecordsError::Storage { .. } => Fault::nova("NovaException", message),
    }
}

/// What the conductor raised travels on as it is, as it would through nova-compute.
pub fn conductor_fault(error: &ConductorError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        ConductorError::Raised { raised, .. } => Fault {
            class: raised.class.clone().into(),
            module: raised.module.clone().into(),
            message: raised.message.clone(),
            kwargs: Box::new(raised.kwargs.clone()),
        },
        ConductorError::NoAnswer { .. } | ConductorError::Unsent { .. } => {
            Fault::new("MessagingTimeout", "oslo_messaging.exceptions", message)
        }
        ConductorError::Answer { source, .. } => object_fault(source),
        ConductorError::Capped { .. } => {
            Fault::new("RPCVersionCapError", "oslo_messaging.rpc.client", message)
        }
    }
}

pub fn hypervisor_fault(error: &HypervisorError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        HypervisorError::NoDomain(uuid) => instance_not_found(*uuid),
        HypervisorError::TimedOut { .. } | HypervisorError::Unreachable { .. } => {
            let message = format!("Connection to the hypervisor is broken on host: {message}");
            Fault::nova("HypervisorUnavailable", message)
        }
        HypervisorError::NotSupported { .. } => Fault::builtin("NotImplementedError", message),
        HypervisorError::Refused { message, .. } => Fault::libvirt(message.as_str()),
        HypervisorError::NoAgent { .. }
        | HypervisorError::NotOurs { .. }
        | HypervisorError::Garbled { .. } => Fault::nova("NovaException", message),
    }
}

fn image_fault(error: &ImageError) -> Fault {
    let message = Chain(error).to_string();
    let unacceptable = |image: &str, reason: &str| {
        Fault::nova("ImageUnacceptable", format!("Image {image} is unacceptable: {reason}"))
            .with("image_id", image)
            .with("reason", reason)
    };
    match error {
        ImageError::NotFound(image) => {
            Fault::nova("ImageNotFound", format!("Image {image} could not be found."))
                .with("image_id", image.as_str())
        }
        ImageError::NotAuthorized { image, .. } => {
            Fault::nova("ImageNotAuthorized", message).with("image_id", image.as_str())
        }
        ImageError::QuotaExceeded(image) => {
            Fault::nova("ImageQuotaExceeded", message).with("image_id", image.as_str())
        }
        ImageError::Rejected { image, message: response } => {
            Fault::nova("ImageBadRequest", message)
                .with("image_id", image.as_str())
                .with("response", response.as_str())
        }
        ImageError::InUse { message: reason, .. } => {
            Fault::nova("ImageDeleteConflict", message.clone()).with("reason", reason.as_str())
        }
        ImageError::Unacceptable { image, reason } => unacceptable(image, reason),
        ImageError::TooLarge { needed, allowed, .. } => {
            let message = format!(
                "Flavor's disk is too small for requested image. Flavor disk is {allowed} bytes, \
                 image is {needed} bytes."
            );
            Fault::nova("FlavorDiskSmallerThanImage", message)
                .with("flavor_size", *allowed)
                .with("image_size", *needed)
        }
        ImageError::WrongChecksum { image, .. } => unacceptable(image, &message),
        ImageError::BadPath(_) | ImageError::Unsupported(_) => invalid_input(&message),
        ImageError::NoSpace { .. }
        | ImageError::BaseMissing { .. }
        | ImageError::Unreachable { .. }
        | ImageError::Io { .. }
        | ImageError::Command { .. }
        | ImageError::TimedOut { .. } => Fault::nova("NovaException", message),
    }
}

pub fn instance_not_found(uuid: uuid::Uuid) -> Fault {
    Fault::nova("InstanceNotFound", format!("Instance {uuid} could not be found."))
        .with("instance_id", uuid.to_string())
        .with("code", 404)
}

pub(super) fn invalid_input(reason: &str) -> Fault {
    Fault::nova("InvalidInput", format!("Invalid input received: {reason}")).with("reason", reason)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::class::Class;

    #[test]
    fn what_nova_has_words_for_is_said_in_them() {
        let uuid = uuid::Uuid::nil();
        let libvirt = |message: &str| {
            let (operation, message) = ("pause", message.to_owned());
            HypervisorError::Refused { operation, message, class: Class::Refused }
        };
        for (error, class, message, code) in [
            (
                StepError::Hypervisor(HypervisorError::NoDomain(uuid)),
                "InstanceNotFound",
                format!("Instance {uuid} could not be found."),
                404,
            ),
            (StepError::Hypervisor(libvirt("no")), "libvirtError", "no".into(), 500),
            (
                StepError::NoDisk { path: PathBuf::from("/i/disk") },
                "DiskNotFound",
                "No disk at /i/disk".into(),
                404,
            ),
            (
                StepError::Claim(ClaimError::Insufficient("Free vcpu 0".into())),
                "ComputeResourcesUnavailable",
                "Insufficient compute resources: Free vcpu 0.".into(),
                400,
            ),
            (
                StepError::Image(ImageError::NotFound("i".into())),
                "ImageNotFound",
                "Image i could not be found.".into(),
                404,
            ),
        ] {
            let fault = step_fault(&error);
            assert_eq!((&*fault.class, &fault.message, fault.code()), (class, &message, code));
        }
    }
}
