//! A disk, as nova spells it. nova: virt/libvirt/config.py, `LibvirtConfigGuestDisk`

use super::element::Element;
use crate::hypervisor::spec::{DiskSource, DiskSpec, NetworkDisk};

/// The limits that flavors and volume types set, in nova's order.
const IOTUNE_ORDER: [&str; 13] = [
    "read_bytes_sec",
    "read_iops_sec",
    "write_bytes_sec",
    "write_iops_sec",
    "total_bytes_sec",
    "total_iops_sec",
    "read_bytes_sec_max",
    "write_bytes_sec_max",
    "total_bytes_sec_max",
    "read_iops_sec_max",
    "write_iops_sec_max",
    "total_iops_sec_max",
    "size_iops_sec",
];

/// One disk, for a domain that is there.
pub fn disk_xml(disk: &DiskSpec, virt_type: &str) -> String {
    self::disk(disk, virt_type).to_document()
}

/// A disk by its name in the guest: enough for libvirt to find the one that it is to let go of.
pub fn named_disk_xml(target: &str, bus: &str) -> String {
    Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(Element::new("target").attr("dev", target).attr("bus", bus))
        .to_document()
}

pub(super) fn disk(disk: &DiskSpec, virt_type: &str) -> Element {
    let emulator = matches!(virt_type, "kvm" | "qemu").then_some("qemu");
    let mut iotune = Element::new("iotune");
    for name in IOTUNE_ORDER {
        if let Some((_, value)) = disk.iotune.iter().find(|(key, _)| key == name) {
            iotune.push(Element::with_text(name, value));
        }
    }
    // A LUN is the host's SCSI device itself, which has a serial and block sizes of its own.
    let is_lun = disk.device == "lun";
    let serial = disk.serial.as_ref().filter(|_| !is_lun);
    Element::new("disk")
        .attr("type", disk.source.kind())
        .attr("device", &disk.device)
        .child(
            Element::new("driver")
                .attr_if("name", emulator)
                .attr("type", &disk.format)
                .attr("cache", &disk.cache)
                .attr_if("discard", disk.discard.as_ref())
                .attr_if("io", disk.io.as_ref()),
        )
        .child_if(disk.alias.as_ref().map(|alias| Element::new("alias").attr("name", alias)))
        .child(source(&disk.source))
        .child_if(auth(&disk.source))
        .child(Element::new("target").attr("dev", &disk.target).attr("bus", &disk.bus))
        .child_if(serial.map(|serial| Element::with_text("serial", serial)))
        .child_if(iotune.has_children().then_some(iotune))
        .child_if(block_sizes(disk).filter(|_| !is_lun))
        .child_if(disk.readonly.then(|| Element::new("readonly")))
        .child_if(disk.shareable.then(|| Element::new("shareable")))
        .child_if(disk.boot_order.map(|order| Element::new("boot").attr("order", order)))
        .child_if(disk.scsi_unit.map(|unit| {
            Element::new("address").attr("type", "drive").attr("controller", 0).attr("unit", unit)
        }))
        .child_if(disk.luks_secret.map(|secret| {
            let secret = Element::new("secret").attr("type", "passphrase").attr("uuid", secret);
            Element::new("encryption").attr("format", "luks").child(secret)
        }))
}

fn source(source: &DiskSource) -> Element {
    let element = Element::new("source");
    match source {
        DiskSource::File(path) => element.attr("file", path.to_string_lossy()),
        DiskSource::Block(path) => element.attr("dev", path.to_string_lossy()),
        DiskSource::Network(NetworkDisk { protocol, name, hosts, .. }) => element
            .attr("protocol", protocol)
            .attr("name", name)
            .children(hosts.iter().map(|(host, port)| {
                Element::new("host").attr("name", host).attr_if("port", port.as_ref())
            })),
    }
}

fn auth(source: &DiskSource) -> Option<Element> {
    let DiskSource::Network(NetworkDisk { auth: Some(auth), .. }) = source else { return None };
    let secret =
        Element::new("secret").attr("type", &auth.secret_type).attr("uuid", &auth.secret_uuid);
    Some(Element::new("auth").attr("username", &auth.username).child(secret))
}

fn block_sizes(disk: &DiskSpec) -> Option<Element> {
    let (logical, physical) = disk.block_sizes;
    (logical.is_some() || physical.is_some()).then(|| {
        Element::new("blockio")
            .attr_if("logical_block_size", logical)
            .attr_if("physical_block_size", physical)
    })
}
