//! libvirt's capability documents read: what the host is made of, what it can run.

use std::collections::BTreeSet;

use super::xml::{Node, XmlError};
use crate::hypervisor::host::{
    Capabilities, DomainCapabilities, GuestKind, HostCell, HostCpu, HostPages, HostThread,
    MaxPhysAddr,
};

/// More CPUs than any host has: a bound on what a set such as `0-4000000000` can make us loop over.
const MAX_CPUS: u32 = 1 << 16;

impl Capabilities {
    /// libvirt: `virConnectGetCapabilities`
    ///
    /// # Errors
    /// For what isn't one XML document. What is missing in it is left empty.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        let document = Node::parse(xml)?;
        let host = document.child("host");
        let cells = host.and_then(|host| host.find(&["topology", "cells"]));
        Ok(Self {
            host_uuid: host
                .and_then(|host| host.text_of("uuid"))
                .and_then(|uuid| uuid.parse().ok()),
            cpu: host.and_then(|host| host.child("cpu")).map(host_cpu).unwrap_or_default(),
            cells: cells.into_iter().flat_map(|cells| cells.all("cell")).filter_map(cell).collect(),
            guests: document.all("guest").filter_map(guest).collect(),
        })
    }
}

/// nova: virt/libvirt/config.py, `LibvirtConfigCPU`
fn host_cpu(cpu: &Node) -> HostCpu {
    let topology = cpu.child("topology");
    let count = |name| -> Option<u32> { number(topology?, name) };
    let max_phys_addr = cpu.child("maxphysaddr").map(|address| MaxPhysAddr {
        mode: address.attribute("mode").unwrap_or_default().to_owned(),
        bits: number(address, "bits"),
    });
    HostCpu {
        architecture: cpu.text_of("arch").unwrap_or_default().to_owned(),
        model: cpu.text_of("model").map(str::to_owned),
        vendor: cpu.text_of("vendor").map(str::to_owned),
        topology: (|| Some([count("sockets")?, count("cores")?, count("threads")?]))(),
        max_phys_addr,
        features: features(cpu),
    }
}

/// The features of a `<cpu>`, but for those that it takes away.
fn features(cpu: &Node) -> BTreeSet<String> {
    let kept = cpu.all("feature").filter(|feature| feature.attribute("policy") != Some("disable"));
    kept.filter_map(|feature| feature.attribute("name").map(str::to_owned)).collect()
}

fn number<T: std::str::FromStr>(node: &Node, attribute: &str) -> Option<T> {
    node.attribute(attribute)?.parse().ok()
}

fn cell(cell: &Node) -> Option<HostCell> {
    let threads = cell.child("cpus").into_iter().flat_map(|cpus| cpus.all("cpu"));
    Some(HostCell {
        id: number(cell, "id")?,
        memory_kib: cell.text_of("memory").and_then(|kib| kib.parse().ok()).unwrap_or(0),
        pages: cell
            .all("pages")
            .filter_map(|pages| {
                let total = pages.text.trim().parse().ok()?;
                Some(HostPages { size_kib: number(pages, "size")?, total })
            })
            .collect(),
        cpus: threads
            .filter_map(|thread| {
                Some(HostThread {
                    id: number(thread, "id")?,
                    socket: number(thread, "socket_id"),
                    siblings: thread.attribute("siblings").map(cpu_set).unwrap_or_default(),
                })
            })
            .collect(),
    })
}

/// A set of CPUs in libvirt's spelling, `0-3,8`; what isn't a number is left out.
fn cpu_set(text: &str) -> BTreeSet<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().ok()?;
        let last: u32 = last.trim().parse().ok()?;
        Some(first..=last.min(MAX_CPUS))
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn guest(guest: &Node) -> Option<GuestKind> {
    let arch = guest.child("arch")?;
    let mut kind = GuestKind {
        os_type: guest.text_of("os_type").unwrap_or_default().to_owned(),
        architecture: arch.attribute("name")?.to_owned(),
        ..GuestKind::default()
    };
    let domains = arch.all("domain").inspect(|domain| {
        kind.domain_types.extend(domain.attribute("type").map(str::to_owned));
    });
    // A domain type may bring machines of its own.
    let nested: Vec<&Node> = domains.flat_map(|domain| domain.all("machine")).collect();
    for machine in arch.all("machine").chain(nested) {
        let name = machine.text.trim().to_owned();
        if kind.machines.contains(&name) {
            continue;
        }
        if machine.attribute("canonical").is_some() {
            kind.aliases.push(name.clone());
        }
        kind.machines.push(name);
    }
    Some(kind)
}

