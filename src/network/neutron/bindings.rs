//! Where ports are bound: to one host, and during a migration to two.
//! nova: network/neutron.py, _update_port_binding_for_instance, bind_ports_to_host,
//! migrate_instance_start, setup_networks_on_host

use std::collections::BTreeMap;

use futures_util::future::{join_all, try_join_all};
use serde_json::{Map, Value, json};
use tracing::warn;
use uuid::Uuid;

use super::NeutronNetwork;
use super::allocate::device_owner;
use super::client::{As, CallError, Client};
use super::info::ports_of;
use super::types::{Binding, Port};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::network::{NetworkError, Vif};
use crate::openstack::Method;
use crate::telemetry::Chain;

/// The key of a binding profile that names the host that a port is on its way to.
const MIGRATING_TO: &str = "migrating_to";

impl NeutronNetwork {
    /// See [`crate::network::Network::bind`].
    pub(super) async fn bound_to(
        &self,
        client: Client<'_>,
        instance: &Instance,
        host: &str,
    ) -> Result<(), NetworkError> {
        let ports = ports_of(client, As::Admin, instance).await?;
        let extended = self.extensions.has(client, "port-resource-request-groups").await?;
        for port in &ports {
            let vnic = port.vnic_type.as_deref().unwrap_or("normal");
            if vnic != "normal" {
                let what = format!("moving an interface with vnic_type {vnic}");
                return Err(NetworkError::NotSupported(what));
            }
            if port.has_resource_request(extended) && port.host.as_deref() != Some(host) {
                let reason = "its resource providers on this host are not known".to_owned();
                return Err(NetworkError::PortUpdateFailed { port: port.id, reason });
            }
        }
        let stray = |port: &&Port| {
            let failed = matches!(port.vif_type.as_deref(), Some("unbound" | "binding_failed"));
            failed || port.host.as_deref() != Some(host)
        };
        let updates = ports.iter().filter(stray).map(async |port| {
            let mut changes =
                json!({ "binding:host_id": host, "device_owner": device_owner(instance) });
            let mut profile = port.profile.clone();
            if profile.remove(MIGRATING_TO).is_some() {
                changes["binding:profile"] = Value::Object(profile);
            }
            let path = format!("ports/{}", port.id);
            client.update::<Port>(As::Admin, &path, "port", changes).await?;
            Ok::<(), NetworkError>(())
        });
        try_join_all(updates).await.map(drop)
    }

    /// Binds the interfaces to a second host, inactively: where they go when their guest has moved.
    /// `profiles` stand in for the recorded ones. On failure none of them is.
    ///
    /// # Errors
    /// `PortBindingFailed`.
    pub async fn create_bindings(
        &self,
        context: &RequestContext,
        vifs: &[Vif],
        host: &str,
        profiles: &BTreeMap<Uuid, Map<String, Value>>,
    ) -> Result<BTreeMap<Uuid, Binding>, NetworkError> {
        let client = self.client(context);
        let created = join_all(vifs.iter().map(async |vif| {
            let profile = profiles.get(&vif.id).or(vif.profile.as_ref());
            let binding = json!({ "host": host, "vnic_type": vif.vnic_type, "profile": profile });
            let path = format!("ports/{}/bindings", vif.id);
            let created = client.create::<Binding>(As::Admin, &path, "binding", binding).await;
            match created {
                // An earlier attempt made it.
                Err(error) if error.status() == Some(409) => {
                    self.binding(context, vif.id, host).await?.ok_or_else(|| error.into())
                }
                created => created.map_err(NetworkError::from),
            }
        }))
        .await;
        let mut bindings = BTreeMap::new();
        let mut failed = None;
        for (vif, binding) in vifs.iter().zip(created) {
            match binding {
                Ok(binding) if binding.vif_type.as_deref() != Some("binding_failed") => {
                    bindings.insert(vif.id, binding);
                }
                Ok(_) => failed = Some(vif.id),
                Err(error) => {
                    warn!(port_id = %vif.id, host, error = %Chain(&error), "binding failed");
                    failed = Some(vif.id);
                }
            }
        }
        let Some(port) = failed else { return Ok(bindings) };
        let ports: Vec<Uuid> = vifs.iter().map(|vif| vif.id).collect();
        if let Err(error) = self.delete_bindings(context, &ports, host).await {
            warn!(error = %Chain(&error), "bindings are left in neutron");
        }
        Err(NetworkError::PortBindingFailed(port))
    }

