//! The resource tracker: what the node has, who has been promised how much of it, and the records
//! of both with the control plane.
//!
//! ```text
//! claim, abort, note ─▶ accounts (memory) ─▶ run: the node's record, soon after
//! audit, now and then ─▶ host, instances, migrations ─▶ accounts ─▶ placement, the node's record
//! ```
//!
//! No lock is held while anything outside is asked: a claim never waits for an audit. An audit that
//! reads the instances' records while some are claimed or given back knows which, and believes those
//! claims rather than what it read. nova: compute/resource_tracker.py, where one lock covers it all

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::accounts::Ledger;
use super::cpus::CpuOptions;
use super::record::{HostView, NodeSettings, describe};
use super::records::NodeRecords;
use super::usage::{Tracked, is_off_the_node};
use super::{ClaimError, Claims, NodeError};
use crate::hypervisor::Hypervisor;
use crate::model::context::RequestContext;
use crate::model::object::{ComputeNode, Instance, Migration, SchedulerLimits, VersionedObject};
use crate::placement::traits::Owned;
use crate::placement::{Placement, Reporter};
use crate::telemetry::Chain;

/// Claims that come together are written together.
const LINGER: Duration = Duration::from_millis(100);

/// The part of the configuration that the tracker reads.
#[derive(Debug, Clone)]
pub struct TrackerOptions {
    pub node: NodeSettings,
    pub cpus: CpuOptions,
    pub features: super::features::FeatureOptions,
    /// `[DEFAULT] instances_path`
    pub instances_path: std::path::PathBuf,
    /// Of the image cache, where its size counts as reserved.
    pub cache_path: Option<std::path::PathBuf>,
    /// `[compute] resource_provider_association_refresh`
    pub refresh: Duration,
}

/// What the tracker asks and tells.
#[derive(Clone)]
pub struct TrackerBackends {
    pub records: Arc<dyn NodeRecords>,
    pub placement: Placement,
    pub hypervisor: Arc<dyn Hypervisor>,
}

pub struct Tracker {
    pub(super) options: TrackerOptions,
    pub(super) backends: TrackerBackends,
    pub(super) reporter: Reporter,
    state: Mutex<State>,
    /// One writer of the node's record, and one audit, at a time.
    writer: tokio::sync::Mutex<()>,
    pub(super) auditor: tokio::sync::Mutex<()>,
    changed: Notify,
    /// The host's traits: asked once, because asking may take long.
    pub(super) owned: OnceCell<Owned>,
}

/// All that is known, for as long as no lock is needed.
#[derive(Debug, Default)]
pub(super) struct State {
    /// As it was read or written last.
    pub node: Option<ComputeNode>,
    pub service_id: Option<i64>,
    /// As the last audit found it.
    pub host: Option<HostView>,
    pub ledger: Ledger,
}

impl Tracker {
    pub fn new(options: TrackerOptions, backends: TrackerBackends) -> Self {
        let reporter = Reporter::new(backends.placement.clone(), options.refresh);
        Self {
            options,
            backends,
            reporter,
            state: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            auditor: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            owned: OnceCell::new(),
        }
    }

    /// Nothing that waits, and nothing that can panic, runs under the mutex.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's record as it was found at start: claims work from now on, before any audit.
    pub fn adopt(&self, mut node: ComputeNode) {
        node.reset_changes();
        self.state().node = Some(node);
    }

    /// The id of the host's service record, which the node's refers to.
    pub fn set_service(&self, id: i64) {
        self.state().service_id = Some(id);
    }

    /// The node's number in nova's records; `None` before it has one.
    pub fn node_id(&self) -> Option<i64> {
        self.state().node.as_ref().and_then(|node| node.id.get().copied())
    }

    /// The node's record as it was read or written last.
    pub fn compute_node(&self) -> Option<ComputeNode> {
        self.state().node.clone()
    }

