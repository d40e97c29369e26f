//! Where a block copy goes, as libvirt wants it described.

use super::disk;
use super::element::Element;
use crate::hypervisor::block::BlockCopy;
use crate::hypervisor::spec::DiskSpec;

/// libvirt: virDomainBlockCopy, `destxml`
pub fn copy_xml(copy: &BlockCopy) -> String {
    Element::new("disk")
        .attr("type", "file")
        .child(Element::new("source").attr("file", copy.file.display()))
        .child(Element::new("driver").attr("type", &copy.format))
        .to_document()
}

/// The disk that takes another one's place. libvirt: virDomainBlockCopy, `destxml`
pub fn swap_xml(to: &DiskSpec, virt_type: &str) -> String {
    disk::disk(to, virt_type).to_document()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_names_its_file_and_format() {
        let copy = BlockCopy {
            target: "vda".into(),
            file: "/s/a&b".into(),
            format: "qcow2".into(),
            shallow: true,
        };
        let xml = "<disk type=\"file\">\n  <source file=\"/s/a&amp;b\"/>\n  <driver type=\"qcow2\"/>\n</disk>\n";
        assert_eq!(copy_xml(&copy), xml);
    }
}
