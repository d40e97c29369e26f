//! An instance's network interfaces in its record, on this host, and in its domain.

use tracing::warn;

use super::domain::{flavor, properties};
use super::plug_events::Awaited;
use super::{Backends, StepError, StepResult};
use crate::hypervisor::guest::{GuestVif, tap_has_queues};
use crate::hypervisor::spec::{InterfaceSource, PortMetadata};
use crate::model::network::FixedIp;
use crate::model::object::{ImageMeta, Instance, InstanceInfoCache};
use crate::network::wiring::{OvsTap, Wiring, mac_address};
use crate::network::{NetworkError, PlugFor, Vif};
use crate::telemetry::Chain;

/// The interfaces that the instance's record holds.
///
/// # Errors
/// `Unreadable` for a record that isn't nova's model: a guest must not be started without an
/// interface that it had.
pub fn vifs(instance: &Instance) -> Result<Vec<Vif>, StepError> {
    Ok(instance.vifs().map_err(NetworkError::from)?)
}

/// Those of them that can be read: to show, and to take away with the instance.
pub fn known_vifs(instance: &Instance) -> Vec<Vif> {
    instance.vifs().unwrap_or_default()
}

/// Writes the interfaces into the instance's record.
pub fn place_vifs(instance: &mut Instance, vifs: &[Vif]) {
    let mut cache = instance.info_cache.value().cloned().unwrap_or_else(|| {
        let mut cache = InstanceInfoCache::default();
        cache.instance_uuid.load(instance.uuid.get().copied());
        cache
    });
    cache.set_vifs(vifs);
    instance.info_cache.set(Some(cache));
}

/// Makes every interface of the record ready on this host.
pub async fn plug_vifs(instance: &Instance, on: &Backends) -> StepResult {
    let owner = plug_owner(instance)?;
    for vif in vifs(instance)? {
        on.network.plug(owner, &vif).await?;
    }
    Ok(())
}

/// Whom its interfaces are plugged for.
///
/// # Errors
/// `Guest` when the flavor and the image contradict each other.
pub fn plug_owner(instance: &Instance) -> Result<PlugFor, StepError> {
    let image = properties(&ImageMeta::from_instance(instance)?);
    let multiqueue = tap_has_queues(&flavor(instance)?, &image)?;
    Ok(PlugFor { instance: instance.uuid()?, multiqueue })
}

/// Takes away what [`plug_vifs`] made.
pub async fn unplug_vifs(instance: &Instance, on: &Backends) -> StepResult {
    for vif in known_vifs(instance) {
        on.network.unplug(instance.uuid()?, &vif).await?;
    }
    Ok(())
}

/// Plugs the instance's interfaces anew, as a hard reboot does: what is left of the old plug goes
/// first, whatever state it is in. nova: virt/libvirt/driver.py, _hard_reboot, `destroy`
pub async fn replug_vifs(instance: &Instance, on: &Backends) -> StepResult {
    let (uuid, vifs) = (instance.uuid()?, vifs(instance)?);
    Awaited::of_old(&vifs, on).expect(uuid, on);
    for vif in &vifs {
        if let Err(error) = on.network.unplug(uuid, vif).await {
            warn!(port_id = %vif.id, error = %Chain(&error), "the old plug stays");
        }
    }
    plug_vifs(instance, on).await
}

