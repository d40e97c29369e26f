//! What is known of an instance's interfaces, asked of Neutron: the ports, and beside them, all at
//! once, their networks, subnets, floating IPs and DHCP servers.
//! nova: network/neutron.py, _build_network_info_model

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{try_join_all, try_join3};
use tracing::{info, warn};
use uuid::Uuid;

use super::NeutronNetwork;
use super::client::{As, CallError, Client, in_path};
use super::model::{self, Facts, Physical};
use super::types::{FloatingIp, Network, Port, Provider, SecurityGroup, Subnet};
use crate::model::object::Instance;
use crate::network::{NetworkError, Refresh, Vif};

/// nova: network/constants.py, L3_NETWORK_TYPES
const TUNNELED: [&str; 3] = ["vxlan", "gre", "geneve"];

impl NeutronNetwork {
    /// See [`crate::network::Network::refresh`].
    pub(super) async fn refreshed(
        &self,
        client: Client<'_>,
        instance: &Instance,
        which: Refresh,
    ) -> Result<Vec<Vif>, NetworkError> {
        let ports = ports_of(client, As::Admin, instance).await?;
        let recorded = instance.vifs().unwrap_or_else(|error| {
            warn!(%error, "the recorded network information is made anew");
            Vec::new()
        });
        let chosen: Vec<Port> = match which {
            Refresh::Port(id) if !recorded.is_empty() => {
                ports.into_iter().filter(|port| port.id == id).collect()
            }
            // nova rebuilds what it has no record of.
            Refresh::Recorded | Refresh::Port(_) => in_order(ports, &ids(&recorded)),
            Refresh::All => {
                let known = self.records.of_instance(client.context, uuid(instance)?).await?;
                let (known, unknown) = split(ports, &known);
                known.into_iter().chain(unknown).collect()
            }
        };
        let mut fresh = self.vifs(client, &chosen, &recorded, &[]).await?;
        let Refresh::Port(id) = which else { return Ok(fresh) };
        if recorded.is_empty() {
            return Ok(fresh);
        }
        let mut all = recorded;
        match (fresh.pop(), all.iter().position(|vif| vif.id == id)) {
            (Some(vif), Some(at)) => all[at] = vif,
            (Some(vif), None) => all.push(vif),
            (None, Some(at)) => {
                info!(port_id = %id, "the port is no longer the instance's");
                all.remove(at);
            }
            (None, None) => {}
        }
        Ok(all)
    }

    /// The interfaces that these ports are. `recorded` says which of them are to be kept on delete;
    /// `kept` are more of these.
    async fn vifs(
        &self,
        client: Client<'_>,
        ports: &[Port],
        recorded: &[Vif],
        kept: &[Uuid],
    ) -> Result<Vec<Vif>, NetworkError> {
        let networks: BTreeSet<&str> = ports.iter().map(|port| port.network_id.as_str()).collect();
        let subnets = subnet_ids(ports);
        let facts = try_join3(
            self.networks_and_physical(client, &networks),
            self.around(client, &networks, &subnets),
            floating_ips(client, ports),
        );
        let ((networks, physical), (subnets, dhcp_ports), floating_ips) = facts.await?;
        let facts = Facts { networks, physical, subnets, floating_ips, dhcp_ports };
        for port in ports {
            let before = recorded.iter().find(|vif| vif.id == port.id);
            let before = before.and_then(|vif| vif.vnic_type.as_deref());
            let now = port.vnic_type.as_deref().unwrap_or("normal");
            if before.is_some_and(|before| before != now) {
                warn!(port_id = %port.id, before, now, "the vnic_type of a bound port was changed");
            }
        }
        Ok(self.modelled(ports, &facts, recorded, kept))
    }

