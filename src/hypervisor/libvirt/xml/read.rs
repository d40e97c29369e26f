//! The few facts we need from a domain's XML as libvirt returns it.

use uuid::Uuid;

use super::node::{Node, XmlError};
use super::{NOVA_NAMESPACE, OLD_NOVA_NAMESPACE};
use crate::hypervisor::spec::FirmwareFiles;
use crate::hypervisor::{ConsoleEndpoints, SpicePorts};

/// What we know of a domain from its XML. Absent elements are `None` or empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainFacts {
    pub uuid: Option<Uuid>,
    pub name: String,
    /// `None`: the domain isn't nova's, nor ours.
    pub nova: Option<NovaOwner>,
    pub disks: Vec<DiskFacts>,
    pub interfaces: Vec<InterfaceFacts>,
    pub firmware: FirmwareFiles,
    pub machine: Option<String>,
    /// `kvm`, `qemu`
    pub virt_type: String,
}

/// What nova's metadata says of the instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NovaOwner {
    pub display_name: Option<String>,
    pub user_id: Option<String>,
    pub project_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskFacts {
    /// `vda`
    pub target: String,
    /// `virtio`
    pub bus: Option<String>,
    /// `disk`, `cdrom`, …
    pub device: String,
    /// The file or block device; `None` for an empty drive or a network disk.
    pub source: Option<String>,
    /// `qcow2`
    pub format: Option<String>,
    pub serial: Option<String>,
    pub alias: Option<String>,
    /// Its place on a controller.
    pub unit: Option<u32>,
    pub mirror: Option<MirrorFacts>,
}

/// A copy that is being made of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorFacts {
    pub file: Option<String>,
    /// Whether it is whole, and follows the disk.
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceFacts {
    /// `ethernet`, `bridge`, …
    pub kind: String,
    pub mac_address: String,
    /// `tapffb38c30-19`
    pub target: Option<String>,
    pub alias: Option<String>,
    /// Its place on the PCI bus: attributes of an address.
    pub address: Vec<(String, String)>,
}

/// Reads a domain's XML.
pub fn domain_facts(xml: &str) -> Result<DomainFacts, XmlError> {
    let domain = Node::parse(xml)?;
    let devices = domain.child("devices").map(|devices| devices.children.as_slice());
    let devices = devices.unwrap_or_default();
    Ok(DomainFacts {
        virt_type: domain.attribute("type").unwrap_or_default().to_owned(),
        uuid: domain.text_of("uuid").and_then(|text| text.parse().ok()),
        name: domain.text_of("name").unwrap_or_default().to_owned(),
        nova: nova_owner(&domain),
        disks: devices.iter().filter(|device| device.name == "disk").filter_map(disk).collect(),
        interfaces: devices
            .iter()
            .filter(|device| device.name == "interface")
            .map(interface)
            .collect(),
        firmware: firmware(&domain),
        machine: domain
            .find(&["os", "type"])
            .and_then(|kind| kind.attribute("machine"))
            .map(str::to_owned),
    })
}

