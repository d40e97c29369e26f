//! `network_data.json`: an instance's links, networks and services, for cloud-init. Pure.
//!
//! ``nova: virt/netutils.py, get_network_metadata``. Of each network only the first IPv4 and the
//! first IPv6 subnet is told, as nova has it.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// VIF types that guests see by name; all others are `phy`.
/// ``nova: network/model.py, LEGACY_EXPOSED_VIF_TYPES``
const EXPOSED_TYPES: [&str; 8] =
    ["bridge", "dvs", "hw_veb", "hyperv", "ovs", "tap", "vhostuser", "vif"];

/// A port's plug, in plain words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VifData {
    /// The port's id.
    pub id: String,
    pub mac: Option<String>,
    /// `ovs`, `bridge`, …
    pub vif_type: Option<String>,
    pub devname: Option<String>,
    pub network_id: String,
    pub mtu: Option<u64>,
    pub subnets: Vec<SubnetData>,
    /// Of all its addresses.
    pub floating_ips: Vec<String>,
}

/// A subnet, with the port's addresses on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubnetData {
    /// 4 or 6
    pub version: u8,
    pub cidr: String,
    pub ips: Vec<String>,
    pub gateway: Option<String>,
    pub dns: Vec<String>,
    pub routes: Vec<RouteData>,
    pub dhcp_server: Option<String>,
    pub enable_dhcp: bool,
    /// `slaac`, `dhcpv6-stateful`, …
    pub ipv6_address_mode: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteData {
    pub cidr: String,
    pub gateway: Option<String>,
}

/// The whole file; `None` without any VIF, which nova writes as `{}`.
pub fn network_data(vifs: &[VifData]) -> Option<Value> {
    if vifs.is_empty() {
        return None;
    }
    let mut links = Vec::new();
    let mut networks = Vec::new();
    let mut services = Vec::new();
    for (index, vif) in vifs.iter().filter(|vif| !vif.subnets.is_empty()).enumerate() {
        let first = |version| vif.subnets.iter().find(|subnet| subnet.version == version);
        let subnets: Vec<_> = [first(4), first(6)].into_iter().flatten().collect();
        if subnets.is_empty() {
            continue;
        }
        let link_id = match vif.devname.as_deref() {
            None | Some("") => format!("interface{index}"),
            Some(name) => name.to_owned(),
        };
        links.push(link(vif, &link_id));
        for subnet in subnets.iter().filter(|subnet| !subnet.ips.is_empty()) {
            networks.push(network(vif, subnet, networks.len(), &link_id));
            for service in dns_services(subnet) {
                if !services.contains(&service) {
                    services.push(service);
                }
            }
        }
    }
    Some(json!({ "links": links, "networks": networks, "services": services }))
}

fn link(vif: &VifData, id: &str) -> Value {
    let kind = vif.vif_type.as_deref().filter(|kind| EXPOSED_TYPES.contains(kind));
    // A DHCP server tells the MTU itself.
    let dhcp = vif.subnets.iter().any(|s| s.dhcp_server.as_deref().is_some_and(|s| !s.is_empty()));
    json!({
        "id": id,
        "vif_id": vif.id,
        "type": kind.unwrap_or("phy"),
        "mtu": if dhcp { None } else { vif.mtu },
        "ethernet_mac_address": vif.mac,
    })
}

fn network(vif: &VifData, subnet: &SubnetData, index: usize, link_id: &str) -> Value {
    let version = subnet.version;
    let id = format!("network{index}");
    let dhcp = subnet.dhcp_server.is_some() || subnet.enable_dhcp;
    if subnet.ipv6_address_mode.is_none() && dhcp {
        return json!({
            "id": id,
            "type": format!("ipv{version}_dhcp"),
            "link": link_id,
            "network_id": vif.network_id,
        });
    }
    let mode = subnet.ipv6_address_mode.as_ref().map(|mode| format!("_{mode}")).unwrap_or_default();
    let mut routes = Vec::new();
    if let Some(gateway) = subnet.gateway.as_deref().filter(|gateway| !gateway.is_empty()) {
        let any = if version == 4 { "0.0.0.0" } else { "::" };
        routes.push(json!({ "network": any, "netmask": any, "gateway": gateway }));
    }
    for route in &subnet.routes {
        let (network, netmask) = network_and_mask(&route.cidr).unzip();
        routes.push(json!({ "network": network, "netmask": netmask, "gateway": route.gateway }));
    }
    json!({
        "id": id,
        "type": format!("ipv{version}{mode}"),
        "link": link_id,
        "ip_address": subnet.ips.first(),
        "netmask": network_and_mask(&subnet.cidr).map(|(_, mask)| mask),
        "routes": routes,
        "network_id": vif.network_id,
        "services": dns_services(subnet),
    })
}

fn dns_services(subnet: &SubnetData) -> Vec<Value> {
    subnet.dns.iter().map(|address| json!({ "type": "dns", "address": address })).collect()
}

