//! What becomes of an instance when the agent starts: a table over its states.
//! nova: compute/manager.py, `_init_instance`
//!
//! It is asked only for instances without a workflow in the journal: what this agent began it also
//! ends. So its rows are about what another agent left, or what was lost.

use crate::model::state::{PowerState, TaskState, VmState};
use crate::workflow::reboot::Kind;

/// An instance as it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    pub vm_state: Option<VmState>,
    pub task_state: Option<TaskState>,
    /// The power state on record.
    pub recorded: PowerState,
    /// The hypervisor's, `NoState` when there is no domain.
    pub power: PowerState,
}

/// What the agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permits {
    /// `[DEFAULT] resume_guests_state_on_host_boot`
    pub resume_guests: bool,
    /// Whether a task that nobody is at work on any more is taken away. nova leaves it, for its
    /// administrator to reset; in standalone mode nobody could.
    pub clear_stale_tasks: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// It is left as it is.
    Skip,
    /// Its record says deleted, and is still there.
    FinishDeletion,
    /// It is an error without a task.
    Fail,
    Delete,
    Reboot(Kind),
    Unpause,
    Stop,
    Start,
    /// Its interfaces are plugged, and that is all unless said otherwise.
    GoOn(Task, Then),
}

/// What becomes of the task of an instance that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Keep,
    Clear,
    /// It has no task and is active.
    ClearAsActive,
    /// It belongs to a move between hosts, which this agent can't take back.
    NotSupported,
}

/// What follows for an instance that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// The host was booted: the guest is started again.
    ResumeGuest,
}

/// Says what to do. The first row that fits counts. No clock, no I/O, no logging.
pub fn recovery(found: Situation, may: Permits) -> Recovery {
    use TaskState as T;
    use VmState as V;
    let Situation { vm_state, mut task_state, recorded, power } = found;
    let is_error = vm_state == Some(V::Error);
    match (vm_state, task_state) {
        (Some(V::SoftDeleted), _) => return Recovery::Skip,
        (Some(V::Error), Some(T::ResizeMigrating | T::Deleting)) => {}
        (Some(V::Error), _) => return Recovery::Skip,
        (Some(V::Deleted), _) => return Recovery::FinishDeletion,
        (Some(V::Building), _)
        | (_, Some(T::Scheduling | T::BlockDeviceMapping | T::Networking | T::Spawning)) => {
            return Recovery::Fail;
        }
        (
            Some(V::Active | V::Stopped),
            Some(T::Rebuilding | T::RebuildBlockDeviceMapping | T::RebuildSpawning),
        ) => return Recovery::Fail,
        _ => {}
    }
    let mut task = Task::Keep;
    if let Some(
        T::ImageSnapshotPending
        | T::ImagePendingUpload
        | T::ImageUploading
        | T::ImageSnapshot
        | T::ResizePrep,
    ) = task_state
        && !is_error
    {
        (task, task_state) = (Task::Clear, None);
    }
    if task_state == Some(T::Deleting) {
        return Recovery::Delete;
    }
    if let Some(kind) = reboot_again(vm_state, task_state, power) {
        return Recovery::Reboot(kind);
    }
    match (power, task_state) {
        (
            PowerState::Running,
            Some(
                T::RebootStarted
                | T::RebootStartedHard
                | T::RebootingHard
                | T::Rebooting
                | T::Pausing
                | T::Unpausing,
            ),
        ) => (task, task_state) = (Task::ClearAsActive, None),
        (PowerState::Paused, Some(T::Unpausing)) => return Recovery::Unpause,
        (_, Some(T::PoweringOff)) => return Recovery::Stop,
        (_, Some(T::PoweringOn)) => return Recovery::Start,
        _ => {}
    }
    match task_state {
        Some(T::ResizeMigrating | T::Migrating) => task = Task::NotSupported,
        Some(_) if may.clear_stale_tasks => task = Task::Clear,
        _ => {}
    }
    let is_off = matches!(power, PowerState::Shutdown | PowerState::Crashed | PowerState::NoState);
    let was_running = recorded == PowerState::Running;
    match may.resume_guests && was_running && is_off {
        true => Recovery::GoOn(task, Then::ResumeGuest),
        false => Recovery::GoOn(task, Then::Nothing),
    }
}

