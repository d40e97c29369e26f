//! Ports of Open vSwitch, by `ovs-vsctl`: each plug is one transaction, so that a port is never seen
//! without the ids that Neutron's agent and OVN know it by.
//!
//! os-vif: vif_plug_ovs/ovsdb/ovsdb_lib.py

use std::time::Duration;

use serde_json::Value;
use uuid::{Uuid, uuid};

use super::command;
use crate::model::network::is_device_name;
use crate::network::NetworkError;
use crate::network::naming::name_based;

/// The VLAN of ports that nobody has wired up yet. os-vif: constants.py, DEAD_VLAN
const DEAD_VLAN: &str = "4095";

/// os-vif: ovsdb_lib.py, QOS_UUID_NAMESPACE
const QOS_NAMESPACE: Uuid = uuid!("68da264a-847f-42a8-8ab0-5e774aee3d95");

/// `ovs_vsctl_timeout = 0` waits for ever; nothing here does.
const LONGEST: Duration = Duration::from_secs(600);

/// `[os_vif_ovs]`
#[derive(Debug, Clone)]
pub struct OvsOptions {
    /// `tcp:127.0.0.1:6640`, `unix:/run/openvswitch/db.sock`
    pub connection: String,
    /// How long the database may take; zero: as long as it wants.
    pub timeout: Duration,
    /// A new port gets no traffic before Neutron's agent has set its VLAN.
    pub isolate_vif: bool,
    /// Each port gets a bridge of its own.
    pub per_port_bridge: bool,
    /// The queueing discipline of new ports of the kernel's datapath.
    pub default_qos_type: String,
}

/// A port and who it is for.
#[derive(Debug, Clone, Copy)]
pub struct OvsPort<'a> {
    pub bridge: &'a str,
    /// `system` or `netdev`; `None`: as the bridge is.
    pub datapath: Option<&'a str>,
    pub device: &'a str,
    /// Neutron's port: `iface-id`.
    pub interface_id: Uuid,
    pub mac_address: &'a str,
    pub instance: Uuid,
}

/// What the database has of a device.
#[derive(Debug, Default)]
struct Found {
    /// Whether it is there, and whose it says it is.
    interface: Option<Option<String>>,
    /// Rows of os-vif's and ours.
    qos: Vec<String>,
}

/// The switch's database.
#[derive(Debug, Clone)]
pub struct Ovs {
    options: OvsOptions,
}

impl Ovs {
    pub fn new(options: OvsOptions) -> Self {
        Self { options }
    }

    pub fn options(&self) -> &OvsOptions {
        &self.options
    }

    /// Makes the bridge, if it isn't there.
    pub async fn ensure_bridge(
        &self,
        bridge: &str,
        datapath: Option<&str>,
    ) -> Result<(), NetworkError> {
        self.change("make ready", bridge, ensure_bridge(bridge, datapath)).await
    }

    /// Makes the port with its ids; one that is there gets the ids and keeps the rest.
    pub async fn add_port(&self, port: OvsPort<'_>) -> Result<(), NetworkError> {
        let mut commands = ensure_bridge(port.bridge, port.datapath);
        commands.push(words(&["--may-exist", "add-port", port.bridge, port.device]));
        commands.extend(self.first_settings(port).await?);
        commands.push(set_ids(port.device, port));
        self.change("plug", port.device, commands).await
    }

