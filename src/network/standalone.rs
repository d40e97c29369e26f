//! Networks without Neutron: a bridge of the host, a network of libvirt, QEMU's user-mode network,
//! or none at all.
//!
//! Nothing is kept: an interface's port id is derived from the instance and its place in the
//! request, its MAC address and device name from the port id. libvirt makes the tap devices itself
//! and QEMU's end takes them away; what is left to do is to look before and to tidy up afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sha1::{Digest, Sha1};
use tokio::process::Command;
use uuid::Uuid;

use super::{Network, NetworkError, RequestedNetwork, Vif, VifSource};
use crate::model::context::RequestContext;

/// Linux: IFNAMSIZ, less the NUL.
const DEVICE_NAME_BYTES: usize = 15;

/// How long `ip` may take to remove a device.
const IP_TIMEOUT: Duration = Duration::from_secs(10);

/// The networks of a host that stands alone.
#[derive(Debug, Clone)]
pub struct StandaloneNetwork {
    /// What an instance gets that asks for no network, or for `auto`.
    default: String,
    /// Where the kernel lists network devices: `/sys/class/net`.
    devices: PathBuf,
}

impl StandaloneNetwork {
    /// Instances that don't say otherwise get `default`: `user`, `none`, `bridge:NAME` or
    /// `network:NAME`.
    ///
    /// # Errors
    /// [`NetworkError::Unacceptable`] for anything else.
    pub fn new(default: &str) -> Result<Self, NetworkError> {
        parse(default)?;
        Ok(Self { default: default.to_owned(), devices: "/sys/class/net".into() })
    }
}

#[async_trait]
impl Network for StandaloneNetwork {
    async fn allocate(
        &self,
        _: &RequestContext,
        instance: Uuid,
        requested: &[RequestedNetwork],
    ) -> Result<Vec<Vif>, NetworkError> {
        vifs_for(instance, requested, &self.default)
    }

    async fn plug(&self, _: Uuid, vif: &Vif) -> Result<(), NetworkError> {
        let VifSource::Bridge { bridge } = &vif.source else { return Ok(()) };
        check_device_name(bridge)?;
        match exists(&self.devices.join(bridge).join("bridge")).await {
            true => Ok(()),
            false => Err(NetworkError::NotFound(bridge.clone())),
        }
    }

    /// A tap that outlived its QEMU is removed; a device of that name that isn't a tap is left be.
    async fn unplug(&self, _: Uuid, vif: &Vif) -> Result<(), NetworkError> {
        if !is_tap_name(&vif.device) {
            let message = "this agent doesn't name devices so".to_owned();
            let device = vif.device.clone();
            return Err(NetworkError::Host { operation: "unplug", device, message });
        }
        let tap = self.devices.join(&vif.device).join("tun_flags");
        if !exists(&tap).await {
            return Ok(());
        }
        match remove_device(&vif.device).await {
            // Gone meanwhile: QEMU was still on its way out.
            Err(_) if !exists(&tap).await => Ok(()),
            result => result,
        }
    }

    /// Nothing is kept, so nothing is to be given back.
    async fn deallocate(&self, _: &RequestContext, _: Uuid, _: &[Vif]) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// The interfaces that `instance` gets for what it asks: always the same ones.
///
/// # Errors
/// [`NetworkError::Unacceptable`] for a network that can't be named so, for `none` beside another,
/// and for ports and fixed addresses, which only Neutron has.
pub(super) fn vifs_for(
    instance: Uuid,
    requested: &[RequestedNetwork],
    default: &str,
) -> Result<Vec<Vif>, NetworkError> {
    if requested.is_empty() {
        return Ok(parse(default)?.map(|source| vif(instance, 0, source)).into_iter().collect());
    }
    let mut vifs = Vec::new();
    for (index, request) in requested.iter().enumerate() {
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
            Some(source) => vifs.push(vif(instance, index, source)),
            None if requested.len() > 1 => return refuse("it goes with no other network"),
            None => {}
        }
    }
    Ok(vifs)
}

/// What a network id names; `None` for `none`.
fn parse(network: &str) -> Result<Option<VifSource>, NetworkError> {
    if let Some(bridge) = network.strip_prefix("bridge:") {
        check_device_name(bridge)?;
        return Ok(Some(VifSource::Bridge { bridge: bridge.to_owned() }));
    }
    if let Some(name) = network.strip_prefix("network:") {
        let plain = |c: char| !c.is_control() && c != '/';
        if name.is_empty() || name.len() > 255 || !name.chars().all(plain) {
            let reason = "not a name that libvirt gives to a network".to_owned();
            return Err(NetworkError::Unacceptable { network: network.to_owned(), reason });
        }
        return Ok(Some(VifSource::Network { network: name.to_owned() }));
    }
    match network {
        "user" => Ok(Some(VifSource::User)),
        "none" => Ok(None),
        other => Err(NetworkError::Unacceptable {
            network: other.to_owned(),
            reason: "expected user, none, bridge:NAME or network:NAME".to_owned(),
        }),
    }
}

