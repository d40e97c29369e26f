//! A secret that libvirt keeps for a volume.

use super::element::Element;

/// The secret's value is set apart, and nobody reads it back: `private`. Not `ephemeral`: a guest that
/// starts after libvirtd did needs it still. nova: virt/libvirt/host.py, `create_secret`
pub fn secret_xml(volume_id: &str) -> String {
    let usage =
        Element::new("usage").attr("type", "volume").child(Element::with_text("volume", volume_id));
    Element::new("secret").attr("ephemeral", "no").attr("private", "no").child(usage).to_document()
}
