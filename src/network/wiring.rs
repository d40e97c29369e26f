//! How a VIF is connected: by what Neutron's binding says, one of a few ways. Pure.
//!
//! The domain's XML and the plug are both made from it, so that they can't disagree.
//! nova: network/os_vif_util.py, `nova_to_osvif_vif`; virt/libvirt/vif.py

use super::{NetworkError, Vif};
use crate::model::network::is_device_name;

/// Keys of `details` that standalone mode uses: libvirt's networks and user mode have no type of
/// nova's, and are `other`.
pub const LIBVIRT_NETWORK: &str = "libvirt_network";
pub const USER_MODE: &str = "user_mode";

/// What becomes of a VIF on this host. Names are those of devices and bridges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wiring {
    /// A port of an Open vSwitch bridge.
    Ovs { device: String, bridge: String, datapath: Option<String>, tap: OvsTap },
    /// A Linux bridge of its own, on which iptables filters, and a pair of devices from there to
    /// the Open vSwitch bridge.
    OvsHybrid { device: String, bridge: String, datapath: Option<String>, hybrid: Hybrid },
    /// A Linux bridge, made here if `create` says so.
    Bridge { device: String, bridge: String, create: bool },
    /// A tap device that somebody else connects: a router on this host.
    Tap { device: String },
    /// A network that libvirt manages.
    LibvirtNetwork { network: String },
    /// QEMU's user-mode network: nothing on the host.
    User,
}

/// Who makes the tap device of an Open vSwitch port, and its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OvsTap {
    /// The port is made at the plug, the tap by libvirt: nova's way since 19.
    ByLibvirt,
    /// Both are made at the plug: Neutron's `ovs_create_tap`.
    AtPlug,
    /// libvirt makes both: VIFs recorded by older agents.
    PortByLibvirt,
}

/// The devices of a hybrid plug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hybrid {
    /// `qbr…`
    pub linux_bridge: String,
    /// `qvb…`, the end on the Linux bridge.
    pub inner: String,
    /// `qvo…`, the end on the Open vSwitch bridge.
    pub outer: String,
}

impl Wiring {
    /// # Errors
    /// `UnexpectedType` for a port whose binding failed or wasn't made, `NotSupported` for a type
    /// that this agent can't plug, `Unacceptable` for names that no device can have.
    pub fn of(vif: &Vif) -> Result<Self, NetworkError> {
        let kind = vif.vif_type.as_deref().unwrap_or("none");
        let vnic = vif.vnic_type.as_deref().unwrap_or("normal");
        let device = vif.device_name();
        let datapath = vif.detail("datapath_type").filter(|text| !text.is_empty());
        if vnic != "normal" {
            return Err(NetworkError::NotSupported(format!("an interface with vnic_type {vnic}")));
        }
        match kind {
            "ovs" => {
                let datapath = datapath.map(str::to_owned);
                if let Some(datapath) = &datapath
                    && !matches!(datapath.as_str(), "system" | "netdev")
                {
                    let reason = format!("datapath_type {datapath} is unknown");
                    return Err(unacceptable(vif, &reason));
                }
                let bridge = bridge(vif)?;
                if vif.detail_flag("ovs_hybrid_plug") {
                    return Ok(Self::OvsHybrid { device, bridge, datapath, hybrid: hybrid(vif) });
                }
                let tap = match (vif.detail_flag("ovs_create_tap"), vif.delegate_create) {
                    (true, _) => OvsTap::AtPlug,
                    (false, true) => OvsTap::ByLibvirt,
                    (false, false) => OvsTap::PortByLibvirt,
                };
                Ok(Self::Ovs { device, bridge, datapath, tap })
            }
            "bridge" => {
                let meta = vif.network.as_ref().map(|network| &network.meta);
                let truth = |key: &str| {
                    let value = meta.and_then(|meta| meta.get(key));
                    value.and_then(|value| value.as_bool()).unwrap_or(false)
                };
                if truth("should_create_vlan") {
                    return Err(NetworkError::NotSupported("a VLAN of nova-network's".to_owned()));
                }
                let create = truth("should_create_bridge") && !truth("multi_host");
                Ok(Self::Bridge { device, bridge: bridge(vif)?, create })
            }
            "tap" => Ok(Self::Tap { device }),
            "other" if vif.details.contains_key(USER_MODE) => Ok(Self::User),
            "other" if vif.detail(LIBVIRT_NETWORK).is_some() => {
                let network = vif.detail(LIBVIRT_NETWORK).unwrap_or_default().to_owned();
                Ok(Self::LibvirtNetwork { network })
            }
            "unbound" | "binding_failed" | "none" | "other" => {
                Err(NetworkError::UnexpectedType { port: vif.id, kind: kind.to_owned() })
            }
            kind => Err(NetworkError::NotSupported(format!("an interface of type {kind}"))),
        }
    }

    /// The device of the guest's end on this host.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Ovs { device, .. }
            | Self::OvsHybrid { device, .. }
            | Self::Bridge { device, .. }
            | Self::Tap { device } => Some(device),
            Self::LibvirtNetwork { .. } | Self::User => None,
        }
    }
}

/// The hybrid devices that a port of this id would have.
pub fn hybrid(vif: &Vif) -> Hybrid {
    Hybrid {
        linux_bridge: vif.name_with("qbr"),
        inner: vif.name_with("qvb"),
        outer: vif.name_with("qvo"),
    }
}

