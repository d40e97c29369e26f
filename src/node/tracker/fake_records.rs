//! nova's records of a node, its instances and migrations, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::model::object::{ComputeNode, Instance, Migration, VersionedObject};
use crate::node::records::NodeRecords;
use crate::records::RecordsError;

#[derive(Debug, Default)]
pub struct World {
    pub node: Option<ComputeNode>,
    pub instances: BTreeMap<Uuid, Instance>,
    pub migrations: Vec<Migration>,
    pub volume_backed: BTreeSet<Uuid>,
    pub disabled: bool,
    /// How often the node's record was written, and of which instances backing was asked.
    pub saves: u32,
    pub asked: Vec<Uuid>,
    pub fail_saves: bool,
}

/// Reads of the instances wait while there is no permit.
#[derive(Debug)]
pub struct FakeNodeRecords {
    world: Mutex<World>,
    pub reading: Semaphore,
    pub may_read: Semaphore,
}

impl Default for FakeNodeRecords {
    fn default() -> Self {
        Self { world: Mutex::default(), reading: Semaphore::new(0), may_read: Semaphore::new(1) }
    }
}

impl FakeNodeRecords {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, instance: &Instance) {
        self.world().instances.insert(instance.uuid().unwrap(), instance.clone());
    }
}

#[async_trait]
impl NodeRecords for FakeNodeRecords {
    async fn node(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<ComputeNode>, RecordsError> {
        let node = self.world().node.clone();
        Ok(node.filter(|node| node.uuid.get() == Some(&uuid)))
    }

    async fn create_node(
        &self,
        _: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError> {
        let mut world = self.world();
        assert!(world.node.is_none(), "it is there already");
        node.id.load(Some(7));
        world.node = Some(node.clone());
        world.saves += 1;
        Ok(())
    }

    async fn restore_node(
        &self,
        _: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError> {
        node.deleted.load(Some(false));
        self.world().node = Some(node.clone());
        Ok(())
    }

    async fn save_node(
        &self,
        _: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), RecordsError> {
        let mut world = self.world();
        if world.fail_saves {
            let message = "the fake was told to fail".to_owned();
            return Err(RecordsError::Storage { operation: "written", message });
        }
        assert_ne!(node.deleted.get(), Some(&true), "conductor finds no deleted node");
        world.node = Some(node.clone());
        world.saves += 1;
        Ok(())
    }

    async fn instances(
        &self,
        _: &RequestContext,
        node: &str,
    ) -> Result<Vec<Instance>, RecordsError> {
        let is_here = |instance: &&Instance| {
            instance.host.text() == Some("host1")
                && instance.node.text() == Some(node)
                && instance.deleted.get() != Some(&true)
        };
        let read = self.world().instances.values().filter(is_here).cloned().collect();
        self.reading.add_permits(1);
        drop(self.may_read.acquire().await);
        Ok(read)
    }

    async fn instance(
        &self,
        _: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<Instance>, RecordsError> {
        Ok(self.world().instances.get(&uuid).cloned())
    }

    async fn save_instance(
        &self,
        _: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError> {
        assert_eq!(instance.what_changed(), ["compute_id".to_owned()].into());
        let uuid = instance.uuid().unwrap();
        let mut world = self.world();
        let known = world.instances.get_mut(&uuid).unwrap();
        known.compute_id.load(instance.compute_id.get().copied());
        Ok(())
    }

    async fn volume_backed(
        &self,
        _: &RequestContext,
        instances: &[Uuid],
    ) -> Result<BTreeSet<Uuid>, RecordsError> {
        let mut world = self.world();
        world.asked.extend(instances);
        let asked: BTreeSet<Uuid> = instances.iter().copied().collect();
        Ok(&asked & &world.volume_backed)
    }

    async fn migrations(
        &self,
        _: &RequestContext,
        _: &str,
        _: &str,
    ) -> Result<Vec<Migration>, RecordsError> {
        Ok(self.world().migrations.clone())
    }

    async fn save_migration(
        &self,
        _: &RequestContext,
        migration: &mut Migration,
    ) -> Result<(), RecordsError> {
        let mut world = self.world();
        world.migrations.retain(|known| known.id.get() != migration.id.get());
        world.migrations.push(migration.clone());
        Ok(())
    }

    async fn is_disabled(&self, _: &RequestContext, _: &str) -> Result<Option<bool>, RecordsError> {
        Ok(Some(self.world().disabled))
    }
}
