//! What instances that move take of this node: before they arrive, and after they left, as long as
//! they may come back.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::usage::Usage;
use crate::model::object::{Flavor, Instance, InstanceNUMATopology, Migration, MigrationType};
use crate::model::state::{TaskState, VmState};

/// Who this node is in a migration's record.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    pub host: &'a str,
    pub node: &'a str,
}

impl Here<'_> {
    pub fn is_destination(&self, migration: &Migration) -> bool {
        migration.dest_compute.text() == Some(self.host)
            && migration.dest_node.text() == Some(self.node)
    }

    fn is_source(&self, migration: &Migration) -> bool {
        migration.source_compute.text() == Some(self.host)
            && migration.source_node.text() == Some(self.node)
    }
}

pub fn instance_of(migration: &Migration) -> Option<Uuid> {
    migration.instance_uuid.text().and_then(|uuid| uuid.parse().ok())
}

/// The migration that counts for each instance that is on the move, and the records that a newer
/// move has left behind. nova: compute/resource_tracker.py, `_update_usage_from_migrations`
pub fn counting<'a>(
    migrations: &'a [Migration],
    instances: &BTreeMap<Uuid, Instance>,
) -> (BTreeMap<Uuid, &'a Migration>, Vec<&'a Migration>) {
    let mut newest: BTreeMap<Uuid, &Migration> = BTreeMap::new();
    for migration in migrations {
        let Some(uuid) = instance_of(migration) else { continue };
        if !instances.get(&uuid).is_some_and(is_moving) {
            continue;
        }
        let time = |m: &Migration| m.updated_at.value().or(m.created_at.value()).copied();
        if newest.get(&uuid).is_none_or(|other| time(migration) > time(other)) {
            newest.insert(uuid, migration);
        }
    }
    let mut stale = Vec::new();
    newest.retain(|uuid, migration| {
        let context = instances.get(uuid).and_then(|instance| instance.migration_context.value());
        let named = context.and_then(|context| context.migration_id.get());
        let is_current = context.is_none() || named == migration.id.get();
        if !is_current {
            stale.push(*migration);
        }
        is_current
    });
    (newest, stale)
}

/// nova: compute/resource_tracker.py, `_instance_in_resize_state`, `_instance_is_live_migrating`
fn is_moving(instance: &Instance) -> bool {
    use TaskState as T;
    let task = instance.task_state.value();
    match instance.vm_state.value() {
        Some(VmState::Resized) => true,
        Some(VmState::Active | VmState::Stopped)
            if matches!(
                task,
                Some(
                    T::ResizePrep
                        | T::ResizeMigrating
                        | T::ResizeMigrated
                        | T::ResizeFinish
                        | T::Rebuilding
                        | T::RebuildBlockDeviceMapping
                        | T::RebuildSpawning
                )
            ) =>
        {
            true
        }
        Some(VmState::Active | VmState::Paused) => task == Some(&T::Migrating),
        _ => false,
    }
}

/// What the instance takes of this node on account of its migration; `None`: nothing beside what it
/// takes as an instance of this node. `is_here`: it is one.
/// nova: compute/resource_tracker.py, `_update_usage_from_migration`
pub fn usage_of_move(
    here: Here<'_>,
    migration: &Migration,
    instance: &Instance,
    is_here: bool,
    volume_backed: bool,
) -> Option<Usage> {
    let (incoming, outbound) = (here.is_destination(migration), here.is_source(migration));
    let takes_new = match (incoming, outbound) {
        // A resize within the node: it has one flavor and holds room for the other.
        (true, true) => instance.instance_type_id.value() == migration.old_instance_type_id.value(),
        (true, false) if !is_here => true,
        (false, true) if !is_here => false,
        _ => return None,
    };
    let flavor = flavor(migration, instance, takes_new)?;
    let context = instance.migration_context.value();
    let numa: Option<&InstanceNUMATopology> = context.and_then(|context| match takes_new {
        true => context.new_numa_topology.value(),
        false => context.old_numa_topology.value(),
    });
    Some(Usage::of_flavor(flavor, volume_backed, numa))
}

fn flavor<'a>(migration: &Migration, instance: &'a Instance, new: bool) -> Option<&'a Flavor> {
    match (migration.migration_type.get(), new) {
        (Some(MigrationType::Resize), true) => instance.new_flavor.value().map(Box::as_ref),
        (Some(MigrationType::Resize), false) => instance.old_flavor.value().map(Box::as_ref),
        // Other moves change no flavor.
        _ => instance.flavor.get(),
    }
}

