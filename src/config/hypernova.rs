//! `[hypernova]`: what nova.conf has no words for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::opt::{FromValue, Opt, choices, section};
use crate::config::value::Value;

choices! {
    /// Who drives the agent.
    ControlPlane:
    /// An OpenStack control plane, over RabbitMQ.
    Nova = "nova",
    /// `hypernova` commands, over a Unix socket.
    Standalone = "standalone",
}

choices! {
    /// How the log is written.
    LogFormat:
    /// A line an event, to stderr or a file.
    Text = "text",
    /// A JSON object a line, to stderr or a file.
    Json = "json",
    /// To journald, with its fields.
    Journald = "journald",
}

/// A network in standalone mode's spelling, checked: `user`, `none`, `bridge:NAME` or
/// `network:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkName(String);

impl NetworkName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromValue for NetworkName {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        let text = String::from_value(value)?;
        let named = match text.split_once(':') {
            None => text == "user" || text == "none",
            Some((kind, name)) => (kind == "bridge" || kind == "network") && !name.is_empty(),
        };
        if named {
            Ok(Self(text))
        } else {
            Err("must be user, none, bridge:NAME or network:NAME".to_owned())
        }
    }
}

section! {
    /// What only this agent has.
    Hypernova in "hypernova":

    /// Who drives the agent: an OpenStack control plane over RabbitMQ (nova), or `hypernova`
    /// commands over the socket (standalone).
    control_plane: ControlPlane = Opt::choice(ControlPlane::CHOICES).default("nova");

    /// The Unix socket that the `hypernova` commands talk to.
    socket: PathBuf = Opt::text().default("/run/hypernova/hypernova.sock");

    /// The group whose members may use the socket; else only root may. A guest's disk can be made
    /// of any file: a member is as good as root on this host.
    socket_group: Option<String> = Opt::text();

    /// The journal of workflows, an SQLite file: what a restart resumes.
    journal: PathBuf = Opt::text().default("$state_path/hypernova/journal.db");

    /// The instance records of standalone mode, an SQLite file.
    records: PathBuf = Opt::text().default("$state_path/hypernova/instances.db");

    /// Directories from which `file://` images may be read when the request came over the
    /// message bus. The socket's users may name any file that they can read.
    image_directories: Vec<PathBuf> = Opt::list().default("$state_path/images");

    /// The network of a guest for which none is asked in standalone mode: user, none,
    /// bridge:NAME or network:NAME.
    default_network: NetworkName = Opt::text().default("user");

    /// Address and port of the metrics and of /healthz. Empty: none. There is no password:
    /// keep it to a local address.
    metrics_listen: Option<SocketAddr> = Opt::text().default("127.0.0.1:9177");

    /// How the log is written.
    log_format: Option<LogFormat> = Opt::choice(LogFormat::CHOICES).unit(
        "when unset: journald when systemd started the agent and no log file is set, else text",
    );

    /// How long a short libvirt call may take.
    libvirt_call_timeout: Duration = Opt::seconds(1).default("30");

    /// How many libvirt calls run at once. libvirtd answers 5 on a connection: one is left for
    /// its keepalive and for looking at a call that hangs.
    libvirt_concurrent_calls: usize = Opt::integer(1, 1024).default("4");

    /// How long a started domain may take until libvirt says that it runs, and a destroyed one
    /// until libvirt says that it is gone.
    domain_state_timeout: Duration = Opt::seconds(1).default("60");

    /// How long saving a guest's memory to disk, and restoring it, may take (suspend, resume).
    managed_save_timeout: Duration = Opt::seconds(1).default("1800");

    /// How long one qemu-img may run.
    qemu_img_timeout: Duration = Opt::seconds(1).default("3600");

    /// The address space that one qemu-img may have.
    qemu_img_memory_mib: u64 = Opt::integer(128, 1 << 20).default("2048").unit("MiB");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_spelt_as_in_a_request() {
        let read = |text: &str| NetworkName::from_value(Some(Value::Text(text.to_owned())));
        for good in ["user", "none", "bridge:br0", "network:default"] {
            assert_eq!(read(good).unwrap().as_str(), good);
        }
        for bad in ["", "bridge", "bridge:", "vlan:3"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