    /// Makes the port on a bridge of its own, with a pair of patch ports to the given one. The ids
    /// are on the patch port, which is the one that Neutron's agent sees.
    pub async fn add_port_with_bridge(&self, port: OvsPort<'_>) -> Result<(), NetworkError> {
        let own = PortBridge::of(port.interface_id);
        let mut commands = ensure_bridge(port.bridge, port.datapath);
        commands.extend(ensure_bridge(&own.bridge, port.datapath));
        commands.push(words(&["--may-exist", "add-port", &own.bridge, port.device]));
        let on_own = OvsPort { bridge: &own.bridge, ..port };
        commands.extend(self.first_settings(on_own).await?);
        commands.push(words(&["--may-exist", "add-port", port.bridge, &own.outer]));
        if self.options.isolate_vif && self.find(&own.outer).await?.interface.is_none() {
            commands.push(words(&["set", "Port", &own.outer, &format!("tag={DEAD_VLAN}")]));
        }
        let mut outer = set_ids(&own.outer, port);
        outer.extend(["type=patch".to_owned(), format!("options:peer={}", own.inner)]);
        commands.push(outer);
        commands.push(words(&["--may-exist", "add-port", &own.bridge, &own.inner]));
        let peer = format!("options:peer={}", own.outer);
        commands.push(words(&["set", "Interface", &own.inner, "type=patch", &peer]));
        self.change("plug", port.device, commands).await
    }

    /// Removes the port and what was made for it; absent is success.
    ///
    /// # Errors
    /// `Host` for a port that belongs to another one of Neutron's.
    pub async fn remove_port(
        &self,
        bridge: &str,
        device: &str,
        interface_id: Uuid,
    ) -> Result<(), NetworkError> {
        let found = self.find(device).await?;
        let mut commands = Vec::new();
        if let Some(owner) = found.interface {
            if let Some(other) = owner.filter(|owner| *owner != interface_id.to_string()) {
                let message = format!("it belongs to port {other}");
                let device = device.to_owned();
                return Err(NetworkError::Host { operation: "unplug", device, message });
            }
            commands.push(words(&["--if-exists", "del-port", device]));
        }
        // A trunk's bridge is Neutron's, and goes with its parent port.
        if is_trunk_bridge(bridge) {
            commands.push(words(&["--if-exists", "del-br", bridge]));
        }
        self.change("unplug", device, commands).await?;
        self.destroy_qos(device, &found.qos).await
    }

    /// Takes back [`Ovs::add_port_with_bridge`].
    pub async fn remove_port_with_bridge(
        &self,
        device: &str,
        interface_id: Uuid,
    ) -> Result<(), NetworkError> {
        let own = PortBridge::of(interface_id);
        let mut commands: Vec<_> = [own.outer.as_str(), own.inner.as_str(), device]
            .iter()
            .map(|port| words(&["--if-exists", "del-port", port]))
            .collect();
        commands.push(words(&["--if-exists", "del-br", &own.bridge]));
        let qos = self.find(device).await?.qos;
        self.change("unplug", device, commands).await?;
        self.destroy_qos(device, &qos).await
    }

    /// Rows that a port refers to can't go together with it.
    async fn destroy_qos(&self, device: &str, rows: &[String]) -> Result<(), NetworkError> {
        self.change("unplug", device, destroy_qos(rows).collect()).await
    }

    /// What only a port that isn't there yet gets: later on it is Neutron's to change.
    async fn first_settings(&self, port: OvsPort<'_>) -> Result<Vec<Vec<String>>, NetworkError> {
        // os-vif leaves queues to other datapaths.
        let qos = port.datapath.is_none_or(|datapath| datapath == "system");
        let isolate = self.options.isolate_vif && !is_trunk_bridge(port.bridge);
        if !qos && !isolate {
            return Ok(Vec::new());
        }
        let found = self.find(port.device).await?;
        if found.interface.is_some() {
            return Ok(Vec::new());
        }
        let mut commands = Vec::new();
        if isolate {
            let dead = ["tag=", "trunks="].map(|column| format!("{column}{DEAD_VLAN}"));
            let settings = ["set", "Port", port.device, &dead[0], "vlan_mode=trunk", &dead[1]];
            commands.push(words(&settings));
        }
        if qos {
            let kind = &self.options.default_qos_type;
            commands.extend(destroy_qos(&found.qos));
            commands.push(words(&[
                "--id=@qos",
                "create",
                "QoS",
                &format!("type={kind}"),
                &format!("external_ids:id={}", qos_id(port.device)),
                &format!("external_ids:_type={kind}"),
            ]));
            commands.push(words(&["set", "Port", port.device, "qos=@qos"]));
        }
        Ok(commands)
    }

