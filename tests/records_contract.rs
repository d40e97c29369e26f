//! One suite over both kinds of records, so that the fake can't drift from the one that is used.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use hypernova::model::class::Class;
use hypernova::model::context::RequestContext;
use hypernova::model::object::{Instance, VersionedObject};
use hypernova::model::state::{TaskState, VmState};
use hypernova::records::fake::FakeRecords;
use hypernova::records::history::History;
use hypernova::records::sqlite::SqliteRecords;
use hypernova::records::upkeep::Upkeep;
use hypernova::records::{Expected, InstanceFault, Records, RecordsError};
use uuid::Uuid;

trait Both: Records + History + Upkeep {}
impl<T: Records + History + Upkeep> Both for T {}

fn message(uuid: u128, vm_state: VmState, task_state: Option<TaskState>) -> Instance {
    let mut instance = Instance::default();
    instance.uuid.load(Some(Uuid::from_u128(uuid)));
    instance.vm_state.load(Some(Some(vm_state)));
    instance.task_state.load(Some(task_state));
    instance
}

fn build(uuid: u128) -> Instance {
    message(uuid, VmState::Building, Some(TaskState::Scheduling))
}

fn context() -> RequestContext {
    RequestContext::admin()
}

/// Runs `claim` over the fake and over SQLite.
async fn over_both(claim: impl AsyncFn(&dyn Both)) {
    claim(&FakeRecords::new("h1")).await;
    let directory = tempfile::tempdir().unwrap();
    let records = SqliteRecords::open(&directory.path().join("records.sqlite"), "h1").unwrap();
    claim(&records).await;
}

#[tokio::test]
async fn a_new_instance_gets_an_id_and_this_host() {
    over_both(async |records| {
        let first = records.receive(&context(), build(1)).await.unwrap();
        let second = records.receive(&context(), build(2)).await.unwrap();
        assert_eq!((first.id.get(), second.id.get()), (Some(&1), Some(&2)));
        assert_eq!(first.host.value().map(String::as_str), Some("h1"));
        assert_eq!(first.deleted.get(), Some(&false));
        assert!(first.created_at.value().is_some());
        assert!(first.what_changed().is_empty());
        assert_eq!(records.instances(&context()).await.unwrap(), [first, second]);
    })
    .await;
}

#[tokio::test]
async fn a_messages_own_id_is_kept_and_the_next_one_is_higher() {
    over_both(async |records| {
        let mut with_id = build(1);
        with_id.id.load(Some(41));
        let first = records.receive(&context(), with_id).await.unwrap();
        assert_eq!(first.id.get(), Some(&41));
        let second = records.receive(&context(), build(2)).await.unwrap();
        assert_eq!(second.id.get(), Some(&42));
    })
    .await;
}

