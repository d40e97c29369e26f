//! What the host can do, out of libvirt's capability documents.

use std::collections::BTreeSet;

use uuid::Uuid;
use virt::connect::Connect;

use super::Libvirt;
use super::errors::Fault;
use super::xml::{Node, XmlError};
use crate::hypervisor::{HostInfo, HypervisorError};

/// `virConnectGetCapabilities`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    pub host_uuid: Option<Uuid>,
    pub architecture: String,
    /// The host CPU's model, vendor and features, as the libvirt host model has them.
    pub cpu_model: Option<String>,
    pub cpu_vendor: Option<String>,
    pub cpu_features: BTreeSet<String>,
    pub guests: Vec<GuestCapabilities>,
}

/// One kind of guest the host can run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestCapabilities {
    /// `hvm`, `exe`, …
    pub os_type: String,
    pub architecture: String,
    /// `pc`, `q35`, `pc-i440fx-10.0`, …
    pub machines: Vec<String>,
    /// `qemu`, `kvm`, …
    pub domain_types: Vec<String>,
}

impl Capabilities {
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        let document = Node::parse(xml)?;
        let host = document.child("host");
        let cpu = host.and_then(|host| host.child("cpu"));
        Ok(Self {
            host_uuid: host
                .and_then(|host| host.text_of("uuid"))
                .and_then(|uuid| uuid.parse().ok()),
            architecture: cpu.and_then(|cpu| cpu.text_of("arch")).unwrap_or_default().to_owned(),
            cpu_model: cpu.and_then(|cpu| cpu.text_of("model")).map(str::to_owned),
            cpu_vendor: cpu.and_then(|cpu| cpu.text_of("vendor")).map(str::to_owned),
            cpu_features: cpu
                .into_iter()
                .flat_map(|cpu| cpu.all("feature"))
                .filter_map(|feature| feature.attribute("name").map(str::to_owned))
                .collect(),
            guests: document.all("guest").filter_map(guest).collect(),
        })
    }

    /// Every machine type of an architecture.
    pub fn machines(&self, architecture: &str) -> Vec<String> {
        let of_architecture = self.guests.iter().filter(|g| g.architecture == architecture);
        of_architecture.flat_map(|guest| guest.machines.iter().cloned()).collect()
    }
}

fn guest(guest: &Node) -> Option<GuestCapabilities> {
    let arch = guest.child("arch")?;
    let mut machines: Vec<String> = Vec::new();
    let mut domain_types = Vec::new();
    let domains = arch.all("domain").inspect(|domain| {
        domain_types.extend(domain.attribute("type").map(str::to_owned));
    });
    // A domain type may bring machines of its own.
    let nested: Vec<&Node> = domains.flat_map(|domain| domain.all("machine")).collect();
    for machine in arch.all("machine").chain(nested) {
        let name = machine.text.trim().to_owned();
        if !machines.contains(&name) {
            machines.push(name);
        }
    }
    Some(GuestCapabilities {
        os_type: guest.text_of("os_type").unwrap_or_default().to_owned(),
        architecture: arch.attribute("name")?.to_owned(),
        machines,
        domain_types,
    })
}

/// `virConnectGetDomainCapabilities`: what one machine type offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainCapabilities {
    pub machine: String,
    pub max_vcpus: Option<u32>,
    /// `efi` when libvirt can choose a UEFI firmware by itself.
    pub firmware: Vec<String>,
    pub loaders: Vec<String>,
    /// Whether a firmware with secure boot is there.
    pub secure_boot: bool,
    /// The CPU modes it supports: `host-model`, `custom`, …
    pub cpu_modes: Vec<String>,
    /// The model behind `host-model`, and what it needs added.
    pub host_model: Option<String>,
    pub host_model_features: Vec<String>,
    /// The named models that run here.
    pub usable_models: Vec<String>,
    pub disk_buses: Vec<String>,
    pub video_models: Vec<String>,
}

impl DomainCapabilities {
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

fn garbled(operation: &'static str) -> impl Fn(XmlError) -> HypervisorError {
    move |error| HypervisorError::Garbled { operation, message: error.to_string() }
}

impl Libvirt {
    pub async fn capabilities(&self) -> Result<Capabilities, HypervisorError> {
        const OPERATION: &str = "read capabilities";
        let within = self.options.job_timeout;
        let xml = self.job(OPERATION, within, |connect| Ok(connect.get_capabilities()?)).await?;
        Capabilities::parse(&xml).map_err(garbled(OPERATION))
    }

    /// What a machine type offers; `None` asks for the architecture's default.
    pub async fn domain_capabilities(
        &self,
        architecture: &str,
        machine: Option<&str>,
        virt_type: &str,
    ) -> Result<DomainCapabilities, HypervisorError> {
        const OPERATION: &str = "read domain capabilities";
        let architecture = architecture.to_owned();
        let (machine, virt_type) = (machine.map(str::to_owned), virt_type.to_owned());
        let read = move |connect: &Connect| {
            let (arch, machine) = (Some(architecture.as_str()), machine.as_deref());
            Ok(connect.get_domain_capabilities(None, arch, machine, Some(&virt_type), 0)?)
        };
        let xml = self.job(OPERATION, self.options.job_timeout, read).await?;
        DomainCapabilities::parse(&xml).map_err(garbled(OPERATION))
    }

    /// The names libvirt knows for CPU models of an architecture.
    pub async fn cpu_models(&self, architecture: &str) -> Result<Vec<String>, HypervisorError> {
        let architecture = architecture.to_owned();
        let read = move |connect: &Connect| Ok(connect.get_cpu_models_names(&architecture, 0)?);
        self.call("list CPU models", read).await
    }
}

/// nova: virt/libvirt/driver.py, `HostState`; host.py, `get_hostname`
pub(super) fn host_info(connect: &Connect) -> Result<HostInfo, Fault> {
    let node = connect.get_node_info()?;
    let capabilities =
        Capabilities::parse(&connect.get_capabilities()?).map_err(garbled("read capabilities"))?;
    let guests = capabilities.guests.iter().flat_map(|guest| {
        guest.domain_types.iter().map(|kind| (guest.architecture.clone(), kind.clone()))
    });
    Ok(HostInfo {
        node: connect.get_hostname()?,
        uuid: capabilities.host_uuid,
        guests: guests.collect(),
        architecture: capabilities.architecture,
        cpus: node.cpus,
        memory_mib: node.memory / 1024,
        hypervisor_type: connect.get_type()?,
        hypervisor_version: connect.get_hyp_version()?.into(),
        library_version: connect.get_lib_version()?.into(),
    })
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
        assert_eq!(caps.architecture, "x86_64");
        assert_eq!(caps.machines("x86_64"), ["pc", "q35", "x"]);
        assert_eq!(caps.machines("aarch64"), [""; 0]);
        assert_eq!(caps.guests[0].domain_types, ["qemu", "kvm"]);
        assert!(caps.cpu_features.contains("vmx"));
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