/// Where the consoles of a running domain listen: VNC's and SPICE's ports and the TCP serial ports,
/// in order. A port that isn't open yet (`-1`) is left out.
///
/// nova: virt/libvirt/driver.py, `get_vnc_console`, `get_spice_console`,
/// `_get_serial_ports_from_guest`
pub fn consoles(xml: &str) -> Result<ConsoleEndpoints, XmlError> {
    let domain = Node::parse(xml)?;
    let mut endpoints = ConsoleEndpoints::default();
    let Some(devices) = domain.child("devices") else { return Ok(endpoints) };
    endpoints.vnc = devices
        .all("graphics")
        .filter(|graphics| graphics.attribute("type") == Some("vnc"))
        .find_map(|graphics| {
            let port = port(graphics.attribute("port")?)?;
            let listen = graphics.attribute("listen").or_else(|| {
                graphics.all("listen").find_map(|listen| listen.attribute("address"))
            })?;
            Some((listen.to_owned(), port))
        });
    endpoints.spice = devices
        .all("graphics")
        .filter(|graphics| graphics.attribute("type") == Some("spice"))
        .find_map(|graphics| {
            let tls_port = graphics.attribute("tlsPort").and_then(port);
            Some(SpicePorts { port: port(graphics.attribute("port")?)?, tls_port })
        });
    for serial in devices.all("serial").filter(|serial| serial.attribute("type") == Some("tcp")) {
        let endpoint = serial.child("source").and_then(|source| {
            let bound = source.attribute("mode") == Some("bind");
            let port = port(source.attribute("service")?)?;
            bound.then_some((source.attribute("host")?.to_owned(), port))
        });
        endpoints.serial.extend(endpoint);
    }
    Ok(endpoints)
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn nova_owner(domain: &Node) -> Option<NovaOwner> {
    let metadata = domain.child("metadata")?;
    let instance = metadata.children.iter().find(|child| {
        let (prefix, local) = child.name.split_once(':').unwrap_or(("", &child.name));
        let declaration =
            if prefix.is_empty() { "xmlns".to_owned() } else { format!("xmlns:{prefix}") };
        let namespace = child.attribute(&declaration).or_else(|| metadata.attribute(&declaration));
        local == "instance"
            && namespace.is_some_and(|ns| ns == NOVA_NAMESPACE || ns == OLD_NOVA_NAMESPACE)
    })?;
    let local = |node: &Node, name: &str| -> Option<Node> {
        node.children.iter().find(|child| child.name.rsplit(':').next() == Some(name)).cloned()
    };
    let owner = local(instance, "owner").unwrap_or_default();
    let id = |name| local(&owner, name).and_then(|node| node.attribute("uuid").map(str::to_owned));
    Some(NovaOwner {
        display_name: local(instance, "name").map(|name| name.text),
        user_id: id("user"),
        project_id: id("project"),
    })
}

fn disk(disk: &Node) -> Option<DiskFacts> {
    let target = disk.child("target")?;
    let source = disk
        .child("source")
        .and_then(|source| source.attribute("file").or_else(|| source.attribute("dev")));
    let driver = disk.child("driver");
    Some(DiskFacts {
        target: target.attribute("dev")?.to_owned(),
        bus: target.attribute("bus").map(str::to_owned),
        device: disk.attribute("device").unwrap_or("disk").to_owned(),
        source: source.map(str::to_owned),
        format: driver.and_then(|driver| driver.attribute("type")).map(str::to_owned),
        serial: disk.text_of("serial").map(str::to_owned),
        alias: disk.child("alias").and_then(|alias| alias.attribute("name")).map(str::to_owned),
        unit: disk
            .child("address")
            .filter(|address| address.attribute("type") == Some("drive"))
            .and_then(|address| address.attribute("unit")?.parse().ok()),
        mirror: disk.child("mirror").map(mirror),
    })
}

fn mirror(mirror: &Node) -> MirrorFacts {
    let source = mirror
        .child("source")
        .and_then(|source| source.attribute("file").or_else(|| source.attribute("dev")));
    MirrorFacts {
        file: source.or_else(|| mirror.attribute("file")).map(str::to_owned),
        // `abort` and `pivot` say that it is ending.
        ready: mirror.attribute("ready") == Some("yes"),
    }
}

fn interface(interface: &Node) -> InterfaceFacts {
    let attribute = |child, name| {
        interface.child(child).and_then(|node| node.attribute(name)).map(str::to_owned)
    };
    InterfaceFacts {
        kind: interface.attribute("type").unwrap_or_default().to_owned(),
        mac_address: attribute("mac", "address").unwrap_or_default(),
        target: attribute("target", "dev"),
        alias: attribute("alias", "name"),
        address: interface
            .child("address")
            .filter(|address| address.attribute("type") == Some("pci"))
            .map(|address| address.attributes.clone())
            .unwrap_or_default(),
    }
}

fn firmware(domain: &Node) -> FirmwareFiles {
    let text = |node: &Node| (!node.text.trim().is_empty()).then(|| node.text.trim().to_owned());
    let loader = domain.find(&["os", "loader"]);
    let nvram = domain.find(&["os", "nvram"]);
    let smm = domain.find(&["features", "smm"]);
    FirmwareFiles {
        loader: loader.and_then(text),
        loader_type: loader.and_then(|l| l.attribute("type")).map(str::to_owned),
        loader_readonly: loader.and_then(|l| l.attribute("readonly")).map(|value| value == "yes"),
        secure: loader.and_then(|l| l.attribute("secure")).map(|value| value == "yes"),
        nvram: nvram.and_then(text),
        nvram_template: nvram.and_then(|n| n.attribute("template")).map(str::to_owned),
        smm: smm.is_some_and(|smm| smm.attribute("state") != Some("off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = "<domain type='qemu' id='1'><name>instance-00000002</name>
      <uuid>c096fd3f-811e-4ddd-8fca-f0fd75012396</uuid>
      <metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>
        <nova:name>a &lt; b</nova:name><nova:owner><nova:user uuid='u'>admin</nova:user>
        <nova:project uuid='p'>admin</nova:project></nova:owner></nova:instance></metadata>
      <os><type machine='pc-q35-10.0'>hvm</type><loader type='pflash' readonly='yes'>/fw</loader>
        <nvram template='/vars'>/nv</nvram></os><features><smm state='on'/></features>
      <devices><future><thing/></future>
        <disk type='file' device='disk'><driver type='qcow2'/><source file='/i/disk'/>
          <mirror type='file' file='/s/copy' job='copy' ready='yes'><format type='qcow2'/>
          <source file='/s/copy'/></mirror><target dev='vda' bus='virtio'/></disk>
        <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>
        <interface type='ethernet'><mac address='fa:16:3e:32:64:38'/><target dev='tap1'/></interface>
        <serial type='tcp'><source mode='bind' host='127.0.0.1' service='10000'/></serial>
        <serial type='tcp'><source mode='connect' host='127.0.0.1' service='10001'/></serial>
        <graphics type='spice' port='5901' tlsPort='5902' listen='::'/>
        <graphics type='vnc' port='5900'><listen type='address' address='10.0.0.1'/></graphics>
      </devices></domain>";

    #[test]
    fn facts_are_read_and_the_unknown_is_stepped_over() {
        let facts = domain_facts(RUNNING).unwrap();
        assert_eq!(facts.name, "instance-00000002");
        let nova = facts.nova.unwrap();
        assert_eq!(nova.display_name.as_deref(), Some("a < b"));
        assert_eq!(nova.user_id.as_deref(), Some("u"));
        assert_eq!(facts.disks.len(), 2);
        assert_eq!(facts.disks[0].source.as_deref(), Some("/i/disk"));
        let mirror = MirrorFacts { file: Some("/s/copy".into()), ready: true };
        assert_eq!(
            (facts.disks[0].mirror.as_ref(), &facts.disks[1].mirror),
            (Some(&mirror), &None)
        );
        assert_eq!((facts.disks[1].device.as_str(), &facts.disks[1].source), ("cdrom", &None));
        assert_eq!(facts.interfaces[0].target.as_deref(), Some("tap1"));
        assert_eq!(facts.firmware.nvram.as_deref(), Some("/nv"));
        assert!(facts.firmware.smm);
    }

    #[test]
    fn consoles_are_the_ports_that_listen() {
        let consoles = consoles(RUNNING).unwrap();
        assert_eq!(consoles.vnc, Some(("10.0.0.1".into(), 5900)));
        assert_eq!(consoles.spice, Some(SpicePorts { port: 5901, tls_port: Some(5902) }));
        assert_eq!(consoles.serial, [("127.0.0.1".into(), 10000)]);
        let defined = RUNNING.replace("5900", "-1");
        assert_eq!(super::consoles(&defined).unwrap().vnc, None);
        let plain = RUNNING.replace("tlsPort='5902'", "tlsPort='-1'");
        let plain = super::consoles(&plain).unwrap().spice;
        assert_eq!(plain, Some(SpicePorts { port: 5901, tls_port: None }));
    }

    #[test]
    fn a_domain_that_only_mentions_nova_is_not_ours() {
        for xml in [
            "<domain><name>nova:instance</name></domain>",
            "<domain><metadata><nova:instance xmlns:nova='http://else.where/'/></metadata></domain>",
            "<domain><title><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/></title></domain>",
        ] {
            assert_eq!(domain_facts(xml).unwrap().nova, None, "{xml}");
        }
    }
}
