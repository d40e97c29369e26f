//! A standalone VIF in an instance's record: nova's network model, so that one reader serves both
//! modes. libvirt's networks and user mode have no nova type; they are `other`, with details.

use serde_json::json;

use super::{NetworkError, Vif, VifSource};
use crate::model::network as model;

const LIBVIRT_NETWORK: &str = "libvirt_network";
const USER_MODE: &str = "user_mode";

/// The text for `InstanceInfoCache.network_info`.
pub fn write(vifs: &[Vif]) -> String {
    let all = vifs.iter().map(|vif| {
        let (kind, bridge, label, details) = match &vif.source {
            VifSource::Bridge { bridge } => ("bridge", Some(bridge), bridge.as_str(), json!({})),
            VifSource::Network { network } => {
                ("other", None, network.as_str(), json!({ LIBVIRT_NETWORK: network }))
            }
            VifSource::User => ("other", None, "user", json!({ USER_MODE: true })),
        };
        json!({
            "id": vif.port_id,
            "address": vif.mac_address,
            "type": kind,
            "devname": vif.device,
            "details": details,
            "vnic_type": "normal",
            "active": true,
            "preserve_on_delete": false,
            "network": {
                "id": null, "label": label, "bridge": bridge, "subnets": [],
                "meta": {"mtu": vif.mtu},
            },
        })
    });
    json!(all.collect::<Vec<_>>()).to_string()
}

/// The VIFs of `network_info`.
///
/// # Errors
/// `Unacceptable` for text that isn't the model's, and for a VIF that this mode can't plug.
pub fn read(network_info: &str) -> Result<Vec<Vif>, NetworkError> {
    let vifs =
        model::parse_network_info(network_info).map_err(|error| unacceptable("-", &error))?;
    let read = |vif: &model::Vif| {
        let kind = vif.vif_type.as_deref().unwrap_or("unbound");
        let reason = format!("an interface of type {kind} is not supported");
        read_one(vif).ok_or_else(|| unacceptable(&vif.id.to_string(), &reason))
    };
    vifs.iter().map(read).collect()
}

/// Those VIFs of `network_info` that this mode could plug: an instance with a broken cache can
/// still be deleted.
pub fn read_known(network_info: &str) -> Vec<Vif> {
    let vifs = model::parse_network_info(network_info).unwrap_or_default();
    vifs.iter().filter_map(read_one).collect()
}

fn unacceptable(network: &str, reason: &dyn std::fmt::Display) -> NetworkError {
    NetworkError::Unacceptable { network: network.to_owned(), reason: reason.to_string() }
}

fn read_one(vif: &model::Vif) -> Option<Vif> {
    let network = vif.network.as_ref();
    let text = |key: &str| vif.details.get(key).and_then(|value| value.as_str());
    let source = match (vif.vif_type.as_deref()?, text(LIBVIRT_NETWORK)) {
        ("bridge", _) => VifSource::Bridge { bridge: network?.bridge.clone()? },
        ("other", Some(name)) => VifSource::Network { network: name.to_owned() },
        ("other", None) if vif.details.contains_key(USER_MODE) => VifSource::User,
        _ => return None,
    };
    let mtu = network.and_then(|network| network.meta.get("mtu")).and_then(|mtu| mtu.as_u64());
    Some(Vif {
        port_id: vif.id,
        mac_address: vif.address.clone()?,
        device: vif.devname.clone()?,
        mtu: mtu.and_then(|mtu| u32::try_from(mtu).ok()),
        source,
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let vif = |source| Vif {
            port_id: Uuid::nil(),
            mac_address: "fa:16:3e:00:00:01".to_owned(),
            device: "tap00000000-00".to_owned(),
            mtu: Some(1450),
            source,
        };
        let all = [
            vif(VifSource::Bridge { bridge: "br0".to_owned() }),
            vif(VifSource::Network { network: "default".to_owned() }),
            vif(VifSource::User),
        ];
        assert_eq!(read(&write(&all)).unwrap(), all);
        assert_eq!(read_known(&write(&all)), all);
    }

    #[test]
    fn an_interface_that_can_not_be_plugged_is_no_interface_less() {
        let ovs = r#"[{"id": "00000000-0000-0000-0000-000000000001", "type": "ovs"}]"#;
        for text in [ovs, "[{\"id\": 3}]", "nonsense"] {
            assert!(read(text).is_err(), "{text}");
            assert!(read_known(text).is_empty(), "{text}");
        }
    }
}
