//! hypernova: the compute-node agent. One message's way through the rooms:
//! `rpc → dispatch → workflow → hypervisor, images, network, records`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed"))]

/// nova.conf, by oslo.config's rules.
pub mod config;
/// Metrics and health for operators' monitoring.
pub mod health;
pub mod cli;
/// Domains, through libvirt.
pub mod hypervisor;
/// What a guest boots from: the image cache and the instance directories.
pub mod images;
/// The shared words, without I/O.
pub mod model;
/// The guest's network interfaces.
pub mod network;
/// What is known of each instance.
pub mod records;
/// The bus and the socket.
pub mod rpc;
pub mod service;
pub mod telemetry;
