//! Plugging into a real Open vSwitch, and onto bridges and taps, in a network namespace of its own:
//! what is made, that a repeat changes nothing, that an unplug leaves nothing. Needs root, `ip` and
//! Open vSwitch (`tests/install.sh test`).

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hypernova::network::plug::Plugger;
use hypernova::network::plug::ovs::OvsOptions;
use hypernova::network::{NetworkError, PlugFor, Vif};
use namespace::{in_namespace, ip, run};
use serde_json::{Value, json};
use uuid::Uuid;

#[path = "support/namespace.rs"]
mod namespace;

const PORT: &str = "c7352cde-117d-4aa3-9307-70caa5bf3a76";
const OWNER: PlugFor = PlugFor { instance: Uuid::from_u128(9), multiqueue: false };

/// A switch of this namespace: its database and the daemon that follows it.
struct Switch {
    directory: tempfile::TempDir,
    daemons: Vec<std::process::Child>,
}

impl Switch {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("hn-ovs").tempdir_in("/tmp").unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        run(
            "ovsdb-tool",
            &["create", &path("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"],
        );
        let start = |program: &str, args: &[&str]| {
            let mut command = std::process::Command::new(program);
            command
                .args(args)
                .env("OVS_RUNDIR", directory.path())
                .env("OVS_DBDIR", directory.path());
            let log = std::fs::File::create(path(&format!("{program}.log"))).unwrap();
            command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("Open vSwitch")
        };
        let remote = format!("--remote=punix:{}", path("db.sock"));
        let control = format!("--unixctl={}", path("ovsdb.ctl"));
        let database = start("ovsdb-server", &[&remote, &control, &path("conf.db")]);
        let connection = format!("unix:{}", path("db.sock"));
        let switch = Self { directory, daemons: vec![database] };
        switch.vsctl(&["--retry", "--timeout=30", "--no-wait", "init"]);
        let control = format!("--unixctl={}", switch.path("vswitchd.ctl"));
        let daemon = start_daemon(&switch, &[&control, &connection]);
        let mut switch = switch;
        switch.daemons.push(daemon);
        switch
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn connection(&self) -> String {
        format!("unix:{}", self.path("db.sock"))
    }

    fn vsctl(&self, args: &[&str]) -> String {
        let db = format!("--db={}", self.connection());
        run("ovs-vsctl", &[&[db.as_str()], args].concat())
    }

    /// A column of a record.
    fn get(&self, table: &str, record: &str, column: &str) -> String {
        self.vsctl(&["get", table, record, column]).trim().to_owned()
    }

    fn ports(&self, bridge: &str) -> Vec<String> {
        self.vsctl(&["list-ports", bridge]).lines().map(str::to_owned).collect()
    }

    fn bridges(&self) -> Vec<String> {
        self.vsctl(&["list-br"]).lines().map(str::to_owned).collect()
    }

    fn plugger(&self, more: impl FnOnce(&mut OvsOptions)) -> Plugger {
        let mut options = OvsOptions {
            connection: self.connection(),
            timeout: Duration::from_secs(20),
            isolate_vif: false,
            per_port_bridge: false,
            default_qos_type: "linux-noop".to_owned(),
        };
        more(&mut options);
        Plugger::new(options, 1500)
    }
}

fn start_daemon(switch: &Switch, args: &[&str]) -> std::process::Child {
    let log = std::fs::File::create(switch.path("vswitchd.log")).unwrap();
    let mut command = std::process::Command::new("ovs-vswitchd");
    command.args(args).env("OVS_RUNDIR", switch.directory.path());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("Open vSwitch")
}

impl Drop for Switch {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }
}

fn vif(kind: &str, details: Value, more: Value) -> Vif {
    let mut vif = json!({
        "id": PORT, "address": "fa:16:3e:63:66:4e", "type": kind, "vnic_type": "normal",
        "devname": "tapc7352cde-11", "details": details, "delegate_create": true,
        "network": {"id": "n", "bridge": "br-int", "meta": {"mtu": 1442}},
    });
    for (key, value) in more.as_object().unwrap() {
        vif[key] = value.clone();
    }
    serde_json::from_value(vif).unwrap()
}