/// The VIF's bridge: a name from Neutron, which goes to tools and into paths.
fn bridge(vif: &Vif) -> Result<String, NetworkError> {
    let name = vif.bridge().ok_or_else(|| unacceptable(vif, "it names no bridge"))?;
    match is_device_name(name) {
        true => Ok(name.to_owned()),
        false => Err(unacceptable(vif, &format!("{name:?} can't be the name of a bridge"))),
    }
}

/// The guest's MAC address.
///
/// # Errors
/// `Unacceptable` for what isn't one: it goes to tools and into the domain.
pub fn mac_address(vif: &Vif) -> Result<String, NetworkError> {
    checked_address(vif, vif.address.as_deref().unwrap_or_default())
}

/// The address that the host's end of a tap gets, if Neutron says one.
///
/// # Errors
/// `Unacceptable` for what isn't a MAC address.
pub fn tap_address(vif: &Vif) -> Result<Option<String>, NetworkError> {
    vif.detail("mac_address").map(|address| checked_address(vif, address)).transpose()
}

fn checked_address(vif: &Vif, address: &str) -> Result<String, NetworkError> {
    let octet = |text: &str| text.len() == 2 && text.chars().all(|c| c.is_ascii_hexdigit());
    match address.split(':').count() == 6 && address.split(':').all(octet) {
        true => Ok(address.to_owned()),
        false => Err(unacceptable(vif, &format!("{address:?} is no MAC address"))),
    }
}

fn unacceptable(vif: &Vif, reason: &str) -> NetworkError {
    let network = vif.network.as_ref().and_then(|network| network.id.clone());
    let network = network.unwrap_or_else(|| vif.id.to_string());
    NetworkError::Unacceptable { network, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vif(more: Value) -> Vif {
        let mut value = json!({
            "id": "c7352cde-117d-4aa3-9307-70caa5bf3a76", "type": "ovs",
            "network": {"id": "n", "bridge": "br-int"}, "delegate_create": true,
        });
        for (key, item) in more.as_object().unwrap() {
            value[key] = item.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn ovs(tap: OvsTap) -> Wiring {
        let (device, bridge) = ("tapc7352cde-11".to_owned(), "br-int".to_owned());
        Wiring::Ovs { device, bridge, datapath: None, tap }
    }

    #[test]
    fn the_binding_says_how_a_port_is_connected() {
        let of = |more| Wiring::of(&vif(more)).unwrap();
        assert_eq!(of(json!({})), ovs(OvsTap::ByLibvirt));
        assert_eq!(of(json!({"delegate_create": false})), ovs(OvsTap::PortByLibvirt));
        assert_eq!(of(json!({"details": {"ovs_create_tap": true}})), ovs(OvsTap::AtPlug));
        let hybrid = of(json!({"details": {"ovs_hybrid_plug": true, "datapath_type": "netdev"}}));
        let Wiring::OvsHybrid { hybrid, datapath, .. } = hybrid else { panic!("{hybrid:?}") };
        assert_eq!(datapath.as_deref(), Some("netdev"));
        let names = [&*hybrid.linux_bridge, &*hybrid.inner, &*hybrid.outer];
        assert_eq!(names, ["qbrc7352cde-11", "qvbc7352cde-11", "qvoc7352cde-11"]);
        let network = json!({"bridge": "brq12345678-12", "meta": {"should_create_bridge": true}});
        let bridge = of(json!({"type": "bridge", "network": network}));
        assert!(matches!(bridge, Wiring::Bridge { create: true, .. }));
        assert_eq!(of(json!({"type": "tap"})), Wiring::Tap { device: "tapc7352cde-11".into() });
    }

    #[test]
    fn a_port_without_a_binding_is_unexpected_and_others_are_not_supported() {
        for kind in [json!("unbound"), json!("binding_failed"), json!(null), json!("other")] {
            let refused = Wiring::of(&vif(json!({ "type": kind })));
            assert!(matches!(refused, Err(NetworkError::UnexpectedType { .. })), "{kind}");
        }
        for more in [json!({"type": "vhostuser"}), json!({"vnic_type": "direct"})] {
            let refused = Wiring::of(&vif(more));
            assert!(matches!(refused, Err(NetworkError::NotSupported(_))));
        }
    }

    #[test]
    fn a_name_that_is_no_name_of_a_bridge_is_refused() {
        for name in ["", "..", "a/b", "-x", "br int", "br;x", "a-name-that-is-too-long"] {
            let refused = Wiring::of(&vif(json!({"network": {"bridge": name}})));
            assert!(matches!(refused, Err(NetworkError::Unacceptable { .. })), "{name}");
        }
        let refused = Wiring::of(&vif(json!({"details": {"datapath_type": "x y"}})));
        assert!(matches!(refused, Err(NetworkError::Unacceptable { .. })));
        for address in ["", "fa:16:3e:00:00", "fa:16:3e:00:00:0g", "-a:16:3e:00:00:01"] {
            assert!(mac_address(&vif(json!({ "address": address }))).is_err(), "{address}");
        }
        assert!(mac_address(&vif(json!({"address": "FA:16:3e:00:00:01"}))).is_ok());
    }
}