    /// Deletes the bindings of these ports to `host`; absent is success.
    ///
    /// # Errors
    /// `BindingNotDeleted` naming those that are left.
    pub async fn delete_bindings(
        &self,
        context: &RequestContext,
        ports: &[Uuid],
        host: &str,
    ) -> Result<(), NetworkError> {
        let client = self.client(context);
        let left = join_all(ports.iter().map(async |port| {
            let path = binding_path(*port, host).ok()?;
            match client.act(Method::Delete, As::Admin, &path).await {
                Err(error) if !error.is_absent() => {
                    warn!(port_id = %port, host, error = error.message(), "a binding is left");
                    Some(port.to_string())
                }
                _ => None,
            }
        }))
        .await;
        let left: Vec<_> = left.into_iter().flatten().collect();
        match left.is_empty() {
            true => Ok(()),
            false => Err(NetworkError::BindingNotDeleted {
                ports: left.join(","),
                host: host.to_owned(),
            }),
        }
    }

    /// Makes the bindings to `host` the active ones. Ports without one there stay as they are: they
    /// are bound when the guest has moved.
    ///
    /// # Errors
    /// `BindingNotActivated`.
    pub async fn activate_bindings(
        &self,
        context: &RequestContext,
        vifs: &[Vif],
        host: &str,
    ) -> Result<(), NetworkError> {
        let client = self.client(context);
        if !self.extensions.has(client, "binding-extended").await? {
            return Ok(());
        }
        for vif in vifs {
            let binding = match self.binding(context, vif.id, host).await {
                Ok(Some(binding)) => binding,
                Ok(None) => return Ok(()),
                Err(error) => {
                    warn!(port_id = %vif.id, host, error = %Chain(&error), "no binding to activate");
                    continue;
                }
            };
            if binding.status.as_deref() == Some("ACTIVE") {
                continue;
            }
            let path = format!("{}/activate", binding_path(vif.id, host)?);
            match client.act(Method::Put, As::Admin, &path).await {
                // Somebody else was faster.
                Err(error) if error.status() == Some(409) => {}
                Err(error) => {
                    warn!(port_id = %vif.id, host, error = error.message(), "not activated");
                    let (port, host) = (vif.id, host.to_owned());
                    return Err(NetworkError::BindingNotActivated { port, host });
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The port's binding to `host`; `None`: there is none.
    ///
    /// # Errors
    /// What Neutron says otherwise.
    pub async fn binding(
        &self,
        context: &RequestContext,
        port: Uuid,
        host: &str,
    ) -> Result<Option<Binding>, NetworkError> {
        let path = binding_path(port, host)?;
        match self.client(context).get(As::Admin, &path, "binding", &[]).await {
            Err(error) if error.is_absent() => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    /// Says in each port's profile which host it is on its way to; `None`: to none any more.
    ///
    /// # Errors
    /// What Neutron says.
    pub async fn set_migrating_to(
        &self,
        context: &RequestContext,
        instance: &Instance,
        host: Option<&str>,
    ) -> Result<(), NetworkError> {
        let client = self.client(context);
        let ports = ports_of(client, As::Admin, instance).await?;
        let updates = ports.iter().map(async |port| {
            let mut profile = port.profile.clone();
            let changed = match host {
                Some(host) if port.host.as_deref() != Some(host) => {
                    let before = profile.insert(MIGRATING_TO.to_owned(), json!(host));
                    before != Some(json!(host))
                }
                Some(_) => false,
                None => profile.remove(MIGRATING_TO).is_some(),
            };
            if changed {
                let path = format!("ports/{}", port.id);
                let changes = json!({ "binding:profile": profile });
                client.update::<Port>(As::Admin, &path, "port", changes).await?;
            }
            Ok::<(), NetworkError>(())
        });
        try_join_all(updates).await.map(drop)
    }
}

/// # Errors
/// `Garbled` for a name that no host has: it goes into a path.
fn binding_path(port: Uuid, host: &str) -> Result<String, CallError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._@".contains(c);
    if host.is_empty() || host.len() > 255 || !host.chars().all(plain) || host.starts_with('.') {
        let message = format!("{host:?} is no host's name");
        let service = "neutron";
        return Err(crate::openstack::ApiError::Garbled { service, message }.into());
    }
    Ok(format!("ports/{port}/bindings/{host}"))
}
