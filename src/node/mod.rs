//! This compute node to the control plane: what it has, and what of it is set aside for whom.
//!
//! `tracker.rs` is nova mode's: it keeps a ledger of claims (`accounts.rs`), and every so often an
//! audit (`audit.rs`) looks at the host and the records. What is written of it is pure: `record.rs`
//! for nova's record of the node, `placement/` for the inventories and traits.

use std::path::PathBuf;

use async_trait::async_trait;

use crate::hypervisor::HypervisorError;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::{Instance, Migration, SchedulerLimits};
use crate::placement::PlacementError;
use crate::records::RecordsError;

mod accounts;
mod audit;
mod cleanup;
mod conductor;
pub mod cpus;
mod disk;
pub mod fake;
mod features;
pub mod identity;
mod level;
mod moves;
mod numa;
mod options;
pub mod record;
pub mod records;
pub mod scheduling;
pub mod service;
mod statistics;
pub mod told;
pub mod tracker;
pub mod unclaimed;
mod uptime;
mod usage;

pub use features::FeatureOptions;
pub use tracker::{Tracker, TrackerBackends, TrackerOptions};

/// Resources of this host, set aside for instances. nova: compute/resource_tracker.py
#[async_trait]
pub trait Claims: Send + Sync {
    /// Sets aside what the instance's flavor asks for, and writes the instance's host, node and
    /// `compute_id`; the caller saves its record. A repeat claims nothing twice. It never waits for an
    /// inventory run.
    async fn claim(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        limits: Option<&SchedulerLimits>,
    ) -> Result<(), ClaimError>;

    /// Gives back what [`Claims::claim`] set aside, and takes the host from the instance, whose
    /// record the caller saves; absent is success.
    async fn abort(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), ClaimError>;

    /// Takes note of the instance as it is now: its states count in the node's statistics, and a
    /// deleted one uses nothing. Written with the next change of the node's record.
    async fn note(&self, context: &RequestContext, instance: &Instance);

    /// Counts how a build ended: hosts on which builds fail are avoided for a while.
    /// nova: compute/manager.py, _build_failed, _build_succeeded
    async fn built(&self, context: &RequestContext, succeeded: bool);

    /// Has the schedulers know at once that the host's service is disabled, or enabled again. Where that
    /// fails the next inventory run does it. nova: compute/manager.py, set_host_enabled
    async fn set_enabled(&self, context: &RequestContext, enabled: bool);

    /// An evacuation to this host isn't done: its migration has failed, and what the scheduler has set
    /// aside here is given back. What the instance has on its own host stays. A repeat changes nothing.
    async fn refuse_evacuation(
        &self,
        context: &RequestContext,
        instance: &Instance,
        migration: Option<&Migration>,
    ) -> Result<(), ClaimError>;

    /// Removes the instance's allocation, when a build failed for good or the instance is deleted;
    /// absent is success. nova: compute/manager.py, _complete_deletion
    async fn release_allocation(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<(), ClaimError>;
}

/// Why the node's records can't be brought up to date, or it can't be tracked at all.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("[compute] {option}: {problem}")]
    CpuSet { option: &'static str, problem: String },
    #[error("can't look at the file system of {}", path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

impl NodeError {
    pub fn class(&self) -> Class {
        match self {
            Self::CpuSet { .. } => Class::Refused,
            Self::Disk { .. } => Class::Transient,
            Self::Hypervisor(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Placement(error) => error.class(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// nova: ComputeResourcesUnavailable
    #[error("Insufficient compute resources: {0}.")]
    Insufficient(String),
    #[error("the node's records can't be written: {0}")]
    Records(String),
    #[error("placement: {0}")]
    Placement(String),
}

impl ClaimError {
    pub fn class(&self) -> Class {
        match self {
            Self::Insufficient(_) => Class::Reschedule,
            Self::Records(_) | Self::Placement(_) => Class::Transient,
        }
    }
}