fn devices() -> BTreeSet<String> {
    let all = std::fs::read_dir("/sys/class/net").unwrap();
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn read(device: &str, file: &str) -> String {
    let path = Path::new("/sys/class/net").join(device).join(file);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .trim()
        .into()
}

/// The ids that Neutron's agent and ovn-controller look for.
fn check_ids(switch: &Switch, interface: &str) {
    let ids = switch.get("Interface", interface, "external_ids");
    for id in [
        format!("iface-id=\"{PORT}\""),
        "iface-status=active".to_owned(),
        "attached-mac=\"fa:16:3e:63:66:4e\"".to_owned(),
        format!("vm-uuid=\"{}\"", OWNER.instance),
    ] {
        assert!(ids.contains(&id), "{id} in {ids}");
    }
}

#[test]
fn an_ovs_port_has_neutrons_ids_and_goes_without_a_trace() {
    in_namespace("an_ovs_port_has_neutrons_ids_and_goes_without_a_trace", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|_| {});
        let vif = vif("ovs", json!({"datapath_type": "netdev"}), json!({}));
        plugger.unplug(&vif).await.expect("absent is success");
        plugger.plug(OWNER, &vif).await.unwrap();
        plugger.plug(OWNER, &vif).await.expect("a repeat changes nothing");
        assert_eq!(switch.ports("br-int"), ["tapc7352cde-11"]);
        assert_eq!(switch.get("Bridge", "br-int", "datapath_type"), "netdev");
        assert_eq!(switch.get("Port", "tapc7352cde-11", "qos"), "[]");
        check_ids(&switch, "tapc7352cde-11");

        ip("tuntap add dev tapc7352cde-11 mode tap");
        plugger.plug(OWNER, &vif).await.expect("with the guest on it");
        assert_eq!(read("tapc7352cde-11", "mtu"), "1442");
        plugger.unplug(&vif).await.unwrap();
        plugger.unplug(&vif).await.expect("absent is success");
        assert_eq!(switch.ports("br-int"), Vec::<String>::new());
        assert!(!devices().contains("tapc7352cde-11"));

        plugger.plug(OWNER, &vif).await.unwrap();
        plugger.unplug_rest(Uuid::from_u128(10)).await.unwrap();
        assert_eq!(switch.ports("br-int"), ["tapc7352cde-11"], "another instance's");
        ip("tuntap add dev tapc7352cde-11 mode tap");
        plugger.unplug_rest(OWNER.instance).await.unwrap();
        assert_eq!(switch.ports("br-int"), Vec::<String>::new());
        assert!(!devices().contains("tapc7352cde-11"));
    });
}

#[test]
fn a_port_of_the_kernels_datapath_has_a_queue_which_goes_with_it() {
    in_namespace("a_port_of_the_kernels_datapath_has_a_queue_which_goes_with_it", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|_| {});
        let vif = vif("ovs", json!({}), json!({}));
        let queues = || switch.vsctl(&["--columns=type", "--bare", "list", "QoS"]);
        plugger.plug(OWNER, &vif).await.unwrap();
        let qos = switch.get("Port", "tapc7352cde-11", "qos");
        plugger.plug(OWNER, &vif).await.unwrap();
        assert_eq!(switch.get("Port", "tapc7352cde-11", "qos"), qos, "Neutron may have changed it");
        assert_eq!(queues().trim(), "linux-noop");
        // The port is lost, and its queue is not.
        switch.vsctl(&["--no-wait", "del-port", "tapc7352cde-11"]);
        plugger.plug(OWNER, &vif).await.unwrap();
        assert_eq!(queues().trim(), "linux-noop", "one, and not two");
        plugger.unplug(&vif).await.unwrap();
        assert_eq!(queues().trim(), "");
    });
}

#[test]
fn a_port_of_somebody_else_is_left_alone() {
    in_namespace("a_port_of_somebody_else_is_left_alone", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|_| {});
        let vif = vif("ovs", json!({"datapath_type": "netdev"}), json!({}));
        plugger.plug(OWNER, &vif).await.unwrap();
        let other = format!("external_ids:iface-id={}", Uuid::from_u128(1));
        switch.vsctl(&["--no-wait", "set", "Interface", "tapc7352cde-11", &other]);
        let refused = plugger.unplug(&vif).await.unwrap_err();
        assert!(refused.to_string().contains("belongs to port"), "{refused}");
        assert_eq!(switch.ports("br-int"), ["tapc7352cde-11"]);
    });
}

#[test]
fn an_isolated_port_carries_nothing_until_neutron_says_so() {
    in_namespace("an_isolated_port_carries_nothing_until_neutron_says_so", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|options| options.isolate_vif = true);
        let vif = vif("ovs", json!({"datapath_type": "netdev"}), json!({}));
        plugger.plug(OWNER, &vif).await.unwrap();
        let column = |name: &str| switch.get("Port", "tapc7352cde-11", name);
        assert_eq!((column("tag"), column("vlan_mode")), ("4095".into(), "trunk".into()));
        assert_eq!(column("trunks"), "[4095]");
        switch.vsctl(&["--no-wait", "set", "Port", "tapc7352cde-11", "tag=7"]);
        plugger.plug(OWNER, &vif).await.unwrap();
        assert_eq!(column("tag"), "7", "a port that is wired up keeps its VLAN");
    });
}

