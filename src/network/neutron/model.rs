//! From Neutron's resources to nova's model of an interface. Pure: the same text as nova's, key by
//! key, as nova's API and other agents read it. nova: network/neutron.py, _build_vif_model

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::types::{FloatingIp, Network, Port, Subnet};
use crate::model::network as model;
use crate::model::network::{NAME_LENGTH, Vif};

/// What there is to know beside the ports themselves.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub networks: Vec<Network>,
    /// By network.
    pub physical: BTreeMap<String, Physical>,
    /// In Neutron's order.
    pub subnets: Vec<Subnet>,
    pub floating_ips: Vec<FloatingIp>,
    /// Ports of DHCP agents.
    pub dhcp_ports: Vec<Port>,
}

/// What carries a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Physical {
    pub name: Option<String>,
    pub tunneled: bool,
}

/// Of the configuration.
#[derive(Debug, Clone)]
pub(super) struct ModelOptions {
    /// `[neutron] ovs_bridge`
    pub ovs_bridge: String,
    /// `[DEFAULT] flat_injected`
    pub flat_injected: bool,
}

/// The interface as nova records it. `preserve`: the port was there before the instance.
pub(super) fn vif(port: &Port, facts: &Facts, preserve: bool, options: &ModelOptions) -> Vif {
    let ips: Vec<_> =
        port.fixed_ips.iter().map(|ip| fixed_ip(port, &ip.ip_address, facts)).collect();
    let is_ours = |subnet: &&Subnet| port.fixed_ips.iter().any(|ip| ip.subnet_id == subnet.id);
    let subnets = facts.subnets.iter().filter(is_ours);
    let subnets = subnets.map(|found| subnet(found, &ips, &facts.dhcp_ports)).collect();
    let (bridge, on_ovs) = bridge(port, options);
    let mut vif = Vif {
        id: port.id,
        address: port.mac_address.clone(),
        network: Some(network(port, facts, subnets, bridge, options)),
        vif_type: port.vif_type.clone(),
        details: port.vif_details.clone(),
        ovs_interfaceid: on_ovs.then(|| port.id.to_string()),
        active: port.is_active(),
        vnic_type: Some(port.vnic_type.clone().unwrap_or_else(|| "normal".to_owned())),
        profile: Some(port.profile.clone()),
        preserve_on_delete: preserve,
        delegate_create: true,
        ..Vif::default()
    };
    vif.devname = Some(vif.name_with("tap"));
    vif
}

/// The bridge that the port belongs to, and whether it is Open vSwitch's.
fn bridge(port: &Port, options: &ModelOptions) -> (Option<String>, bool) {
    let named = |otherwise: String| {
        let name = port.vif_details.get("bridge_name").and_then(Value::as_str);
        let name = name.map_or(otherwise, str::to_owned);
        Some(name.chars().take(NAME_LENGTH).collect())
    };
    let flag = |key: &str| port.vif_details.get(key).and_then(Value::as_bool).unwrap_or(false);
    let linux = || named(format!("brq{}", port.network_id));
    match port.vif_type.as_deref() {
        Some("ovs" | "agilio_ovs") => (named(options.ovs_bridge.clone()), true),
        Some("bridge") => (linux(), false),
        // Not cut: it is a port group's name, and no device's.
        Some("dvs") => (Some(port.network_id.clone()), false),
        Some("vhostuser") if flag("vhostuser_ovs_plug") => {
            (named(options.ovs_bridge.clone()), true)
        }
        Some("vhostuser") if flag("vhostuser_fp_plug") => (linux(), false),
        _ => (None, false),
    }
}

fn network(
    port: &Port,
    facts: &Facts,
    subnets: Vec<model::Subnet>,
    bridge: Option<String>,
    options: &ModelOptions,
) -> model::Network {
    let network = facts.networks.iter().find(|network| network.id == port.network_id);
    let tenant = network.map_or(&port.tenant_id, |network| &network.tenant_id);
    let physical = facts.physical.get(&port.network_id).cloned().unwrap_or_default();
    let mut meta = Map::from_iter([
        ("injected".to_owned(), json!(options.flat_injected)),
        ("tenant_id".to_owned(), json!(tenant)),
        ("mtu".to_owned(), json!(network.and_then(|network| network.mtu))),
        ("physical_network".to_owned(), json!(physical.name)),
        ("tunneled".to_owned(), json!(physical.tunneled)),
    ]);
    if port.vif_type.as_deref() == Some("bridge") {
        meta.insert("should_create_bridge".to_owned(), json!(true));
    }
    model::Network {
        id: Some(port.network_id.clone()),
        bridge,
        label: network.and_then(|network| network.name.clone()),
        subnets,
        meta,
        ..model::Network::default()
    }
}

