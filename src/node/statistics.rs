//! What the node's record says of its instances in numbers: the scheduler's weighers read it.

use std::collections::BTreeMap;

use super::usage::Tracked;
use crate::model::state::{TaskState, VmState};

/// Numbers by name, as texts. nova: compute/stats.py
pub type Statistics = BTreeMap<String, Option<String>>;

/// Task states that keep the disks busy. nova: compute/stats.py, `io_workload`
const BUSY: &[TaskState] = &[
    TaskState::ResizeMigrating,
    TaskState::Rebuilding,
    TaskState::ResizePrep,
    TaskState::ImageSnapshot,
    TaskState::ImageBackup,
    TaskState::Rescuing,
    TaskState::Unshelving,
];

pub fn statistics<'a>(
    instances: impl Iterator<Item = &'a Tracked>,
    failed_builds: u64,
    uptime: &str,
) -> Statistics {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |name: String, by: u64| *counts.entry(name).or_default() += by;
    for instance in instances {
        let Tracked { vm_state, task_state, os_type, project_id, .. } = instance;
        let or_none = |text: Option<&str>| text.unwrap_or("None").to_owned();
        let building = u64::from(*vm_state == Some(VmState::Building));
        let busy = u64::from(task_state.is_some_and(|state| BUSY.contains(&state)));
        count("num_instances".to_owned(), 1);
        count("io_workload".to_owned(), building + busy);
        count(format!("num_vm_{}", or_none(vm_state.map(VmState::as_str))), 1);
        count(format!("num_task_{}", or_none(task_state.map(TaskState::as_str))), 1);
        count(format!("num_os_type_{}", or_none(os_type.as_deref())), 1);
        count(format!("num_proj_{}", or_none(project_id.as_deref())), 1);
    }
    let numbers = counts.into_iter().map(|(name, count)| (name, Some(count.to_string())));
    let mut statistics: Statistics = numbers.collect();
    statistics.insert("failed_builds".to_owned(), Some(failed_builds.to_string()));
    statistics.insert("uptime".to_owned(), Some(uptime.to_owned()));
    statistics
}

/// How many instances something is being done to. nova: `calculate_workload`
pub fn workload<'a>(instances: impl Iterator<Item = &'a Tracked>) -> i64 {
    instances.map(|instance| i64::from(instance.task_state.is_some())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::usage::tests::instance;

    fn tracked(vm_state: VmState, task_state: Option<TaskState>) -> Tracked {
        let mut instance = instance(1);
        instance.vm_state.load(Some(Some(vm_state)));
        instance.task_state.load(Some(task_state));
        Tracked::new(&instance, false).unwrap()
    }

    /// Recorded of nova-compute 33.0.2 after its first claim; project and uptime apart.
    #[test]
    fn the_numbers_are_novas() {
        let claimed = [tracked(VmState::Building, None)];
        let statistics = statistics(claimed.iter(), 0, "up");
        let recorded = [
            ("failed_builds", "0"),
            ("uptime", "up"),
            ("num_instances", "1"),
            ("num_vm_building", "1"),
            ("num_task_None", "1"),
            ("num_os_type_None", "1"),
            ("num_proj_project", "1"),
            ("io_workload", "1"),
        ];
        let recorded = recorded.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        assert_eq!(statistics, recorded.into());
        assert_eq!(workload(claimed.iter()), 0);
    }

    #[test]
    fn disks_are_busy_with_builds_and_with_what_copies_them() {
        let instances = [
            tracked(VmState::Building, Some(TaskState::Spawning)),
            tracked(VmState::Active, Some(TaskState::ImageSnapshot)),
            tracked(VmState::Active, Some(TaskState::PoweringOff)),
            tracked(VmState::Stopped, None),
        ];
        let statistics = statistics(instances.iter(), 3, "");
        let number = |name: &str| statistics[name].as_deref();
        assert_eq!(number("io_workload"), Some("2"));
        assert_eq!(number("num_task_powering-off"), Some("1"));
        assert_eq!(number("failed_builds"), Some("3"));
        assert_eq!(workload(instances.iter()), 3);
    }

    #[test]
    fn an_empty_node_has_no_numbers_of_instances() {
        let statistics = statistics([].iter(), 0, "up");
        assert_eq!(statistics.keys().collect::<Vec<_>>(), ["failed_builds", "uptime"]);
    }
}
