//! Networks without Neutron: a bridge of the host, a network of libvirt, QEMU's user-mode network,
//! or none at all.
//!
//! Nothing is kept: an interface's port id is derived from the instance and its place in the
//! request, its MAC address and device name from the port id. libvirt makes the tap devices itself
//! and QEMU's end takes them away; what is left to do is to look before and to tidy up afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::naming::name_based;
use super::plug::Plugger;
use super::plug::ovs::OvsOptions;
use super::wiring::{LIBVIRT_NETWORK, USER_MODE};
use super::{Network, NetworkError, PlugFor, PortAddresses, Refresh, Vif, Wanted};
use crate::model::context::RequestContext;
use crate::model::network as model;
use crate::model::object::{Instance, ObjectError};

/// The networks of a host that stands alone.
#[derive(Debug, Clone)]
pub struct StandaloneNetwork {
    /// What an instance gets that asks for no network, or for `auto`.
    default: String,
    plugger: Plugger,
}

/// Where a VIF's host end goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A bridge of the host.
    Bridge(String),
    /// A network that libvirt manages.
    Network(String),
    /// QEMU's user-mode network.
    User,
}

impl StandaloneNetwork {
    /// Instances that don't say otherwise get `default`: `user`, `none`, `bridge:NAME` or
    /// `network:NAME`.
    ///
    /// # Errors
    /// [`NetworkError::Unacceptable`] for anything else.
    pub fn new(default: &str) -> Result<Self, NetworkError> {
        parse(default)?;
        // No VIF of this mode is on Open vSwitch.
        let ovs = OvsOptions {
            connection: String::new(),
            timeout: Duration::ZERO,
            isolate_vif: false,
            per_port_bridge: false,
            default_qos_type: String::new(),
        };
        Ok(Self { default: default.to_owned(), plugger: Plugger::new(ovs, 1500) })
    }
}

