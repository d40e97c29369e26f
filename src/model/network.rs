//! nova's model of an instance's network: the JSON text in `InstanceInfoCache.network_info`.
//!
//! nova: network/model.py. The key sets are fixed; a key that this build doesn't know is kept, and
//! what nova writes as an empty value is read from null or from nothing, too.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::model::class::Class;
use crate::model::object::{Instance, InstanceInfoCache};

/// How long nova lets a device's name be, one less than Linux does.
pub const NAME_LENGTH: usize = 14;

/// The text isn't nova's network model.
#[derive(Debug, thiserror::Error)]
#[error("unreadable network information: {0}")]
pub struct NetworkModelError(#[from] serde_json::Error);

impl NetworkModelError {
    /// Always [`Class::Refused`]: the record has to be made anew.
    pub fn class(&self) -> Class {
        Class::Refused
    }
}

/// A NIC of an instance: a port of Neutron's, bound to this host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Vif {
    /// The port.
    pub id: Uuid,
    /// The MAC address.
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub network: Option<Network>,
    /// How it is plugged: `ovs`, `bridge`, `tap`, `vhostuser`, `hw_veb`, `binding_failed`, …
    #[serde(default, rename = "type")]
    pub vif_type: Option<String>,
    /// Neutron's `binding:vif_details`.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub details: Map<String, Value>,
    /// The device on this host; [`Vif::device_name`] checks it.
    #[serde(default)]
    pub devname: Option<String>,
    #[serde(default)]
    pub ovs_interfaceid: Option<String>,
    #[serde(default)]
    pub qbh_params: Value,
    #[serde(default)]
    pub qbg_params: Value,
    /// Whether Neutron has reported the port as plugged.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub active: bool,
    /// `normal`, `direct`, `macvtap`, …
    #[serde(default)]
    pub vnic_type: Option<String>,
    /// Neutron's `binding:profile`.
    #[serde(default)]
    pub profile: Option<Map<String, Value>>,
    /// Whether the port was there before the instance, and is to outlive it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub preserve_on_delete: bool,
    /// Whether libvirt creates the device.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub delegate_create: bool,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub meta: Map<String, Value>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A network of Neutron's. `meta` has `mtu`, `physical_network`, `injected`, `tenant_id`, …
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Network {
    #[serde(default)]
    pub id: Option<String>,
    /// The bridge on this host, such as `br-int`.
    #[serde(default)]
    pub bridge: Option<String>,
    /// The network's name.
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub subnets: Vec<Subnet>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub meta: Map<String, Value>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Subnet {
    #[serde(default)]
    pub cidr: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub dns: Vec<Ip>,
    #[serde(default)]
    pub gateway: Option<Ip>,
    /// The instance's addresses in it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ips: Vec<FixedIp>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub routes: Vec<Route>,
    /// 4 or 6.
    #[serde(default)]
    pub version: Option<u8>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub meta: Map<String, Value>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Route {
    #[serde(default)]
    pub cidr: Option<String>,
    #[serde(default)]
    pub gateway: Option<Ip>,
    /// Never set by nova.
    #[serde(default)]
    pub interface: Value,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub meta: Map<String, Value>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An address of something beside the instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ip {
    #[serde(default)]
    pub address: Option<String>,
    /// `dns`, `gateway`, `floating`
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub version: Option<u8>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub meta: Map<String, Value>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An address of the instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FixedIp {
    #[serde(default)]
    pub address: Option<String>,
    /// `fixed`
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub version: Option<u8>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub meta: Map<String, Value>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub floating_ips: Vec<Ip>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Whether Linux takes `name` for a network device, and no tool takes it for anything else.
/// Linux: `dev_valid_name`, IFNAMSIZ
pub fn is_device_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    (1..=15).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['.', '-'])
}

/// nova writes `x or []`: null where there is nothing.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Vif {
    /// The device on this host, `tap` and the start of the port's id unless the record names
    /// another. A recorded name that Linux would refuse counts as none: it goes into paths.
    /// nova: virt/libvirt/vif.py, `get_vif_devname`; network/neutron.py, `_build_vif_model`.
    pub fn device_name(&self) -> String {
        let named = self.devname.as_deref().filter(|name| is_device_name(name));
        named.map_or_else(|| self.name_with("tap"), str::to_owned)
    }

    /// `prefix` and as much of the port's id as makes 14 characters: how nova, os-vif and Neutron
    /// name devices of a port. nova: network/model.py, `NIC_NAME_LEN`
    pub fn name_with(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.id).chars().take(NAME_LENGTH).collect()
    }

    /// The bridge on this host that the port belongs to.
    pub fn bridge(&self) -> Option<&str> {
        self.network.as_ref()?.bridge.as_deref()
    }

    /// The instance's addresses, of all subnets.
    pub fn fixed_ips(&self) -> impl Iterator<Item = &FixedIp> {
        self.network.iter().flat_map(|network| &network.subnets).flat_map(|subnet| &subnet.ips)
    }

    /// The network's MTU in bytes, when it is known.
    pub fn mtu(&self) -> Option<u32> {
        let mtu = self.network.as_ref()?.meta.get("mtu")?.as_u64()?;
        u32::try_from(mtu).ok().filter(|mtu| *mtu > 0)
    }

    /// A flag of `details`: `port_filter`, `ovs_hybrid_plug`, `connectivity`, …; absent is false.
    pub fn detail_flag(&self, key: &str) -> bool {
        self.details.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A text of `details`: `bridge_name`, `datapath_type`, `vhostuser_socket`, …
    pub fn detail(&self, key: &str) -> Option<&str> {
        self.details.get(key).and_then(Value::as_str)
    }

    /// The physical network, by the network's record or the port's.
    pub fn physical_network(&self) -> Option<&str> {
        let network =
            self.network.as_ref().and_then(|network| network.meta.get("physical_network"));
        let name = network.and_then(Value::as_str).filter(|name| !name.is_empty());
        name.or_else(|| self.detail("physical_network"))
    }
}

impl FixedIp {
    /// The address; `None` when it isn't one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.as_deref()?.parse().ok()
    }
}

impl Ip {
    /// The address; `None` when it isn't one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.as_deref()?.parse().ok()
    }
}

/// Reads `network_info`; an empty text is no NIC.
///
/// # Errors
/// [`NetworkModelError`] when it isn't a list of NICs.
pub fn parse_network_info(text: &str) -> Result<Vec<Vif>, NetworkModelError> {
    if text.is_empty() {
        return Ok(vec![]);
    }
    Ok(serde_json::from_str::<Option<Vec<Vif>>>(text)?.unwrap_or_default())
}

/// Writes `network_info`.
pub fn network_info_text(vifs: &[Vif]) -> String {
    serde_json::to_string(vifs).expect("JSON takes what has string keys")
}

impl InstanceInfoCache {
    /// The NICs; none when unset or null.
    ///
    /// # Errors
    /// [`NetworkModelError`] when the text isn't nova's model.
    pub fn vifs(&self) -> Result<Vec<Vif>, NetworkModelError> {
        parse_network_info(self.network_info.value().map_or("", String::as_str))
    }

    /// Puts other NICs there; the field counts as changed.
    pub fn set_vifs(&mut self, vifs: &[Vif]) {
        self.network_info.set(Some(network_info_text(vifs)));
    }
}

impl Instance {
    /// The NICs as the control plane recorded them last; none when the record wasn't loaded.
    ///
    /// # Errors
    /// [`NetworkModelError`] when the record isn't nova's model.
    pub fn vifs(&self) -> Result<Vec<Vif>, NetworkModelError> {
        self.info_cache.value().map_or_else(|| Ok(vec![]), InstanceInfoCache::vifs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vif(more: Value) -> Vif {
        let mut value = json!({"id": "ef5d45c6-7cf2-4e9f-a1b4-711709b1a8b9"});
        for (key, item) in more.as_object().unwrap() {
            value[key] = item.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_device_is_named_by_the_record_or_by_the_port() {
        assert_eq!(vif(json!({"devname": "tap0"})).device_name(), "tap0");
        for bad in [json!(null), json!(""), json!("../tap0"), json!("sixteen-letters!"), json!(".")]
        {
            assert_eq!(vif(json!({"devname": bad})).device_name(), "tapef5d45c6-7c");
        }
    }

    #[test]
    fn null_stands_for_nothing_and_unknown_keys_stay() {
        let vif = vif(json!({"details": null, "active": null, "colour": "blue", "network": {
            "subnets": null, "meta": {"mtu": 1442, "physical_network": null}, "shade": 3}}));
        assert!(vif.details.is_empty() && !vif.active && vif.fixed_ips().count() == 0);
        assert_eq!((vif.mtu(), vif.physical_network()), (Some(1442), None));
        let back = serde_json::to_value(&vif).unwrap();
        assert_eq!(back["colour"], "blue");
        assert_eq!(back["network"]["shade"], 3);
    }

    #[test]
    fn addresses_are_read_or_left_out() {
        let vif = vif(json!({"network": {"subnets": [{"ips": [
            {"address": "10.77.0.84", "type": "fixed", "version": 4}, {"address": "nowhere"}]}]}}));
        let ips: Vec<_> = vif.fixed_ips().map(FixedIp::ip).collect();
        assert_eq!(ips, [Some("10.77.0.84".parse().unwrap()), None]);
    }

    #[test]
    fn an_instance_without_a_record_has_no_nics() {
        let mut instance = Instance::default();
        assert!(instance.vifs().unwrap().is_empty());
        let mut cache = InstanceInfoCache::default();
        cache.set_vifs(&[vif(json!({}))]);
        instance.info_cache.load(Some(Some(cache)));
        assert_eq!(instance.vifs().unwrap(), [vif(json!({}))]);
        assert!(parse_network_info("null").unwrap().is_empty());
        assert!(parse_network_info("{}").is_err());
    }
}
