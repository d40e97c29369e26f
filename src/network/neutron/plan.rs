//! What a build asks for, held against what Neutron has: which networks, which ports are there
//! already, which are to be made. nova: network/neutron.py, _validate_requested_port_ids,
//! _validate_requested_network_ids, _create_ports_for_instance
//!
//! Looking comes first, and all at once: nothing is made before everything is known to be allowed.

use std::collections::{BTreeSet, HashSet};

use futures_util::future::{try_join, try_join4};
use uuid::Uuid;

use super::NeutronNetwork;
use super::client::{As, Client, in_path};
use super::info::{networks, ports_of, project, uuid};
use super::types::{Network, Port, SecurityGroup};
use crate::model::object::Instance;
use crate::network::{NetworkError, RequestedNetwork, Wanted};

/// An interface to be.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub request: RequestedNetwork,
    pub network: Network,
    pub port: Source,
}

/// Where its port comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The user's: it is let go of in the end, and not deleted.
    Requested(Port),
    /// An earlier attempt made it.
    Found(Port),
    Create,
}

/// What is to be made.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub slots: Vec<Slot>,
    /// Ids, for the ports that are made.
    pub security_groups: Vec<String>,
}

impl NeutronNetwork {
    /// # Errors
    /// What nova refuses such a request with.
    pub(super) async fn plan(
        &self,
        client: Client<'_>,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<Plan, NetworkError> {
        if wanted.networks.iter().any(|request| request.has_device) {
            let what = "an interface on a PCI device or an accelerator";
            return Err(NetworkError::NotSupported(what.to_owned()));
        }
        let automatic = is_automatic(wanted);
        let (found, (requested, networks), security_groups, ()) = try_join4(
            ports_of(client, As::Admin, instance),
            async {
                let requested =
                    if automatic { vec![] } else { requested(client, instance, wanted).await? };
                let networks = available(client, instance, wanted, &requested, automatic).await?;
                Ok((requested, networks))
            },
            self.security_groups(client, instance, &wanted.security_groups),
            async {
                // Wanted later on, and cheaper now.
                self.extensions.has(client, "dns-integration").await?;
                Ok(())
            },
        )
        .await?;
        let project = project(instance)?;
        let slots = assign(wanted, networks, requested, found, automatic, &project)?;
        let forbidden = |slot: &&Slot| slot.network.external && !slot.network.shared;
        if let Some(slot) = slots.iter().find(forbidden)
            && !client.context.is_admin
        {
            // nova's default policy, os_compute_api:servers:create:attach_external.
            return Err(NetworkError::ExternalForbidden(slot.network.id.clone()));
        }
        for slot in &slots {
            let applicable = match slot.network.port_security_enabled.unwrap_or(true) {
                true => !slot.network.subnets.is_empty(),
                false => security_groups.is_empty(),
            };
            if !applicable {
                let id = slot.network.id.clone();
                return Err(NetworkError::SecurityGroupsNotApplicable(id));
            }
        }
        Ok(Plan { slots, security_groups })
    }

    /// Ids of the groups that are wanted, by name or id. `default` alone is what Neutron does by
    /// itself. nova: network/neutron.py, _process_security_groups
    async fn security_groups(
        &self,
        client: Client<'_>,
        instance: &Instance,
        wanted: &[String],
    ) -> Result<Vec<String>, NetworkError> {
        if wanted.is_empty() || wanted == ["default"] {
            return Ok(Vec::new());
        }
        let project = project(instance)?;
        let fields = [("fields", "id"), ("fields", "name")];
        let own = [fields[0], fields[1], ("tenant_id", project.as_str())];
        let mut groups: Vec<SecurityGroup> = client.list(As::User, "security-groups", &own).await?;
        match choose_groups(wanted, &groups) {
            Err(NetworkError::SecurityGroupNotFound(name)) => {
                if !self.extensions.has(client, "security-groups-shared-filtering").await? {
                    return Err(NetworkError::SecurityGroupNotFound(name));
                }
            }
            chosen => return chosen,
        }
        let shared = [fields[0], fields[1], ("shared", "True")];
        groups.extend(client.list::<SecurityGroup>(As::User, "security-groups", &shared).await?);
        choose_groups(wanted, &groups)
    }
}

/// nova: NetworkRequestList.auto_allocate
fn is_automatic(wanted: &Wanted) -> bool {
    wanted.networks.iter().any(|request| request.network_id.as_deref() == Some("auto"))
}

/// The ports that the user brings, each fit to be used.
async fn requested(
    client: Client<'_>,
    instance: &Instance,
    wanted: &Wanted,
) -> Result<Vec<Port>, NetworkError> {
    let ids: Vec<_> = wanted.ports().iter().map(Uuid::to_string).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // As an administrator: what a port needs of placement isn't shown to others.
    let filters: Vec<_> = ids.iter().map(|id| ("id", id.as_str())).collect();
    let ports: Vec<Port> = client.list(As::Admin, "ports", &filters).await?;
    let instance_id = uuid(instance)?;
    let hostname = instance.hostname.value().cloned().unwrap_or_default();
    for id in wanted.ports() {
        let port = ports.iter().find(|port| port.id == id);
        let port = port.ok_or_else(|| NetworkError::PortNotFound(id.to_string()))?;
        if port.tenant_id.as_deref() != Some(project(instance)?.as_str()) {
            return Err(NetworkError::PortNotUsable { port: id, instance: instance_id });
        }
        // One that is this instance's already was taken by an earlier attempt.
        if !port.device_id.is_empty() && port.device_id != instance_id.to_string() {
            return Err(NetworkError::PortInUse(id.to_string()));
        }
        if let Some(value) = port.dns_name.as_ref().filter(|name| !name.is_empty())
            && *value != hostname
        {
            return Err(NetworkError::PortNotUsableDns {
                port: id,
                instance: instance_id,
                value: value.clone(),
                hostname,
            });
        }
        if port.binding_failed() {
            return Err(NetworkError::PortBindingFailed(id));
        }
    }
    Ok(ports)
}

