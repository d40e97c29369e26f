//! Domain XML, both ways. `domain` writes what libvirt is asked to define, from a
//! [`DomainSpec`](crate::hypervisor::spec::DomainSpec) alone; `read` takes the few facts we need
//! out of what libvirt gives back and steps over everything it doesn't know. Pure: no libvirt here.

mod copy;
mod cpu;
mod devices;
mod disk;
mod domain;
mod element;
mod metadata;
mod node;
pub mod read;
mod secret;

pub use copy::{copy_xml, swap_xml};
pub use cpu::cpu_xml;
pub use devices::{found_interface_xml, interface_xml};
pub use disk::{disk_xml, named_disk_xml};
pub use domain::domain_xml;
pub use metadata::metadata_xml;
pub use node::{Node, XmlError};
pub use secret::secret_xml;

/// The namespace of nova's metadata in a domain. nova: virt/libvirt/config.py, `NOVA_NS`
pub const NOVA_NAMESPACE: &str = "http://openstack.org/xmlns/libvirt/nova/1.1";

/// What nova wrote before 2020, still in domains that were never hard-rebooted since.
pub const OLD_NOVA_NAMESPACE: &str = "http://openstack.org/xmlns/libvirt/nova/1.0";
