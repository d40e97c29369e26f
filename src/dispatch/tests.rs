//! Queues under trouble: what waits, what gives way, and what must not be lost.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Dispatcher, Outcome, Submission};
use crate::health::Metrics;
use crate::hypervisor::Hypervisor;
use crate::model::context::RequestContext;
use crate::model::state::TaskState;
use crate::records::{Expected, Records};
use crate::workflow::any::AnyRecord;
use crate::workflow::engine::Workflow;
use crate::workflow::journal::Record;
use crate::workflow::power_off::PowerOff;
use crate::workflow::sqlite::SqliteJournal;
use crate::workflow::terminate::Terminate;
use crate::workflow::world::{MemoryJournal, UUID, World, spawn, subject};

pub(super) fn dispatcher(world: &World, builds: usize) -> Dispatcher {
    let journal = Arc::new(MemoryJournal::default());
    Dispatcher::new(world.backends(), journal, Arc::new(Metrics::new()), builds)
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
) -> oneshot::Receiver<Outcome> {
    match dispatcher.submit(record).await.unwrap() {
        Submission::Accepted(outcome) => outcome,
        Submission::Duplicate => panic!("taken for a redelivery"),
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
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_settle_that_fails_once_leaves_no_task_state() {
    let world = World::with_guest().await;
    world.records.fail_at("event_finished");
    let dispatcher = dispatcher(&world, 1);
    let outcome = submit(&dispatcher, request("a", stop())).await.await.unwrap();
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
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
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
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
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
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
    assert!(matches!(build, Outcome::Failed(_) | Outcome::Refused(_)), "{build:?}");
    let outcome = delete.await.unwrap();
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    assert_eq!(world.leftovers().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_second_delete_finds_nothing_left_to_do() {
    let world = World::with_guest().await;
    let dispatcher = dispatcher(&world, 1);
    let first = submit(&dispatcher, request("a", delete())).await;
    let second = submit(&dispatcher, request("b", delete())).await;
    assert!(matches!(first.await.unwrap(), Outcome::Done));
    assert!(matches!(second.await.unwrap(), Outcome::AlreadyDone));
    assert!(world.hypervisor.domain(UUID).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_is_recognised() {
    let world = World::with_guest().await;
    let directory = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(&directory.path().join("journal.db")).unwrap();
    let metrics = Arc::new(Metrics::new());
    let dispatcher = Dispatcher::new(world.backends(), Arc::new(journal), metrics, 1);
    let first = submit(&dispatcher, request("a", stop())).await;
    let again = dispatcher.submit(request("a", stop())).await.unwrap();
    assert!(matches!(again, Submission::Duplicate));
    assert!(matches!(first.await.unwrap(), Outcome::Done));
}
