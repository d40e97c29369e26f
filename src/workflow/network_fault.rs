//! Network errors to nova's exceptions. A part of `exception.rs`.

use crate::model::fault::Fault;
use crate::network::NetworkError;
use crate::telemetry::Chain;

/// nova: exception.py
pub fn network_fault(error: &NetworkError) -> Fault {
    let message = Chain(error).to_string();
    let nova = |class: &'static str| Fault::nova(class, message.clone());
    match error {
        NetworkError::NotFound(network) => {
            Fault::nova("NetworkNotFound", format!("Network {network} could not be found."))
                .with("network_id", network.as_str())
        }
        NetworkError::Unacceptable { .. } => nova("InvalidInput"),
        NetworkError::Host { .. } | NetworkError::UnexpectedType { .. } => {
            nova("VirtualInterfacePlugException")
        }
        NetworkError::NotSupported(_) => Fault::builtin("NotImplementedError", message),
        NetworkError::Unreadable(_) | NetworkError::Unrecorded { .. } => nova("NovaException"),
        NetworkError::PortNotFound(port) => nova("PortNotFound").with("port_id", port.as_str()),
        NetworkError::PortNotUsable { port, instance } => nova("PortNotUsable")
            .with("port_id", port.to_string())
            .with("instance", instance.to_string()),
        NetworkError::PortNotUsableDns { port, instance, value, hostname } => {
            nova("PortNotUsableDNS")
                .with("port_id", port.to_string())
                .with("instance", instance.to_string())
                .with("value", value.as_str())
                .with("hostname", hostname.as_str())
        }
        NetworkError::PortInUse(port) => nova("PortInUse").with("port_id", port.as_str()),
        NetworkError::PortBindingFailed(port) => {
            nova("PortBindingFailed").with("port_id", port.to_string())
        }
        NetworkError::PortUpdateFailed { port, reason } => nova("PortUpdateFailed")
            .with("port_id", port.to_string())
            .with("reason", reason.as_str()),
        NetworkError::PortLimitExceeded => nova("PortLimitExceeded"),
        NetworkError::NoMoreFixedIps(network) => {
            nova("NoMoreFixedIps").with("net", network.as_str())
        }
        NetworkError::FixedIpInUse(_) => nova("FixedIpAlreadyInUse"),
        NetworkError::FixedIpInvalidOnHost(port) => {
            nova("FixedIpInvalidOnHost").with("port_id", port.to_string())
        }
        NetworkError::Ambiguous => nova("NetworkAmbiguous"),
        NetworkError::NoNetwork(project) => {
            nova("InterfaceAttachFailedNoNetwork").with("project_id", project.as_str())
        }
        NetworkError::ExternalForbidden(network) => {
            nova("ExternalNetworkAttachForbidden").with("network_uuid", network.as_str())
        }
        NetworkError::NotAllocatable(project) => {
            nova("UnableToAutoAllocateNetwork").with("project_id", project.as_str())
        }
        NetworkError::GuaranteedQos { network, instance } => {
            nova("NetworksWithQoSPolicyNotSupported")
                .with("network_id", network.as_str())
                .with("instance_uuid", instance.to_string())
        }
        NetworkError::SecurityGroupNotFound(group) => {
            nova("SecurityGroupNotFound").with("security_group_id", group.as_str())
        }
        NetworkError::SecurityGroupAmbiguous(_) => nova("NoUniqueMatch"),
        NetworkError::SecurityGroupsNotApplicable(_) => nova("SecurityGroupCannotBeApplied"),
        NetworkError::BindingNotDeleted { ports, host } => nova("PortBindingDeletionFailed")
            .with("port_id", ports.as_str())
            .with("host", host.as_str()),
        NetworkError::BindingNotActivated { port, host } => nova("PortBindingActivationFailed")
            .with("port_id", port.to_string())
            .with("host", host.as_str()),
        NetworkError::PlugNotReported(_) => nova("VirtualInterfaceCreateException"),
        NetworkError::Api(_) => nova("NovaException"),
    }
}
