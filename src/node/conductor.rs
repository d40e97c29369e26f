//! The tracker's records with nova-conductor.

use std::collections::BTreeSet;

use async_trait::async_trait;
use uuid::Uuid;

use super::records::NodeRecords;
use crate::model::context::RequestContext;
use crate::model::object::{ComputeNode, Instance, Migration};
use crate::records::conductor::ConductorRecords;
use crate::records::{Expected, InstancePart, Records, RecordsError};

/// What the tracker counts. The rest of an instance, its user data above all, stays where it is.
const PARTS: &[InstancePart] =
    &[InstancePart::Flavor, InstancePart::NumaTopology, InstancePart::MigrationContext];

#[async_trait]
impl NodeRecords for ConductorRecords {
    async fn node(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<ComputeNode>, RecordsError> {
        Ok(self.conductor().node_or_deleted(context, uuid).await?)
    }

    async fn create_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor().create_node(context, node).await?)
    }

    async fn restore_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor().restore_node(context, node).await?)
    }

    async fn save_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor().save_node(context, node).await?)
    }

    async fn instances(
        &self,
        context: &RequestContext,
        node: &str,
    ) -> Result<Vec<Instance>, RecordsError> {
        self.instances_of_node(context, node, PARTS).await
    }

    async fn instance(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<Instance>, RecordsError> {
        self.instance_or_deleted(context, uuid, PARTS).await
    }

    async fn save_instance(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        self.save(context, instance, Expected::Any).await
    }

    async fn volume_backed(
        &self,
        context: &RequestContext,
        instances: &[Uuid],
    ) -> Result<BTreeSet<Uuid>, RecordsError> {
        let disks = self.conductor().block_devices_of(context, instances).await?;
        let roots = disks.iter().filter(|disk| disk.is_root() && disk.is_volume());
        Ok(roots.filter_map(|disk| disk.instance_uuid.get().copied()).collect())
    }

    async fn migrations(
        &self,
        context: &RequestContext,
        host: &str,
        node: &str,
    ) -> Result<Vec<Migration>, RecordsError> {
        Ok(self.conductor().migrations_in_progress_and_error(context, host, node).await?)
    }

    async fn save_migration(
        &self,
        context: &RequestContext,
        migration: &mut Migration,
    ) -> Result<(), RecordsError> {
        Ok(self.conductor().save_migration(context, migration).await?)
    }

    async fn is_disabled(
        &self,
        context: &RequestContext,
        host: &str,
    ) -> Result<Option<bool>, RecordsError> {
        let service = self.conductor().service_of(context, host).await?;
        Ok(service.map(|service| service.disabled.get() == Some(&true)))
    }
}
