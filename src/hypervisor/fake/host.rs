//! The host that the fake stands for, out of its [`HostInfo`].

use super::super::HostInfo;
use super::super::host::{Capabilities, DomainCapabilities, GuestKind, HostCpu, HostState};

pub fn capabilities(host: &HostInfo) -> Capabilities {
    let kind = |(architecture, domain_type): &(String, String)| GuestKind {
        os_type: "hvm".into(),
        architecture: architecture.clone(),
        machines: vec!["pc".into()],
        aliases: vec!["pc".into()],
        domain_types: vec![domain_type.clone()],
    };
    Capabilities {
        host_uuid: host.uuid,
        cpu: HostCpu {
            architecture: host.architecture.clone(),
            topology: Some([1, host.cpus, 1]),
            ..HostCpu::default()
        },
        cells: Vec::new(),
        guests: host.guests.iter().map(kind).collect(),
    }
}

pub fn state(host: &HostInfo) -> HostState {
    HostState {
        node: host.node.clone(),
        memory_mib: host.memory_mib,
        present_cpus: host.cpus,
        online_cpus: (0..host.cpus).collect(),
        hypervisor_type: host.hypervisor_type.clone(),
        hypervisor_version: host.hypervisor_version,
        library_version: host.library_version,
    }
}

pub fn domain_capabilities(machine: Option<&str>) -> DomainCapabilities {
    DomainCapabilities {
        machine: machine.unwrap_or("pc").to_owned(),
        disk_buses: ["virtio", "scsi", "ide"].map(str::to_owned).to_vec(),
        video_models: ["vga", "virtio"].map(str::to_owned).to_vec(),
        ..DomainCapabilities::default()
    }
}
