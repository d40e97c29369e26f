//! `[os_vif_ovs]`: Open vSwitch on this host, as os-vif is told of it.

use std::time::Duration;

use crate::config::opt::{Opt, choices, section};

choices! {
    /// The queueing discipline of a port.
    QosType:
    Htb = "linux-htb",
    Hfsc = "linux-hfsc",
    Sfq = "linux-sfq",
    Codel = "linux-codel",
    FqCodel = "linux-fq_codel",
    /// Open vSwitch leaves it alone.
    Noop = "linux-noop",
}

section! {
    /// Open vSwitch on this host, as os-vif is told of it.
    OsVifOvs in "os_vif_ovs":

    /// The MTU of devices whose network has none.
    network_device_mtu: u32 = Opt::integer(68, 65535).default("1500")
        .formerly(&[("DEFAULT", "network_device_mtu")]);

    /// How long the switch's database may take; 0: up to ten minutes.
    ovs_vsctl_timeout: Duration = Opt::seconds(0).default("120")
        .formerly(&[("DEFAULT", "ovs_vsctl_timeout")]);

    /// Where the switch's database is: tcp:127.0.0.1:6640, unix:/run/openvswitch/db.sock
    ovsdb_connection: String = Opt::text().default("tcp:127.0.0.1:6640");

    /// Whether a new port carries nothing until Neutron's Open vSwitch agent has set its VLAN.
    /// Not for OVN.
    isolate_vif: bool = Opt::boolean().default("false");

    /// Whether each port gets a bridge of its own.
    per_port_bridge: bool = Opt::boolean().default("false");

    /// The queueing discipline of new ports of the kernel's datapath.
    default_qos_type: QosType = Opt::choice(QosType::CHOICES).default("linux-noop");
}
