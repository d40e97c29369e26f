//! The volumes' errors as nova's exceptions.

use super::exception::invalid_input;
use crate::model::fault::Fault;
use crate::openstack::ApiError;
use crate::telemetry::Chain;
use crate::volumes::VolumeError;

pub(super) fn volume_fault(error: &VolumeError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        VolumeError::NotFound(id) => {
            Fault::nova("VolumeNotFound", format!("Volume {id} could not be found."))
                .with("volume_id", id.as_str())
                .with("code", 404)
        }
        VolumeError::NotAttached(id) => {
            let message = format!("No volume Block Device Mapping with id {id}.");
            Fault::nova("VolumeBDMNotFound", message)
                .with("volume_id", id.as_str())
                .with("code", 404)
        }
        VolumeError::Invalid(reason) => {
            Fault::nova("InvalidVolume", format!("Invalid volume: {reason}"))
                .with("reason", reason.as_str())
        }
        VolumeError::NotCreated { volume_id, status, attempts, seconds } => {
            let message = format!(
                "Volume {volume_id} did not finish being created even after we waited {seconds} \
                 seconds or {attempts} attempts. And its status is {status}."
            );
            Fault::nova("VolumeNotCreated", message)
        }
        VolumeError::Unsupported(kind) => Fault::nova(
            "VolumeDriverNotFound",
            format!("Could not find a handler for {kind} volume."),
        )
        .with("driver_type", kind.as_str())
        .with("code", 404),
        VolumeError::NotReleased { device, reason } => Fault::nova(
            "DeviceDetachFailed",
            format!("Device detach failed for {device}: {reason}"),
        )
        .with("device", device.as_str())
        .with("reason", reason.as_str()),
        VolumeError::NotExtendable => {
            let message = "Volume size extension is not supported by the hypervisor.";
            Fault::nova("ExtendVolumeNotSupported", message)
        }
        VolumeError::NotSupported(_) => invalid_input(&message),
        VolumeError::Service { source: ApiError::Unreachable { .. }, .. }
        | VolumeError::Snapshot { source: ApiError::Unreachable { .. }, .. } => {
            let message = format!("Connection to cinder host failed: {message}");
            Fault::nova("CinderConnectionFailed", message)
        }
        // What nova doesn't know better is its client's own.
        VolumeError::Service { source: ApiError::Status { .. }, .. } => {
            Fault::new("ClientException", "cinderclient.exceptions", message)
        }
        VolumeError::Service { .. }
        | VolumeError::Snapshot { .. }
        | VolumeError::Connection { .. }
        | VolumeError::Host { .. }
        | VolumeError::NoKey { .. } => Fault::nova("NovaException", message),
    }
}
