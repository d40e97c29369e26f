//! A CPU as libvirt is asked about it.

use super::element::Element;
use crate::hypervisor::host::HostCpu;

/// The host's CPU as if it were of `model`, with that model's features alone.
/// nova: virt/libvirt/config.py, `LibvirtConfigCPU.format_dom`
pub fn cpu_xml(cpu: &HostCpu, model: &str) -> String {
    let topology = cpu.topology.map(|[sockets, cores, threads]| {
        let topology = Element::new("topology").attr("sockets", sockets);
        topology.attr("cores", cores).attr("threads", threads)
    });
    let max_phys_addr = cpu.max_phys_addr.as_ref().map(|address| {
        Element::new("maxphysaddr").attr("mode", &address.mode).attr_if("bits", address.bits)
    });
    Element::new("cpu")
        .child(Element::with_text("arch", &cpu.architecture))
        .child(Element::with_text("model", model))
        .child_if(cpu.vendor.as_ref().map(|vendor| Element::with_text("vendor", vendor)))
        .child_if(topology)
        .child_if(max_phys_addr)
        .to_document()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::host::MaxPhysAddr;

    #[test]
    fn a_model_is_asked_about_on_this_host() {
        let cpu = HostCpu {
            architecture: "x86_64".into(),
            model: Some("EPYC".into()),
            vendor: Some("AMD".into()),
            topology: Some([1, 2, 1]),
            max_phys_addr: Some(MaxPhysAddr { mode: "emulate".into(), bits: Some(48) }),
            features: ["svm".to_owned()].into(),
        };
        assert_eq!(
            cpu_xml(&cpu, "qemu64"),
            "<cpu>\n  <arch>x86_64</arch>\n  <model>qemu64</model>\n  <vendor>AMD</vendor>\n  \
             <topology sockets=\"1\" cores=\"2\" threads=\"1\"/>\n  \
             <maxphysaddr mode=\"emulate\" bits=\"48\"/>\n</cpu>\n"
        );
    }
}
