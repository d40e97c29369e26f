//! Network errors as nova's exceptions, in nova's words. A part of `exception.rs`.
//! nova: exception.py

use uuid::Uuid;

use crate::model::fault::Fault;
use crate::network::NetworkError;
use crate::openstack::ApiError;
use crate::telemetry::Chain;

pub(super) fn network_fault(error: &NetworkError) -> Fault {
    let message = Chain(error).to_string();
    match error {
        NetworkError::NotFound(network) => {
            Fault::nova("NetworkNotFound", format!("Network {network} could not be found."))
                .with("network_id", network.as_str())
        }
        NetworkError::Unacceptable { .. } | NetworkError::AddressNotOnNetwork { .. } => {
            super::exception::invalid_input(&message)
        }
        NetworkError::Host { .. } | NetworkError::UnexpectedType { .. } => {
            Fault::nova("VirtualInterfacePlugException", message)
        }
        NetworkError::NotSupported(_) => Fault::builtin("NotImplementedError", message),
        NetworkError::Unreadable(_) | NetworkError::Unrecorded { .. } => {
            Fault::nova("NovaException", message)
        }
        NetworkError::Api(error) => api_fault(error, message),
        NetworkError::PortNotFound(port) => {
            Fault::nova("PortNotFound", format!("Port id {port} could not be found."))
                .with("port_id", port.as_str())
        }
        NetworkError::PortNotAttached(port) => {
            Fault::nova("PortNotFound", format!("Port {port} is not attached"))
        }
        NetworkError::NotFoundForInstance(instance) => {
            let text = format!("Network could not be found for instance {instance}.");
            Fault::nova("NetworkNotFoundForInstance", text)
                .with("instance_id", instance.to_string())
        }
        NetworkError::FixedIpNotFound { instance, address } => {
            let text = format!("Instance {instance} does not have fixed IP '{address}'.");
            Fault::nova("FixedIpNotFoundForInstance", text)
                .with("instance_uuid", instance.to_string())
                .with("ip", address.as_str())
        }
        NetworkError::NotOneInterface { instance, .. } => interface_not_attached(*instance),
        NetworkError::NotReleased { device, reason } => {
            let text = format!("Device detach failed for {device}: {reason}");
            Fault::nova("DeviceDetachFailed", text)
                .with("device", device.as_str())
                .with("reason", reason.as_str())
        }
        NetworkError::PortNotUsable { port, instance } => {
            let text = format!("Port {port} not usable for instance {instance}.");
            Fault::nova("PortNotUsable", text)
                .with("port_id", port.to_string())
                .with("instance", instance.to_string())
        }
        NetworkError::PortNotUsableDns { port, instance, value, hostname } => {
            let text = format!(
                "Port {port} not usable for instance {instance}. Value {value} assigned to dns_name \
                 attribute does not match instance's hostname {hostname}"
            );
            Fault::nova("PortNotUsableDNS", text)
                .with("port_id", port.to_string())
                .with("instance", instance.to_string())
                .with("value", value.as_str())
                .with("hostname", hostname.as_str())
        }
        NetworkError::PortInUse(port) => {
            Fault::nova("PortInUse", format!("Port {port} is still in use."))
                .with("port_id", port.as_str())
        }
        NetworkError::PortBindingFailed(port) => {
            let text = format!(
                "Binding failed for port {port}, please check neutron logs for more information."
            );
            Fault::nova("PortBindingFailed", text).with("port_id", port.to_string())
        }
        NetworkError::PortUpdateFailed { port, reason } => {
            Fault::nova("PortUpdateFailed", format!("Port update failed for port {port}: {reason}"))
                .with("port_id", port.to_string())
                .with("reason", reason.as_str())
        }
        NetworkError::PortLimitExceeded => {
            Fault::nova("PortLimitExceeded", "Maximum number of ports exceeded")
        }
        NetworkError::NoMoreFixedIps(network) => {
            let text = format!("No fixed IP addresses available for network: {network}");
            Fault::nova("NoMoreFixedIps", text).with("net", network.as_str())
        }
        NetworkError::FixedIpInUse(address) => {
            Fault::nova("FixedIpAlreadyInUse", format!("Fixed IP {address} is already in use."))
        }
        NetworkError::FixedIpInvalidOnHost(port) => {
            let text = format!(
                "The fixed IP associated with port {port} is not compatible with the host."
            );
            Fault::nova("FixedIpInvalidOnHost", text).with("port_id", port.to_string())
        }
        NetworkError::Ambiguous => {
            let text = "Multiple possible networks found, use a Network ID to be more specific.";
            Fault::nova("NetworkAmbiguous", text)
        }
        NetworkError::NoNetwork(project) => {
            let text = format!(
                "No specific network was requested and none are available for project '{project}'."
            );
            Fault::nova("InterfaceAttachFailedNoNetwork", text).with("project_id", project.as_str())
        }
        NetworkError::ExternalForbidden(network) => {
            let text =
                format!("It is not allowed to create an interface on external network {network}");
            Fault::nova("ExternalNetworkAttachForbidden", text)
                .with("network_uuid", network.as_str())
        }
        NetworkError::NotAllocatable(project) => {
            let text = format!("Unable to automatically allocate a network for project {project}");
            Fault::nova("UnableToAutoAllocateNetwork", text).with("project_id", project.as_str())
        }
        NetworkError::GuaranteedQos { network, instance } => {
            let text = format!(
                "Using networks with QoS policy is not supported for instance {instance}. \
                 (Network ID is {network})"
            );
            Fault::nova("NetworksWithQoSPolicyNotSupported", text)
                .with("network_id", network.as_str())
                .with("instance_uuid", instance.to_string())
        }
        NetworkError::SecurityGroupNotFound(group) => {
            Fault::nova("SecurityGroupNotFound", format!("Security group {group} not found."))
                .with("security_group_id", group.as_str())
        }
        NetworkError::SecurityGroupAmbiguous(group) => {
            let text = format!(
                "Multiple security groups found matching '{group}'. Use an ID to be more specific."
            );
            Fault::nova("NoUniqueMatch", text)
        }
        NetworkError::SecurityGroupsNotApplicable(_) => {
            let text = "Network requires port_security_enabled and subnet associated in order to \
                        apply security groups.";
            Fault::nova("SecurityGroupCannotBeApplied", text)
        }
        NetworkError::BindingNotDeleted { ports, host } => {
            let text = format!(
                "Failed to delete binding for port(s) {ports} on host {host}; please check neutron \
                 logs for more information"
            );
            Fault::nova("PortBindingDeletionFailed", text)
                .with("port_id", ports.as_str())
                .with("host", host.as_str())
        }
        NetworkError::BindingNotActivated { port, host } => {
            let text = format!(
                "Failed to activate binding for port {port} on host {host}; please check neutron \
                 logs for more information"
            );
            Fault::nova("PortBindingActivationFailed", text)
                .with("port_id", port.to_string())
                .with("host", host.as_str())
        }
        NetworkError::PlugNotReported(_) => {
            Fault::nova("VirtualInterfaceCreateException", "Virtual Interface creation failed")
        }
    }
}