#[async_trait]
impl Network for StandaloneNetwork {
    async fn allocate(
        &self,
        _: &RequestContext,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<Vec<Vif>, NetworkError> {
        vifs_for(uuid(instance)?, wanted, &self.default)
    }

    /// Nothing is kept, so nothing is to be given back.
    async fn deallocate(
        &self,
        _: &RequestContext,
        _: &Instance,
        _: &[Uuid],
    ) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn release(&self, _: &RequestContext, _: &Instance, _: Uuid) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn refresh(
        &self,
        _: &RequestContext,
        instance: &Instance,
        _: Refresh,
    ) -> Result<Vec<Vif>, NetworkError> {
        Ok(instance.vifs()?)
    }

    async fn bind(&self, _: &RequestContext, _: &Instance, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn unbind(&self, _: &RequestContext, _: &Instance) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn active_ports(
        &self,
        _: &RequestContext,
        instance: &Instance,
    ) -> Result<BTreeSet<Uuid>, NetworkError> {
        Ok(instance.vifs()?.iter().map(|vif| vif.id).collect())
    }

    async fn addresses(
        &self,
        _: &RequestContext,
        _: &Instance,
    ) -> Result<Vec<PortAddresses>, NetworkError> {
        Ok(Vec::new())
    }

    async fn add_address(
        &self,
        _: &RequestContext,
        _: &PortAddresses,
    ) -> Result<bool, NetworkError> {
        Ok(false)
    }

    async fn set_addresses(
        &self,
        _: &RequestContext,
        _: &PortAddresses,
    ) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn security_groups(
        &self,
        _: &RequestContext,
        _: &Instance,
    ) -> Result<Vec<String>, NetworkError> {
        Ok(Vec::new())
    }

    async fn plug(&self, owner: PlugFor, vif: &Vif) -> Result<(), NetworkError> {
        self.plugger.plug(owner, vif).await
    }

    async fn unplug(&self, _: Uuid, vif: &Vif) -> Result<(), NetworkError> {
        self.plugger.unplug(vif).await
    }

    async fn unplug_rest(&self, instance: Uuid) -> Result<(), NetworkError> {
        self.plugger.unplug_rest(instance).await
    }
}

/// The instance's id.
///
/// # Errors
/// `NotSupported` for an instance that came without one.
pub(super) fn uuid(instance: &Instance) -> Result<Uuid, NetworkError> {
    instance.uuid().map_err(|error: ObjectError| NetworkError::NotSupported(error.to_string()))
}

/// The interfaces that `instance` gets for what it asks: always the same ones.
///
/// # Errors
/// [`NetworkError::Unacceptable`] for a network that can't be named so, for `none` beside another,
/// and for ports and fixed addresses, which only Neutron has.
pub(super) fn vifs_for(
    instance: Uuid,
    wanted: &Wanted,
    default: &str,
) -> Result<Vec<Vif>, NetworkError> {
    // Places that no interface has which the instance keeps.
    let mut places = (0..).filter(|place| !wanted.besides.contains(&port_id(instance, *place)));
    let mut next = |source| {
        let place = places.next().unwrap_or_default();
        vif(instance, place, source)
    };
    let requested = &wanted.networks;
    if requested.is_empty() {
        return Ok(parse(default)?.map(next).into_iter().collect());
    }
    let mut vifs = Vec::new();
    for request in requested {
        let name = match request.network_id.as_deref() {
            None | Some("") | Some("auto") => default,
            Some(name) => name,
        };
        let refuse = |reason: &str| {
            Err(NetworkError::Unacceptable { network: name.to_owned(), reason: reason.to_owned() })
        };
        if request.port_id.is_some() {
            return refuse("there are no ports without neutron");
        }
        if request.address.is_some() {
            return refuse("a fixed address can't be had without neutron");
        }
        match parse(name)? {
            Some(source) => vifs.push(next(source)),
            None if requested.len() > 1 => return refuse("it goes with no other network"),
            None => {}
        }
    }
    Ok(vifs)
}

/// What a network id names; `None` for `none`.
fn parse(network: &str) -> Result<Option<Source>, NetworkError> {
    let refuse = |reason: &str| {
        Err(NetworkError::Unacceptable { network: network.to_owned(), reason: reason.to_owned() })
    };
    if let Some(bridge) = network.strip_prefix("bridge:") {
        return match model::is_device_name(bridge) {
            true => Ok(Some(Source::Bridge(bridge.to_owned()))),
            false => refuse("not the name of a network device"),
        };
    }
    if let Some(name) = network.strip_prefix("network:") {
        let plain = |c: char| !c.is_control() && c != '/';
        return match !name.is_empty() && name.len() <= 255 && name.chars().all(plain) {
            true => Ok(Some(Source::Network(name.to_owned()))),
            false => refuse("not a name that libvirt gives to a network"),
        };
    }
    match network {
        "user" => Ok(Some(Source::User)),
        "none" => Ok(None),
        _ => refuse("expected user, none, bridge:NAME or network:NAME"),
    }
}

pub(crate) fn port_id(instance: Uuid, index: usize) -> Uuid {
    name_based(instance, &format!("port:{index}")).0
}

/// The instance's interface number `index`. The port's id is a name-based UUID in the instance's
/// own namespace.
fn vif(instance: Uuid, index: usize, source: Source) -> Vif {
    let (id, hash) = name_based(instance, &format!("port:{index}"));
    // neutron: base_mac. The hash's tail isn't in the UUID, so version and variant take no bits.
    let address = format!("fa:16:3e:{:02x}:{:02x}:{:02x}", hash[17], hash[18], hash[19]);
    let detail = |key: &str, value: Value| Map::from_iter([(key.to_owned(), value)]);
    let (kind, bridge, label, details) = match source {
        Source::Bridge(bridge) => ("bridge", Some(bridge.clone()), bridge, Map::new()),
        Source::Network(name) => {
            ("other", None, name.clone(), detail(LIBVIRT_NETWORK, name.into()))
        }
        Source::User => ("other", None, "user".to_owned(), detail(USER_MODE, true.into())),
    };
    let network = model::Network { bridge, label: Some(label), ..model::Network::default() };
    let mut vif = Vif {
        id,
        address: Some(address),
        network: Some(network),
        vif_type: Some(kind.to_owned()),
        details,
        active: true,
        vnic_type: Some("normal".to_owned()),
        ..Vif::default()
    };
    vif.devname = Some(vif.name_with("tap"));
    vif
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::RequestedNetwork;

    fn vifs_for(
        instance: Uuid,
        requested: &[RequestedNetwork],
        default: &str,
    ) -> Result<Vec<Vif>, NetworkError> {
        let wanted = Wanted { networks: requested.to_vec(), ..Wanted::default() };
        super::vifs_for(instance, &wanted, default)
    }
    use crate::network::wiring::Wiring;

    fn ask(network: &str) -> RequestedNetwork {
        RequestedNetwork { network_id: Some(network.to_owned()), ..RequestedNetwork::default() }
    }

    fn wired(requested: &[RequestedNetwork], default: &str) -> Vec<Wiring> {
        let vifs = vifs_for(Uuid::from_u128(1), requested, default).unwrap();
        vifs.iter().map(|vif| Wiring::of(vif).unwrap()).collect()
    }

    #[test]
    fn a_network_is_a_bridge_a_libvirt_network_user_mode_or_nothing() {
        let device = vifs_for(Uuid::from_u128(1), &[], "user").unwrap()[0].device_name();
        let bridge = |name: &str| Wiring::Bridge {
            device: device.clone(),
            bridge: name.to_owned(),
            create: false,
        };
        assert_eq!(
            wired(&[ask("bridge:br-ex"), ask("network:default"), ask("user")], "none"),
            [bridge("br-ex"), Wiring::LibvirtNetwork { network: "default".into() }, Wiring::User]
        );
        assert_eq!(wired(&[ask("none")], "user"), []);
        assert_eq!(wired(&[], "bridge:br0"), [bridge("br0")]);
        assert_eq!(wired(&[ask("auto")], "user"), [Wiring::User]);
        assert_eq!(wired(&[RequestedNetwork::default()], "user"), [Wiring::User]);
    }

    #[test]
    fn what_only_neutron_has_is_refused() {
        let port = RequestedNetwork { port_id: Some(Uuid::nil()), ..ask("user") };
        let address = RequestedNetwork { address: Some("10.0.0.1".into()), ..ask("user") };
        for requested in [
            vec![ask("57b8d57e-9dff-432d-9967-42c1e70508a4")],
            vec![port],
            vec![address],
            vec![ask("none"), ask("user")],
        ] {
            let refused = vifs_for(Uuid::nil(), &requested, "user");
            assert!(matches!(refused, Err(NetworkError::Unacceptable { .. })), "{requested:?}");
        }
    }

    #[test]
    fn a_bridges_name_cant_leave_its_directory() {
        for name in ["", ".", "..", "a/b", "../lo", "sixteen-letters-", "a b", "a\0", "-x", "ä"] {
            let refused = parse(&format!("bridge:{name}"));
            assert!(matches!(refused, Err(NetworkError::Unacceptable { .. })), "{name:?}");
        }
        assert!(StandaloneNetwork::new("bridge:a/b").is_err());
    }

    #[test]
    fn interfaces_are_the_same_each_time_and_different_from_each_other() {
        let two = [ask("user"), ask("user")];
        let vifs = vifs_for(Uuid::from_u128(1), &two, "user").unwrap();
        assert_eq!(vifs, vifs_for(Uuid::from_u128(1), &two, "user").unwrap());
        assert_ne!(vifs[0].id, vifs[1].id);
        assert_ne!(vifs[0].address, vifs[1].address);
        let other = vifs_for(Uuid::from_u128(2), &two, "user").unwrap();
        assert_ne!(vifs[0].id, other[0].id);
    }

    #[test]
    fn an_interface_is_named_by_its_port_and_its_port_by_the_instance() {
        let instance = Uuid::parse_str("24ef2f14-daa6-42b1-b7fa-7136169b5f1c").unwrap();
        let vif = vif(instance, 0, Source::User);
        assert_eq!(vif.id.to_string(), "df5400e3-aa72-5e69-b85a-68b36a975133");
        assert_eq!(vif.address.as_deref(), Some("fa:16:3e:6e:ff:c8"));
        assert_eq!(vif.devname.as_deref(), Some("tapdf5400e3-aa"));
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let all =
            vifs_for(Uuid::nil(), &[ask("bridge:br0"), ask("network:x"), ask("user")], "user");
        let text = model::network_info_text(all.as_ref().unwrap());
        assert_eq!(model::parse_network_info(&text).unwrap(), all.unwrap());
    }

    proptest! {
        #[test]
        fn any_network_id_is_taken_or_refused(id in ".{0,40}") {
            if let Ok(Some(Source::Bridge(bridge))) = parse(&id) {
                prop_assert!(bridge.len() <= 15 && !bridge.contains('/'));
            }
        }
    }
}