/// The networks that are asked for, or those that could be meant when none is.
async fn available(
    client: Client<'_>,
    instance: &Instance,
    wanted: &Wanted,
    requested: &[Port],
    automatic: bool,
) -> Result<Vec<Network>, NetworkError> {
    let of_ports = requested.iter().map(|port| port.network_id.as_str());
    let named = wanted.networks.iter().filter(|request| request.port_id.is_none());
    let named = named.filter_map(|request| request.network_id.as_deref());
    let ids: BTreeSet<&str> = of_ports.chain(named).collect();
    if !automatic && !ids.is_empty() {
        return Ok(networks(client, As::User, &ids).await?);
    }
    let project = project(instance)?;
    let mut own = vec![("tenant_id", project.as_str()), ("shared", "False")];
    if automatic {
        // One that is only half made is not up yet.
        own.push(("admin_state_up", "True"));
    }
    let (mut all, shared) = try_join(
        client.list::<Network>(As::User, "networks", &own),
        client.list::<Network>(As::User, "networks", &[("shared", "True")]),
    )
    .await?;
    all.extend(shared);
    if all.is_empty() && automatic {
        all.push(auto_allocated(client, &project).await?);
    }
    Ok(all)
}

/// nova: network/neutron.py, _auto_allocate_network
async fn auto_allocated(client: Client<'_>, project: &str) -> Result<Network, NetworkError> {
    #[derive(serde::Deserialize)]
    struct Topology {
        id: String,
    }
    let not_allocatable = || NetworkError::NotAllocatable(project.to_owned());
    let path = format!("auto-allocated-topology/{}", in_path(project)?);
    let topology = client.get(As::User, &path, "auto_allocated_topology", &[]).await;
    let topology: Topology = match topology {
        Err(error) if error.status() == Some(409) => return Err(not_allocatable()),
        found => found?,
    };
    let path = format!("networks/{}", in_path(&topology.id)?);
    match client.get(As::User, &path, "network", &[]).await {
        Err(error) if error.is_absent() => Err(not_allocatable()),
        found => Ok(found?),
    }
}

/// Gives each wanted interface its network and its port.
fn assign(
    wanted: &Wanted,
    networks: Vec<Network>,
    requested: Vec<Port>,
    found: Vec<Port>,
    automatic: bool,
    project: &str,
) -> Result<Vec<Slot>, NetworkError> {
    let unspecified = wanted.networks.is_empty()
        || matches!(wanted.networks.as_slice(), [one] if one.network_id.is_none()
            && one.port_id.is_none());
    let requests = if unspecified || automatic {
        let network_id = match networks.as_slice() {
            [] if wanted.networks.is_empty() => return Ok(Vec::new()),
            [] => return Err(NetworkError::NoNetwork(project.to_owned())),
            [one] => one.id.clone(),
            _ => return Err(NetworkError::Ambiguous),
        };
        let tag = wanted.networks.first().and_then(|request| request.tag.clone());
        vec![RequestedNetwork { network_id: Some(network_id), tag, ..Default::default() }]
    } else {
        wanted.networks.clone()
    };
    let mut left: Vec<Port> = {
        let users = requested.iter().map(|port| port.id);
        let taken: HashSet<Uuid> = users.chain(wanted.besides.iter().copied()).collect();
        found.into_iter().filter(|port| !taken.contains(&port.id)).collect()
    };
    let mut slots = Vec::new();
    for request in requests {
        let mine = request.port_id.and_then(|id| requested.iter().find(|port| port.id == id));
        let network_id = match (mine, &request.network_id) {
            (Some(port), _) => port.network_id.clone(),
            (None, Some(id)) => id.clone(),
            (None, None) => continue,
        };
        let network = networks.iter().find(|network| network.id == network_id);
        let network = network.cloned().ok_or(NetworkError::NotFound(network_id))?;
        let fits = |port: &Port| {
            let has = |address: &String| port.fixed_ips.iter().any(|ip| ip.ip_address == *address);
            port.network_id == network.id && request.address.as_ref().is_none_or(has)
        };
        let port = match (mine, left.iter().position(fits)) {
            (Some(port), _) => Source::Requested(port.clone()),
            (None, Some(at)) => Source::Found(left.remove(at)),
            (None, None) => Source::Create,
        };
        slots.push(Slot { request, network, port });
    }
    Ok(slots)
}

/// nova: network/neutron.py, _get_security_group_ids
fn choose_groups(wanted: &[String], groups: &[SecurityGroup]) -> Result<Vec<String>, NetworkError> {
    let choose = |name: &String| {
        if groups.iter().any(|group| group.id == *name) {
            return Ok(name.clone());
        }
        let mut named = groups.iter().filter(|group| group.name == *name);
        match (named.next(), named.next()) {
            (None, _) => Err(NetworkError::SecurityGroupNotFound(name.clone())),
            (Some(one), None) => Ok(one.id.clone()),
            (Some(_), Some(_)) => Err(NetworkError::SecurityGroupAmbiguous(name.clone())),
        }
    };
    wanted.iter().map(choose).collect()
}
