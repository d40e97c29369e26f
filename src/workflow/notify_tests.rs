//! What is notified of each workflow, against what nova-compute 33.0.2 was recorded to send for the
//! same thing: the same events in the same order.

use std::collections::BTreeMap;

use serde_json::Value;

use super::engine::Workflow;
use super::pause::Pause;
use super::power_off::PowerOff;
use super::power_on::PowerOn;
use super::reboot::{Kind, Reboot};
use super::resume::Resume;
use super::suspend::Suspend;
use super::terminate::Terminate;
use super::unpause::Unpause;
use super::world::{HasSubject, MemoryJournal, UUID, World, spawn, subject};
use crate::hypervisor::Hypervisor;
use crate::images::Images;
use crate::images::fake::ImageCall;
use crate::model::class::Class;
use crate::model::state::TaskState;
use crate::notify::message::Notification;
use crate::records::history::History;

/// What nova-compute sent in that scenario.
fn recorded(scenario: &str) -> Vec<String> {
    let all = include_str!("../../tests/fixtures/notifications/order.json");
    let mut all: BTreeMap<String, Vec<String>> = serde_json::from_str(all).unwrap();
    all.remove(scenario).unwrap_or_else(|| panic!("no scenario {scenario}"))
}

/// Runs the workflow and returns what was notified of it.
async fn told<W: Workflow + HasSubject>(world: &World, workflow: W) -> Vec<Notification> {
    world.notifier.clear();
    let mut record = world.record(workflow).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    world.notifier.sent().into_iter().map(|(_, notification)| notification).collect()
}

fn types(told: &[Notification]) -> Vec<String> {
    told.iter().map(|notification| notification.event_type.clone()).collect()
}

fn stop() -> PowerOff {
    PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), true)
}

fn start() -> PowerOn {
    PowerOn::new(subject(TaskState::PoweringOn, "start_instance"))
}

fn reboot(kind: Kind) -> Reboot {
    let state = if kind == Kind::Soft { TaskState::Rebooting } else { TaskState::RebootingHard };
    Reboot::new(subject(state, "reboot_instance"), kind)
}

fn pause() -> Pause {
    Pause::new(subject(TaskState::Pausing, "pause_instance"))
}

fn delete() -> Terminate {
    Terminate::new(subject(TaskState::Deleting, "terminate_instance").with_disks(&[]))
}