/// What Neutron's client raises, which nova lets through: a user sees no more of it than its name.
/// neutronclient: common/exceptions.py, `HTTP_EXCEPTION_MAP`; nova: network/neutron.py, `ClientWrapper`
fn api_fault(error: &ApiError, message: String) -> Fault {
    let class = match error {
        ApiError::Status { status: 403, .. } => return Fault::nova("Forbidden", message),
        ApiError::Status { status: 400, .. } => "BadRequest",
        ApiError::Status { status: 401, .. } => "Unauthorized",
        ApiError::Status { status: 404, .. } => "NotFound",
        ApiError::Status { status: 409, .. } => "Conflict",
        ApiError::Status { status: 500, .. } => "InternalServerError",
        ApiError::Status { status: 503, .. } => "ServiceUnavailable",
        ApiError::Status { .. } => "NeutronClientException",
        ApiError::Unreachable { .. } => {
            return Fault::new("ConnectFailure", "keystoneauth1.exceptions.connection", message);
        }
        ApiError::Unauthorized { .. } | ApiError::NoEndpoint { .. } | ApiError::Garbled { .. } => {
            return Fault::nova("NovaException", message);
        }
    };
    Fault::new(class, "neutronclient.common.exceptions", message)
}

pub(super) fn interface_not_attached(instance: Uuid) -> Fault {
    let text = format!("Failed to attach network adapter device to {instance}");
    Fault::nova("InterfaceAttachFailed", text).with("instance_uuid", instance.to_string())
}

pub(super) fn interface_not_detached(instance: Uuid) -> Fault {
    let text = format!("Failed to detach network adapter device from {instance}");
    Fault::nova("InterfaceDetachFailed", text).with("instance_uuid", instance.to_string())
}
