//! The elements below `devices`, each as nova spells it.

use super::element::Element;
use super::read::InterfaceFacts;
use crate::hypervisor::spec::{
    Bandwidth, DomainSpec, GraphicsSpec, InterfaceSource, InterfaceSpec, Rate, RngSpec, SerialSpec,
    VideoSpec,
};

/// Every device in the order of nova's `_get_guest_config`, which is the order in which libvirt
/// hands out addresses: another order renumbers the guest's PCI devices.
pub fn devices(spec: &DomainSpec) -> Element {
    let mut devices = Element::new("devices");
    for disk in &spec.disks {
        devices.push(super::disk::disk(disk, &spec.virt_type));
    }
    if let Some(model) = &spec.scsi_model {
        devices.push(controller("scsi", Some(0), Some(model)));
    }
    for interface in &spec.interfaces {
        devices.push(self::interface(interface));
    }
    for serial in &spec.serials {
        devices.push(self::serial(serial));
    }
    if spec.spice_agent {
        devices.push(Element::new("channel").attr("type", "spicevmc").child(
            Element::new("target").attr("type", "virtio").attr("name", "com.redhat.spice.0"),
        ));
    }
    if let Some(model) = &spec.sound_model {
        devices.push(Element::new("sound").attr("model", model));
    }
    for graphics in &spec.graphics {
        devices.push(self::graphics(graphics));
    }
    if let Some(video) = &spec.video {
        devices.push(self::video(video));
    }
    for (kind, bus) in &spec.inputs {
        devices.push(Element::new("input").attr("type", kind).attr("bus", bus));
    }
    if let Some(socket) = &spec.guest_agent_socket {
        devices.push(guest_agent(&socket.to_string_lossy()));
    }
    if let Some(rng) = &spec.rng {
        devices.push(self::rng(rng));
    }
    if spec.pcie_root_ports > 0 {
        devices.push(controller("pci", None, Some("pcie-root")));
        for _ in 0..spec.pcie_root_ports {
            devices.push(controller("pci", None, Some("pcie-root-port")));
        }
    }
    devices.push(controller("usb", Some(0), spec.usb_model.as_deref()));
    for _ in 0..spec.redirected_usb_ports {
        devices.push(Element::new("redirdev").attr("type", "spicevmc").attr("bus", "usb"));
    }
    if let Some(action) = &spec.watchdog_action {
        devices.push(Element::new("watchdog").attr("model", "i6300esb").attr("action", action));
    }
    if matches!(spec.virt_type.as_str(), "kvm" | "qemu") {
        devices.push(memory_balloon(spec.balloon_stats_period_s));
    }
    devices
}

/// nova: virt/libvirt/config.py, `LibvirtConfigGuestInterface`
/// An interface alone, as a domain gets it.
pub fn interface_xml(spec: &InterfaceSpec) -> String {
    interface(spec).to_document()
}

/// What names one of a domain's interfaces to libvirt: its address and, as that may be there twice, its
/// place.
pub fn found_interface_xml(facts: &InterfaceFacts) -> String {
    let of = |name| facts.address.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let address = ["type", "domain", "bus", "slot", "function"]
        .into_iter()
        .fold(Element::new("address"), |address, name| address.attr_if(name, of(name)));
    Element::new("interface")
        .attr("type", &facts.kind)
        .child(Element::new("mac").attr("address", &facts.mac_address))
        .child_if((!facts.address.is_empty()).then_some(address))
        .to_document()
}

fn interface(interface: &InterfaceSpec) -> Element {
    let kind = match &interface.source {
        InterfaceSource::Ethernet => "ethernet",
        InterfaceSource::Bridge { .. } => "bridge",
        InterfaceSource::Network { .. } => "network",
        InterfaceSource::User => "user",
    };
    let mut driver = Element::new("driver").attr_if("name", interface.driver.as_ref());
    if interface.packed {
        driver = driver.attr("packed", "on");
    }
    // nova has a driver element only with a name or packed rings; the others go on it.
    let driver = driver.has_attributes().then(|| {
        driver.attr_if("queues", interface.queues).attr_if("rx_queue_size", interface.rx_queue_size)
    });
    let source = match &interface.source {
        InterfaceSource::Bridge { bridge, .. } => {
            Some(Element::new("source").attr("bridge", bridge))
        }
        InterfaceSource::Network { network } => {
            Some(Element::new("source").attr("network", network))
        }
        InterfaceSource::Ethernet | InterfaceSource::User => None,
    };
    let port = match &interface.source {
        InterfaceSource::Bridge { ovs_port, .. } => ovs_port.as_ref(),
        _ => None,
    };
    Element::new("interface")
        .attr("type", kind)
        .child(Element::new("mac").attr("address", &interface.mac_address))
        .child(Element::new("model").attr("type", &interface.model))
        .child_if(driver)
        .child_if(source)
        .child_if(interface.mtu.map(|mtu| Element::new("mtu").attr("size", mtu)))
        .child_if(interface.target.as_ref().map(|target| {
            Element::new("target")
                .attr("dev", target)
                .attr_if("managed", interface.unmanaged_target.then_some("no"))
        }))
        .child_if(port.map(|port| {
            Element::new("virtualport")
                .attr("type", "openvswitch")
                .child(Element::new("parameters").attr("interfaceid", port))
        }))
        .child_if(interface.bandwidth.as_ref().map(bandwidth))
}

