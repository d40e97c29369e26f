//! Giving an instance its interfaces.
//!
//! ```text
//! plan: networks, groups, ports that are there ─▶ create ports │ ask for what the model needs
//!                                                      └─▶ bind ─▶ record ─▶ the model
//! ```
//!
//! What stands side by side is asked at once. When something fails, the ports that were made are
//! deleted again and those of the user are let go of. An attempt that was cut off is found again by
//! its ports' `device_id`. nova: network/neutron.py, allocate_for_instance

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{join_all, try_join3};
use serde_json::{Value, json};
use tracing::{info, warn};
use uuid::Uuid;

use super::NeutronNetwork;
use super::client::{As, CallError, Client};
use super::info::{floating_ips, project, subnet_ids, uuid};
use super::model::Facts;
use super::plan::{Plan, Slot, Source};
use super::types::Port;
use crate::model::object::{Instance, VirtualInterface};
use crate::network::{NetworkError, Vif, Wanted};
use crate::telemetry::Chain;

/// More subnets than this are asked for when it is known which of them are used: a request's
/// address has a limit.
const SUBNETS_AHEAD: usize = 20;

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl NeutronNetwork {
    /// See [`crate::network::Network::allocate`].
    pub(super) async fn allocated(
        &self,
        client: Client<'_>,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<Vec<Vif>, NetworkError> {
        let mut pause = Duration::from_secs(1);
        for attempt in 1..=self.options.allocate_retries {
            match self.try_allocate(client, instance, wanted).await {
                Err(error) => {
                    warn!(attempt, error = %Chain(&error), "network set-up failed: trying again");
                }
                allocated => return allocated,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.try_allocate(client, instance, wanted).await
    }

    async fn try_allocate(
        &self,
        client: Client<'_>,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<Vec<Vif>, NetworkError> {
        let plan = self.plan(client, instance, wanted).await?;
        if plan.slots.is_empty() {
            return Ok(Vec::new());
        }
        let mut made = Made::default();
        match self.carry_out(client, instance, wanted, &plan, &mut made).await {
            Err(error) => {
                self.take_back(client, made).await;
                Err(error)
            }
            vifs => vifs,
        }
    }

    /// Does what was planned, and notes in `made` what is to be taken back if it fails.
    async fn carry_out(
        &self,
        client: Client<'_>,
        instance: &Instance,
        wanted: &Wanted,
        plan: &Plan,
        made: &mut Made,
    ) -> Result<Vec<Vif>, NetworkError> {
        let slots = &plan.slots;
        let networks: BTreeSet<&str> = slots.iter().map(|s| s.network.id.as_str()).collect();
        let ahead: BTreeSet<&str> =
            slots.iter().flat_map(|s| &s.network.subnets).map(String::as_str).collect();
        let early = ahead.len() <= SUBNETS_AHEAD;
        let (ports, facts) = futures_util::future::join(
            self.created(client, instance, plan),
            try_join3(
                self.physical(client, &networks),
                async {
                    if early {
                        self.around(client, &networks, &ahead).await
                    } else {
                        Ok(Default::default())
                    }
                },
                // A port that was made just now has none.
                floating_ips_of_requested(client, slots),
            ),
        )
        .await;
        let mut failed = None;
        let mut slot_ports = Vec::new();
        for (slot, port) in slots.iter().zip(ports) {
            match (port, &slot.port) {
                (Ok(port), Source::Requested(_)) => slot_ports.push(port),
                (Ok(port), _) => {
                    made.created.push(port.id);
                    slot_ports.push(port);
                }
                (Err(error), _) => failed = Some(failed.unwrap_or(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let (physical, (subnets, dhcp_ports), floating_ips) = facts?;

        let requested = slots.iter().zip(&slot_ports);
        let requested = requested.filter(|(slot, _)| matches!(slot.port, Source::Requested(_)));
        made.bound = requested.map(|(_, port)| port.id).collect();
        let bindings = slots.iter().zip(&slot_ports).map(|(slot, port)| async {
            let bound = self.bound(client, instance, wanted, slot, port).await?;
            self.name_in_dns(client, instance, slot, &bound).await?;
            Ok(bound)
        });
        let bound: Vec<Port> =
            join_all(bindings).await.into_iter().collect::<Result<_, NetworkError>>()?;
        // One after the other: their order is the interfaces' order ever after.
        for (slot, port) in slots.iter().zip(&bound) {
            let mut interface = interface(instance, slot, port)?;
            self.records.create(client.context, &mut interface).await?;
            made.recorded.push(interface);
        }
        let (subnets, dhcp_ports) = if early {
            (subnets, dhcp_ports)
        } else {
            self.around(client, &networks, &subnet_ids(&bound)).await?
        };
        let networks = slots.iter().map(|slot| slot.network.clone()).collect();
        let facts = Facts { networks, physical, subnets, floating_ips, dhcp_ports };
        let recorded = instance.vifs().unwrap_or_default();
        Ok(self.modelled(&bound, &facts, &recorded, &made.bound))
    }

    /// The port of each slot, made where there is none.
    async fn created(
        &self,
        client: Client<'_>,
        instance: &Instance,
        plan: &Plan,
    ) -> Vec<Result<Port, NetworkError>> {
        join_all(plan.slots.iter().map(async |slot| match &slot.port {
            Source::Requested(port) => Ok(port.clone()),
            Source::Found(port) => {
                info!(port_id = %port.id, "the port of an earlier attempt is taken");
                Ok(port.clone())
            }
            Source::Create => self.create(client, instance, slot, &plan.security_groups).await,
        }))
        .await
    }

    /// nova: network/neutron.py, _create_port_minimal
    async fn create(
        &self,
        client: Client<'_>,
        instance: &Instance,
        slot: &Slot,
        security_groups: &[String],
    ) -> Result<Port, NetworkError> {
        let network = &slot.network.id;
        // Whose it is is said at once, so that no other instance takes it and we find it again.
        let mut port = json!({ "device_id": uuid(instance)?.to_string() });
        if let Some(address) = &slot.request.address {
            port["fixed_ips"] = json!([{ "ip_address": address }]);
        }
        port["network_id"] = json!(network);
        port["admin_state_up"] = json!(true);
        port["tenant_id"] = json!(project(instance)?);
        if !security_groups.is_empty() {
            port["security_groups"] = json!(security_groups);
        }
        let created = client.create::<Port>(As::User, "ports", "port", port).await;
        let address = || slot.request.address.clone().unwrap_or_default();
        let port = created.map_err(|error| match error.kind() {
            "InvalidIpForNetwork" => {
                NetworkError::AddressNotOnNetwork { address: address(), network: network.clone() }
            }
            "IpAddressInUse" | "IpAddressAlreadyAllocated" => NetworkError::FixedIpInUse(address()),
            "OverQuota" => NetworkError::PortLimitExceeded,
            "IpAddressGenerationFailure" => NetworkError::NoMoreFixedIps(network.clone()),
            _ => error.into(),
        })?;
        let extended = self.extensions.has(client, "port-resource-request-groups").await;
        let refused = if port.has_resource_request(extended.unwrap_or(true)) {
            NetworkError::GuaranteedQos { network: network.clone(), instance: uuid(instance)? }
        } else if port.binding_failed() {
            NetworkError::PortBindingFailed(port.id)
        } else {
            return Ok(port);
        };
        self.delete(client, port.id).await.unwrap_or_else(|error| {
            warn!(port_id = %port.id, error = %Chain(&error), "a port is left in neutron");
        });
        Err(refused)
    }

    /// Gives the port to the instance, on this host.
    /// nova: network/neutron.py, _update_ports_for_instance
    async fn bound(
        &self,
        client: Client<'_>,
        instance: &Instance,
        wanted: &Wanted,
        slot: &Slot,
        port: &Port,
    ) -> Result<Port, NetworkError> {
        let mut changes = json!({
            "device_id": uuid(instance)?.to_string(),
            "device_owner": device_owner(instance),
        });
        if matches!(slot.port, Source::Requested(_)) {
            let mut profile = port.profile.clone();
            let extended = self.extensions.has(client, "port-resource-request-groups").await?;
            if port.has_resource_request(extended) {
                profile.insert("allocation".to_owned(), allocation(port, wanted, extended)?);
            }
            if !profile.is_empty() {
                changes["binding:profile"] = Value::Object(profile);
            }
        }
        changes["binding:host_id"] = json!(self.options.host);
        let in_designate = has_dns_domain(slot);
        if !in_designate && self.extensions.has(client, "dns-integration").await? {
            changes["dns_name"] = json!(instance.hostname.value());
        }
        let path = format!("ports/{}", port.id);
        let bound = client.update::<Port>(As::Admin, &path, "port", changes).await;
        let bound = bound.map_err(|error| match error.kind() {
            "MacAddressInUse" => {
                NetworkError::PortInUse(port.mac_address.clone().unwrap_or_default())
            }
            "HostNotCompatibleWithFixedIps" => NetworkError::FixedIpInvalidOnHost(port.id),
            _ => error.into(),
        })?;
        match bound.binding_failed() {
            true => Err(NetworkError::PortBindingFailed(port.id)),
            false => Ok(bound),
        }
    }

    /// A name in the user's own zone is the user's to set.
    /// nova: network/neutron.py, _update_port_dns_name
    async fn name_in_dns(
        &self,
        client: Client<'_>,
        instance: &Instance,
        slot: &Slot,
        port: &Port,
    ) -> Result<(), NetworkError> {
        if !has_dns_domain(slot) || !self.extensions.has(client, "dns-integration").await? {
            return Ok(());
        }
        let name = json!({ "dns_name": instance.hostname.value() });
        let path = format!("ports/{}", port.id);
        match client.update::<Port>(As::User, &path, "port", name).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(400) => Err(NetworkError::Unacceptable {
                network: slot.network.id.clone(),
                reason: "the instance's hostname is not a DNS name".to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes back what a failed attempt has made; what fails at that is logged.
    async fn take_back(&self, client: Client<'_>, mut made: Made) {
        let unbinding = join_all(made.bound.iter().map(|port| self.let_go(client, *port)));
        let deleting = join_all(made.created.iter().map(async |port| {
            if let Err(error) = self.delete(client, *port).await {
                warn!(port_id = %port, error = %Chain(&error), "a port is left in neutron");
            }
        }));
        futures_util::future::join(unbinding, deleting).await;
        for interface in &mut made.recorded {
            if let Err(error) = self.records.destroy(client.context, interface).await {
                warn!(error = %Chain(&error), "an interface is left on record");
            }
        }
    }
}

/// What an attempt has done so far.
#[derive(Debug, Default)]
struct Made {
    created: Vec<Uuid>,
    /// Ports of the user's that are given to the instance.
    bound: Vec<Uuid>,
    recorded: Vec<VirtualInterface>,
}

async fn floating_ips_of_requested(
    client: Client<'_>,
    slots: &[Slot],
) -> Result<Vec<super::types::FloatingIp>, NetworkError> {
    let there = slots.iter().filter_map(|slot| match &slot.port {
        Source::Requested(port) | Source::Found(port) => Some(port.clone()),
        Source::Create => None,
    });
    let there: Vec<_> = there.collect();
    floating_ips(client, &there).await
}

fn has_dns_domain(slot: &Slot) -> bool {
    slot.network.dns_domain.as_ref().is_some_and(|domain| !domain.is_empty())
}

/// `compute:` and the instance's availability zone, as Python writes it.
pub(super) fn device_owner(instance: &Instance) -> String {
    let zone = instance.availability_zone.value().map_or("None", String::as_str);
    format!("compute:{zone}")
}

/// Which resource providers serve the port: one, or one for each of its groups.
/// nova: network/neutron.py, _get_binding_profile_allocation
fn allocation(port: &Port, wanted: &Wanted, extended: bool) -> Result<Value, NetworkError> {
    let provider = |requester: &str| {
        let found = wanted.providers.get(requester).and_then(|providers| providers.first());
        found.map(Uuid::to_string).ok_or_else(|| NetworkError::PortUpdateFailed {
            port: port.id,
            reason: format!("no resource provider is named for {requester}"),
        })
    };
    if !extended {
        return Ok(json!(provider(&port.id.to_string())?));
    }
    let groups = port.resource_request.as_ref().and_then(|request| request.get("request_groups"));
    let groups = groups.and_then(Value::as_array).into_iter().flatten();
    let ids = groups.filter_map(|group| group.get("id").and_then(Value::as_str));
    let allocation: Result<Value, NetworkError> =
        ids.map(|id| Ok((id.to_owned(), json!(provider(id)?)))).collect();
    allocation
}

/// The record of an interface. Its address must be unique among all, which a MAC address isn't.
fn interface(
    instance: &Instance,
    slot: &Slot,
    port: &Port,
) -> Result<VirtualInterface, NetworkError> {
    let mut interface = VirtualInterface::default();
    interface.instance_uuid.set(uuid(instance)?);
    interface.tag.set(slot.request.tag.clone());
    let address = port.mac_address.clone().unwrap_or_default();
    interface.address.set(Some(format!("{address}/{}", port.id)));
    interface.uuid.set(port.id);
    Ok(interface)
}

impl NeutronNetwork {
    /// Deletes a port; absent is success. A user's token may have expired by now: then it is the
    /// service's to do.
    pub(super) async fn delete(&self, client: Client<'_>, port: Uuid) -> Result<(), NetworkError> {
        use crate::openstack::{ApiError, Method};
        let path = format!("ports/{port}");
        let deleted = match client.act(Method::Delete, As::User, &path).await {
            Err(CallError::Api(ApiError::Unauthorized { .. })) => {
                client.act(Method::Delete, As::Admin, &path).await
            }
            deleted => deleted,
        };
        match deleted {
            Err(error) if error.is_absent() => Ok(()),
            deleted => Ok(deleted?),
        }
    }
}
