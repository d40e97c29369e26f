//! The guest's network interfaces: which it gets, and how they reach the host's network.
//!
//! ```text
//!              ┌─ neutron/       ports of Neutron's ─┐
//! allocate ────┼─ standalone.rs  names of bridges ───┼─▶ Vif ─▶ wiring.rs ─▶ the domain's XML
//!              └─ fake.rs                            ┘              └──────▶ plug/: OVS, bridges, taps
//! ```
//!
//! A [`Vif`] is nova's own model of one, so that what is recorded for an instance is read by nova's
//! services too.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::model::object::Instance;

mod error;
pub mod fake;
mod naming;
pub mod neutron;
pub mod plug;
pub mod standalone;
pub mod wiring;

pub use crate::model::network::Vif;
pub use error::NetworkError;

/// An interface that a build asks for. nova: objects/network_request.py
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestedNetwork {
    /// Neutron's network, `auto` or `none`; in standalone mode `user`, `none`, `bridge:NAME` or
    /// `network:NAME`.
    pub network_id: Option<String>,
    pub port_id: Option<Uuid>,
    /// A fixed IP that is asked for.
    pub address: Option<String>,
    pub tag: Option<String>,
    /// A PCI device or an accelerator that goes with it.
    #[serde(default)]
    pub has_device: bool,
}

/// What a build wants of its network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// In the guest's order. None: the network's default.
    pub networks: Vec<RequestedNetwork>,
    /// Names or ids of security groups for the ports that are made.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Which resource providers serve a port's resource requests, by requester.
    /// nova: objects/request_spec.py, get_request_group_mapping
    #[serde(default)]
    pub providers: BTreeMap<String, Vec<Uuid>>,
    /// Ports that the instance has and keeps. Any other port that is found to be its own is taken
    /// for what an earlier attempt has made.
    #[serde(default)]
    pub besides: Vec<Uuid>,
}

impl Wanted {
    /// Whether the guest is to have no interface. nova: NetworkRequestList.no_allocate
    pub fn declines(&self) -> bool {
        self.networks.iter().any(|request| request.network_id.as_deref() == Some("none"))
    }

    /// The ports that were there before the build.
    pub fn ports(&self) -> Vec<Uuid> {
        self.networks.iter().filter_map(|request| request.port_id).collect()
    }
}

/// Which of an instance's interfaces are asked for anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Those on record, and no others.
    Recorded,
    /// One of them: the others stay as they are on record.
    Port(Uuid),
    /// All that the instance has by now, in the order in which they were given out.
    All,
}

/// A port of an instance, with its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAddresses {
    pub port: Uuid,
    pub network_id: String,
    /// (subnet, address)
    pub fixed_ips: Vec<(String, String)>,
}

impl PortAddresses {
    pub fn has(&self, address: &str) -> bool {
        self.fixed_ips.iter().any(|(_, there)| there == address)
    }
}

/// Whom a VIF is plugged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlugFor {
    pub instance: Uuid,
    /// Whether a tap device that is made at the plug has a queue for each virtual CPU.
    pub multiqueue: bool,
}

#[async_trait]
pub trait Network: Send + Sync {
    /// Gives the instance the interfaces that it wants, bound to this host. A repeat gives the same
    /// ones. On failure, what was made is gone again.
    async fn allocate(
        &self,
        context: &RequestContext,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<Vec<Vif>, NetworkError>;

    /// Gives all its interfaces back; absent is success. Those of `keep`, and those that the record
    /// says were there before the instance, are only let go of.
    async fn deallocate(
        &self,
        context: &RequestContext,
        instance: &Instance,
        keep: &[Uuid],
    ) -> Result<(), NetworkError>;

    /// Gives one of its interfaces back, as [`Network::deallocate`] does all; absent is success, and one
    /// that somebody else has by now is left alone.
    async fn release(
        &self,
        context: &RequestContext,
        instance: &Instance,
        port: Uuid,
    ) -> Result<(), NetworkError>;

    /// The instance's interfaces as they are now. Nothing is recorded: that is the caller's.
    async fn refresh(
        &self,
        context: &RequestContext,
        instance: &Instance,
        which: Refresh,
    ) -> Result<Vec<Vif>, NetworkError>;

    /// Binds the instance's interfaces to `host`; those that are stay as they are.
    async fn bind(
        &self,
        context: &RequestContext,
        instance: &Instance,
        host: &str,
    ) -> Result<(), NetworkError>;

    /// Has the instance's interfaces on no host; they stay its own. One that fails is logged and left.
    async fn unbind(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<(), NetworkError>;

    /// Those of the instance's ports that are up.
    async fn active_ports(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<BTreeSet<Uuid>, NetworkError>;

    /// The instance's ports with their addresses; none where nobody keeps addresses.
    async fn addresses(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<Vec<PortAddresses>, NetworkError>;

    /// Gives a port one address more than it has, of any of its network's subnets; says whether there
    /// was one.
    async fn add_address(
        &self,
        context: &RequestContext,
        port: &PortAddresses,
    ) -> Result<bool, NetworkError>;

    /// Has a port have these addresses, and no others; one that is gone is success.
    async fn set_addresses(
        &self,
        context: &RequestContext,
        port: &PortAddresses,
    ) -> Result<(), NetworkError>;

    /// The names of the security groups of the instance's ports, as often as ports have them; empty
    /// where nothing is known of such groups.
    async fn security_groups(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<Vec<String>, NetworkError>;

    /// Makes ready on the host what the VIF needs before its domain starts; a repeat changes nothing.
    async fn plug(&self, owner: PlugFor, vif: &Vif) -> Result<(), NetworkError>;

    /// Takes away what [`Network::plug`] made; absent is success.
    async fn unplug(&self, instance: Uuid, vif: &Vif) -> Result<(), NetworkError>;

    /// Takes away what is left here of plugs that no record knows of any more; absent is success.
    async fn unplug_rest(&self, instance: Uuid) -> Result<(), NetworkError>;
}