/// `10.1.2.3/8` → `10.0.0.0` and `255.0.0.0`; `None` for what isn't a network.
fn network_and_mask(cidr: &str) -> Option<(String, String)> {
    let (address, prefix) = match cidr.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u32>().ok()?)),
        None => (cidr, None),
    };
    if let Ok(address) = address.parse::<Ipv4Addr>() {
        let prefix = prefix.unwrap_or(32);
        let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
        let mask = (prefix <= 32).then_some(!host)?;
        let network = Ipv4Addr::from(u32::from(address) & mask);
        return Some((network.to_string(), Ipv4Addr::from(mask).to_string()));
    }
    let address = address.parse::<Ipv6Addr>().ok()?;
    let prefix = prefix.unwrap_or(128);
    let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
    let mask = (prefix <= 128).then_some(!host)?;
    let network = Ipv6Addr::from(u128::from(address) & mask);
    Some((network.to_string(), Ipv6Addr::from(mask).to_string()))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Written by nova 33.0.2's own `get_network_metadata`.
    const GOLDEN: &str = include_str!("../../tests/golden/config_drive/network_data.json");

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    pub fn static_vif() -> VifData {
        VifData {
            id: "22222222-2222-2222-2222-222222222222".into(),
            mac: Some("fa:16:3e:00:00:01".into()),
            vif_type: Some("ovs".into()),
            devname: Some("tap22222222-22".into()),
            network_id: "11111111-1111-1111-1111-111111111111".into(),
            mtu: Some(1450),
            subnets: vec![
                SubnetData {
                    version: 4,
                    cidr: "192.168.1.0/24".into(),
                    ips: strings(&["192.168.1.100"]),
                    gateway: Some("192.168.1.1".into()),
                    dns: strings(&["8.8.8.8", "9.9.9.9"]),
                    routes: vec![RouteData {
                        cidr: "10.0.0.0/8".into(),
                        gateway: Some("192.168.1.254".into()),
                    }],
                    ..SubnetData::default()
                },
                SubnetData {
                    version: 6,
                    cidr: "2001:db8::/64".into(),
                    ips: strings(&["2001:db8::100"]),
                    gateway: Some("2001:db8::1".into()),
                    dns: strings(&["2001:4860:4860::8888"]),
                    routes: vec![RouteData {
                        cidr: "2001:db8:1::/48".into(),
                        gateway: Some("2001:db8::2".into()),
                    }],
                    ..SubnetData::default()
                },
            ],
            floating_ips: strings(&["172.16.0.5"]),
        }
    }

    fn vif(digit: char, kind: &str, mac: &str, subnets: Vec<SubnetData>) -> VifData {
        let id =
            |digit: char| "########-####-####-####-############".replace('#', &digit.to_string());
        let network = char::from_digit(digit.to_digit(10).unwrap() - 1, 10).unwrap();
        VifData {
            id: id(digit),
            mac: Some(mac.into()),
            vif_type: Some(kind.into()),
            network_id: id(network),
            subnets,
            ..VifData::default()
        }
    }

    #[test]
    fn every_network_is_told_as_nova_tells_it() {
        let mut slaac = static_vif();
        slaac.vif_type = Some("direct".into());
        slaac.subnets[1].ipv6_address_mode = Some("slaac".into());
        let dhcp = SubnetData {
            version: 4,
            cidr: "10.0.0.0/24".into(),
            ips: strings(&["10.0.0.7"]),
            gateway: Some("10.0.0.1".into()),
            dns: strings(&["8.8.8.8"]),
            dhcp_server: Some("10.0.0.2".into()),
            ..SubnetData::default()
        };
        let no_ip = SubnetData { version: 4, cidr: "10.1.0.0/24".into(), ..SubnetData::default() };
        let mut dhcp_vif = vif('4', "bridge", "fa:16:3e:00:00:02", vec![dhcp]);
        dhcp_vif.mtu = Some(1500);
        let mixed = [
            static_vif(),
            vif('8', "ovs", "fa:16:3e:00:00:04", vec![]),
            dhcp_vif,
            vif('6', "hostdev_physical", "fa:16:3e:00:00:03", vec![no_ip]),
        ];
        let golden: Value = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(network_data(&[static_vif()]).unwrap(), golden["static"]);
        assert_eq!(network_data(&[slaac]).unwrap(), golden["slaac"]);
        assert_eq!(network_data(&mixed).unwrap(), golden["mixed"]);
    }

    #[test]
    fn no_vif_is_nothing_to_tell() {
        assert_eq!(network_data(&[]), None);
    }

    #[test]
    fn masks_of_every_length_are_made() {
        let mask = |cidr| network_and_mask(cidr).map(|(network, mask)| format!("{network} {mask}"));
        assert_eq!(mask("10.1.2.3/0").unwrap(), "0.0.0.0 0.0.0.0");
        assert_eq!(mask("10.1.2.3/32").unwrap(), "10.1.2.3 255.255.255.255");
        assert_eq!(mask("::1/0").unwrap(), ":: ::");
        for bad in ["10.0.0.0/33", "::/129", "x", "10.0.0.0/-1", ""] {
            assert_eq!(mask(bad), None, "{bad}");
        }
    }
}