impl DomainCapabilities {
    /// libvirt: `virConnectGetDomainCapabilities`
    ///
    /// # Errors
    /// For what isn't one XML document.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        let document = Node::parse(xml)?;
        let values = |path: &[&str], name: &str| -> Vec<String> {
            let Some(parent) = document.find(path) else { return Vec::new() };
            let choice = parent.all("enum").find(|e| e.attribute("name") == Some(name));
            let values = choice.into_iter().flat_map(|choice| choice.all("value"));
            values.map(|value| value.text.trim().to_owned()).collect()
        };
        let modes = || document.child("cpu").into_iter().flat_map(|cpu| cpu.all("mode"));
        let mode = |name| modes().find(|mode| mode.attribute("name") == Some(name));
        let yes = |node: &&Node| node.attribute("supported") == Some("yes");
        let host_model = mode("host-model").filter(yes);
        Ok(Self {
            machine: document.text_of("machine").unwrap_or_default().to_owned(),
            max_vcpus: document
                .child("vcpu")
                .and_then(|vcpu| vcpu.attribute("max"))
                .and_then(|max| max.parse().ok()),
            firmware: values(&["os"], "firmware"),
            loaders: document
                .find(&["os", "loader"])
                .into_iter()
                .flat_map(|loader| loader.all("value"))
                .map(|value| value.text.trim().to_owned())
                .collect(),
            secure_boot: values(&["os", "loader"], "secure").iter().any(|value| value == "yes"),
            cpu_modes: modes()
                .filter(yes)
                .filter_map(|mode| mode.attribute("name").map(str::to_owned))
                .collect(),
            host_model: host_model.and_then(|mode| mode.text_of("model")).map(str::to_owned),
            host_model_features: host_model
                .into_iter()
                .flat_map(|mode| mode.all("feature"))
                .filter(|feature| feature.attribute("policy") == Some("require"))
                .filter_map(|feature| feature.attribute("name").map(str::to_owned))
                .collect(),
            usable_models: mode("custom")
                .into_iter()
                .flat_map(|mode| mode.all("model"))
                .filter(|model| model.attribute("usable") != Some("no"))
                .map(|model| model.text.trim().to_owned())
                .collect(),
            disk_buses: values(&["devices", "disk"], "bus"),
            video_models: values(&["devices", "video"], "modelType"),
        })
    }
}