/// Whether a reboot is done again, and how. nova: compute/manager.py, `_retry_reboot`;
/// compute/utils.py, `get_reboot_type`
fn reboot_again(
    vm_state: Option<VmState>,
    task_state: Option<TaskState>,
    power: PowerState,
) -> Option<Kind> {
    use TaskState as T;
    use VmState as V;
    let runs = power == PowerState::Running;
    let again = match task_state? {
        T::RebootPending => vm_state == Some(V::Active),
        T::RebootPendingHard => {
            matches!(vm_state, Some(V::Active | V::Stopped | V::Paused | V::Suspended | V::Error))
        }
        T::Rebooting | T::RebootingHard | T::RebootStarted | T::RebootStartedHard => !runs,
        _ => false,
    };
    let soft = matches!(task_state?, T::Rebooting | T::RebootPending | T::RebootStarted);
    again.then_some(if runs && soft { Kind::Soft } else { Kind::Hard })
}

#[cfg(test)]
mod tests {
    use super::*;
    use {PowerState as P, TaskState as T, VmState as V};

    const POWER: [P; 6] =
        [P::NoState, P::Running, P::Paused, P::Shutdown, P::Crashed, P::Suspended];
    const GO_ON: Recovery = Recovery::GoOn(Task::Keep, Then::Nothing);

    fn found(vm_state: V, task_state: Option<T>, power: P) -> Recovery {
        let recorded = P::Running;
        let situation = Situation { vm_state: Some(vm_state), task_state, recorded, power };
        recovery(situation, Permits::default())
    }

    /// Every cell with one of `vm_states`, one of `tasks` and one of `powers` must say `expected`.
    fn all(vm_states: &[V], tasks: &[Option<T>], powers: &[P], expected: Recovery) {
        for (vm, task) in vm_states.iter().flat_map(|vm| tasks.iter().map(move |t| (*vm, *t))) {
            for power in powers {
                assert_eq!(found(vm, task, *power), expected, "{vm:?} {task:?} {power:?}");
            }
        }
    }

    fn tasks(but: &[T]) -> Vec<Option<T>> {
        let rest = T::ALL.iter().filter(|task| !but.contains(task));
        rest.copied().map(Some).chain([None]).collect()
    }

    #[test]
    fn a_soft_deleted_instance_is_left_alone() {
        all(&[V::SoftDeleted], &tasks(&[]), &POWER, Recovery::Skip);
    }

    #[test]
    fn an_error_is_left_alone_but_for_a_delete_and_a_migration() {
        all(&[V::Error], &tasks(&[T::ResizeMigrating, T::Deleting]), &POWER, Recovery::Skip);
        all(&[V::Error], &[Some(T::Deleting)], &POWER, Recovery::Delete);
        let unsupported = Recovery::GoOn(Task::NotSupported, Then::Nothing);
        all(&[V::Error], &[Some(T::ResizeMigrating)], &POWER, unsupported);
    }

    #[test]
    fn a_deleted_instance_is_deleted_to_the_end() {
        all(&[V::Deleted], &tasks(&[]), &POWER, Recovery::FinishDeletion);
    }

    #[test]
    fn a_build_that_nobody_is_at_has_failed() {
        all(&[V::Building], &tasks(&[]), &POWER, Recovery::Fail);
        let building = [T::Scheduling, T::BlockDeviceMapping, T::Networking, T::Spawning];
        all(&[V::Active, V::Stopped, V::Paused], &building.map(Some), &POWER, Recovery::Fail);
    }

    #[test]
    fn a_rebuild_that_nobody_is_at_has_failed() {
        let rebuilding = [T::Rebuilding, T::RebuildBlockDeviceMapping, T::RebuildSpawning];
        all(&[V::Active, V::Stopped], &rebuilding.map(Some), &POWER, Recovery::Fail);
        all(&[V::Rescued], &rebuilding.map(Some), &POWER, GO_ON);
    }

    #[test]
    fn a_snapshot_or_the_preparation_of_a_resize_is_forgotten() {
        let forgotten = [
            T::ImageSnapshotPending,
            T::ImagePendingUpload,
            T::ImageUploading,
            T::ImageSnapshot,
            T::ResizePrep,
        ];
        let clear = Recovery::GoOn(Task::Clear, Then::Nothing);
        all(&[V::Active, V::Stopped, V::Paused], &forgotten.map(Some), &POWER, clear);
    }

    #[test]
    fn a_delete_is_resumed() {
        all(&[V::Active, V::Stopped, V::Resized], &[Some(T::Deleting)], &POWER, Recovery::Delete);
    }

