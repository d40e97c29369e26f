//! The audit: what the node has and who has it is read anew, from the hypervisor and from the
//! control plane's records, and both records of the node are brought up to date.
//! nova: compute/resource_tracker.py, `update_available_resource`

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tracing::{info, warn};
use uuid::Uuid;

use super::disk::{DiskSpace, cached_gib};
use super::features::host_facts;
use super::moves::{Here, apply_context, counting, instance_of, usage_of_move};
use super::record::{HostView, offer};
use super::tracker::Tracker;
use super::uptime::uptime;
use super::usage::{Tracked, Usage, is_off_the_node};
use super::{NodeError, cleanup};
use crate::model::context::RequestContext;
use crate::model::object::{ComputeNode, Instance, Migration};
use crate::placement::traits::{DISABLED, Owned, owned};
use crate::telemetry::Chain;

impl Tracker {
    /// One audit; a second one waits for the first. Claims go on meanwhile.
    ///
    /// # Errors
    /// The first thing that went wrong. What doesn't depend on it has been done all the same, and
    /// the next audit does the rest.
    ///
    /// # Cancel safety
    /// It may be dropped at any time; the next audit finds what is left to do.
    pub async fn update_available_resource(
        &self,
        context: &RequestContext,
    ) -> Result<(), NodeError> {
        let _auditor = self.auditor.lock().await;
        let (host, node) = tokio::join!(self.look_at_host(), self.own_record(context));
        let (host, found) = (host?, node?);
        let is_new = matches!(found, Found::Absent);
        self.state().host = Some(host.clone());
        if let Found::There(node) = found {
            self.adopt(*node);
        }
        let audited = self.audit_instances(context, is_new).await;
        let (reported, written) =
            tokio::join!(self.report(context, &host), self.write_node(context));
        audited.and(written).and(reported)
    }