fn bandwidth(bandwidth: &Bandwidth) -> Element {
    let rate = |name, rate: &Option<Rate>| {
        rate.as_ref().map(|rate| {
            Element::new(name)
                .attr("average", rate.average)
                .attr_if("peak", rate.peak)
                .attr_if("burst", rate.burst)
        })
    };
    Element::new("bandwidth")
        .child_if(rate("inbound", &bandwidth.inbound))
        .child_if(rate("outbound", &bandwidth.outbound))
}

fn serial(serial: &SerialSpec) -> Element {
    let log = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map(|path| {
            Element::new("log").attr("file", path.to_string_lossy()).attr("append", "off")
        })
    };
    match serial {
        SerialSpec::Pty { log: path } => {
            Element::new("serial").attr("type", "pty").child_if(log(path))
        }
        SerialSpec::Tcp { address, port, log: path } => Element::new("serial")
            .attr("type", "tcp")
            .child(
                Element::new("source")
                    .attr("mode", "bind")
                    .attr("host", address)
                    .attr("service", port),
            )
            .child_if(log(path)),
    }
}

fn graphics(graphics: &GraphicsSpec) -> Element {
    let element = |kind, listen| {
        Element::new("graphics").attr("type", kind).attr("autoport", "yes").attr("listen", listen)
    };
    match graphics {
        GraphicsSpec::Vnc { listen } => element("vnc", listen),
        GraphicsSpec::Spice { listen, options } => {
            let compression = |name, value: Option<&str>| {
                value.map(|value| Element::new(name).attr("compression", value))
            };
            let playback = options.playback_compression.map(|on| if on { "on" } else { "off" });
            let channels: &[&str] = if options.require_secure { &SPICE_CHANNELS } else { &[] };
            element("spice", listen)
                .child_if(compression("image", options.image_compression.as_deref()))
                .child_if(compression("jpeg", options.jpeg_compression.as_deref()))
                .child_if(compression("zlib", options.zlib_compression.as_deref()))
                .child_if(compression("playback", playback))
                .child_if(
                    options
                        .streaming_mode
                        .as_ref()
                        .map(|mode| Element::new("streaming").attr("mode", mode)),
                )
                .children(channels.iter().map(|channel| {
                    Element::new("channel").attr("name", channel).attr("mode", "secure")
                }))
        }
    }
}

const SPICE_CHANNELS: [&str; 8] =
    ["main", "display", "inputs", "cursor", "playback", "record", "smartcard", "usbredir"];

fn video(video: &VideoSpec) -> Element {
    Element::new("video")
        .child(Element::new("model").attr("type", &video.model).attr_if("vram", video.vram_kib))
}

fn guest_agent(socket: &str) -> Element {
    Element::new("channel")
        .attr("type", "unix")
        .child(Element::new("source").attr("mode", "bind").attr("path", socket))
        .child(Element::new("target").attr("type", "virtio").attr("name", "org.qemu.guest_agent.0"))
}

fn rng(rng: &RngSpec) -> Element {
    Element::new("rng")
        .attr("model", "virtio")
        .child_if(rng.rate.map(|(bytes, period)| {
            Element::new("rate").attr("period", period).attr("bytes", bytes)
        }))
        .child(Element::with_text("backend", rng.device.to_string_lossy()).attr("model", "random"))
}

fn controller(kind: &str, index: Option<u32>, model: Option<&str>) -> Element {
    Element::new("controller").attr("type", kind).attr_if("index", index).attr_if("model", model)
}

fn memory_balloon(period_s: u32) -> Element {
    let model = if period_s > 0 { "virtio" } else { "none" };
    Element::new("memballoon")
        .attr("model", model)
        .attr("autodeflate", "on")
        .attr("freePageReporting", "on")
        .child_if((period_s > 0).then(|| Element::new("stats").attr("period", period_s)))
}