#[tokio::test(start_paused = true)]
async fn an_instance_s_life_is_told_as_nova_tells_it() {
    let world = World::new();
    assert_eq!(types(&told(&world, spawn()).await), recorded("build"));
    assert_eq!(types(&told(&world, pause()).await), recorded("pause"));
    let unpause = Unpause::new(subject(TaskState::Unpausing, "unpause_instance"));
    assert_eq!(types(&told(&world, unpause).await), recorded("unpause"));
    let suspend = Suspend::new(subject(TaskState::Suspending, "suspend_instance"));
    assert_eq!(types(&told(&world, suspend).await), recorded("suspend"));
    let resume = Resume::new(subject(TaskState::Resuming, "resume_instance"));
    assert_eq!(types(&told(&world, resume).await), recorded("resume"));
    assert_eq!(types(&told(&world, reboot(Kind::Soft)).await), recorded("reboot-soft"));
    assert_eq!(types(&told(&world, stop()).await), recorded("stop"));
    assert_eq!(types(&told(&world, start()).await), recorded("start"));
    assert_eq!(types(&told(&world, reboot(Kind::Hard)).await), recorded("reboot-hard"));
    assert_eq!(types(&told(&world, delete()).await), recorded("delete"));
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_as_nova_tells_them() {
    let world = World::with_guest().await;
    world.hypervisor.fail_with("pause", Class::Refused, 1);
    assert_eq!(types(&told(&world, pause()).await), recorded("pause-error"));
    told(&world, stop()).await;
    world.images.remove_directory(UUID).await.unwrap();
    assert_eq!(types(&told(&world, start()).await), recorded("start-error"));
    let states = world.state().await["record"].clone();
    assert_eq!((&states[0], &states[1]), (&"stopped".into(), &Value::Null));
    assert_eq!(types(&told(&world, reboot(Kind::Hard)).await), recorded("reboot-error"));
    let states = world.state().await["record"].clone();
    assert_eq!((&states[0], &states[1]), (&"error".into(), &Value::Null));
}

#[tokio::test(start_paused = true)]
async fn a_reboot_that_fails_while_the_guest_runs_leaves_it_active() {
    let world = World::with_guest().await;
    world.images.remove_directory(UUID).await.unwrap();
    let told = told(&world, reboot(Kind::Hard)).await;
    let [.., error, _, legacy_end, end] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(error.event_type, "compute.instance.reboot.error");
    assert_eq!(error.payload["code"], 404);
    assert_eq!(legacy_end.event_type, "compute.instance.reboot.end");
    assert_eq!(end.payload["nova_object.data"]["state"], "active");
    assert_eq!(world.state().await["record"][0], "active");
    assert_eq!(world.faults().await, 1);
    let events = world.records.events(UUID).await.unwrap();
    assert!(events.iter().all(|event| event.failure.is_none()), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_build_that_fails_shuts_down_first_and_tells_its_network_to_the_end() {
    let world = World::new();
    world.images.fail_at(ImageCall::CreateRoot);
    let told = told(&world, spawn()).await;
    assert_eq!(types(&told), recorded("build-bad-image"));
    let data = |at: usize| told[at].payload["nova_object.data"].clone();
    assert_eq!((&data(1)["state"], &data(1)["task_state"]), (&"building".into(), &Value::Null));
    // As nova has it: still here while it is shut down, with its addresses; then nowhere.
    assert_eq!((&data(3)["host"], &data(3)["task_state"]), (&"host1".into(), &"spawning".into()));
    assert_eq!(data(5)["host"], "host1");
    assert_eq!((&data(7)["host"], &data(7)["node"]), (&Value::Null, &Value::Null));
    assert_eq!(data(7)["state"], "building");
    assert_eq!(data(3)["ip_addresses"], data(7)["ip_addresses"]);
    assert!(data(7)["fault"]["nova_object.data"]["exception"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_build_that_does_not_fit_was_never_up_to_be_shut_down() {
    let world = World::new();
    world.node.refuse("Free memory 1.00 MB < requested 128 MB");
    let told = types(&told(&world, spawn()).await);
    let start_and_error = recorded("build-bad-image");
    let expected: Vec<_> =
        start_and_error.into_iter().filter(|name| !name.contains("shutdown")).collect();
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn a_crash_tells_at_most_one_phase_again() {
    let healthy = {
        let world = World::new();
        let mut record = world.record(spawn()).await;
        let journal = MemoryJournal::default();
        world.run(&mut record, &journal).await.unwrap();
        (journal.writes(), world.notifier.types())
    };
    for write in 0..healthy.0 {
        let world = World::new();
        let mut record = world.record(spawn()).await;
        let journal = MemoryJournal::breaking_at(write);
        world.run(&mut record, &journal).await.ok();
        let Some(mut found) = journal.found() else { continue };
        let (on, running) = (world.backends(), super::board::Running::detached());
        let controls = super::engine::Controls::default();
        found.run(&MemoryJournal::default(), &on, &running, &controls).await.unwrap();
        let told = world.notifier.types();
        assert!(told.len() <= healthy.1.len() + 2, "write {write}: {told:?}");
        let mut once = told.clone();
        once.sort_unstable();
        once.dedup();
        let mut all = healthy.1.clone();
        all.sort_unstable();
        assert_eq!(once, all, "write {write}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_administrator_s_rights_are_shown_where_nova_takes_them() {
    let world = World::with_guest().await;
    let mut record = world.record(pause()).await;
    record.context.is_admin = false;
    record.context.roles = vec!["member".to_owned()];
    world.notifier.clear();
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    for (context, _) in world.notifier.sent() {
        assert!(context.is_admin);
        assert_eq!(context.roles, ["member", "admin"]);
    }
    assert!(world.hypervisor.domain(UUID).await.unwrap().is_some());
}
