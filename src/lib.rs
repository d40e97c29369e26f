//! hypernova: the compute-node agent. One message's way through the rooms:
//! `rpc → dispatch → workflow → hypervisor, images, network, records`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed"))]

/// Domains, through libvirt.
pub mod hypervisor;
/// What a guest boots from: the image cache and the instance directories.
pub mod images;
/// The shared words, without I/O.
pub mod model;