#[tokio::test]
async fn an_id_that_is_taken_is_a_clash() {
    over_both(async |records| {
        records.receive(&context(), build(1)).await.unwrap();
        for (uuid, id) in [(2, 1), (1, 9), (3, 0)] {
            let mut other = build(uuid);
            other.id.load(Some(id));
            let refused = records.receive(&context(), other).await.unwrap_err();
            assert!(matches!(refused, RecordsError::Clash { .. }), "{refused:?}");
            assert_eq!(refused.class(), Class::Refused);
        }
        assert_eq!(records.instances(&context()).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_instance_without_uuid_is_refused() {
    over_both(async |records| {
        let refused = records.receive(&context(), Instance::default()).await;
        assert!(matches!(refused, Err(RecordsError::Object(_))), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn a_message_doesnt_overwrite_the_record() {
    over_both(async |records| {
        let mut own = records.receive(&context(), build(1)).await.unwrap();
        own.vm_state.set(Some(VmState::Active));
        own.task_state.set(None);
        own.display_name.set(Some("mine".into()));
        records.save(&context(), &mut own, Expected::Any).await.unwrap();

        let mut old = message(1, VmState::Stopped, Some(TaskState::PoweringOff));
        old.display_name.load(Some(Some("theirs".into())));
        let found = records.receive(&context(), old).await.unwrap();
        assert_eq!(found.vm_state.value(), Some(&VmState::Active));
        assert_eq!(found.task_state.value(), Some(&TaskState::PoweringOff));
        assert_eq!(found.display_name.value().map(String::as_str), Some("mine"));

        let later = message(1, VmState::Active, Some(TaskState::Pausing));
        let found = records.receive(&context(), later).await.unwrap();
        assert_eq!(found.task_state.value(), Some(&TaskState::PoweringOff), "it had its own");
        let on_record = records.instance(&context(), Uuid::from_u128(1)).await.unwrap();
        assert_eq!(on_record, Some(found));
    })
    .await;
}

#[tokio::test]
async fn a_save_writes_only_what_changed_and_takes_what_others_changed() {
    over_both(async |records| {
        let mut one = records.receive(&context(), build(1)).await.unwrap();
        let mut two = one.clone();
        one.display_name.set(Some("one".into()));
        records.save(&context(), &mut one, Expected::Any).await.unwrap();
        two.power_state.set(Some(4));
        records.save(&context(), &mut two, Expected::Any).await.unwrap();
        assert!(two.what_changed().is_empty());
        assert!(two.updated_at.value().is_some());
        assert_eq!(two.display_name.value().map(String::as_str), Some("one"));
        assert_eq!(two.power_state.value(), Some(&4));
        let on_record = records.instance(&context(), Uuid::from_u128(1)).await.unwrap();
        assert_eq!(on_record, Some(two));
    })
    .await;
}

#[tokio::test]
async fn a_save_compares_the_task_state_with_what_was_expected() {
    over_both(async |records| {
        let mut instance = records.receive(&context(), build(1)).await.unwrap();
        let mut stale = instance.clone();
        instance.task_state.set(Some(TaskState::Networking));
        let expected = Expected::OneOf(vec![Some(TaskState::Scheduling), None]);
        records.save(&context(), &mut instance, expected.clone()).await.unwrap();

        stale.task_state.set(Some(TaskState::Spawning));
        let refused = records.save(&context(), &mut stale, expected.clone()).await;
        assert!(
            matches!(&refused, Err(RecordsError::UnexpectedTaskState { found, .. })
                if found == "networking"),
            "{refused:?}"
        );
        assert!(stale.task_state.is_changed(), "still to be saved");

        instance.task_state.set(Some(TaskState::Deleting));
        records.save(&context(), &mut instance, Expected::Any).await.unwrap();
        let refused = records.save(&context(), &mut stale, expected).await;
        assert!(matches!(refused, Err(RecordsError::Deleting(_))), "{refused:?}");
        let on_record = records.instance(&context(), Uuid::from_u128(1)).await.unwrap();
        assert_eq!(on_record, Some(instance));
    })
    .await;
}

#[tokio::test]
async fn a_save_of_nothing_is_a_success_in_any_task_state() {
    over_both(async |records| {
        let mut instance = records.receive(&context(), build(1)).await.unwrap();
        let expected = Expected::OneOf(vec![Some(TaskState::Deleting)]);
        records.save(&context(), &mut instance, expected).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_deleted_instance_is_gone_but_not_forgotten() {
    over_both(async |records| {
        let mut instance = records.receive(&context(), build(1)).await.unwrap();
        let uuid = Uuid::from_u128(1);
        records.destroy(&context(), &mut instance).await.unwrap();
        assert_eq!(instance.deleted.get(), Some(&true));
        let deleted_at = instance.deleted_at.value().copied();
        assert!(deleted_at.is_some());
        records.destroy(&context(), &mut instance).await.unwrap();
        assert_eq!(instance.deleted_at.value().copied(), deleted_at, "deleted once");

        assert_eq!(records.instance(&context(), uuid).await.unwrap(), None);
        assert_eq!(records.instances(&context()).await.unwrap(), []);
        instance.power_state.set(Some(0));
        let refused = records.save(&context(), &mut instance, Expected::Any).await.unwrap_err();
        assert_eq!(refused.class(), Class::Absent);

        let again = records.receive(&context(), build(1)).await;
        assert!(matches!(again, Err(RecordsError::Clash { .. })), "{again:?}");
        let stop = message(1, VmState::Active, Some(TaskState::PoweringOff));
        let stop = records.receive(&context(), stop).await;
        assert!(matches!(stop, Err(RecordsError::NotFound(_))), "{stop:?}");
        let next = records.receive(&context(), build(2)).await.unwrap();
        assert_eq!(next.id.get(), Some(&2), "its id isn't given again");
    })
    .await;
}

#[tokio::test]
async fn what_isnt_on_record_is_absent() {
    over_both(async |records| {
        let uuid = Uuid::from_u128(5);
        assert_eq!(records.instance(&context(), uuid).await.unwrap(), None);
        let mut unknown = build(5);
        let calls = [
            records.save(&context(), &mut unknown.clone(), Expected::Any).await,
            records.destroy(&context(), &mut unknown).await,
            records.event_started(&context(), uuid, "compute_stop_instance").await,
            records.event_finished(&context(), uuid, "compute_stop_instance", None).await,
            records
                .record_fault(
                    &context(),
                    uuid,
                    InstanceFault { code: 500, message: String::new(), details: String::new() },
                )
                .await,
        ];
        for call in calls {
            assert_eq!(call.unwrap_err().class(), Class::Absent);
        }
        assert_eq!(records.events(uuid).await.unwrap(), []);
        assert_eq!(records.faults(uuid).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn events_say_how_an_action_went() {
    over_both(async |records| {
        let uuid = Uuid::from_u128(1);
        let mut instance = records.receive(&context(), build(1)).await.unwrap();
        let (stop, delete) = (context(), context());
        records.event_started(&stop, uuid, "compute_stop_instance").await.unwrap();
        records
            .event_finished(&stop, uuid, "compute_stop_instance", Some(("no answer", "trace")))
            .await
            .unwrap();
        records.event_started(&delete, uuid, "compute_terminate_instance").await.unwrap();
        records.destroy(&context(), &mut instance).await.unwrap();
        records.event_finished(&delete, uuid, "compute_terminate_instance", None).await.unwrap();

        let events = records.events(uuid).await.unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|e| (e.event.as_str(), e.failure.as_deref(), e.details.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [
                ("compute_stop_instance", Some("no answer"), Some("trace")),
                ("compute_terminate_instance", None, None)
            ]
        );
        assert!(events.iter().all(|e| e.finished_at.is_some()));

        records.event_started(&stop, uuid, "compute_stop_instance").await.unwrap();
        let again = records.events(uuid).await.unwrap();
        assert_eq!(again.len(), 2, "a repeat in one request is one event");
        assert_eq!((again[0].finished_at, again[0].failure.as_deref()), (None, None));
    })
    .await;
}

#[tokio::test]
async fn faults_are_kept_in_order_and_cut_to_novas_length() {
    over_both(async |records| {
        let uuid = Uuid::from_u128(1);
        records.receive(&context(), build(1)).await.unwrap();
        for message in ["first".to_owned(), "é".repeat(400)] {
            let fault = InstanceFault { code: 500, message, details: "details".into() };
            records.record_fault(&context(), uuid, fault).await.unwrap();
        }
        let faults = records.faults(uuid).await.unwrap();
        assert_eq!(faults[0].message, "first");
        assert_eq!(faults[1].message, "é".repeat(255));
        assert_eq!((faults[1].code, faults[1].details.as_str()), (500, "details"));
    })
    .await;
}

/// Many at once: each gets an id of its own, and a compare-and-set is won by one.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_saves_that_expect_the_same_state_one_wins() {
    over_both(async |records| {
        let received = (1..=20).map(async |uuid| records.receive(&context(), build(uuid)).await);
        let received = futures_util::future::join_all(received).await;
        let mut ids: Vec<_> =
            received.iter().map(|r| *r.as_ref().unwrap().id.get().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=20).collect::<Vec<i64>>());

        let saves = (0..8).map(async |_| {
            let mut instance = received[0].as_ref().unwrap().clone();
            instance.task_state.set(Some(TaskState::Networking));
            let expected = Expected::OneOf(vec![Some(TaskState::Scheduling)]);
            records.save(&context(), &mut instance, expected).await
        });
        let saves = futures_util::future::join_all(saves).await;
        assert_eq!(saves.iter().filter(|save| save.is_ok()).count(), 1);
    })
    .await;
}

#[tokio::test]
async fn only_what_is_on_record_as_deleted_is_deleted() {
    over_both(async |records| {
        let uuid = Uuid::from_u128;
        for number in 1..=3 {
            records.receive(&context(), build(number)).await.unwrap();
        }
        let mut gone = records.instance(&context(), uuid(1)).await.unwrap().unwrap();
        records.destroy(&context(), &mut gone).await.unwrap();
        let mut soft = records.instance(&context(), uuid(2)).await.unwrap().unwrap();
        soft.vm_state.set(Some(VmState::SoftDeleted));
        records.save(&context(), &mut soft, Expected::Any).await.unwrap();
        let asked: Vec<_> = (1..=4).map(uuid).collect();
        let deleted = records.deleted_among(&context(), &asked).await.unwrap();
        assert_eq!(deleted, [gone]);
        let here = records.instances_of(&context(), &["h0".into(), "h1".into()]).await.unwrap();
        assert_eq!(here, records.instances(&context()).await.unwrap());
        assert!(records.instances_of(&context(), &["h0".into()]).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_deleted_instance_is_uncleaned_until_its_record_says_otherwise() {
    over_both(async |records| {
        let mut gone = records.receive(&context(), build(1)).await.unwrap();
        records.receive(&context(), build(2)).await.unwrap();
        assert!(records.uncleaned(&context()).await.unwrap().is_empty());
        gone.cleaned.set(true);
        let early = records.save_deleted(&context(), &mut gone.clone()).await.unwrap_err();
        assert!(matches!(early, RecordsError::NotFound(_)), "{early:?}");
        records.destroy(&context(), &mut gone).await.unwrap();
        let mut left = records.uncleaned(&context()).await.unwrap();
        assert_eq!(left.len(), 1);
        left[0].cleaned.set(true);
        records.save_deleted(&context(), &mut left[0]).await.unwrap();
        assert!(records.uncleaned(&context()).await.unwrap().is_empty());
    })
    .await;
}
