//! The guest's network interfaces: which it gets, and how they reach the host's network.

pub mod fake;
pub mod standalone;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::class::Class;
use crate::model::context::RequestContext;

/// An interface that a build asks for. nova: objects/network_request.py
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestedNetwork {
    /// Neutron's network; in standalone mode `user`, `none`, `bridge:NAME` or `network:NAME`.
    pub network_id: Option<String>,
    pub port_id: Option<Uuid>,
    /// A fixed IP that is asked for.
    pub address: Option<String>,
    pub tag: Option<String>,
}

/// Where a VIF's host end goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VifSource {
    /// A bridge of the host.
    Bridge { bridge: String },
    /// A network that libvirt manages.
    Network { network: String },
    /// QEMU's user-mode network: outgoing connections only, nothing on the host.
    User,
}

/// A port's plug on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vif {
    /// The port.
    pub port_id: Uuid,
    /// `fa:16:3e:…`
    pub mac_address: String,
    /// `tap` and the first 11 characters of the port's id, as nova names it.
    pub device: String,
    pub mtu: Option<u32>,
    pub source: VifSource,
}

#[async_trait]
pub trait Network: Send + Sync {
    /// Gives the instance its interfaces. A repeat gives the same ones.
    async fn allocate(
        &self,
        context: &RequestContext,
        instance: Uuid,
        requested: &[RequestedNetwork],
    ) -> Result<Vec<Vif>, NetworkError>;

    /// Makes ready on the host what the VIF needs before its domain starts; a repeat changes nothing.
    async fn plug(&self, instance: Uuid, vif: &Vif) -> Result<(), NetworkError>;

    /// Takes away what [`Network::plug`] made; absent is success.
    async fn unplug(&self, instance: Uuid, vif: &Vif) -> Result<(), NetworkError>;

    /// Gives the interfaces back; absent is success.
    async fn deallocate(
        &self,
        context: &RequestContext,
        instance: Uuid,
        vifs: &[Vif],
    ) -> Result<(), NetworkError>;
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// nova: NetworkNotFound
    #[error("network {0} was not found on this host")]
    NotFound(String),
    /// nova: InvalidInput
    #[error("network {network} can't be used: {reason}")]
    Unacceptable { network: String, reason: String },
    #[error("can't {operation} {device}: {message}")]
    Host { operation: &'static str, device: String, message: String },
}

impl NetworkError {
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound(_) | Self::Host { .. } => Class::Reschedule,
            Self::Unacceptable { .. } => Class::Refused,
        }
    }
}
