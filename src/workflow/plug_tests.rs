//! A guest waits for its network: with events that come early, late, as failures, or never, and with
//! an agent that ends in between.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::board::Running;
use super::engine::Controls;
use super::external_events::{EventKey, ExternalEvents, Reported};
use super::journal::{Journal, Phase, Record};
use super::power_on::PowerOn;
use super::spawn::Spawn;
use super::world::{MemoryJournal, UUID, World, spawn, subject};
use crate::hypervisor::Hypervisor;
use crate::model::state::{PowerState, TaskState};

/// A world in which a plug is reported as `reported`, and the port comes up if `up`.
fn world(reported: Option<Reported>, up: bool) -> World {
    let world = World::new();
    let events = world.events.clone();
    world.network.report_plugs(move |instance: Uuid, port| {
        if let Some(reported) = reported {
            events.deliver(instance, &EventKey::vif_plugged(port), reported);
        }
        up
    });
    world
}

async fn build(world: &World) -> Record<Spawn> {
    let mut record = world.record(spawn()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    record
}

async fn power_state(world: &World) -> Option<PowerState> {
    world.hypervisor.domain(UUID).await.unwrap().map(|info| info.power_state)
}

fn failure(record: &Record<Spawn>) -> &str {
    &record.head.failure.as_ref().unwrap().message
}

#[tokio::test(start_paused = true)]
async fn a_report_that_comes_before_anybody_waits_is_not_lost() {
    let world = world(Some(Reported::Completed), true);
    let began = Instant::now();
    assert_eq!(build(&world).await.head.phase, Phase::Done);
    assert_eq!(power_state(&world).await, Some(PowerState::Running));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_guest_is_paused_until_the_report_comes() {
    let world = Arc::new(world(None, false));
    let building = tokio::spawn({
        let world = world.clone();
        async move { build(&world).await.head.phase }
    });
    while power_state(&world).await != Some(PowerState::Paused) {
        tokio::task::yield_now().await;
    }
    let port = world.network.allocated()[&UUID][0].id;
    assert!(world.events.deliver(UUID, &EventKey::vif_plugged(port), Reported::Completed));
    assert_eq!(building.await.unwrap(), Phase::Done);
    assert_eq!(power_state(&world).await, Some(PowerState::Running));
    let late = world.events.deliver(UUID, &EventKey::vif_plugged(port), Reported::Completed);
    assert!(!late, "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn silence_fails_the_build_after_the_timeout_or_is_put_up_with() {
    for is_fatal in [true, false] {
        let mut world = world(None, false);
        world.settings.plugging.is_fatal = is_fatal;
        let began = Instant::now();
        let record = build(&world).await;
        let waited = began.elapsed().as_secs();
        assert!((300..310).contains(&waited), "{waited}");
        if is_fatal {
            assert_eq!(record.head.phase, Phase::Undone);
            assert!(failure(&record).contains("did not report port"), "{}", failure(&record));
            assert_eq!(world.leftovers().await, Vec::<String>::new());
        } else {
            assert_eq!(record.head.phase, Phase::Done);
            assert_eq!(power_state(&world).await, Some(PowerState::Running));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_plug_fails_the_build_at_once_or_is_put_up_with() {
    for is_fatal in [true, false] {
        let mut world = world(Some(Reported::Failed), false);
        world.settings.plugging.is_fatal = is_fatal;
        let began = Instant::now();
        let record = build(&world).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(record.head.phase, if is_fatal { Phase::Undone } else { Phase::Done });
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_that_is_lost_is_made_up_for_by_looking() {
    let world = world(None, true);
    let began = Instant::now();
    assert_eq!(build(&world).await.head.phase, Phase::Done);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_awaited_when_the_timeout_is_zero() {
    let mut world = world(None, false);
    world.settings.plugging.timeout = Duration::ZERO;
    assert_eq!(build(&world).await.head.phase, Phase::Done);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_at_any_point_goes_on_without_the_report_it_missed() {
    let straight = world(Some(Reported::Completed), true);
    let journal = MemoryJournal::default();
    let mut record = straight.record(spawn()).await;
    straight.run(&mut record, &journal).await.unwrap();
    let expected = straight.state().await;
    for write in 0..journal.writes() {
        let mut world = world(Some(Reported::Completed), true);
        let journal = MemoryJournal::breaking_at(write);
        let mut record = world.record(spawn()).await;
        let body = super::engine::body(&record).unwrap();
        journal.add(&record.head, &body).await.unwrap();
        world.run(&mut record, &journal).await.expect_err("the journal breaks");
        // The next agent knows of no event.
        world.events = Arc::new(ExternalEvents::new());
        let mut found = journal.found().unwrap();
        let (on, running) = (world.backends(), Running::detached());
        let healthy = MemoryJournal::default();
        found.run(&healthy, &on, &running, &Controls::default()).await.unwrap();
        assert_eq!(found.head().phase, Phase::Done, "write {write}");
        assert_eq!(world.state().await, expected, "write {write}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_doesnt_wait_for_the_report() {
    let world = world(None, false);
    let mut record = world.record(spawn()).await;
    let controls = Controls::default();
    let cancel = controls.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    });
    let (on, running) = (world.backends(), Running::detached());
    let began = Instant::now();
    super::engine::run(&mut record, &MemoryJournal::default(), &on, &running, &controls)
        .await
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(record.head.phase, Phase::Undone);
    assert_eq!(world.leftovers().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_only_where_it_is_told_to() {
    for awaited in [false, true] {
        let mut world = world(None, true);
        assert_eq!(build(&world).await.head.phase, Phase::Done);
        world.hypervisor.destroy(UUID).await.unwrap();
        if awaited {
            world.settings.plugging.awaited_at_reboot = vec!["normal".to_owned()];
            world.settings.plugging.timeout = Duration::from_secs(20);
        }
        let workflow = PowerOn::new(subject(TaskState::PoweringOn, "start_instance"));
        let mut record = world.record(workflow).await;
        let began = Instant::now();
        world.run(&mut record, &MemoryJournal::default()).await.unwrap();
        assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
        let waited = began.elapsed() >= Duration::from_secs(20);
        assert_eq!(waited, awaited, "{:?}", began.elapsed());
        assert_eq!(power_state(&world).await, Some(PowerState::Running));
        assert_eq!(world.network.plugged().len(), 1);
    }
}
