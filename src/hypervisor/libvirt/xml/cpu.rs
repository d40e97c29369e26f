//! A CPU as libvirt is asked about it.

use super::element::Element;
use crate::hypervisor::host::HostCpu;

/// nova: virt/libvirt/config.py, `LibvirtConfigCPU.format_dom`
pub fn cpu_xml(cpu: &HostCpu) -> String {
    let feature = |name: &String| Element::new("feature").attr("name", name);
    let topology = cpu.topology.map(|[sockets, cores, threads]| {
        let topology = Element::new("topology").attr("sockets", sockets);
        topology.attr("cores", cores).attr("threads", threads)
    });
    let max_phys_addr = cpu.max_phys_addr.as_ref().map(|address| {
        Element::new("maxphysaddr").attr("mode", &address.mode).attr_if("bits", address.bits)
    });
    Element::new("cpu")
        .child(Element::with_text("arch", &cpu.architecture))
        .child_if(cpu.model.as_ref().map(|model| Element::with_text("model", model)))
        .child_if(cpu.vendor.as_ref().map(|vendor| Element::with_text("vendor", vendor)))
        .child_if(topology)
        .child_if(max_phys_addr)
        .children(cpu.features.iter().map(feature))
        .to_document()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::host::MaxPhysAddr;

    #[test]
    fn a_cpu_is_asked_about_with_all_that_it_has() {
        let cpu = HostCpu {
            architecture: "x86_64".into(),
            model: Some("EPYC".into()),
            vendor: Some("AMD".into()),
            topology: Some([1, 2, 1]),
            max_phys_addr: Some(MaxPhysAddr { mode: "emulate".into(), bits: Some(48) }),
            features: ["svm".to_owned()].into(),
        };
        assert_eq!(
            cpu_xml(&cpu),
            "<cpu>\n  <arch>x86_64</arch>\n  <model>EPYC</model>\n  <vendor>AMD</vendor>\n  \
             <topology sockets=\"1\" cores=\"2\" threads=\"1\"/>\n  \
             <maxphysaddr mode=\"emulate\" bits=\"48\"/>\n  <feature name=\"svm\"/>\n</cpu>\n"
        );
    }
}
