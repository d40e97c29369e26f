//! Recovery over the fakes: what instances look like when it has run.

use std::time::Duration;

use super::rules::Permits;
use super::*;
use crate::hypervisor::{Hypervisor, StartOptions};
use crate::model::state::{TaskState, VmState};
use crate::workflow::journal::Record;
use crate::workflow::world::{UUID, World, spawn};

async fn recovered(world: &World, may: Permits) {
    let own = world.own_requests();
    recover_all(&own, may).await;
    while own.dispatcher().is_busy(UUID) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A world whose guest is `power`, and whose record has these states.
async fn left(vm_state: VmState, task_state: Option<TaskState>, power: PowerState) -> World {
    let world = World::with_guest().await;
    match power {
        PowerState::Shutdown => world.hypervisor.guest_powers_off(UUID),
        PowerState::Paused => world.hypervisor.pause(UUID).await.unwrap(),
        _ => {}
    }
    world
        .change(|instance| {
            instance.vm_state.set(Some(vm_state));
            instance.task_state.set(task_state);
        })
        .await;
    world
}

fn shown(world: &World) -> String {
    let instance = world.records.all().remove(0);
    let vm_state = instance.vm_state.value().map_or("-", |state| state.as_str());
    let task_state = instance.task_state.value().map_or("-", |state| state.as_str());
    let power = world.hypervisor.get(UUID).map_or("absent", |domain| domain.power_state.name());
    format!("{vm_state} {task_state} {power}")
}

#[tokio::test(start_paused = true)]
async fn every_row_ends_as_it_should() {
    use {PowerState as P, TaskState as T, VmState as V};
    for (vm_state, task_state, power, end) in [
        (V::Active, None, P::Running, "active - running"),
        (V::Active, Some(T::Spawning), P::Running, "error - running"),
        (V::Building, Some(T::Scheduling), P::Shutdown, "error - shutdown"),
        (V::Active, Some(T::Rebuilding), P::Running, "error - running"),
        (V::Active, Some(T::ImageUploading), P::Running, "active - running"),
        (V::Active, Some(T::RebootStarted), P::Shutdown, "active - running"),
        (V::Active, Some(T::RebootPending), P::Running, "active - running"),
        (V::Stopped, Some(T::RebootPendingHard), P::Shutdown, "active - running"),
        (V::Paused, Some(T::Pausing), P::Running, "active - running"),
        (V::Paused, Some(T::Unpausing), P::Paused, "active - running"),
        (V::Active, Some(T::PoweringOff), P::Running, "stopped - shutdown"),
        (V::Stopped, Some(T::PoweringOn), P::Shutdown, "active - running"),
        (V::Active, Some(T::Suspending), P::Running, "active suspending running"),
        (V::Active, Some(T::Migrating), P::Running, "active migrating running"),
        (V::Error, Some(T::Spawning), P::Running, "error spawning running"),
        (V::SoftDeleted, None, P::Shutdown, "soft-delete - shutdown"),
    ] {
        let world = left(vm_state, task_state, power).await;
        recovered(&world, Permits::default()).await;
        assert_eq!(shown(&world), end, "{vm_state} {task_state:?} {power:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_is_finished() {
    let world = left(VmState::Active, Some(TaskState::Deleting), PowerState::Running).await;
    recovered(&world, Permits::default()).await;
    assert_eq!(world.records.all()[0].deleted.get(), Some(&true));
    assert_eq!(world.leftovers().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_says_deleted_goes() {
    let world = left(VmState::Deleted, None, PowerState::Running).await;
    recovered(&world, Permits::default()).await;
    assert_eq!(world.records.all()[0].deleted.get(), Some(&true));
    // Its domain is for the task that looks for such domains.
    assert!(world.hypervisor.get(UUID).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stale_task_is_cleared_where_nobody_else_could() {
    let world = left(VmState::Active, Some(TaskState::Suspending), PowerState::Running).await;
    recovered(&world, Permits { clear_stale_tasks: true, ..Permits::default() }).await;
    assert_eq!(shown(&world), "active - running");
}

#[tokio::test(start_paused = true)]
async fn a_booted_host_resumes_its_guests_if_it_may() {
    let world = left(VmState::Active, None, PowerState::Shutdown).await;
    recovered(&world, Permits::default()).await;
    assert_eq!(shown(&world), "active - shutdown");
    recovered(&world, Permits { resume_guests: true, ..Permits::default() }).await;
    assert_eq!(shown(&world), "active - running");
}

#[tokio::test(start_paused = true)]
async fn another_hosts_instance_is_left_alone() {
    let world = left(VmState::Active, Some(TaskState::PoweringOff), PowerState::Running).await;
    let own = world.own_requests();
    let mut foreign = world.records.all().remove(0);
    foreign.host.set(Some("host2".to_owned()));
    recover(&own, &RequestContext::admin(), &foreign, PowerState::Running, Permits::default())
        .await;
    assert_eq!(shown(&world), "active powering-off running");
}

#[tokio::test(start_paused = true)]
async fn an_instance_with_a_request_is_left_to_it() {
    // A build from the journal: its record looks like one that was cut off.
    let world = World::new();
    let own = world.own_requests();
    let context = RequestContext::admin();
    let build = Record::queued("a".to_owned(), UUID, context.clone(), spawn());
    let outcome = match own.dispatcher().submit(build.into()).await.unwrap() {
        crate::dispatch::Submission::Accepted(outcome) => outcome,
        other => panic!("{other:?}"),
    };
    while world.records.all().is_empty() {
        tokio::task::yield_now().await;
    }
    recover_all(&own, Permits::default()).await;
    assert!(matches!(*outcome.await.unwrap(), crate::dispatch::Outcome::Done));
    assert_eq!(shown(&world), "active - running");
}

#[tokio::test(start_paused = true)]
async fn what_was_served_since_the_list_was_made_is_not_undone() {
    let world = left(VmState::Active, Some(TaskState::PoweringOff), PowerState::Running).await;
    let own = world.own_requests();
    let listed = world.records.all().remove(0);
    // Meanwhile it was stopped, and started again.
    world.change(|instance| instance.task_state.set(None)).await;
    recover(&own, &RequestContext::admin(), &listed, PowerState::Running, Permits::default()).await;
    while own.dispatcher().is_busy(UUID) {
        tokio::task::yield_now().await;
    }
    assert_eq!(shown(&world), "active - running");
}

#[tokio::test(start_paused = true)]
async fn records_and_hypervisor_that_are_away_are_waited_for() {
    let world = left(VmState::Active, Some(TaskState::PoweringOff), PowerState::Running).await;
    world.records.fail_at("instances");
    world.hypervisor.fail_at("power_states");
    recovered(&world, Permits::default()).await;
    assert_eq!(shown(&world), "stopped - shutdown");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_runs_is_not_touched() {
    let world = left(VmState::Active, None, PowerState::Running).await;
    let before = world.hypervisor.get(UUID).unwrap();
    recovered(&world, Permits { resume_guests: true, clear_stale_tasks: true }).await;
    assert_eq!(world.hypervisor.get(UUID).unwrap(), before);
    world.hypervisor.start(UUID, StartOptions::default()).await.unwrap();
    assert_eq!(world.hypervisor.get(UUID).unwrap().boots, 1);
}