/// The interface as the domain has it.
///
/// # Errors
/// Those of [`Wiring::of`].
pub(super) fn guest_vif(vif: &Vif) -> Result<GuestVif, NetworkError> {
    let wiring = Wiring::of(vif)?;
    let target = wiring.device().map(str::to_owned);
    let bridge = |bridge, ovs_port| InterfaceSource::Bridge { bridge, ovs_port };
    let unlimited = matches!(wiring, Wiring::Tap { .. });
    let unmanaged_target =
        matches!(wiring, Wiring::Tap { .. } | Wiring::Ovs { tap: OvsTap::AtPlug, .. });
    let source = match wiring {
        Wiring::Ovs { bridge: name, tap: OvsTap::PortByLibvirt, .. } => {
            bridge(name, Some(vif.id.to_string()))
        }
        // The port is made at the plug: libvirt only makes the tap, if that.
        Wiring::Ovs { .. } | Wiring::Tap { .. } => InterfaceSource::Ethernet,
        Wiring::OvsHybrid { hybrid, .. } => bridge(hybrid.linux_bridge, None),
        Wiring::Bridge { bridge: name, .. } => bridge(name, None),
        Wiring::LibvirtNetwork { network } => InterfaceSource::Network { network },
        Wiring::User => InterfaceSource::User,
    };
    let ip = |ip: &FixedIp| {
        let kind = ip.kind.clone().unwrap_or_else(|| "fixed".to_owned());
        Some((kind, ip.address.clone()?, ip.version?))
    };
    Ok(GuestVif {
        source,
        mac_address: mac_address(vif)?,
        mtu: vif.mtu(),
        target,
        unmanaged_target,
        unlimited,
        port: PortMetadata {
            uuid: vif.id.to_string(),
            ips: vif.fixed_ips().filter_map(ip).collect(),
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What nova-compute recorded for a port of OVN's, with changes.
    fn vif(more: Value) -> Vif {
        let mut vif = json!({
            "id": "c7352cde-117d-4aa3-9307-70caa5bf3a76", "address": "fa:16:3e:63:66:4e",
            "network": {"id": "n", "bridge": "br-int", "meta": {"mtu": 1442}, "subnets": [
                {"ips": [{"address": "10.77.0.55", "type": "fixed", "version": 4}]}]},
            "type": "ovs", "details": {"port_filter": true, "datapath_type": "netdev"},
            "devname": "tapc7352cde-11", "vnic_type": "normal", "delegate_create": true,
        });
        for (key, value) in more.as_object().unwrap() {
            vif[key] = value.clone();
        }
        serde_json::from_value(vif).unwrap()
    }

    /// nova: virt/libvirt/vif.py, `_set_config_VIFOpenVSwitch`, `_set_config_VIFBridge`,
    /// `get_config_tap`
    #[test]
    fn a_domain_has_the_interface_that_nova_would_write() {
        let ethernet = InterfaceSource::Ethernet;
        let bridge = |bridge: &str, port: Option<&str>| InterfaceSource::Bridge {
            bridge: bridge.to_owned(),
            ovs_port: port.map(str::to_owned),
        };
        let port = "c7352cde-117d-4aa3-9307-70caa5bf3a76";
        for (more, source, unmanaged) in [
            (json!({}), ethernet.clone(), false),
            (json!({"details": {"ovs_create_tap": true}}), ethernet.clone(), true),
            (json!({"delegate_create": false}), bridge("br-int", Some(port)), false),
            (json!({"details": {"ovs_hybrid_plug": true}}), bridge("qbrc7352cde-11", None), false),
            (json!({"type": "bridge"}), bridge("br-int", None), false),
            (json!({"type": "tap"}), ethernet, true),
        ] {
            let guest = guest_vif(&vif(more.clone())).unwrap();
            assert_eq!((guest.source, guest.unmanaged_target), (source, unmanaged), "{more}");
            assert_eq!(guest.target.as_deref(), Some("tapc7352cde-11"), "{more}");
            assert_eq!(guest.mtu, Some(1442), "{more}");
            assert_eq!(guest.port.ips, [("fixed".to_owned(), "10.77.0.55".to_owned(), 4)]);
        }
    }

    #[test]
    fn a_guest_is_not_defined_without_an_interface_that_it_should_have() {
        for more in [json!({"type": "binding_failed"}), json!({"address": null})] {
            assert!(guest_vif(&vif(more.clone())).is_err(), "{more}");
        }
        let mut instance = Instance::default();
        let mut cache = InstanceInfoCache::default();
        cache.network_info.set(Some("nonsense".to_owned()));
        instance.info_cache.load(Some(Some(cache)));
        assert!(vifs(&instance).is_err() && known_vifs(&instance).is_empty());
    }
}