    #[test]
    fn a_reboot_that_is_pending_or_left_the_guest_off_is_done_again() {
        let off: Vec<_> = POWER.into_iter().filter(|power| *power != P::Running).collect();
        let soft = Recovery::Reboot(Kind::Soft);
        let hard = Recovery::Reboot(Kind::Hard);
        all(&[V::Active], &[Some(T::RebootPending)], &[P::Running], soft);
        all(&[V::Active], &[Some(T::RebootPending)], &off, hard);
        // A soft reboot is for active instances.
        all(&[V::Stopped, V::Paused], &[Some(T::RebootPending)], &POWER, GO_ON);
        let any = [V::Active, V::Stopped, V::Paused, V::Suspended];
        all(&any, &[Some(T::RebootPendingHard)], &POWER, hard);
        let started = [T::Rebooting, T::RebootingHard, T::RebootStarted, T::RebootStartedHard];
        all(&any, &started.map(Some), &off, hard);
    }

    #[test]
    fn a_guest_that_runs_after_a_reboot_a_pause_or_an_unpause_is_active() {
        let tasks = [
            T::RebootStarted,
            T::RebootStartedHard,
            T::RebootingHard,
            T::Rebooting,
            T::Pausing,
            T::Unpausing,
        ];
        let active = Recovery::GoOn(Task::ClearAsActive, Then::Nothing);
        all(&[V::Active, V::Paused], &tasks.map(Some), &[P::Running], active);
        all(&[V::Active], &[Some(T::Pausing)], &[P::Paused, P::Shutdown], GO_ON);
    }

    #[test]
    fn what_was_asked_of_its_power_is_asked_again() {
        all(&[V::Paused], &[Some(T::Unpausing)], &[P::Paused], Recovery::Unpause);
        all(&[V::Active, V::Paused], &[Some(T::PoweringOff)], &POWER, Recovery::Stop);
        all(&[V::Stopped], &[Some(T::PoweringOn)], &POWER, Recovery::Start);
    }

    #[test]
    fn a_move_between_hosts_is_not_supported() {
        let unsupported = Recovery::GoOn(Task::NotSupported, Then::Nothing);
        let moving = [Some(T::ResizeMigrating), Some(T::Migrating)];
        all(&[V::Active, V::Stopped], &moving, &POWER, unsupported);
    }

    #[test]
    fn everything_else_goes_on() {
        let rest = [V::Active, V::Stopped, V::Paused, V::Suspended, V::Rescued, V::Resized];
        all(&rest, &[None], &POWER, GO_ON);
        let tasks = [T::Suspending, T::Resuming, T::Rescuing, T::Shelving, T::UpdatingPassword];
        all(&rest, &tasks.map(Some), &POWER, GO_ON);
    }

    #[test]
    fn a_stale_task_goes_where_nobody_else_could_take_it_away() {
        let may = Permits { clear_stale_tasks: true, ..Permits::default() };
        let at = |task_state, power| Situation {
            vm_state: Some(V::Active),
            task_state,
            recorded: P::Running,
            power,
        };
        let cleared = Recovery::GoOn(Task::Clear, Then::Nothing);
        assert_eq!(recovery(at(Some(T::Suspending), P::Running), may), cleared);
        assert_eq!(recovery(at(None, P::Running), may), GO_ON);
        assert_eq!(recovery(at(Some(T::PoweringOff), P::Running), may), Recovery::Stop);
    }

    #[test]
    fn a_guest_that_ran_before_the_host_was_booted_is_resumed_if_it_may_be() {
        let may = Permits { resume_guests: true, ..Permits::default() };
        for (recorded, power, resumed) in [
            (P::Running, P::Shutdown, true),
            (P::Running, P::Crashed, true),
            (P::Running, P::NoState, true),
            (P::Running, P::Running, false),
            (P::Running, P::Paused, false),
            (P::Running, P::Suspended, false),
            (P::Shutdown, P::Shutdown, false),
        ] {
            let found = Situation { vm_state: Some(V::Active), task_state: None, recorded, power };
            let then = if resumed { Then::ResumeGuest } else { Then::Nothing };
            assert_eq!(recovery(found, may), Recovery::GoOn(Task::Keep, then), "{found:?}");
            assert_eq!(recovery(found, Permits::default()), GO_ON, "{found:?}");
        }
    }
}