fn subnet(subnet: &Subnet, ips: &[model::FixedIp], dhcp_ports: &[Port]) -> model::Subnet {
    let mut meta = Map::from_iter([("enable_dhcp".to_owned(), json!(subnet.enable_dhcp))]);
    if let Some(mode) = subnet.ipv6_address_mode.as_ref().filter(|mode| !mode.is_empty()) {
        meta.insert("ipv6_address_mode".to_owned(), json!(mode));
    }
    let of_network = dhcp_ports.iter().filter(|port| port.network_id == subnet.network_id);
    let mut servers = of_network.filter_map(|port| {
        port.fixed_ips.iter().find(|ip| ip.subnet_id == subnet.id).map(|ip| &ip.ip_address)
    });
    if let Some(server) = servers.next_back() {
        meta.insert("dhcp_server".to_owned(), json!(server));
    }
    let mut dns = Vec::new();
    for address in &subnet.dns_nameservers {
        push_new(&mut dns, ip(Some(address), "dns"));
    }
    let mut routes = Vec::new();
    for route in &subnet.host_routes {
        push_new(
            &mut routes,
            model::Route {
                cidr: Some(route.destination.clone()),
                gateway: Some(ip(Some(&route.nexthop), "gateway")),
                ..model::Route::default()
            },
        );
    }
    let inside = |ip: &&model::FixedIp| ip.ip().is_some_and(|ip| is_in(ip, &subnet.cidr));
    model::Subnet {
        cidr: Some(subnet.cidr.clone()),
        dns,
        gateway: Some(ip(subnet.gateway_ip.as_deref(), "gateway")),
        ips: ips.iter().filter(inside).cloned().collect(),
        routes,
        version: prefix(&subnet.cidr).map(|(address, _)| version(address)),
        meta,
        ..model::Subnet::default()
    }
}

fn fixed_ip(port: &Port, address: &str, facts: &Facts) -> model::FixedIp {
    let here = |floating: &&FloatingIp| {
        floating.port_id == Some(port.id) && floating.fixed_ip_address.as_deref() == Some(address)
    };
    let mut floating_ips = Vec::new();
    for floating in facts.floating_ips.iter().filter(here) {
        push_new(&mut floating_ips, ip(Some(&floating.floating_ip_address), "floating"));
    }
    model::FixedIp {
        address: Some(address.to_owned()),
        kind: Some("fixed".to_owned()),
        version: address.parse().ok().map(version),
        floating_ips,
        ..model::FixedIp::default()
    }
}

