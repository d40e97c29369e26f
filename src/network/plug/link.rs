//! Devices of the kernel: bridges, veth pairs, taps. The kernel's files say what is there, `ip`
//! changes it. Every change may be repeated.
//!
//! os-vif: vif_plug_ovs/linux_net.py, vif_plug_linux_bridge/linux_net.py

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command;
use crate::network::NetworkError;

/// How long `ip` may take.
const WITHIN: Duration = Duration::from_secs(30);

/// The kernel's network devices.
#[derive(Debug, Clone)]
pub struct Links {
    /// `/sys/class/net`
    devices: PathBuf,
    /// `/proc/sys/net`
    settings: PathBuf,
}

impl Default for Links {
    fn default() -> Self {
        Self { devices: "/sys/class/net".into(), settings: "/proc/sys/net".into() }
    }
}

impl Links {
    pub async fn exists(&self, device: &str) -> bool {
        there(&self.devices.join(device)).await
    }

    pub async fn is_bridge(&self, device: &str) -> bool {
        there(&self.devices.join(device).join("bridge")).await
    }

    /// A tap that stays when nobody has it open. Linux: if_tun.h, IFF_PERSIST
    async fn is_lasting_tap(&self, device: &str) -> bool {
        const IFF_PERSIST: u32 = 0x0800;
        let path = self.devices.join(device).join("tun_flags");
        let flags = tokio::fs::read_to_string(path).await.unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
        flags.is_ok_and(|flags| flags & IFF_PERSIST != 0)
    }

    /// A bridge that floods at once and doesn't take part in the host's own networking: no IPv6
    /// address, no answer to ARP for addresses of other devices. `ages`: whether it forgets MAC
    /// addresses; the bridge of a hybrid plug doesn't, or packets are lost in a live migration.
    pub async fn ensure_bridge(&self, bridge: &str, ages: bool) -> Result<(), NetworkError> {
        if !self.exists(bridge).await {
            let mut args = vec!["link", "add", "name", bridge, "type", "bridge"];
            args.extend(["forward_delay", "0", "stp_state", "0", "mcast_snooping", "0"]);
            if !ages {
                args.extend(["ageing_time", "0"]);
            }
            match ip("add", bridge, &args).await {
                // Another instance's plug was faster.
                Err(_) if self.is_bridge(bridge).await => {}
                result => result?,
            }
        }
        for (setting, value) in [
            (format!("ipv6/conf/{bridge}/disable_ipv6"), "1"),
            (format!("ipv4/conf/{bridge}/arp_ignore"), "1"),
            (format!("ipv4/conf/{bridge}/arp_announce"), "2"),
        ] {
            let path = self.settings.join(setting);
            // A kernel without IPv6 has no such file.
            if there(&path).await {
                tokio::fs::write(&path, value).await.map_err(|error| {
                    let message = format!("{}: {error}", path.display());
                    NetworkError::Host { operation: "set up", device: bridge.to_owned(), message }
                })?;
            }
        }
        self.set(bridge, &["up"]).await
    }

    /// A pair of devices: what goes in at one comes out at the other.
    pub async fn ensure_pair(&self, one: &str, other: &str) -> Result<(), NetworkError> {
        if !(self.exists(one).await && self.exists(other).await) {
            self.remove(one).await?;
            self.remove(other).await?;
            let args = ["link", "add", "name", one, "type", "veth", "peer", "name", other];
            ip("add", one, &args).await?;
        }
        for device in [one, other] {
            self.set(device, &["up", "promisc", "on"]).await?;
        }
        Ok(())
    }

    /// A tap that outlives the process that opens it. `queues`: it can have several.
    pub async fn ensure_tap(
        &self,
        device: &str,
        mac_address: Option<&str>,
        queues: bool,
    ) -> Result<(), NetworkError> {
        if !self.exists(device).await {
            let mut args = vec!["tuntap", "add", "dev", device, "mode", "tap"];
            args.extend(queues.then_some("multi_queue"));
            ip("add", device, &args).await?;
        }
        if let Some(address) = mac_address {
            self.set(device, &["address", address]).await?;
        }
        self.set(device, &["up"]).await
    }

    /// Sets the MTU of a device that is there.
    pub async fn set_mtu(&self, device: &str, mtu: u32) -> Result<(), NetworkError> {
        if !self.exists(device).await {
            return Ok(());
        }
        self.set(device, &["mtu", &mtu.to_string()]).await
    }

    /// `ip link set`.
    pub async fn set(&self, device: &str, what: &[&str]) -> Result<(), NetworkError> {
        let mut args = vec!["link", "set", "dev", device];
        args.extend(what);
        ip("set up", device, &args).await
    }

    /// Removes a device; absent is success.
    pub async fn remove(&self, device: &str) -> Result<(), NetworkError> {
        if !self.exists(device).await {
            return Ok(());
        }
        match ip("remove", device, &["link", "delete", "dev", device]).await {
            // Gone meanwhile: QEMU was still on its way out.
            Err(_) if !self.exists(device).await => Ok(()),
            result => result,
        }
    }

    /// Removes a tap that would stay. One that libvirt made goes with its QEMU, and a device of that
    /// name that isn't a tap is somebody else's.
    pub async fn remove_tap(&self, device: &str) -> Result<(), NetworkError> {
        match self.is_lasting_tap(device).await {
            true => self.remove(device).await,
            false => Ok(()),
        }
    }
}

async fn ip(operation: &'static str, device: &str, args: &[&str]) -> Result<(), NetworkError> {
    command::run(operation, device, WITHIN, "ip", args).await.map(drop)
}

async fn there(path: &Path) -> bool {
    tokio::fs::symlink_metadata(path).await.is_ok()
}