#[test]
fn a_tap_of_neutrons_wish_is_made_with_the_port() {
    in_namespace("a_tap_of_neutrons_wish_is_made_with_the_port", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|_| {});
        let details = json!({"datapath_type": "netdev", "ovs_create_tap": true});
        let vif = vif("ovs", details, json!({}));
        let owner = PlugFor { multiqueue: true, ..OWNER };
        plugger.plug(owner, &vif).await.unwrap();
        plugger.plug(owner, &vif).await.expect("a repeat changes nothing");
        assert_eq!(read("tapc7352cde-11", "address"), "fa:16:3e:63:66:4e");
        assert_eq!(read("tapc7352cde-11", "mtu"), "1442");
        let flags =
            u32::from_str_radix(read("tapc7352cde-11", "tun_flags").trim_start_matches("0x"), 16);
        assert_ne!(flags.unwrap() & 0x0100, 0, "IFF_MULTI_QUEUE");
        plugger.unplug(&vif).await.unwrap();
        assert!(!devices().contains("tapc7352cde-11"));
    });
}

#[test]
fn a_hybrid_plug_is_a_bridge_and_a_pair_and_goes_whole() {
    in_namespace("a_hybrid_plug_is_a_bridge_and_a_pair_and_goes_whole", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|_| {});
        let details =
            json!({"datapath_type": "netdev", "ovs_hybrid_plug": true, "port_filter": true});
        let vif = vif("ovs", details, json!({}));
        let before = devices();
        plugger.plug(OWNER, &vif).await.unwrap();
        let (qbr, qvb, qvo) = ("qbrc7352cde-11", "qvbc7352cde-11", "qvoc7352cde-11");
        assert_eq!(switch.ports("br-int"), [qvo]);
        check_ids(&switch, qvo);
        for device in [qvb, qvo] {
            assert_eq!(read(device, "mtu"), "1442");
            let flags =
                u32::from_str_radix(read(device, "flags").trim_start_matches("0x"), 16).unwrap();
            assert_eq!(flags & 0x101, 0x101, "{device} is up and promiscuous");
        }
        assert!(Path::new(&format!("/sys/class/net/{qbr}/brif/{qvb}")).exists());
        assert_eq!(read(qbr, "bridge/ageing_time"), "0", "it never forgets a MAC address");
        let setting = |path: String| std::fs::read_to_string(path).unwrap().trim().to_owned();
        assert_eq!(setting(format!("/proc/sys/net/ipv6/conf/{qbr}/disable_ipv6")), "1");
        assert_eq!(setting(format!("/proc/sys/net/ipv4/conf/{qbr}/arp_announce")), "2");

        // A plug that was cut off, or broken since, is mended.
        for broken in [format!("link delete {qvo}"), format!("link delete {qbr}")] {
            ip(&broken);
            plugger.plug(OWNER, &vif).await.unwrap();
            assert!(Path::new(&format!("/sys/class/net/{qbr}/brif/{qvb}")).exists(), "{broken}");
            assert_eq!(switch.ports("br-int"), [qvo], "{broken}");
        }
        plugger.unplug(&vif).await.unwrap();
        plugger.unplug(&vif).await.expect("absent is success");
        plugger.plug(OWNER, &vif).await.unwrap();
        plugger.unplug_rest(OWNER.instance).await.unwrap();
        let left: Vec<_> = devices().difference(&before).cloned().collect();
        let internal = ["br-int", "ovs-netdev"];
        assert!(left.iter().all(|device| internal.contains(&device.as_str())), "{left:?}");
        assert_eq!(switch.ports("br-int"), Vec::<String>::new());
    });
}

#[test]
fn a_hybrid_plug_of_before_goes_with_a_native_one() {
    in_namespace("a_hybrid_plug_of_before_goes_with_a_native_one", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|_| {});
        let details = json!({"datapath_type": "netdev", "ovs_hybrid_plug": true});
        plugger.plug(OWNER, &vif("ovs", details, json!({}))).await.unwrap();
        plugger.unplug(&vif("ovs", json!({"datapath_type": "netdev"}), json!({}))).await.unwrap();
        assert!(!devices().iter().any(|device| device.starts_with('q')), "{:?}", devices());
        assert_eq!(switch.ports("br-int"), Vec::<String>::new());
    });
}

