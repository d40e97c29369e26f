//! Why the agent can't say who it is.

use std::path::PathBuf;

use uuid::Uuid;

use super::files::FILE;
use crate::model::class::Class;
use crate::records::conductor::ConductorError;

/// Why the agent can't say who it is. What is to be done is part of each message.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("can't {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{} holds no UUID: put that of this host's compute node into it, or restore the file",
        path.display()
    )]
    NotUuid { path: PathBuf },
    #[error(
        "{} says {this_id}, and {} says {other_id}: this host is one of them; remove the other file",
        path.display(), other.display()
    )]
    Disagreeing { path: PathBuf, this_id: Uuid, other: PathBuf, other_id: Uuid },
    #[error(
        "this host has been in service before and has lost its {FILE}: restore it as {}{}",
        path.display(), known_as(nodes)
    )]
    Lost { path: PathBuf, nodes: Vec<Uuid> },
    #[error(
        "host {host} has a service of version {version} on record and no compute node: if the host \
         was renamed, set [DEFAULT] host back to its old name; else delete the service"
    )]
    NoNode { host: String, version: i64 },
    #[error(
        "host {host} has several compute nodes on record: write the uuid of the one that this host \
         is into {}{}",
        path.display(), known_as(nodes)
    )]
    SeveralNodes { host: String, path: PathBuf, nodes: Vec<Uuid> },
    #[error(
        "compute node {uuid} belongs to host {recorded}, and this is {host}: set [DEFAULT] host = \
         {recorded} if it was renamed, or remove {FILE} if it was copied from there"
    )]
    AnotherHost { uuid: Uuid, recorded: String, host: String },
    #[error(
        "{FILE} says that this is compute node {uuid}, which isn't on record: put the right uuid of \
         host {host} into it{}",
        known_as(nodes)
    )]
    Another { uuid: Uuid, host: String, nodes: Vec<Uuid> },
    #[error(
        "compute node {uuid} is on record as {recorded}, and libvirt calls this machine {node}: \
         give the machine its old name back, or remove {FILE} if it was copied from there"
    )]
    Renamed { uuid: Uuid, recorded: String, node: String },
    #[error(
        "host {host} is new to this control plane, and has {domains} domains already: check \
         [DEFAULT] host and transport_url; if both are right, remove the domains"
    )]
    NotEmpty { host: String, domains: usize },
    #[error(transparent)]
    Conductor(#[from] ConductorError),
}

fn known_as(nodes: &[Uuid]) -> String {
    match nodes {
        [] => String::new(),
        nodes => {
            let nodes: Vec<String> = nodes.iter().map(Uuid::to_string).collect();
            format!(" (on record for it: {})", nodes.join(", "))
        }
    }
}

impl IdentityError {
    /// Only an operator can help, unless it is the conductor that is away.
    pub fn class(&self) -> Class {
        match self {
            Self::Conductor(error) => error.class(),
            _ => Class::Refused,
        }
    }
}
