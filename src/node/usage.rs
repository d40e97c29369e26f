//! What an instance takes of the node.

use crate::model::object::{Flavor, Instance, InstanceNUMATopology, ObjectError};
use crate::model::state::{TaskState, VmState};

/// Resources that an instance takes, or several together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
    /// The cells in which it takes them, if it has any.
    pub numa: Option<Box<InstanceNUMATopology>>,
}

impl Usage {
    /// What an instance of the flavor takes. The root disk of a volume-backed one is elsewhere.
    /// nova: compute/resource_tracker.py, `_get_usage_dict`, `_update_usage`
    pub fn of_flavor(
        flavor: &Flavor,
        volume_backed: bool,
        numa: Option<&InstanceNUMATopology>,
    ) -> Self {
        let number = |field: Option<&i64>| field.copied().unwrap_or(0);
        let root = if volume_backed { 0 } else { number(flavor.root_gb.get()) };
        // The record counts whole GiB, and nova drops the rest of each swap disk for itself.
        let swap = number(flavor.swap.get()) / 1024;
        Self {
            vcpus: number(flavor.vcpus.get()),
            memory_mib: number(flavor.memory_mb.get()),
            disk_gib: root + number(flavor.ephemeral_gb.get()) + swap,
            numa: numa.map(|numa| Box::new(numa.clone())),
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.vcpus += other.vcpus;
        self.memory_mib += other.memory_mib;
        self.disk_gib += other.disk_gib;
    }
}

/// An instance of this node: what it takes, and what the node's statistics say of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracked {
    pub usage: Usage,
    pub volume_backed: bool,
    pub vm_state: Option<VmState>,
    pub task_state: Option<TaskState>,
    pub os_type: Option<String>,
    pub project_id: Option<String>,
}

impl Tracked {
    /// # Errors
    /// When the flavor wasn't loaded.
    pub fn new(instance: &Instance, volume_backed: bool) -> Result<Self, ObjectError> {
        let numa = instance.numa_topology.value();
        let mut tracked = Self {
            usage: Usage::of_flavor(instance.flavor()?, volume_backed, numa),
            volume_backed,
            vm_state: None,
            task_state: None,
            os_type: None,
            project_id: None,
        };
        tracked.update(instance);
        Ok(tracked)
    }

    /// Takes the states of the instance as it is now. What it takes of the node stays.
    pub fn update(&mut self, instance: &Instance) {
        self.vm_state = instance.vm_state.value().copied();
        self.task_state = instance.task_state.value().copied();
        self.os_type = instance.os_type.text().map(str::to_owned);
        self.project_id = instance.project_id.text().map(str::to_owned);
    }
}

/// Whether the instance takes nothing of its node any more.
/// nova: compute/vm_states.py, `allow_resource_removal`
pub fn is_off_the_node(instance: &Instance) -> bool {
    match instance.vm_state.value() {
        Some(VmState::Deleted) => true,
        Some(VmState::ShelvedOffloaded) => {
            instance.task_state.value() != Some(&TaskState::Spawning)
        }
        _ => instance.deleted.get() == Some(&true),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;

    pub fn flavor() -> Flavor {
        let mut flavor = Flavor::default();
        flavor.vcpus.load(Some(2));
        flavor.memory_mb.load(Some(512));
        flavor.root_gb.load(Some(5));
        flavor.ephemeral_gb.load(Some(3));
        flavor.swap.load(Some(1536));
        flavor
    }

    /// An active instance of the flavor above.
    pub fn instance(number: u128) -> Instance {
        let mut instance = Instance::default();
        instance.uuid.load(Some(Uuid::from_u128(number)));
        instance.flavor.load(Some(flavor()));
        instance.image_ref.load(Some(Some("image".to_owned())));
        instance.vm_state.load(Some(Some(VmState::Active)));
        instance.task_state.load(Some(None));
        instance.project_id.load(Some(Some("project".to_owned())));
        instance.numa_topology.load(Some(None));
        instance.host.load(Some(Some("host1".to_owned())));
        instance.node.load(Some(Some("node1".to_owned())));
        instance
    }

    #[test]
    fn disks_count_in_whole_gibibytes_and_a_volume_is_elsewhere() {
        let usage = Usage::of_flavor(&flavor(), false, None);
        assert_eq!((usage.vcpus, usage.memory_mib, usage.disk_gib), (2, 512, 5 + 3 + 1));
        assert_eq!(Usage::of_flavor(&flavor(), true, None).disk_gib, 3 + 1);
    }

    #[test]
    fn an_offloaded_instance_is_off_the_node_until_it_is_spawned_again() {
        let mut instance = instance(1);
        assert!(!is_off_the_node(&instance));
        instance.vm_state.set(Some(VmState::ShelvedOffloaded));
        assert!(is_off_the_node(&instance));
        instance.task_state.set(Some(TaskState::Spawning));
        assert!(!is_off_the_node(&instance));
        instance.vm_state.set(Some(VmState::Deleted));
        assert!(is_off_the_node(&instance));
    }
}