    /// The ports as nova records them.
    pub(super) fn modelled(
        &self,
        ports: &[Port],
        facts: &Facts,
        recorded: &[Vif],
        kept: &[Uuid],
    ) -> Vec<Vif> {
        let preserved = |id: Uuid| {
            kept.contains(&id) || recorded.iter().any(|vif| vif.id == id && vif.preserve_on_delete)
        };
        let options = &self.options.model;
        ports.iter().map(|port| model::vif(port, facts, preserved(port.id), options)).collect()
    }

    async fn networks_and_physical(
        &self,
        client: Client<'_>,
        ids: &BTreeSet<&str>,
    ) -> Result<(Vec<Network>, BTreeMap<String, Physical>), NetworkError> {
        let visible = async { Ok(networks(client, As::Admin, ids).await?) };
        futures_util::future::try_join(visible, self.physical(client, ids)).await
    }

    /// What carries these networks.
    pub(super) async fn physical(
        &self,
        client: Client<'_>,
        ids: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, Physical>, NetworkError> {
        let several = self.extensions.has(client, "multi-provider").await?;
        try_join_all(ids.iter().map(async |id| {
            let all = ["segments", "provider:physical_network", "provider:network_type"];
            let fields = if several { &all[..] } else { &all[1..] };
            let path = format!("networks/{}", in_path(id)?);
            let provider: Provider = client.get(As::Admin, &path, "network", fields).await?;
            Ok(((*id).to_owned(), physical(id, &provider)?))
        }))
        .await
        .map(|all: Vec<(String, Physical)>| all.into_iter().collect())
    }

    /// The subnets of these ids, and the DHCP agents' ports of the networks.
    pub(super) async fn around(
        &self,
        client: Client<'_>,
        networks: &BTreeSet<&str>,
        subnets: &BTreeSet<&str>,
    ) -> Result<(Vec<Subnet>, Vec<Port>), NetworkError> {
        if subnets.is_empty() {
            return Ok(Default::default());
        }
        let ids: Vec<_> = subnets.iter().map(|id| ("id", *id)).collect();
        let of_networks = networks.iter().map(|id| ("network_id", *id));
        let dhcp: Vec<_> = of_networks.chain([("device_owner", "network:dhcp")]).collect();
        let found = futures_util::future::try_join(
            client.list(As::Admin, "subnets", &ids),
            client.list(As::Admin, "ports", &dhcp),
        );
        Ok(found.await?)
    }

    /// See [`crate::network::Network::security_groups`]. A group without a name has its id for one.
    /// nova: network/security_group_api.py, get_instances_security_groups_bindings
    pub(super) async fn group_names(
        &self,
        client: Client<'_>,
        instance: &Instance,
    ) -> Result<Vec<String>, NetworkError> {
        let ports = ports_of(client, As::Admin, instance).await?;
        let of_ports =
            || ports.iter().flat_map(|port| port.security_groups.iter().map(String::as_str));
        let ids: BTreeSet<&str> = of_ports().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let fields = [("fields", "id"), ("fields", "name")];
        let filters: Vec<_> = ids.iter().map(|id| ("id", *id)).chain(fields).collect();
        let groups: Vec<SecurityGroup> =
            client.list(As::Admin, "security-groups", &filters).await?;
        let name = |id: &str| {
            let group = groups.iter().find(|group| group.id == id)?;
            Some(if group.name.is_empty() { &group.id } else { &group.name }.clone())
        };
        Ok(of_ports().filter_map(name).collect())
    }
}

/// The instance's ports.
pub(super) async fn ports_of(
    client: Client<'_>,
    who: As,
    instance: &Instance,
) -> Result<Vec<Port>, NetworkError> {
    let (project, id) = (project(instance)?, uuid(instance)?.to_string());
    let filters = [("tenant_id", project.as_str()), ("device_id", id.as_str())];
    Ok(client.list(who, "ports", &filters).await?)
}

/// The networks of these ids that can be seen.
pub(super) async fn networks(
    client: Client<'_>,
    who: As,
    ids: &BTreeSet<&str>,
) -> Result<Vec<Network>, CallError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = ids.iter().map(|id| ("id", *id)).collect();
    client.list(who, "networks", &ids).await
}