/// Linux: `dev_valid_name`, and no character that would need quoting anywhere.
fn check_device_name(name: &str) -> Result<(), NetworkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits = (1..=DEVICE_NAME_BYTES).contains(&name.len());
    // A leading dash would be an option to `ip`.
    if fits && name.chars().all(plain) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    let reason = "not the name of a network device".to_owned();
    Err(NetworkError::Unacceptable { network: name.to_owned(), reason })
}

/// `tap` and the first 11 characters of a UUID: nova's name for a VIF's device.
fn is_tap_name(device: &str) -> bool {
    let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
    device.strip_prefix("tap").is_some_and(|rest| rest.len() == 11 && rest.chars().all(hex))
}

/// The instance's interface number `index`. The port's id is a name-based UUID (RFC 9562, version
/// 5) in the instance's own namespace.
fn vif(instance: Uuid, index: usize, source: VifSource) -> Vif {
    let hash = Sha1::new().chain_update(instance.as_bytes()).chain_update(format!("port:{index}"));
    let hash: [u8; 20] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    let port_id = uuid::Builder::from_sha1_bytes(bytes).into_uuid();
    // neutron: base_mac. The hash's tail isn't in the UUID, so version and variant take no bits.
    let mac_address = format!("fa:16:3e:{:02x}:{:02x}:{:02x}", hash[17], hash[18], hash[19]);
    let device = format!("tap{}", &port_id.to_string()[..11]);
    Vif { port_id, mac_address, device, mtu: None, source }
}

async fn exists(path: &Path) -> bool {
    tokio::fs::symlink_metadata(path).await.is_ok()
}

async fn remove_device(device: &str) -> Result<(), NetworkError> {
    let failed = |message: String| NetworkError::Host {
        operation: "remove",
        device: device.to_owned(),
        message,
    };
    let mut ip = Command::new("ip");
    ip.args(["link", "delete", "dev", device]).kill_on_drop(true);
    match tokio::time::timeout(IP_TIMEOUT, ip.output()).await {
        Err(_) => Err(failed(format!("ip gave no answer within {IP_TIMEOUT:?}"))),
        Ok(Err(error)) => Err(failed(format!("ip can't be run: {error}"))),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(network: &str) -> RequestedNetwork {
        RequestedNetwork { network_id: Some(network.to_owned()), ..RequestedNetwork::default() }
    }

    fn sources(requested: &[RequestedNetwork], default: &str) -> Vec<VifSource> {
        let vifs = vifs_for(Uuid::from_u128(1), requested, default).unwrap();
        vifs.into_iter().map(|vif| vif.source).collect()
    }

    #[test]
    fn a_network_is_a_bridge_a_libvirt_network_user_mode_or_nothing() {
        assert_eq!(
            sources(&[ask("bridge:br-ex"), ask("network:default"), ask("user")], "none"),
            [
                VifSource::Bridge { bridge: "br-ex".into() },
                VifSource::Network { network: "default".into() },
                VifSource::User
            ]
        );
        assert_eq!(sources(&[ask("none")], "user"), []);
        assert_eq!(sources(&[], "bridge:br0"), [VifSource::Bridge { bridge: "br0".into() }]);
        assert_eq!(sources(&[ask("auto")], "user"), [VifSource::User]);
        assert_eq!(sources(&[RequestedNetwork::default()], "user"), [VifSource::User]);
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
        assert_ne!(vifs[0].port_id, vifs[1].port_id);
        assert_ne!(vifs[0].mac_address, vifs[1].mac_address);
        let other = vifs_for(Uuid::from_u128(2), &two, "user").unwrap();
        assert_ne!(vifs[0].port_id, other[0].port_id);
    }

    /// Python: uuid.uuid5(uuid.UUID('24ef2f14-daa6-42b1-b7fa-7136169b5f1c'), 'port:0')
    #[test]
    fn a_port_id_is_a_version_5_uuid() {
        let instance = Uuid::parse_str("24ef2f14-daa6-42b1-b7fa-7136169b5f1c").unwrap();
        let vif = vif(instance, 0, VifSource::User);
        assert_eq!(vif.port_id.to_string(), "df5400e3-aa72-5e69-b85a-68b36a975133");
        assert_eq!(vif.mac_address, "fa:16:3e:6e:ff:c8");
        assert_eq!(vif.device, format!("tap{}", &vif.port_id.to_string()[..11]));
        assert!(is_tap_name(&vif.device));
    }

    #[tokio::test]
    async fn a_device_that_isnt_named_like_ours_is_never_removed() {
        let network = StandaloneNetwork::new("user").unwrap();
        for device in ["lo", "eth0", "tap0", "tap12345678-1g", "tap../../../x"] {
            let vif = Vif { device: device.into(), ..vif(Uuid::nil(), 0, VifSource::User) };
            let refused = network.unplug(Uuid::nil(), &vif).await;
            assert!(matches!(refused, Err(NetworkError::Host { .. })), "{device}");
        }
    }

    proptest! {
        #[test]
        fn any_network_id_is_taken_or_refused(id in ".{0,40}") {
            if let Ok(Some(VifSource::Bridge { bridge })) = parse(&id) {
                prop_assert!(bridge.len() <= 15 && !bridge.contains('/'));
            }
        }
    }
}
