//! What the tracker reads and writes through nova-conductor.

use std::collections::BTreeSet;

use async_trait::async_trait;
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::model::object::{ComputeNode, Instance, Migration};
use crate::records::RecordsError;

/// The records that the tracker keeps, and those that it counts.
#[async_trait]
pub trait NodeRecords: Send + Sync {
    /// The node with this UUID, also when it is marked as deleted; `None` when there is none.
    async fn node(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<ComputeNode>, RecordsError>;

    /// Adds the node's record; `node` has its id afterwards.
    async fn create_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError>;

    /// Takes the mark of a deleted record away.
    async fn restore_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError>;

    /// Writes the changed fields and marks them as saved.
    async fn save_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError>;

    /// Every instance of this host's node that isn't deleted, with flavors, NUMA topology and
    /// migration context.
    async fn instances(
        &self,
        context: &RequestContext,
        node: &str,
    ) -> Result<Vec<Instance>, RecordsError>;

    /// One instance, wherever it is, also when it is deleted; with flavors and migration context.
    /// `None` when nobody knows of it.
    async fn instance(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<Instance>, RecordsError>;

    /// Writes the changed fields of an instance.
    async fn save_instance(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError>;

    /// Those of the instances whose root disk is a volume.
    async fn volume_backed(
        &self,
        context: &RequestContext,
        instances: &[Uuid],
    ) -> Result<BTreeSet<Uuid>, RecordsError>;

    /// Migrations from and to the node that are under way or failed half-way.
    async fn migrations(
        &self,
        context: &RequestContext,
        host: &str,
        node: &str,
    ) -> Result<Vec<Migration>, RecordsError>;

    /// Writes the changed fields of a migration.
    async fn save_migration(
        &self,
        context: &RequestContext,
        migration: &mut Migration,
    ) -> Result<(), RecordsError>;

    /// Whether the host's service is disabled; `None` when it has no record.
    async fn is_disabled(
        &self,
        context: &RequestContext,
        host: &str,
    ) -> Result<Option<bool>, RecordsError>;
}
