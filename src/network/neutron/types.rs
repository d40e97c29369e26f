//! Neutron's resources, as far as they are read here. Neutron's own names; what it leaves out is
//! empty.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Port {
    pub id: Uuid,
    #[serde(default)]
    pub network_id: String,
    #[serde(default)]
    pub mac_address: Option<String>,
    /// The instance that has it.
    #[serde(default, deserialize_with = "or_empty")]
    pub device_id: String,
    #[serde(default, deserialize_with = "or_empty")]
    pub device_owner: String,
    #[serde(default)]
    pub tenant_id: Option<String>,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub admin_state_up: Option<bool>,
    #[serde(default, deserialize_with = "or_empty")]
    pub fixed_ips: Vec<Address>,
    #[serde(default)]
    pub dns_name: Option<String>,
    #[serde(default, rename = "binding:host_id")]
    pub host: Option<String>,
    #[serde(default, rename = "binding:vif_type")]
    pub vif_type: Option<String>,
    #[serde(default, rename = "binding:vif_details", deserialize_with = "or_empty")]
    pub vif_details: Map<String, Value>,
    #[serde(default, rename = "binding:profile", deserialize_with = "or_empty")]
    pub profile: Map<String, Value>,
    #[serde(default, rename = "binding:vnic_type")]
    pub vnic_type: Option<String>,
    /// What the port needs of placement; shown to an administrator only.
    #[serde(default)]
    pub resource_request: Option<Value>,
    #[serde(default, deserialize_with = "or_empty")]
    pub security_groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Address {
    #[serde(default)]
    pub subnet_id: String,
    pub ip_address: String,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub(super) struct Network {
    pub id: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub tenant_id: Option<String>,
    #[serde(default)]
    pub mtu: Option<u64>,
    #[serde(default, deserialize_with = "or_empty")]
    pub subnets: Vec<String>,
    #[serde(default)]
    pub port_security_enabled: Option<bool>,
    #[serde(default, rename = "router:external", deserialize_with = "or_empty")]
    pub external: bool,
    #[serde(default, deserialize_with = "or_empty")]
    pub shared: bool,
    #[serde(default)]
    pub dns_domain: Option<String>,
}

/// What a network is made of, which only an administrator sees.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub(super) struct Provider {
    #[serde(default, rename = "provider:physical_network")]
    pub physical_network: Option<String>,
    #[serde(default, rename = "provider:network_type")]
    pub network_type: Option<String>,
    /// Where there are several.
    #[serde(default, deserialize_with = "or_empty")]
    pub segments: Vec<Provider>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub(super) struct Subnet {
    pub id: String,
    #[serde(default)]
    pub network_id: String,
    #[serde(default)]
    pub cidr: String,
    #[serde(default)]
    pub gateway_ip: Option<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub enable_dhcp: bool,
    #[serde(default)]
    pub ipv6_address_mode: Option<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub dns_nameservers: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub host_routes: Vec<HostRoute>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct HostRoute {
    pub destination: String,
    pub nexthop: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct FloatingIp {
    pub floating_ip_address: String,
    #[serde(default)]
    pub fixed_ip_address: Option<String>,
    #[serde(default)]
    pub port_id: Option<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct SecurityGroup {
    pub id: String,
    #[serde(default)]
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Extension {
    pub alias: String,
}

/// A port's binding to one host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Binding {
    pub host: String,
    /// `ACTIVE` or `INACTIVE`
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub vif_type: Option<String>,
    #[serde(default)]
    pub vnic_type: Option<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub vif_details: Map<String, Value>,
    #[serde(default, deserialize_with = "or_empty")]
    pub profile: Map<String, Value>,
}

impl Port {
    /// Whether it carries traffic, or isn't meant to. nova: network/neutron.py, _build_vif_model
    pub fn is_active(&self) -> bool {
        self.admin_state_up == Some(false) || self.status.as_deref() == Some("ACTIVE")
    }

    /// Whether the port asks for something of placement: bandwidth, packets.
    /// nova: network/neutron.py, _has_resource_request
    pub fn has_resource_request(&self, extended: bool) -> bool {
        let Some(request) = &self.resource_request else { return false };
        match extended {
            true => request
                .get("request_groups")
                .and_then(Value::as_array)
                .is_some_and(|g| !g.is_empty()),
            false => request.as_object().is_some_and(|request| !request.is_empty()),
        }
    }

    pub fn binding_failed(&self) -> bool {
        self.vif_type.as_deref() == Some("binding_failed")
    }
}

fn or_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
