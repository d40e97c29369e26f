//! Neutron's ports as an instance's network. nova: network/neutron.py
//!
//! `plan.rs` looks and decides, `allocate.rs` makes, `release.rs` gives back, `info.rs` and `model.rs`
//! say what there is, `bindings.rs` moves ports between hosts. `client.rs` alone knows Neutron's
//! paths and errors. Plugging is `plug/`'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::plug::Plugger;
use super::{Network, NetworkError, PlugFor, PortAddresses, Refresh, Vif, Wanted};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::openstack::Api;
use client::{As, Client};
use extensions::Extensions;
use model::ModelOptions;

mod addresses;
mod allocate;
mod bindings;
mod client;
mod extensions;
pub mod fake;
mod info;
mod model;
mod plan;
mod records;
mod release;
#[cfg(test)]
mod tests;
mod types;

pub use records::InterfaceRecords;
pub use types::Binding;

/// The part of the configuration that is read here.
#[derive(Debug, Clone)]
pub struct NeutronOptions {
    /// `[DEFAULT] host`: what ports are bound to.
    pub host: String,
    /// `[DEFAULT] network_allocate_retries`
    pub allocate_retries: u32,
    /// `[neutron] ovs_bridge`
    pub ovs_bridge: String,
    /// `[neutron] extension_sync_interval`
    pub extension_sync_interval: Duration,
    /// `[DEFAULT] flat_injected`
    pub flat_injected: bool,
}

/// Instances' networks in nova mode.
pub struct NeutronNetwork {
    api: Arc<dyn Api>,
    records: Arc<dyn InterfaceRecords>,
    plugger: Plugger,
    extensions: Extensions,
    options: Options,
}

#[derive(Debug)]
struct Options {
    host: String,
    allocate_retries: u32,
    model: ModelOptions,
}

impl NeutronNetwork {
    pub fn new(
        api: Arc<dyn Api>,
        records: Arc<dyn InterfaceRecords>,
        plugger: Plugger,
        options: NeutronOptions,
    ) -> Self {
        let model =
            ModelOptions { ovs_bridge: options.ovs_bridge, flat_injected: options.flat_injected };
        Self {
            api,
            records,
            plugger,
            extensions: Extensions::new(options.extension_sync_interval),
            options: Options {
                host: options.host,
                allocate_retries: options.allocate_retries,
                model,
            },
        }
    }

    fn client<'a>(&'a self, context: &'a RequestContext) -> Client<'a> {
        Client { api: self.api.as_ref(), context }
    }
}

#[async_trait]
impl Network for NeutronNetwork {
    async fn allocate(
        &self,
        context: &RequestContext,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<Vec<Vif>, NetworkError> {
        if wanted.declines() {
            return Ok(Vec::new());
        }
        self.allocated(self.client(context), instance, wanted).await
    }

    async fn deallocate(
        &self,
        context: &RequestContext,
        instance: &Instance,
        keep: &[Uuid],
    ) -> Result<(), NetworkError> {
        self.released(self.client(context), instance, keep).await
    }

    async fn release(
        &self,
        context: &RequestContext,
        instance: &Instance,
        port: Uuid,
    ) -> Result<(), NetworkError> {
        self.released_one(self.client(context), instance, port).await
    }

    async fn refresh(
        &self,
        context: &RequestContext,
        instance: &Instance,
        which: Refresh,
    ) -> Result<Vec<Vif>, NetworkError> {
        self.refreshed(self.client(context), instance, which).await
    }

    async fn bind(
        &self,
        context: &RequestContext,
        instance: &Instance,
        host: &str,
    ) -> Result<(), NetworkError> {
        self.bound_to(self.client(context), instance, host).await
    }

    async fn unbind(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<(), NetworkError> {
        self.unbound(self.client(context), instance).await
    }

    async fn active_ports(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<BTreeSet<Uuid>, NetworkError> {
        // Asked again and again while a guest waits: no more than is looked at.
        let id = info::uuid(instance)?.to_string();
        let fields = [("fields", "id"), ("fields", "status"), ("fields", "admin_state_up")];
        let filters = [("device_id", id.as_str()), fields[0], fields[1], fields[2]];
        let ports: Vec<types::Port> =
            self.client(context).list(As::Admin, "ports", &filters).await?;
        Ok(ports.iter().filter(|port| port.is_active()).map(|port| port.id).collect())
    }

    async fn addresses(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<Vec<PortAddresses>, NetworkError> {
        self.port_addresses(self.client(context), instance).await
    }

    async fn add_address(
        &self,
        context: &RequestContext,
        port: &PortAddresses,
    ) -> Result<bool, NetworkError> {
        self.added_address(self.client(context), port).await
    }

    async fn set_addresses(
        &self,
        context: &RequestContext,
        port: &PortAddresses,
    ) -> Result<(), NetworkError> {
        self.addresses_set(self.client(context), port).await
    }

    async fn security_groups(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<Vec<String>, NetworkError> {
        self.group_names(self.client(context), instance).await
    }

    async fn plug(&self, owner: PlugFor, vif: &Vif) -> Result<(), NetworkError> {
        self.plugger.plug(owner, vif).await
    }

    async fn unplug(&self, _: Uuid, vif: &Vif) -> Result<(), NetworkError> {
        self.plugger.unplug(vif).await
    }

    async fn unplug_rest(&self, instance: Uuid) -> Result<(), NetworkError> {
        self.plugger.unplug_rest(instance).await
    }
}