    /// The instance's devices on the switch, each with the port of Neutron's that it is.
    pub async fn ports_of(&self, instance: Uuid) -> Result<Vec<(String, Uuid)>, NetworkError> {
        let whose = format!("external_ids:vm-uuid={}", quoted(&instance.to_string()));
        let query = words(&["--columns=name,external_ids", "find", "Interface", &whose]);
        let text = self.run("look for", "ports", &self.args(&["--format=json"], &[query])).await?;
        let table: Value = serde_json::from_str(&text).unwrap_or_default();
        let rows = table.get("data").and_then(Value::as_array).into_iter().flatten();
        Ok(rows
            .filter_map(|row| {
                let name = row.get(0)?.as_str().filter(|name| is_device_name(name))?;
                Some((name.to_owned(), interface_id(row.get(1)?)?.parse().ok()?))
            })
            .collect())
    }

    async fn find(&self, device: &str) -> Result<Found, NetworkError> {
        let interface = words(&[
            "--columns=external_ids",
            "find",
            "Interface",
            &format!("name={}", quoted(device)),
        ]);
        let id = format!("external_ids:id={}", qos_id(device));
        let qos = words(&["--columns=_uuid", "find", "QoS", &id]);
        let args = self.args(&["--format=json", "--oneline"], &[interface, qos]);
        let text = self.run("look for", device, &args).await?;
        read(&text).ok_or_else(|| NetworkError::Host {
            operation: "look for",
            device: device.to_owned(),
            message: "ovs-vsctl's answer makes no sense".to_owned(),
        })
    }

    async fn change(
        &self,
        operation: &'static str,
        device: &str,
        commands: Vec<Vec<String>>,
    ) -> Result<(), NetworkError> {
        if commands.is_empty() {
            return Ok(());
        }
        // The switch follows its database in its own time, as with os-vif.
        let args = self.args(&["--no-wait"], &commands);
        self.run(operation, device, &args).await.map(drop)
    }

    fn args(&self, options: &[&str], commands: &[Vec<String>]) -> Vec<String> {
        let mut args = vec![
            format!("--timeout={}", self.within().as_secs().max(1)),
            "--retry".to_owned(),
            format!("--db={}", self.options.connection),
        ];
        args.extend(options.iter().map(|option| (*option).to_owned()));
        for command in commands {
            args.push("--".to_owned());
            args.extend(command.iter().cloned());
        }
        args
    }

    async fn run(
        &self,
        operation: &'static str,
        device: &str,
        args: &[String],
    ) -> Result<String, NetworkError> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        // It has its own alarm clock; ours is for when that fails.
        let within = self.within() + Duration::from_secs(5);
        command::run(operation, device, within, "ovs-vsctl", &args).await
    }

    fn within(&self) -> Duration {
        match self.options.timeout {
            Duration::ZERO => LONGEST,
            timeout => timeout.min(LONGEST),
        }
    }
}

/// The names of a port's own bridge and of the patch ports. os-vif: ovs.py, _plug_port_bridge
struct PortBridge {
    bridge: String,
    inner: String,
    outer: String,
}

impl PortBridge {
    fn of(port: Uuid) -> Self {
        let cut = |text: String| text.chars().take(crate::model::network::NAME_LENGTH).collect();
        Self {
            bridge: cut(format!("pb{port}")),
            inner: format!("pbp{port}"),
            outer: format!("ibp{port}"),
        }
    }
}

fn is_trunk_bridge(bridge: &str) -> bool {
    bridge.starts_with("tbr-")
}

