//! Giving interfaces back: ports that were made for the instance are deleted, those that were there
//! before it are let go of. nova: network/neutron.py, deallocate_for_instance, _unbind_ports

use futures_util::future::join_all;
use serde_json::{Value, json};
use tracing::{debug, warn};
use uuid::Uuid;

use super::NeutronNetwork;
use super::client::{As, CallError, Client, in_path};
use super::info::uuid;
use super::types::{Network, Port};
use crate::model::object::Instance;
use crate::network::NetworkError;
use crate::openstack::ApiError;
use crate::telemetry::Chain;

/// What of a binding profile belongs to the host.
const OF_HOST: [&str; 9] = [
    "pci_vendor_info",
    "pci_slot",
    "allocation",
    "arq_uuid",
    "physical_network",
    "card_serial_number",
    "vf_num",
    "pf_mac_address",
    "device_mac_address",
];

impl NeutronNetwork {
    /// See [`crate::network::Network::deallocate`].
    pub(super) async fn released(
        &self,
        client: Client<'_>,
        instance: &Instance,
        keep: &[Uuid],
    ) -> Result<(), NetworkError> {
        let id = uuid(instance)?;
        let filter = [("device_id", id.to_string())];
        let filter = [(filter[0].0, filter[0].1.as_str())];
        let ports: Vec<Port> = match client.list(As::User, "ports", &filter).await {
            // The user's token may have expired, and the ports must go all the same.
            Err(CallError::Api(ApiError::Unauthorized { .. })) => {
                client.list(As::Admin, "ports", &filter).await?
            }
            found => found?,
        };
        let recorded = instance.vifs().unwrap_or_default();
        let preserved = recorded.iter().filter(|vif| vif.preserve_on_delete).map(|vif| vif.id);
        let keep: Vec<Uuid> = keep.iter().copied().chain(preserved).collect();
        // Only what still is this instance's: a port that was detached may have a new owner.
        let (kept, ours): (Vec<Uuid>, Vec<Uuid>) =
            ports.iter().map(|port| port.id).partition(|port| keep.contains(port));
        let (_, deleted) = futures_util::future::join(
            join_all(kept.iter().map(|port| self.let_go(client, *port))),
            join_all(ours.iter().map(|port| self.delete(client, *port))),
        )
        .await;
        deleted.into_iter().collect::<Result<Vec<()>, _>>()?;
        self.records.delete_of_instance(client.context, id).await
    }

    /// See [`crate::network::Network::release`].
    /// nova: network/neutron.py, deallocate_port_for_instance
    pub(super) async fn released_one(
        &self,
        client: Client<'_>,
        instance: &Instance,
        port: Uuid,
    ) -> Result<(), NetworkError> {
        let path = format!("ports/{port}");
        let found = client.get::<Port>(As::Admin, &path, "port", &["id", "device_id"]).await;
        let ours = match found {
            Err(error) if error.is_absent() => false,
            found => found?.device_id == uuid(instance)?.to_string(),
        };
        let recorded = instance.vifs().unwrap_or_default();
        let users = recorded.iter().any(|vif| vif.id == port && vif.preserve_on_delete);
        match (ours, users) {
            (true, true) => self.let_go(client, port).await,
            (true, false) => self.delete(client, port).await?,
            (false, _) => debug!(port_id = %port, "the port isn't the instance's any more"),
        }
        match self.records.of_port(client.context, port).await? {
            Some(mut interface) => self.records.destroy(client.context, &mut interface).await,
            None => Ok(()),
        }
    }

    /// Unbinds a port of the user's and clears whose it is. What fails is logged and left, as nova
    /// leaves it.
    pub(super) async fn let_go(&self, client: Client<'_>, port: Uuid) {
        if let Err(error) = self.try_let_go(client, port, true).await {
            warn!(port_id = %port, error = %Chain(&error), "the port is left as it is");
        }
    }

    /// See [`crate::network::Network::unbind`].
    pub(super) async fn unbound(
        &self,
        client: Client<'_>,
        instance: &Instance,
    ) -> Result<(), NetworkError> {
        let id = uuid(instance)?.to_string();
        let filter = [("device_id", id.as_str())];
        // Only what still is this instance's.
        let ports: Vec<Port> = client.list(As::Admin, "ports", &filter).await?;
        let unbound = ports.iter().map(async |port| {
            if let Err(error) = self.try_let_go(client, port.id, false).await {
                warn!(port_id = %port.id, error = %Chain(&error), "the port stays bound");
            }
        });
        join_all(unbound).await;
        Ok(())
    }

    /// `detach`: it isn't the instance's any more.
    async fn try_let_go(
        &self,
        client: Client<'_>,
        port: Uuid,
        detach: bool,
    ) -> Result<(), NetworkError> {
        let path = format!("ports/{port}");
        let fields = ["id", "binding:profile", "network_id"];
        let found = match client.get::<Port>(As::Admin, &path, "port", &fields).await {
            Err(error) if error.is_absent() => {
                debug!(port_id = %port, "the port is gone already");
                return Ok(());
            }
            found => found?,
        };
        let network_path = format!("networks/{}", in_path(&found.network_id)?);
        let network =
            client.get::<Network>(As::Admin, &network_path, "network", &["id", "dns_domain"]);
        let in_designate = match network.await {
            Ok(network) => network.dns_domain.is_some_and(|domain| !domain.is_empty()),
            Err(_) => false,
        };
        let mut profile = found.profile;
        profile.retain(|key, _| !OF_HOST.contains(&key.as_str()));
        let mut changes = json!({
            "binding:host_id": null,
            "binding:profile": Value::Object(profile),
        });
        if detach {
            changes["device_id"] = json!("");
            changes["device_owner"] = json!("");
        }
        let dns = detach && self.extensions.has(client, "dns-integration").await?;
        if dns && !in_designate {
            changes["dns_name"] = json!("");
        }
        match client.update::<Port>(As::Admin, &path, "port", changes).await {
            Err(error) if error.is_absent() => return Ok(()),
            updated => drop(updated?),
        }
        if dns && in_designate {
            // The name is in the user's zone.
            let name = json!({ "dns_name": "" });
            client.update::<Port>(As::User, &path, "port", name).await?;
        }
        Ok(())
    }
}
