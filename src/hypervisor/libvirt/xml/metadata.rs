//! `nova:instance`: whose domain it is, in the words of nova's own metadata. Its presence is what
//! makes a domain ours to change.

use super::NOVA_NAMESPACE;
use super::element::Element;
use crate::hypervisor::spec::{FlavorMetadata, ImageMetadata, NovaMetadata, PortMetadata};

/// nova: virt/libvirt/config.py, `LibvirtConfigGuestMetaNovaInstance`
pub fn nova_instance(metadata: &NovaMetadata) -> Element {
    let mut owner = Element::new("nova:owner");
    for (name, id_and_name) in [("nova:user", &metadata.user), ("nova:project", &metadata.project)]
    {
        if let Some((id, text)) = id_and_name {
            owner.push(Element::with_text(name, text).attr("uuid", id));
        }
    }
    Element::new("nova:instance")
        .attr("xmlns:nova", NOVA_NAMESPACE)
        .child(Element::new("nova:package").attr("version", &metadata.package_version))
        .child(Element::with_text("nova:name", &metadata.name))
        .child(Element::with_text("nova:creationTime", &metadata.creation_time))
        .child(flavor(&metadata.flavor))
        .child_if(metadata.image.as_ref().map(image))
        .child(owner)
        .child(
            Element::new("nova:root")
                .attr("type", if metadata.root_image.is_some() { "image" } else { "volume" })
                .attr("uuid", metadata.root_image.as_deref().unwrap_or_default()),
        )
        .child(Element::new("nova:ports").children(metadata.ports.iter().map(port)))
}

/// The same as a document of its own.
pub fn metadata_xml(metadata: &NovaMetadata) -> String {
    nova_instance(metadata).to_document()
}

fn flavor(flavor: &FlavorMetadata) -> Element {
    Element::new("nova:flavor")
        .attr("name", &flavor.name)
        .attr("id", &flavor.id)
        .child(Element::with_text("nova:memory", flavor.memory_mib))
        .child(Element::with_text("nova:disk", flavor.disk_gib))
        .child(Element::with_text("nova:swap", flavor.swap_mib))
        .child(Element::with_text("nova:ephemeral", flavor.ephemeral_gib))
        .child(Element::with_text("nova:vcpus", flavor.vcpus))
        .child(Element::new("nova:extraSpecs").children(
            flavor.extra_specs.iter().map(|(name, value)| {
                Element::with_text("nova:extraSpec", value).attr("name", name)
            }),
        ))
}

fn image(image: &ImageMetadata) -> Element {
    let format = |name, value: &Option<String>| value.as_ref().map(|v| Element::with_text(name, v));
    Element::new("nova:image")
        .attr("uuid", &image.uuid)
        .child_if(format("nova:containerFormat", &image.container_format))
        .child_if(format("nova:diskFormat", &image.disk_format))
        .child(Element::with_text("nova:minDisk", image.min_disk_gib))
        .child(Element::with_text("nova:minRam", image.min_ram_mib))
        .child(
            Element::new("nova:properties").children(image.properties.iter().map(
                |(name, value)| Element::with_text("nova:property", value).attr("name", name),
            )),
        )
}

fn port(port: &PortMetadata) -> Element {
    Element::new("nova:port").attr("uuid", &port.uuid).children(port.ips.iter().map(
        |(kind, address, version)| {
            Element::new("nova:ip")
                .attr("type", kind)
                .attr("address", address)
                .attr("ipVersion", version)
        },
    ))
}
