//! Queues under trouble: what waits, what gives way, and what must not be lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Dispatcher, Limits, Outcome, Submission};
use crate::health::Metrics;
use crate::hypervisor::Hypervisor;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::state::TaskState;
use crate::records::{Expected, Records};
use crate::workflow::StepError;
use crate::workflow::any::AnyRecord;
use crate::workflow::engine::Workflow;
use crate::workflow::journal::{Journal, Record};
use crate::workflow::power_off::PowerOff;
use crate::workflow::reboot::{Kind, Reboot};
use crate::workflow::sqlite::SqliteJournal;
use crate::workflow::suspend::Suspend;
use crate::workflow::terminate::Terminate;
use crate::workflow::world::{MemoryJournal, UUID, World, spawn, subject};

pub(super) fn dispatcher(world: &World, builds: usize) -> Dispatcher {
    let journal = Arc::new(MemoryJournal::default());
    Dispatcher::new(world.backends(), journal, Arc::new(Metrics::new()), Limits::of_tests(builds))
}

pub(super) fn request<W: Workflow>(id: &str, workflow: W) -> AnyRecord
where
    AnyRecord: From<Record<W>>,
{
    Record::queued(id.to_owned(), UUID, RequestContext::admin(), workflow).into()
}

pub(super) async fn submit(
    dispatcher: &Dispatcher,
    record: AnyRecord,
) -> oneshot::Receiver<Arc<Outcome>> {
    match dispatcher.submit(record).await.unwrap() {
        Submission::Accepted(outcome) => outcome,
        Submission::Duplicate(_) => panic!("taken for a redelivery"),
    }
}

/// Submits what the journal knows already, and waits for how it ended.
async fn redelivered(dispatcher: &Dispatcher, record: AnyRecord) -> Arc<Outcome> {
    match dispatcher.submit(record).await.unwrap() {
        Submission::Accepted(_) => panic!("taken for a new request"),
        Submission::Duplicate(outcome) => outcome.await.unwrap(),
    }
}

pub(super) fn stop() -> PowerOff {
    PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), true)
}

