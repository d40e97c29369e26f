//! hypernova: the compute-node agent. One message's way through the rooms:
//! `rpc → dispatch → workflow → hypervisor, images, network, records`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed"))]

/// What is started in which order, and stopped in which.
pub mod agent;
/// Would the agent work here?
pub mod check;
/// The commands.
pub mod cli;
/// nova.conf, by oslo.config's rules.
pub mod config;
/// Who may start now, and in which order.
pub mod dispatch;
/// Metrics, and whether all is well.
pub mod health;
/// Domains, through libvirt.
pub mod hypervisor;
/// What a guest boots from: the image cache and the instance directories.
pub mod images;
/// What only the start needed is given back.
pub mod memory;
/// The shared words, without I/O.
pub mod model;
/// The guest's network interfaces.
pub mod network;
/// This compute node to the control plane: what it has, and what is set aside.
pub mod node;
/// What happens to instances, told to whoever listens.
pub mod notify;
/// The HTTP APIs of the control plane.
pub mod openstack;
/// Work that nobody asks for, at intervals.
pub mod periodic;
/// What this node offers, and who has been given how much of it.
pub mod placement;
/// The commands' way to the agent's own work.
pub mod program;
/// What is known of each instance.
pub mod records;
/// What becomes of its instances when the agent starts.
pub mod recovery;
/// The bus and the socket: requests in, replies out.
pub mod rpc;
/// What systemd and signals say.
pub mod service;
/// Logs.
pub mod telemetry;
/// Volumes' snapshots, for whoever waits for them.
pub mod volumes;
/// What the agent does to an instance, as journaled steps.
pub mod workflow;