    async fn look_at_host(&self) -> Result<HostView, NodeError> {
        let hypervisor = &self.backends.hypervisor;
        let (state, capabilities, disks) = tokio::join!(
            hypervisor.host_state(),
            hypervisor.capabilities(),
            hypervisor.disk_sizes()
        );
        let (state, disks) = (state?, disks?);
        let (instances, cache) =
            (self.options.instances_path.clone(), self.options.cache_path.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let cached = cache.map_or(0, |cache| cached_gib(&instances, &cache));
            let disk = DiskSpace::of(&instances, &disks);
            (disk.map_err(|source| disk_error(&instances, source)), cached, uptime())
        });
        let (disk, cached_gib, uptime) = looked.await.map_err(|error| {
            disk_error(&self.options.instances_path, std::io::Error::other(error))
        })?;
        let cpus = &self.options.cpus;
        Ok(HostView {
            shared: cpus.shared_on(&state)?,
            dedicated: cpus.dedicated_on(&state)?,
            pinnable: cpus.pinnable_on(&state)?,
            capabilities: capabilities?,
            disk: disk?,
            cached_gib,
            uptime,
            state,
        })
    }

    /// The node's record, unless it is known already; one that was marked as deleted is no longer.
    async fn own_record(&self, context: &RequestContext) -> Result<Found, NodeError> {
        if self.node_id().is_some() {
            return Ok(Found::Known);
        }
        let records = &self.backends.records;
        let Some(mut node) = records.node(context, self.options.node.uuid).await? else {
            return Ok(Found::Absent);
        };
        if node.deleted.get() == Some(&true) {
            info!(uuid = %self.options.node.uuid, "the node's record is brought back");
            records.restore_node(context, &mut node).await?;
        }
        Ok(Found::There(Box::new(node)))
    }

    async fn audit_instances(
        &self,
        context: &RequestContext,
        is_new: bool,
    ) -> Result<(), NodeError> {
        let settings = &self.options.node;
        let here = Here { host: &settings.host, node: &settings.node };
        let began = self.state().ledger.begin_audit();
        let records = &self.backends.records;
        let (instances, migrations) = tokio::join!(
            records.instances(context, here.node),
            records.migrations(context, here.host, here.node)
        );
        let (instances, migrations) = (instances?, migrations?);
        let mut ours = by_uuid(instances);
        for migration in &migrations {
            let instance = instance_of(migration).and_then(|uuid| ours.get_mut(&uuid));
            if let Some(instance) = instance {
                apply_context(here, instance, migration);
            }
        }
        let mut all = ours.clone();
        for uuid in migrations.iter().filter_map(instance_of) {
            if !all.contains_key(&uuid)
                && let Some(instance) = records.instance(context, uuid).await?
            {
                all.insert(uuid, instance);
            }
        }
        let volume_backed = self.volume_backed(context, &all).await?;
        let found = ours.iter().filter(|(_, instance)| !is_off_the_node(instance));
        let found = found.filter_map(|(uuid, instance)| {
            let tracked = Tracked::new(instance, volume_backed.contains(uuid));
            tracked
                .inspect_err(|error| warn!(instance_uuid = %uuid, %error, "not counted"))
                .ok()
                .map(|tracked| (*uuid, tracked))
        });
        let found: BTreeMap<Uuid, Tracked> = found.collect();
        let (counting, stale) = counting(&migrations, &all);
        let moves = counting.iter().filter_map(|(uuid, migration)| {
            let (instance, is_here) = (&all[uuid], found.contains_key(uuid));
            let backed = volume_backed.contains(uuid);
            usage_of_move(here, migration, instance, is_here, backed).map(|usage| (*uuid, usage))
        });
        let moves: BTreeMap<Uuid, Usage> = moves.collect();
        let tracked: BTreeSet<Uuid> = found.keys().copied().collect();
        self.state().ledger.settle(began, found, moves);

        for migration in stale {
            self.mark_stale(context, migration).await?;
        }
        self.link_to_node(context, &mut ours).await?;
        if is_new {
            // Placement knows of no node yet, and of nobody who has anything of it.
            return Ok(());
        }
        let migrations = migrations.iter().filter_map(|migration| migration.uuid.get().copied());
        let keepers = &tracked | &migrations.collect();
        cleanup::remove_leftover_allocations(self, context, &keepers, &ours).await
    }

    /// Those of the instances whose root disk is a volume. Of those in the ledger that is known.
    async fn volume_backed(
        &self,
        context: &RequestContext,
        instances: &BTreeMap<Uuid, Instance>,
    ) -> Result<BTreeSet<Uuid>, NodeError> {
        let (mut backed, mut unknown) = (BTreeSet::new(), Vec::new());
        {
            let state = self.state();
            for (uuid, instance) in instances {
                match state.ledger.confirmed(*uuid) {
                    Some(tracked) if tracked.volume_backed => drop(backed.insert(*uuid)),
                    Some(_) => {}
                    None if instance.image_ref().is_none() => drop(backed.insert(*uuid)),
                    None => unknown.push(*uuid),
                }
            }
        }
        if !unknown.is_empty() {
            backed.extend(self.backends.records.volume_backed(context, &unknown).await?);
        }
        Ok(backed)
    }

    /// A migration that a newer one of the same instance has left behind.
    async fn mark_stale(
        &self,
        context: &RequestContext,
        migration: &Migration,
    ) -> Result<(), NodeError> {
        let mut migration = migration.clone();
        let id = migration.uuid.get().copied();
        info!(migration_uuid = ?id, "an earlier move that never ended: marked as failed");
        migration.status.set(Some("error".to_owned()));
        Ok(self.backends.records.save_migration(context, &mut migration).await?)
    }

    /// Writes the node's id into the instances' records where it is missing or wrong.
    /// nova: `_ensure_compute_id_for_instances`
    async fn link_to_node(
        &self,
        context: &RequestContext,
        instances: &mut BTreeMap<Uuid, Instance>,
    ) -> Result<(), NodeError> {
        let Some(id) = self.node_id() else { return Ok(()) };
        for (uuid, instance) in instances {
            let current = instance.compute_id.value().copied();
            if current == Some(id) {
                continue;
            }
            info!(instance_uuid = %uuid, was = current, now = id, "linked to the node's record");
            instance.compute_id.set(Some(id));
            self.backends.records.save_instance(context, instance).await?;
        }
        Ok(())
    }

    /// Brings placement up to date.
    async fn report(&self, context: &RequestContext, host: &HostView) -> Result<(), NodeError> {
        let settings = &self.options.node;
        let disabled = self.backends.records.is_disabled(context, &settings.host);
        let (owned, disabled) = tokio::join!(self.traits(host), disabled);
        let mut owned = match owned {
            Ok(owned) => owned.clone(),
            Err(error) => {
                warn!(error = %Chain(&error), "the host's traits stay as placement has them");
                Owned::new()
            }
        };
        match disabled? {
            Some(disabled) => drop(owned.insert(DISABLED.to_owned(), disabled)),
            None => warn!(host = settings.host, "the host's service has no record"),
        }
        let provider = (settings.uuid, settings.node.as_str());
        let offer = offer(settings, host);
        Ok(self.reporter.report(context, provider, &offer, &owned).await?)
    }

    async fn traits(&self, host: &HostView) -> Result<&Owned, NodeError> {
        let ask = async || {
            let hypervisor = self.backends.hypervisor.as_ref();
            let options = &self.options.features;
            let facts = host_facts(hypervisor, &host.capabilities, &host.state, options).await?;
            Ok(owned(&facts))
        };
        self.owned.get_or_try_init(ask).await
    }
}

/// What became of the search for the node's record.
enum Found {
    Known,
    There(Box<ComputeNode>),
    Absent,
}

fn by_uuid(instances: Vec<Instance>) -> BTreeMap<Uuid, Instance> {
    instances.into_iter().filter_map(|i| Some((i.uuid().ok()?, i))).collect()
}

fn disk_error(path: &Path, source: std::io::Error) -> NodeError {
    NodeError::Disk { path: path.to_owned(), source }
}