/// The cells that an instance of this node takes: those of its destination, when it is on its way
/// here and its record hasn't taken them yet. nova: bug 1953359
pub fn apply_context(here: Here<'_>, instance: &mut Instance, migration: &Migration) {
    if !here.is_destination(migration) {
        return;
    }
    let context = instance.migration_context.value();
    let numa = context.and_then(|context| context.new_numa_topology.get().cloned());
    if let Some(numa) = numa {
        instance.numa_topology.load(Some(numa));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::MigrationContext;
    use crate::model::time::Timestamp;
    use crate::node::usage::tests::{flavor, instance};

    const HERE: Here<'static> = Here { host: "host1", node: "node1" };

    fn migration(id: i64, from: &str, to: &str, kind: MigrationType) -> Migration {
        let node = |host: &str| Some(host.replace("host", "node"));
        let mut migration = Migration::default();
        migration.id.load(Some(id));
        migration.instance_uuid.load(Some(Some(Uuid::from_u128(1).to_string())));
        migration.migration_type.load(Some(kind));
        migration.source_compute.load(Some(Some(from.to_owned())));
        migration.source_node.load(Some(node(from)));
        migration.dest_compute.load(Some(Some(to.to_owned())));
        migration.dest_node.load(Some(node(to)));
        migration.old_instance_type_id.load(Some(Some(1)));
        migration.new_instance_type_id.load(Some(Some(2)));
        migration.created_at.load(Some(Some(Timestamp::from_second(id))));
        migration
    }

    fn resizing() -> Instance {
        let flavor_with = |memory| {
            let mut flavor = flavor();
            flavor.memory_mb.load(Some(memory));
            Box::new(flavor)
        };
        let mut instance = instance(1);
        instance.task_state.load(Some(Some(TaskState::ResizePrep)));
        instance.instance_type_id.load(Some(Some(1)));
        instance.old_flavor.load(Some(Some(flavor_with(100))));
        instance.new_flavor.load(Some(Some(flavor_with(200))));
        instance
    }

    fn memory(usage: Option<Usage>) -> Option<i64> {
        usage.map(|usage| usage.memory_mib)
    }

    #[test]
    fn a_resize_holds_room_where_it_comes_from_and_where_it_goes() {
        let resize = |from, to| migration(1, from, to, MigrationType::Resize);
        let mut instance = resizing();
        let of = |migration: &Migration, instance: &Instance, is_here| {
            memory(usage_of_move(HERE, migration, instance, is_here, false))
        };
        assert_eq!(of(&resize("host2", "host1"), &instance, false), Some(200));
        assert_eq!(of(&resize("host1", "host2"), &instance, false), Some(100));
        assert_eq!(of(&resize("host1", "host2"), &instance, true), None);
        assert_eq!(of(&resize("host2", "host3"), &instance, false), None);
        let within = resize("host1", "host1");
        assert_eq!(of(&within, &instance, true), Some(200));
        instance.instance_type_id.load(Some(Some(2)));
        assert_eq!(of(&within, &instance, true), Some(100));
        instance.old_flavor.load(Some(None));
        assert_eq!(of(&resize("host1", "host2"), &instance, false), None);
    }

    #[test]
    fn a_live_migration_takes_the_flavor_it_has() {
        let migration = migration(1, "host2", "host1", MigrationType::LiveMigration);
        let usage = usage_of_move(HERE, &migration, &resizing(), false, true);
        assert_eq!(memory(usage.clone()), Some(512));
        assert_eq!(usage.unwrap().disk_gib, 4, "its root disk is a volume");
    }

    #[test]
    fn the_newest_migration_counts_and_one_that_was_left_behind_is_stale() {
        let migrations = [
            migration(1, "host1", "host2", MigrationType::Resize),
            migration(2, "host1", "host3", MigrationType::Resize),
        ];
        let mut instance = resizing();
        let instances =
            |instance: &Instance| BTreeMap::from([(Uuid::from_u128(1), instance.clone())]);
        let all = instances(&instance);
        let (newest, stale) = counting(&migrations, &all);
        assert_eq!(newest[&Uuid::from_u128(1)].id.get(), Some(&2));
        assert!(stale.is_empty());
        let mut context = MigrationContext::default();
        context.migration_id.load(Some(3));
        instance.migration_context.load(Some(Some(Box::new(context))));
        let all = instances(&instance);
        let (newest, stale) = counting(&migrations, &all);
        assert!(newest.is_empty());
        assert_eq!(stale[0].id.get(), Some(&2));
        instance.task_state.load(Some(None));
        let all = instances(&instance);
        let (newest, stale) = counting(&migrations, &all);
        assert!(newest.is_empty() && stale.is_empty(), "it isn't on the move");
    }
}