fn ip(address: Option<&str>, kind: &str) -> model::Ip {
    model::Ip {
        address: address.map(str::to_owned),
        kind: Some(kind.to_owned()),
        version: address.and_then(|address| address.parse().ok()).map(version),
        ..model::Ip::default()
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn version(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// The address and the length of a network's prefix.
fn prefix(cidr: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = cidr.split_once('/')?;
    let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?);
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (length <= longest).then_some((address, length))
}

fn is_in(address: IpAddr, cidr: &str) -> bool {
    match (address, prefix(cidr)) {
        (IpAddr::V4(address), Some((IpAddr::V4(network), length))) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            (u32::from(address) ^ u32::from(network)) & !host == 0
        }
        (IpAddr::V6(address), Some((IpAddr::V6(network), length))) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            (u128::from(address) ^ u128::from(network)) & !host == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ModelOptions {
        ModelOptions { ovs_bridge: "br-int".to_owned(), flat_injected: false }
    }

    fn port(more: Value) -> Port {
        let mut value = json!({
            "id": "c7352cde-117d-4aa3-9307-70caa5bf3a76",
            "network_id": "57b8d57e-9dff-432d-9967-42c1e70508a4", "tenant_id": "t",
            "mac_address": "fa:16:3e:63:66:4e", "status": "DOWN", "admin_state_up": true,
            "fixed_ips": [{"subnet_id": "s4", "ip_address": "10.77.0.55"},
                          {"subnet_id": "s6", "ip_address": "2001:db8::5"}],
            "binding:vif_type": "ovs", "binding:vif_details": {}, "binding:profile": {},
        });
        for (key, item) in more.as_object().unwrap() {
            value[key] = item.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_bridge_is_named_by_the_binding_or_by_default_and_cut_to_14() {
        let of = |more| bridge(&port(more), &options());
        assert_eq!(of(json!({})), (Some("br-int".to_owned()), true));
        let details = json!({"bridge_name": "tbr-12345678-1234"});
        assert_eq!(of(json!({"binding:vif_details": details})).0.unwrap(), "tbr-12345678-1");
        let brq = of(json!({"binding:vif_type": "bridge"}));
        assert_eq!(brq, (Some("brq57b8d57e-9d".to_owned()), false));
        assert_eq!(of(json!({"binding:vif_type": "unbound"})), (None, false));
    }

    #[test]
    fn a_linux_bridge_is_to_be_made_and_an_unknown_network_has_the_ports_project() {
        let port = port(json!({"binding:vif_type": "bridge"}));
        let vif = vif(&port, &Facts::default(), true, &options());
        let network = vif.network.unwrap();
        assert_eq!(network.meta["should_create_bridge"], true);
        assert_eq!((&network.meta["tenant_id"], network.label), (&json!("t"), None));
        assert!(vif.preserve_on_delete && vif.ovs_interfaceid.is_none());
    }

    #[test]
    fn each_address_is_in_its_own_subnet_with_its_floating_ips() {
        let subnet = |id: &str, cidr: &str| {
            json!({"id": id, "network_id": "57b8d57e-9dff-432d-9967-42c1e70508a4", "cidr": cidr,
                   "gateway_ip": null, "enable_dhcp": id == "s4", "dns_nameservers": ["9.9.9.9", "9.9.9.9"],
                   "host_routes": [{"destination": "10.0.0.0/8", "nexthop": "10.77.0.9"}]})
        };
        let dhcp = json!({"id": "00000000-0000-0000-0000-000000000001",
            "network_id": "57b8d57e-9dff-432d-9967-42c1e70508a4",
            "fixed_ips": [{"subnet_id": "s4", "ip_address": "10.77.0.2"}]});
        let read = |value: Value| serde_json::from_value(value).unwrap();
        let facts = Facts {
            subnets: vec![
                read(subnet("s6", "2001:db8::/64")),
                read(subnet("s4", "10.77.0.0/24")),
                read(subnet("other", "10.77.0.0/16")),
            ],
            floating_ips: vec![
                serde_json::from_value(json!({
                "floating_ip_address": "172.16.0.5", "fixed_ip_address": "10.77.0.55",
                "port_id": "c7352cde-117d-4aa3-9307-70caa5bf3a76"}))
                .unwrap(),
            ],
            dhcp_ports: vec![serde_json::from_value(dhcp).unwrap()],
            ..Facts::default()
        };
        let vif = vif(&port(json!({})), &facts, false, &options());
        let subnets = vif.network.unwrap().subnets;
        let [six, four] = subnets.as_slice() else { panic!("{subnets:?}") };
        assert_eq!((six.version, four.version), (Some(6), Some(4)));
        assert_eq!(six.ips[0].address.as_deref(), Some("2001:db8::5"));
        assert_eq!(four.ips[0].floating_ips[0].address.as_deref(), Some("172.16.0.5"));
        assert_eq!(four.dns.len(), 1, "no name server twice");
        assert_eq!(json!(four.meta), json!({"enable_dhcp": true, "dhcp_server": "10.77.0.2"}));
        assert_eq!(four.gateway.as_ref().unwrap().address, None);
        assert_eq!(four.routes[0].gateway.as_ref().unwrap().address.as_deref(), Some("10.77.0.9"));
    }

    #[test]
    fn a_port_is_active_when_it_is_up_or_not_meant_to_be() {
        assert!(!port(json!({})).is_active());
        assert!(port(json!({"status": "ACTIVE"})).is_active());
        assert!(port(json!({"admin_state_up": false})).is_active());
    }

    #[test]
    fn prefixes_of_every_length_hold_what_they_should() {
        let is = |address: &str, cidr: &str| is_in(address.parse().unwrap(), cidr);
        assert!(is("10.1.2.3", "0.0.0.0/0") && is("10.1.2.3", "10.1.2.3/32"));
        assert!(is("2001:db8::5", "2001:db8::/64") && is("::1", "::/0"));
        assert!(!is("10.1.2.3", "10.1.3.0/24") && !is("::1", "0.0.0.0/0"));
        assert!(!is("10.1.2.3", "10.0.0.0/33") && !is("10.1.2.3", "nonsense"));
    }
}