/// The features that libvirt resolved a model to. libvirt: `virConnectBaselineCPU`
///
/// # Errors
/// For what isn't one XML document.
pub(super) fn resolved_features(xml: &str) -> Result<BTreeSet<String>, XmlError> {
    Ok(features(&Node::parse(xml)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_name_architecture_guests_and_machines() {
        let caps = Capabilities::parse(
            "<capabilities><host><uuid>c096fd3f-811e-4ddd-8fca-f0fd75012396</uuid>
             <cpu><arch>x86_64</arch><model>Skylake</model><vendor>Intel</vendor>
             <feature name='vmx'/></cpu></host>
             <guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>
             <machine maxCpus='255'>pc</machine><machine>q35</machine>
             <domain type='qemu'/><domain type='kvm'><machine>pc</machine><machine>x</machine></domain>
             </arch></guest></capabilities>",
        )
        .unwrap();
        assert_eq!(caps.cpu.architecture, "x86_64");
        assert_eq!(caps.machines("x86_64"), ["pc", "q35", "x"]);
        assert_eq!(caps.machines("aarch64"), [""; 0]);
        assert_eq!(caps.guests[0].domain_types, ["qemu", "kvm"]);
        assert!(caps.cpu.features.contains("vmx"));
        assert!(caps.cells.is_empty() && !caps.has_hyperthreading());
    }

    #[test]
    fn capabilities_name_the_cells_with_their_threads_and_pages() {
        let caps = Capabilities::parse(
            "<capabilities><host><cpu><arch>x86_64</arch>
             <topology sockets='1' dies='1' cores='1' threads='2'/>
             <maxphysaddr mode='emulate' bits='48'/><feature name='nx'/></cpu>
             <topology><cells num='1'><cell id='1'><memory unit='KiB'>24684092</memory>
             <pages unit='KiB' size='4'>6171023</pages><pages unit='KiB' size='2048'>7</pages>
             <cpus num='2'><cpu id='4' socket_id='1' core_id='0' siblings='4-5'/>
             <cpu id='5' socket_id='1' core_id='0' siblings='4,5'/></cpus></cell>
             <cell/></cells></topology></host></capabilities>",
        )
        .unwrap();
        assert_eq!(caps.cpu.topology, Some([1, 1, 2]));
        assert_eq!(caps.cpu.max_phys_addr.as_ref().unwrap().bits, Some(48));
        let [cell] = caps.cells.as_slice() else { panic!("{:?}", caps.cells) };
        assert_eq!((cell.id, cell.memory_kib), (1, 24_684_092));
        assert_eq!(cell.pages[1], HostPages { size_kib: 2048, total: 7 });
        assert_eq!(cell.cpus[1].siblings, BTreeSet::from([4, 5]));
        assert_eq!(cell.cpus[0].socket, Some(1));
        assert!(caps.has_hyperthreading());
    }

    #[test]
    fn a_set_of_cpus_that_makes_no_sense_is_left_out_and_none_is_endless() {
        assert_eq!(cpu_set("1-3, 7,x,5-"), BTreeSet::from([1, 2, 3, 7]));
        assert_eq!(cpu_set("65535-4294967295").len(), 2);
        assert!(cpu_set("9-1").is_empty());
    }

    #[test]
    fn aliases_are_the_machines_that_stand_for_another() {
        let caps = Capabilities::parse(
            "<capabilities><guest><os_type>hvm</os_type><arch name='x86_64'>
             <machine>pc-i440fx-10.0</machine><machine canonical='pc-i440fx-10.0'>pc</machine>
             <domain type='qemu'/></arch></guest></capabilities>",
        )
        .unwrap();
        assert_eq!(caps.guests[0].aliases, ["pc"]);
    }

    #[test]
    fn domain_capabilities_name_the_host_model_and_firmware() {
        let caps = DomainCapabilities::parse(
            "<domainCapabilities><machine>pc-q35-10.0</machine><vcpu max='288'/>
             <os supported='yes'><enum name='firmware'><value>efi</value></enum>
             <loader supported='yes'><value>/fw.fd</value>
             <enum name='secure'><value>yes</value><value>no</value></enum></loader></os>
             <cpu><mode name='host-passthrough' supported='no'/>
             <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model>
             <feature policy='require' name='x2apic'/><feature policy='disable' name='svm'/></mode>
             <mode name='custom' supported='yes'><model usable='yes'>qemu64</model>
             <model usable='no'>EPYC-Rome</model></mode></cpu>
             <devices><disk supported='yes'><enum name='bus'><value>virtio</value></enum></disk>
             </devices></domainCapabilities>",
        )
        .unwrap();
        assert_eq!(caps.max_vcpus, Some(288));
        assert_eq!(caps.firmware, ["efi"]);
        assert!(caps.secure_boot);
        assert_eq!(caps.cpu_modes, ["host-model", "custom"]);
        assert_eq!(caps.host_model.as_deref(), Some("EPYC"));
        assert_eq!(caps.host_model_features, ["x2apic"]);
        assert_eq!(caps.usable_models, ["qemu64"]);
        assert_eq!(caps.disk_buses, ["virtio"]);
    }
}