fn delete() -> Terminate {
    Terminate::new(subject(TaskState::Deleting, "terminate_instance"))
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_records_and_is_not_lost() {
    let world = World::with_guest().await;
    world.records.fail_at("receive");
    let outcome = submit(&dispatcher(&world, 1), request("a", stop())).await.await.unwrap();
    assert!(matches!(*outcome, Outcome::Done), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_settle_that_fails_once_leaves_no_task_state() {
    let world = World::with_guest().await;
    world.records.fail_at("event_finished");
    let dispatcher = dispatcher(&world, 1);
    let outcome = submit(&dispatcher, request("a", stop())).await.await.unwrap();
    assert!(matches!(*outcome, Outcome::Done), "{outcome:?}");
    assert_eq!(world.state().await["record"][1], serde_json::Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_libvirt_refuses_leaves_a_running_guest_active() {
    let world = World::with_guest().await;
    let id = UUID;
    world.hypervisor.ignore_power_button(id, true);
    world.hypervisor.fail_always("destroy");
    let dispatcher = dispatcher(&world, 1);
    let outcome = submit(&dispatcher, request("a", stop())).await.await.unwrap();
    assert!(matches!(*outcome, Outcome::Failed(_)), "{outcome:?}");
    let state = world.state().await;
    assert_eq!((&state["record"][0], &state["record"][1]), (&"active".into(), &().into()));
    assert_eq!(world.faults().await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_absurd_shutdown_timeout_of_an_image_is_not_taken() {
    let world = World::with_guest().await;
    world.hypervisor.ignore_power_button(UUID, true);
    let context = RequestContext::admin();
    let mut instance = world.records.instance(&context, UUID).await.unwrap().unwrap();
    instance.system_metadata.update(|metadata| {
        let timeout = u64::MAX.to_string();
        metadata.insert("image_os_shutdown_timeout".to_owned(), Some(timeout));
    });
    world.records.save(&context, &mut instance, Expected::Any).await.unwrap();
    let dispatcher = dispatcher(&world, 1);
    let outcome = submit(&dispatcher, request("a", stop())).await.await.unwrap();
    assert!(matches!(*outcome, Outcome::Done), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delete_does_not_wait_for_other_builds() {
    let world = World::new();
    // No build may run: they all wait.
    let dispatcher = dispatcher(&world, 0);
    let build = submit(&dispatcher, request("a", spawn())).await;
    let delete = submit(&dispatcher, request("b", delete())).await;
    // It was waiting for its turn, or for leave to build.
    let build = build.await.unwrap();
    assert!(matches!(*build, Outcome::Failed(_) | Outcome::Refused(_)), "{build:?}");
    let outcome = delete.await.unwrap();
    assert!(matches!(*outcome, Outcome::Done), "{outcome:?}");
    assert_eq!(world.leftovers().await, Vec::<String>::new());
}

/// Lets a workflow run for a while, then deletes its instance, which must not wait. How the
/// workflow ended.
async fn overtaken(world: &World, record: AnyRecord) -> Arc<Outcome> {
    let dispatcher = dispatcher(world, 1);
    let first = submit(&dispatcher, record).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = Instant::now();
    let delete = submit(&dispatcher, request("b", delete())).await;
    let outcome = delete.await.unwrap();
    assert!(matches!(*outcome, Outcome::Done), "{outcome:?}");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(world.leftovers().await, Vec::<String>::new());
    first.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_delete_does_not_wait_for_a_guest_that_ignores_its_power_button() {
    let reboot = || Reboot::new(subject(TaskState::Rebooting, "reboot_instance"), Kind::Soft);
    let world = World::with_guest().await;
    world.hypervisor.ignore_power_button(UUID, true);
    let stopped = overtaken(&world, request("a", stop())).await;
    assert!(matches!(*stopped, Outcome::Done), "{stopped:?}");
    let world = World::with_guest().await;
    world.hypervisor.ignore_power_button(UUID, true);
    let rebooted = overtaken(&world, request("a", reboot())).await;
    assert!(matches!(*rebooted, Outcome::Done), "{rebooted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delete_does_not_wait_for_an_image() {
    let world = World::new();
    world.images.set_latency(Duration::from_secs(3600));
    let built = overtaken(&world, request("a", spawn())).await;
    assert!(matches!(*built, Outcome::Failed(StepError::Cancelled)), "{built:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delete_does_not_wait_for_a_guests_memory() {
    let world = World::with_guest().await;
    world.hypervisor.set_save_time(Duration::from_secs(1000), false);
    let suspend = Suspend::new(subject(TaskState::Suspending, "suspend_instance"));
    let suspended = overtaken(&world, request("a", suspend)).await;
    assert!(matches!(*suspended, Outcome::Failed(StepError::Cancelled)), "{suspended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delete_does_not_wait_for_another_attempt() {
    let world = World::new();
    world.hypervisor.fail_with("define", Class::Transient, 100);
    let built = overtaken(&world, request("a", spawn())).await;
    assert!(matches!(*built, Outcome::Failed(_)), "{built:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_delete_finds_nothing_left_to_do() {
    let world = World::with_guest().await;
    let dispatcher = dispatcher(&world, 1);
    let first = submit(&dispatcher, request("a", delete())).await;
    let second = submit(&dispatcher, request("b", delete())).await;
    assert!(matches!(*first.await.unwrap(), Outcome::Done));
    assert!(matches!(*second.await.unwrap(), Outcome::AlreadyDone));
    assert!(world.hypervisor.domain(UUID).await.unwrap().is_none());
}

fn on_disk(world: &World, directory: &tempfile::TempDir) -> Dispatcher {
    let journal = SqliteJournal::open(&directory.path().join("journal.db")).unwrap();
    Dispatcher::new(
        world.backends(),
        Arc::new(journal),
        Arc::new(Metrics::new()),
        Limits::of_tests(1),
    )
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_is_recognised_and_told_how_the_first_ends() {
    let world = World::with_guest().await;
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = on_disk(&world, &directory);
    let first = submit(&dispatcher, request("a", stop())).await;
    let again = redelivered(&dispatcher, request("a", stop())).await;
    assert!(matches!(*again, Outcome::Done), "{again:?}");
    assert!(matches!(*first.await.unwrap(), Outcome::Done));
    let late = redelivered(&dispatcher, request("a", stop())).await;
    assert!(matches!(*late, Outcome::Done), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_of_what_was_refused_is_told_why() {
    let world = World::with_guest().await;
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = on_disk(&world, &directory);
    let build = || request("a", spawn());
    let first = submit(&dispatcher, build()).await.await.unwrap();
    let Outcome::Refused(refusal) = &*first else { panic!("{first:?}") };
    let again = redelivered(&dispatcher, build()).await;
    let Outcome::FailedBefore(failure) = &*again else { panic!("{again:?}") };
    assert_eq!(failure.fault, Some(refusal.fault()));
}

#[tokio::test(start_paused = true)]
async fn what_comes_again_after_a_restart_is_told_how_the_resumed_workflow_ends() {
    for fails in [false, true] {
        let world = World::with_guest().await;
        let directory = tempfile::tempdir().unwrap();
        // It was journaled, and the agent died before it could acknowledge.
        let path = directory.path().join("journal.db");
        let journal = SqliteJournal::open(&path).unwrap();
        let record = request("a", stop());
        journal.add(record.head(), &record.body().unwrap()).await.unwrap();
        drop(journal);
        if fails {
            world.hypervisor.fail_always("destroy");
        }
        let dispatcher = on_disk(&world, &directory);
        assert_eq!(dispatcher.resume().await.unwrap(), 1);
        let outcome = redelivered(&dispatcher, record).await;
        match &*outcome {
            Outcome::Done => assert!(!fails),
            Outcome::Failed(_) => assert!(fails),
            other => panic!("{other:?}"),
        }
    }
}
