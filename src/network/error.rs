//! What goes wrong with networks, in nova's distinctions: the user is told which it was.

use uuid::Uuid;

use crate::model::class::Class;
use crate::model::network::NetworkModelError;
use crate::openstack::ApiError;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// nova: NetworkNotFound
    #[error("network {0} could not be found")]
    NotFound(String),
    /// nova: InvalidInput
    #[error("network {network} can't be used: {reason}")]
    Unacceptable { network: String, reason: String },
    /// nova: InvalidInput
    #[error("Fixed IP {address} is not a valid ip address for network {network}.")]
    AddressNotOnNetwork { address: String, network: String },
    /// A device of this host. nova: VirtualInterfacePlugException
    #[error("can't {operation} {device}: {message}")]
    Host { operation: &'static str, device: String, message: String },
    /// nova: VirtualInterfacePlugException, "unexpected vif_type"
    #[error("port {port} can't be plugged: its interface is of type {kind}")]
    UnexpectedType { port: Uuid, kind: String },
    /// nova does it, and this agent doesn't.
    #[error("{0} is not supported")]
    NotSupported(String),
    #[error("the instance's network information can't be used")]
    Unreadable(#[from] NetworkModelError),
    #[error("port {0} could not be found")]
    PortNotFound(String),
    /// nova: PortNotFound
    #[error("port {0} is not attached")]
    PortNotAttached(String),
    /// nova: NetworkNotFoundForInstance
    #[error("instance {0} has no port on that network that could have another address")]
    NotFoundForInstance(Uuid),
    /// nova: FixedIpNotFoundForInstance
    #[error("instance {instance} does not have fixed IP {address}")]
    FixedIpNotFound { instance: Uuid, address: String },
    /// nova: InterfaceAttachFailed
    #[error("one interface was asked for, and instance {instance} was given {given}")]
    NotOneInterface { instance: Uuid, given: usize },
    /// The guest keeps its interface. nova: DeviceDetachFailed
    #[error("the guest keeps {device}: {reason}")]
    NotReleased { device: String, reason: String },
    #[error("port {port} is not usable for instance {instance}")]
    PortNotUsable { port: Uuid, instance: Uuid },
    #[error(
        "port {port} is not usable for instance {instance}: its dns_name {value} is not the \
         hostname {hostname}"
    )]
    PortNotUsableDns { port: Uuid, instance: Uuid, value: String, hostname: String },
    /// A port's id, or a MAC address that another port has.
    #[error("port {0} is still in use")]
    PortInUse(String),
    #[error("binding failed for port {0}: look at neutron's log for more")]
    PortBindingFailed(Uuid),
    #[error("port update failed for port {port}: {reason}")]
    PortUpdateFailed { port: Uuid, reason: String },
    #[error("the project's quota of ports is used up")]
    PortLimitExceeded,
    #[error("network {0} has no address left")]
    NoMoreFixedIps(String),
    #[error("fixed IP {0} is already in use")]
    FixedIpInUse(String),
    #[error("the fixed IP of port {0} doesn't go with this host")]
    FixedIpInvalidOnHost(Uuid),
    /// nova: NetworkAmbiguous
    #[error("several networks are possible: name one of them")]
    Ambiguous,
    /// nova: InterfaceAttachFailedNoNetwork
    #[error("no network was asked for, and none is available for project {0}")]
    NoNetwork(String),
    /// nova: ExternalNetworkAttachForbidden
    #[error("an interface on external network {0} is not allowed")]
    ExternalForbidden(String),
    /// nova: UnableToAutoAllocateNetwork
    #[error("no network can be allocated automatically for project {0}")]
    NotAllocatable(String),
    /// nova: NetworksWithQoSPolicyNotSupported
    #[error("network {network} has a QoS policy with guarantees: bring a port for it")]
    GuaranteedQos { network: String, instance: Uuid },
    #[error("security group {0} could not be found")]
    SecurityGroupNotFound(String),
    /// nova: NoUniqueMatch
    #[error("several security groups are named {0}: use an id")]
    SecurityGroupAmbiguous(String),
    /// nova: SecurityGroupCannotBeApplied
    #[error("network {0} needs port security and a subnet for security groups to be applied")]
    SecurityGroupsNotApplicable(String),
    #[error("the bindings of ports {ports} on host {host} could not be deleted")]
    BindingNotDeleted { ports: String, host: String },
    #[error("the binding of port {port} on host {host} could not be activated")]
    BindingNotActivated { port: Uuid, host: String },
    /// Neutron said that a plug failed, or nothing in time. nova: VirtualInterfaceCreateException
    #[error("neutron did not report port {0} as plugged")]
    PlugNotReported(Uuid),
    /// The control plane's records of interfaces.
    #[error("the interfaces can't be recorded: {message}")]
    Unrecorded { message: String, class: Class },
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl NetworkError {
    /// `Refused` is what nova aborts a build for; what another host might do better, or a retry of
    /// the user's, is `Reschedule`, as everything that nova doesn't name.
    /// nova: compute/manager.py, _build_and_run_instance
    pub fn class(&self) -> Class {
        match self {
            Self::Unacceptable { .. }
            | Self::AddressNotOnNetwork { .. }
            | Self::NoMoreFixedIps(_)
            | Self::ExternalForbidden(_)
            | Self::NotAllocatable(_)
            | Self::FixedIpInvalidOnHost(_)
            | Self::GuaranteedQos { .. }
            | Self::PlugNotReported(_)
            | Self::PortNotAttached(_)
            | Self::NotFoundForInstance(_)
            | Self::FixedIpNotFound { .. }
            | Self::NotOneInterface { .. }
            | Self::NotReleased { .. }
            | Self::NotSupported(_) => Class::Refused,
            Self::Unreadable(error) => error.class(),
            Self::Unrecorded { class, .. } => *class,
            Self::Api(error) => match error.class() {
                Class::Refused => Class::Reschedule,
                class => class,
            },
            Self::NotFound(_)
            | Self::Host { .. }
            | Self::UnexpectedType { .. }
            | Self::PortNotFound(_)
            | Self::PortNotUsable { .. }
            | Self::PortNotUsableDns { .. }
            | Self::PortInUse(_)
            | Self::PortBindingFailed(_)
            | Self::PortUpdateFailed { .. }
            | Self::PortLimitExceeded
            | Self::FixedIpInUse(_)
            | Self::Ambiguous
            | Self::NoNetwork(_)
            | Self::SecurityGroupNotFound(_)
            | Self::SecurityGroupAmbiguous(_)
            | Self::SecurityGroupsNotApplicable(_)
            | Self::BindingNotDeleted { .. }
            | Self::BindingNotActivated { .. } => Class::Reschedule,
        }
    }
}