    /// Writes the node's record whenever claims have changed it, until told to stop.
    pub async fn run(&self, stop: &CancellationToken) {
        let work = async {
            loop {
                self.changed.notified().await;
                tokio::time::sleep(LINGER).await;
                if let Err(error) = self.write_node(&RequestContext::admin()).await {
                    // The next change or audit tries again.
                    warn!(error = %Chain(&error), "the node's record can't be written");
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Takes what an evacuated instance had of this node from its allocation; what it has of its new
    /// node stays. nova: `delete_allocation_for_evacuated_instance`
    ///
    /// # Errors
    /// Placement's.
    pub async fn release_evacuated(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<(), NodeError> {
        let node = self.options.node.uuid;
        let placement = &self.backends.placement;
        Ok(placement.remove_provider_from_allocations(context, instance, node).await?)
    }

    /// Brings the node's record up to date, if anything has changed since it was written. Nothing is
    /// written before the first audit has looked at the host.
    pub(super) async fn write_node(&self, context: &RequestContext) -> Result<(), NodeError> {
        let _writer = self.writer.lock().await;
        let mut node = {
            let state = self.state();
            let Some(host) = &state.host else { return Ok(()) };
            let mut node = state.node.clone().unwrap_or_default();
            let accounts = state.ledger.accounts();
            describe(&mut node, &self.options.node, state.service_id, host, &accounts);
            node
        };
        let records = &self.backends.records;
        if !node.id.is_set() {
            records.create_node(context, &mut node).await?;
            info!(node = self.options.node.node, uuid = %self.options.node.uuid, "node recorded");
        } else if !node.what_changed().is_empty() {
            records.save_node(context, &mut node).await?;
        } else {
            return Ok(());
        }
        node.reset_changes();
        self.state().node = Some(node);
        Ok(())
    }

    fn change(&self) {
        self.changed.notify_one();
    }
}

#[async_trait]
impl Claims for Tracker {
    async fn claim(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
        _: Option<&SchedulerLimits>,
    ) -> Result<(), ClaimError> {
        let insufficient = |reason: String| Err(ClaimError::Insufficient(reason));
        let Ok(uuid) = instance.uuid() else {
            return insufficient("the instance has no UUID".to_owned());
        };
        let settings = &self.options.node;
        let Some(node_id) = self.node_id() else {
            let node = &settings.node;
            return insufficient(format!(
                "Attempt to claim resources for instance {uuid} on unknown node {node} failed"
            ));
        };
        // How much there is placement has seen to. What it can't see to, this agent doesn't do.
        if instance.numa_topology.value().is_some() {
            return insufficient(
                "Requested instance NUMA topology cannot fit the given host NUMA topology: NUMA \
                 topologies and CPU pinning are not supported by this agent"
                    .to_owned(),
            );
        }
        let pci = instance.pci_requests.value().and_then(|pci| pci.requests.get());
        if pci.is_some_and(|requests| !requests.is_empty()) {
            return insufficient("Claim pci failed: PCI devices are not supported".to_owned());
        }
        // Without an image it boots from a volume. One that was copied into a volume is found out by
        // the next audit.
        let tracked = match Tracked::new(instance, instance.image_ref().is_none()) {
            Ok(tracked) => tracked,
            Err(error) => return insufficient(error.to_string()),
        };
        self.state().ledger.claim(uuid, tracked);
        instance.host.set(Some(settings.host.clone()));
        instance.launched_on.set(Some(settings.host.clone()));
        instance.node.set(Some(settings.node.clone()));
        instance.compute_id.set(Some(node_id));
        info!(instance_uuid = %uuid, node = settings.node, "claimed");
        self.change();
        Ok(())
    }

    async fn abort(&self, _: &RequestContext, instance: &mut Instance) -> Result<(), ClaimError> {
        if let Ok(uuid) = instance.uuid() {
            self.state().ledger.release(uuid);
            debug!(instance_uuid = %uuid, "claim given back");
        }
        instance.host.set(None);
        instance.node.set(None);
        instance.launched_on.set(None);
        instance.compute_id.set(None);
        self.change();
        Ok(())
    }

    async fn note(&self, _: &RequestContext, instance: &Instance) {
        let Ok(uuid) = instance.uuid() else { return };
        let changed = match is_off_the_node(instance) {
            true => self.state().ledger.release(uuid),
            false => self.state().ledger.note(uuid, instance),
        };
        if changed {
            self.change();
        }
    }

    async fn built(&self, _: &RequestContext, succeeded: bool) {
        self.state().ledger.count_build(succeeded);
        self.change();
    }

    async fn set_enabled(&self, context: &RequestContext, enabled: bool) {
        let node = self.options.node.uuid;
        if let Err(error) = self.reporter.set_disabled(context, node, !enabled).await {
            warn!(error = %Chain(&error), enabled, "placement learns of it from the next inventory run");
        }
    }

    async fn refuse_evacuation(
        &self,
        context: &RequestContext,
        instance: &Instance,
        migration: Option<&Migration>,
    ) -> Result<(), ClaimError> {
        if let Some(migration) = migration {
            let mut migration = migration.clone();
            migration.status.set(Some("failed".to_owned()));
            let saved = self.backends.records.save_migration(context, &mut migration).await;
            saved.map_err(|error| ClaimError::Records(Chain(&error).to_string()))?;
        }
        let Ok(uuid) = instance.uuid() else { return Ok(()) };
        let released = self.release_evacuated(context, uuid).await;
        released.map_err(|error| ClaimError::Placement(Chain(&error).to_string()))
    }

    async fn release_allocation(
        &self,
        context: &RequestContext,
        instance: &Instance,
    ) -> Result<(), ClaimError> {
        let Ok(uuid) = instance.uuid() else { return Ok(()) };
        let released = self.backends.placement.delete_allocations(context, uuid).await;
        released.map_err(|error| ClaimError::Placement(Chain(&error).to_string()))
    }
}

#[cfg(test)]
mod fake_records;
#[cfg(test)]
mod tests;
