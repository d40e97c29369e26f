//! Plugging VIFs into this host: what os-vif's plugins and nova's `plug_tap` do, without Python.
//!
//! ```text
//! ovs           bridge ◀─ port with Neutron's ids ◀─ tap (libvirt's, or ours)
//! ovs, hybrid   bridge ◀─ qvo ═ qvb ─▶ qbr ◀─ tap (libvirt's)
//! bridge        bridge, made if need be ◀─ tap (libvirt's)
//! tap           tap (ours)
//! ```
//!
//! Nothing is remembered: what is there is asked of the host, so a plug that was cut off is simply
//! done again. os-vif: vif_plug_ovs/ovs.py, vif_plug_linux_bridge/linux_bridge.py

use tracing::{info, warn};
use uuid::Uuid;

use super::wiring::{Hybrid, OvsTap, Wiring, hybrid, mac_address, tap_address};
use super::{NetworkError, PlugFor, Vif};
use crate::telemetry::Chain;
use link::Links;
use ovs::{Ovs, OvsOptions, OvsPort};

mod command;
mod link;
pub mod ovs;

/// Plugs and unplugs.
#[derive(Debug, Clone)]
pub struct Plugger {
    links: Links,
    ovs: Ovs,
    /// For devices of networks without an MTU: `[os_vif_ovs] network_device_mtu`.
    default_mtu: u32,
}

impl Plugger {
    pub fn new(ovs: OvsOptions, default_mtu: u32) -> Self {
        Self { links: Links::default(), ovs: Ovs::new(ovs), default_mtu }
    }

    /// Makes what the VIF needs before its domain starts; a repeat changes nothing.
    ///
    /// # Errors
    /// Those of [`Wiring::of`]; `NotFound` for a bridge that isn't there and isn't ours to make;
    /// `Host` when a tool fails.
    pub async fn plug(&self, owner: PlugFor, vif: &Vif) -> Result<(), NetworkError> {
        let mtu = vif.mtu();
        match Wiring::of(vif)? {
            Wiring::Ovs { device, bridge, datapath, tap } => {
                let mac_address = mac_address(vif)?;
                let port = OvsPort {
                    bridge: &bridge,
                    datapath: datapath.as_deref(),
                    device: &device,
                    interface_id: vif.id,
                    mac_address: &mac_address,
                    instance: owner.instance,
                };
                match (self.ovs.options().per_port_bridge, tap) {
                    (true, _) => self.ovs.add_port_with_bridge(port).await?,
                    (false, OvsTap::PortByLibvirt) => {
                        return self.ovs.ensure_bridge(&bridge, datapath.as_deref()).await;
                    }
                    (false, _) => self.ovs.add_port(port).await?,
                }
                if tap == OvsTap::AtPlug {
                    self.links.ensure_tap(&device, Some(&mac_address), owner.multiqueue).await?;
                }
                self.links.set_mtu(&device, mtu.unwrap_or(self.default_mtu)).await
            }
            Wiring::OvsHybrid { bridge, datapath, hybrid, .. } => {
                let Hybrid { linux_bridge, inner, outer } = &hybrid;
                self.links.ensure_bridge(linux_bridge, false).await?;
                self.links.ensure_pair(inner, outer).await?;
                for device in [inner, outer] {
                    self.links.set_mtu(device, mtu.unwrap_or(self.default_mtu)).await?;
                }
                self.links.set(inner, &["master", linux_bridge]).await?;
                let port = OvsPort {
                    bridge: &bridge,
                    datapath: datapath.as_deref(),
                    device: outer,
                    interface_id: vif.id,
                    mac_address: &mac_address(vif)?,
                    instance: owner.instance,
                };
                self.ovs.add_port(port).await
            }
            Wiring::Bridge { bridge, create: true, .. } => {
                self.links.ensure_bridge(&bridge, true).await
            }
            Wiring::Bridge { bridge, create: false, .. } => {
                match self.links.is_bridge(&bridge).await {
                    true => Ok(()),
                    false => Err(NetworkError::NotFound(bridge)),
                }
            }
            Wiring::Tap { device } => {
                // nova: virt/libvirt/vif.py, plug_tap. The host's end has an address of its own.
                let address = tap_address(vif)?;
                self.links.ensure_tap(&device, address.as_deref(), owner.multiqueue).await?;
                match mtu {
                    Some(mtu) => self.links.set_mtu(&device, mtu).await,
                    None => Ok(()),
                }
            }
            Wiring::LibvirtNetwork { .. } | Wiring::User => Ok(()),
        }
    }

    /// Takes away what [`Plugger::plug`] made, and a tap that outlived its QEMU; absent is success.
    /// A bridge that others may be on stays. A VIF that can't be plugged has left nothing.
    ///
    /// # Errors
    /// `Host` when a tool fails, and for a port that belongs to another one of Neutron's.
    pub async fn unplug(&self, vif: &Vif) -> Result<(), NetworkError> {
        let wiring = match Wiring::of(vif) {
            Ok(wiring) => wiring,
            Err(error) => {
                warn!(port_id = %vif.id, error = %Chain(&error), "nothing to unplug");
                return Ok(());
            }
        };
        match wiring {
            Wiring::Ovs { device, bridge, .. } => {
                let own = hybrid(vif);
                if self.links.is_bridge(&own.linux_bridge).await {
                    // It was plugged before Neutron's firewall changed its kind.
                    self.unplug_hybrid(&own, &bridge, vif.id).await?;
                }
                match self.ovs.options().per_port_bridge {
                    true => self.ovs.remove_port_with_bridge(&device, vif.id).await?,
                    false => self.ovs.remove_port(&bridge, &device, vif.id).await?,
                }
            }
            Wiring::OvsHybrid { bridge, hybrid, .. } => {
                self.unplug_hybrid(&hybrid, &bridge, vif.id).await?;
            }
            Wiring::Bridge { .. } | Wiring::Tap { .. } | Wiring::LibvirtNetwork { .. } => {}
            Wiring::User => return Ok(()),
        }
        // Whatever the record calls it: this name is the port's, and nobody else's.
        self.links.remove_tap(&vif.name_with("tap")).await
    }

    /// Takes away what the switch still has of an instance whose record knows of no ports: it was
    /// deleted while nobody ran here.
    ///
    /// # Errors
    /// `Host` when a tool fails.
    pub async fn unplug_rest(&self, instance: Uuid) -> Result<(), NetworkError> {
        for (device, port) in self.ovs.ports_of(instance).await? {
            info!(instance_uuid = %instance, port_id = %port, device, "removing a forgotten port");
            match self.ovs.options().per_port_bridge {
                true => self.ovs.remove_port_with_bridge(&device, port).await?,
                false => self.ovs.remove_port("", &device, port).await?,
            }
            let vif = Vif { id: port, ..Vif::default() };
            let own = hybrid(&vif);
            if device == own.outer {
                self.links.remove(&own.outer).await?;
                self.links.remove(&own.inner).await?;
                self.links.remove(&own.linux_bridge).await?;
            }
            self.links.remove_tap(&vif.name_with("tap")).await?;
        }
        Ok(())
    }

    async fn unplug_hybrid(
        &self,
        hybrid: &Hybrid,
        bridge: &str,
        port: Uuid,
    ) -> Result<(), NetworkError> {
        self.ovs.remove_port(bridge, &hybrid.outer, port).await?;
        // One end takes the other with it.
        self.links.remove(&hybrid.outer).await?;
        self.links.remove(&hybrid.inner).await?;
        self.links.remove(&hybrid.linux_bridge).await
    }
}
