//! libvirt.

pub mod xml;