fn ensure_bridge(bridge: &str, datapath: Option<&str>) -> Vec<Vec<String>> {
    let mut commands = vec![words(&["--may-exist", "add-br", bridge])];
    if let Some(datapath) = datapath {
        commands.push(words(&["set", "Bridge", bridge, &format!("datapath_type={datapath}")]));
    }
    commands
}

/// What Neutron's agent and ovn-controller look for.
fn set_ids(device: &str, port: OvsPort<'_>) -> Vec<String> {
    let mut ids = vec![
        ("iface-id", port.interface_id.to_string()),
        ("iface-status", "active".to_owned()),
        ("attached-mac", port.mac_address.to_owned()),
        ("vm-uuid", port.instance.to_string()),
    ];
    if is_trunk_bridge(port.bridge) {
        ids.push(("bridge_name", port.bridge.to_owned()));
    }
    let mut command = words(&["set", "Interface", device]);
    let id = |(key, value): (&str, String)| format!("external_ids:{key}={}", quoted(&value));
    command.extend(ids.into_iter().map(id));
    command
}

fn destroy_qos(rows: &[String]) -> impl Iterator<Item = Vec<String>> {
    rows.iter().map(|row| words(&["--if-exists", "destroy", "QoS", row]))
}

fn qos_id(device: &str) -> Uuid {
    name_based(QOS_NAMESPACE, device).0
}

/// A string of OVSDB's: bare words end at a comma or a colon.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The two tables that [`Ovs::find`] asks for, one a line.
fn read(text: &str) -> Option<Found> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let mut rows = || -> Option<Vec<Value>> {
        let table: Value = serde_json::from_str(lines.next()?).ok()?;
        Some(table.get("data")?.as_array()?.clone())
    };
    let (interfaces, qos) = (rows()?, rows()?);
    let interface = interfaces.first().map(|row| interface_id(row.get(0)?).map(str::to_owned));
    // ["uuid", "…"]
    let uuid = |row: &Value| row.pointer("/0/1").and_then(Value::as_str).map(str::to_owned);
    Some(Found { interface, qos: qos.iter().filter_map(uuid).collect() })
}

/// Whose it is, by its ids: `["map", [["iface-id", "…"], …]]`.
fn interface_id(external_ids: &Value) -> Option<&str> {
    let mut pairs = external_ids.get(1)?.as_array()?.iter();
    let pair = pairs.find(|pair| pair.get(0).and_then(Value::as_str) == Some("iface-id"))?;
    pair.get(1)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_has_is_read() {
        let interface = r#"{"data":[[["map",[["attached-mac","fa:16:3e:00:00:01"],["iface-id","c7352cde-117d-4aa3-9307-70caa5bf3a76"]]]]],"headings":["external_ids"]}"#;
        let qos =
            r#"{"data":[[["uuid","5a1a2e0e-9a5e-4a52-9e11-2a2d3b1f3c4d"]]],"headings":["_uuid"]}"#;
        let none = r#"{"data":[],"headings":["_uuid"]}"#;
        let found = read(&format!("{interface}\n{qos}\n")).unwrap();
        let owner = found.interface.flatten();
        assert_eq!(owner.as_deref(), Some("c7352cde-117d-4aa3-9307-70caa5bf3a76"));
        assert_eq!(found.qos, ["5a1a2e0e-9a5e-4a52-9e11-2a2d3b1f3c4d"]);
        let found = read(&format!("{none}\n{none}\n")).unwrap();
        assert!(found.interface.is_none() && found.qos.is_empty());
        assert!(read("").is_none() && read("x\ny").is_none() && read(none).is_none());
    }

    /// Python: uuid.uuid5(QOS_UUID_NAMESPACE, 'tapc7352cde-11')
    #[test]
    fn a_queue_is_named_as_os_vif_names_it() {
        let expected = "17625290-a9ab-5091-9493-1a28c47132f5";
        assert_eq!(qos_id("tapc7352cde-11").to_string(), expected);
    }
}