#[test]
fn a_port_with_a_bridge_of_its_own_takes_it_along() {
    in_namespace("a_port_with_a_bridge_of_its_own_takes_it_along", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|options| options.per_port_bridge = true);
        let vif = vif("ovs", json!({"datapath_type": "netdev"}), json!({}));
        plugger.plug(OWNER, &vif).await.unwrap();
        plugger.plug(OWNER, &vif).await.expect("a repeat changes nothing");
        assert_eq!(switch.bridges(), ["br-int", "pbc7352cde-117"]);
        assert_eq!(switch.ports("br-int"), [format!("ibp{PORT}")]);
        assert_eq!(switch.ports("pbc7352cde-117"), [format!("pbp{PORT}"), "tapc7352cde-11".into()]);
        check_ids(&switch, &format!("ibp{PORT}"));
        let peer = switch.get("Interface", &format!("pbp{PORT}"), "options:peer");
        assert_eq!(peer.trim_matches('"'), format!("ibp{PORT}"));
        plugger.unplug(&vif).await.unwrap();
        plugger.unplug(&vif).await.expect("absent is success");
        assert_eq!(switch.bridges(), ["br-int"]);
        assert_eq!(switch.ports("br-int"), Vec::<String>::new());
    });
}

#[test]
fn a_trunks_bridge_goes_with_its_parent_port() {
    in_namespace("a_trunks_bridge_goes_with_its_parent_port", async || {
        let switch = Switch::start();
        let plugger = switch.plugger(|options| options.isolate_vif = true);
        let network = json!({"network": {"id": "n", "bridge": "tbr-12345678-1"}});
        let vif = vif("ovs", json!({"datapath_type": "netdev"}), network);
        plugger.plug(OWNER, &vif).await.unwrap();
        let ids = switch.get("Interface", "tapc7352cde-11", "external_ids:bridge_name");
        assert_eq!(ids.trim_matches('"'), "tbr-12345678-1");
        assert_eq!(switch.get("Port", "tapc7352cde-11", "tag"), "[]", "a trunk isn't isolated");
        plugger.unplug(&vif).await.unwrap();
        assert_eq!(switch.bridges(), Vec::<String>::new());
    });
}

#[test]
fn a_linux_bridge_is_made_when_neutron_leaves_it_to_us_and_stays() {
    in_namespace("a_linux_bridge_is_made_when_neutron_leaves_it_to_us_and_stays", async || {
        let plugger = without_a_switch();
        let network = |create: bool| json!({"network": {"id": "n", "bridge": "brq57b8d57e-9d", "meta": {"should_create_bridge": create}}});
        let ours = vif("bridge", json!({"port_filter": true}), network(true));
        let theirs = vif("bridge", json!({"port_filter": true}), network(false));
        let refused = plugger.plug(OWNER, &theirs).await;
        assert!(matches!(refused, Err(NetworkError::NotFound(_))), "{refused:?}");
        plugger.plug(OWNER, &ours).await.unwrap();
        plugger.plug(OWNER, &ours).await.expect("a repeat changes nothing");
        plugger.plug(OWNER, &theirs).await.unwrap();
        assert_eq!(read("brq57b8d57e-9d", "bridge/stp_state"), "0");
        assert_ne!(read("brq57b8d57e-9d", "bridge/ageing_time"), "0");
        ip("tuntap add dev tapc7352cde-11 mode tap");
        plugger.unplug(&ours).await.unwrap();
        assert!(devices().contains("brq57b8d57e-9d"), "others may be on it");
        assert!(!devices().contains("tapc7352cde-11"));
    });
}

#[test]
fn a_tap_is_made_as_neutron_describes_it() {
    in_namespace("a_tap_is_made_as_neutron_describes_it", async || {
        let plugger = without_a_switch();
        let vif = vif("tap", json!({"mac_address": "00:61:fe:ed:ca:fe"}), json!({}));
        let before = devices();
        plugger.plug(OWNER, &vif).await.unwrap();
        plugger.plug(OWNER, &vif).await.expect("a repeat changes nothing");
        assert_eq!(read("tapc7352cde-11", "address"), "00:61:fe:ed:ca:fe");
        assert_eq!(read("tapc7352cde-11", "mtu"), "1442");
        plugger.unplug(&vif).await.unwrap();
        plugger.unplug(&vif).await.expect("absent is success");
        assert_eq!(devices(), before);
    });
}

#[test]
fn a_switch_that_isnt_there_is_an_error_in_time() {
    in_namespace("a_switch_that_isnt_there_is_an_error_in_time", async || {
        let vif = vif("ovs", json!({"datapath_type": "netdev"}), json!({}));
        let began = std::time::Instant::now();
        let refused = without_a_switch().plug(OWNER, &vif).await;
        assert!(matches!(refused, Err(NetworkError::Host { .. })), "{refused:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    });
}

fn without_a_switch() -> Plugger {
    let options = OvsOptions {
        connection: "unix:/nonexistent/db.sock".to_owned(),
        timeout: Duration::from_secs(1),
        isolate_vif: false,
        per_port_bridge: false,
        default_qos_type: "linux-noop".to_owned(),
    };
    Plugger::new(options, 1500)
}
