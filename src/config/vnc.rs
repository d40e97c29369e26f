//! `[vnc]`: graphical consoles.

use crate::config::opt::{Opt, section};
use crate::config::value::Kind;

section! {
    /// Graphical consoles.
    Vnc in "vnc":

    /// Whether guests get one.
    enabled: bool = Opt::boolean().default("true").formerly(&[("DEFAULT", "vnc_enabled")]);

    /// The address on this host that they listen on.
    server_listen: String = Opt::kind(Kind::HostAddress).default("127.0.0.1");

    /// The address by which nova-novncproxy reaches this host.
    server_proxyclient_address: String = Opt::kind(Kind::HostAddress).default("127.0.0.1");

    /// Where users' browsers find nova-novncproxy.
    novncproxy_base_url: String = Opt::text().default("http://127.0.0.1:6080/vnc_auto.html");
}