/// The floating IPs of these ports; a Neutron without routers has none.
pub(super) async fn floating_ips(
    client: Client<'_>,
    ports: &[Port],
) -> Result<Vec<FloatingIp>, NetworkError> {
    let with_address = ports.iter().filter(|port| !port.fixed_ips.is_empty());
    let ids: Vec<_> = with_address.map(|port| port.id.to_string()).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let filters: Vec<_> = ids.iter().map(|id| ("port_id", id.as_str())).collect();
    match client.list(As::Admin, "floatingips", &filters).await {
        Err(error) if error.is_absent() => Ok(Vec::new()),
        found => Ok(found?),
    }
}

pub(super) fn subnet_ids(ports: &[Port]) -> BTreeSet<&str> {
    ports.iter().flat_map(|port| &port.fixed_ips).map(|ip| ip.subnet_id.as_str()).collect()
}

/// nova: network/neutron.py, _get_physnet_tunneled_info
fn physical(id: &str, provider: &Provider) -> Result<Physical, NetworkError> {
    if provider.segments.is_empty() {
        let kind = provider.network_type.as_deref().unwrap_or_default();
        let name = provider.physical_network.clone();
        return Ok(Physical { name, tunneled: TUNNELED.contains(&kind) });
    }
    let names = provider.segments.iter().filter_map(|segment| segment.physical_network.clone());
    match names.into_iter().find(|name| !name.is_empty()) {
        Some(name) => Ok(Physical { name: Some(name), tunneled: false }),
        None => {
            let reason = "none of its segments has a physical network".to_owned();
            Err(NetworkError::Unacceptable { network: id.to_owned(), reason })
        }
    }
}

fn ids(vifs: &[Vif]) -> Vec<Uuid> {
    vifs.iter().map(|vif| vif.id).collect()
}

/// Those of `ports` that are in `order`, so ordered.
fn in_order(mut ports: Vec<Port>, order: &[Uuid]) -> Vec<Port> {
    let place = |port: &Port| order.iter().position(|id| *id == port.id);
    ports.retain(|port| place(port).is_some());
    ports.sort_by_key(place);
    ports
}

/// Those that are on record, in the record's order, and the others.
/// nova: network/neutron.py, _get_ordered_port_list
fn split(ports: Vec<Port>, order: &[Uuid]) -> (Vec<Port>, Vec<Port>) {
    let (known, unknown) = ports.into_iter().partition(|port| order.contains(&port.id));
    (in_order(known, order), unknown)
}

pub(super) fn uuid(instance: &Instance) -> Result<Uuid, NetworkError> {
    crate::network::standalone::uuid(instance)
}

/// # Errors
/// `Unacceptable` for an instance without a project: its ports couldn't be told from others'.
pub(super) fn project(instance: &Instance) -> Result<String, NetworkError> {
    let project = instance.project_id.value().filter(|project| !project.is_empty());
    project.cloned().ok_or_else(|| NetworkError::Unacceptable {
        network: "-".to_owned(),
        reason: "the instance has no project".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_network_of_segments_is_the_first_physical_one() {
        let read = |value| physical("n", &serde_json::from_value(value).unwrap());
        let geneve = json!({"provider:network_type": "geneve", "provider:physical_network": null});
        assert_eq!(read(geneve).unwrap(), Physical { name: None, tunneled: true });
        let flat = json!({"provider:network_type": "flat", "provider:physical_network": "p1"});
        let p1 = Physical { name: Some("p1".to_owned()), tunneled: false };
        assert_eq!(read(flat.clone()).unwrap(), p1);
        let vxlan = json!({"provider:network_type": "vxlan"});
        assert_eq!(read(json!({"segments": [vxlan, flat]})).unwrap(), p1);
        assert!(read(json!({"segments": [vxlan]})).is_err());
        assert_eq!(read(json!({"segments": null})).unwrap(), Physical::default());
    }
}
