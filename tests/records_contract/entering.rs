//! What a message adds to the records: in standalone mode only. In nova mode the control plane
//! wrote its record before it sent the message.

use hypernova::model::class::Class;
use hypernova::model::object::{Instance, VersionedObject};
use hypernova::model::state::{TaskState, VmState};
use hypernova::records::{Expected, RecordsError};
use uuid::Uuid;

use crate::worlds::{build, context, message, over_standalone};

#[tokio::test]
async fn a_new_instance_gets_an_id_and_this_host() {
    over_standalone(async |records| {
        let first = records.receive(&context(), build(1)).await.unwrap();
        let second = records.receive(&context(), build(2)).await.unwrap();
        assert_eq!((first.id.get(), second.id.get()), (Some(&1), Some(&2)));
        assert_eq!(first.host.value().map(String::as_str), Some("h1"));
        assert_eq!(first.deleted.get(), Some(&false));
        assert!(first.created_at.value().is_some());
        assert!(first.what_changed().is_empty());
        assert_eq!(records.instances(&context(), &[]).await.unwrap(), [first, second]);
    })
    .await;
}

#[tokio::test]
async fn a_messages_own_id_is_kept_and_the_next_one_is_higher() {
    over_standalone(async |records| {
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
    over_standalone(async |records| {
        records.receive(&context(), build(1)).await.unwrap();
        for (uuid, id) in [(2, 1), (1, 9), (3, 0)] {
            let mut other = build(uuid);
            other.id.load(Some(id));
            let refused = records.receive(&context(), other).await.unwrap_err();
            assert!(matches!(refused, RecordsError::Clash { .. }), "{refused:?}");
            assert_eq!(refused.class(), Class::Refused);
        }
        assert_eq!(records.instances(&context(), &[]).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_instance_without_uuid_is_refused() {
    over_standalone(async |records| {
        let refused = records.receive(&context(), Instance::default()).await;
        assert!(matches!(refused, Err(RecordsError::Object(_))), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn a_message_doesnt_overwrite_the_record() {
    over_standalone(async |records| {
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
async fn a_deleted_instance_isnt_built_again() {
    over_standalone(async |records| {
        let mut instance = records.receive(&context(), build(1)).await.unwrap();
        records.destroy(&context(), &mut instance).await.unwrap();
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

/// Many at once: each gets an id of its own.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_instances_each_gets_an_id_of_its_own() {
    over_standalone(async |records| {
        let received = (1..=20).map(async |uuid| records.receive(&context(), build(uuid)).await);
        let received = futures_util::future::join_all(received).await;
        let mut ids: Vec<_> =
            received.iter().map(|r| *r.as_ref().unwrap().id.get().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=20).collect::<Vec<i64>>());
    })
    .await;
}

#[tokio::test]
async fn a_new_disk_gets_a_uuid() {
    over_standalone(async |records| {
        records.receive(&context(), build(1)).await.unwrap();
        let mut disk = hypernova::model::object::BlockDeviceMapping::default();
        disk.instance_uuid.set(Uuid::from_u128(1));
        records.save_block_device(&context(), &mut disk).await.unwrap();
        assert!(disk.uuid.is_set() && disk.what_changed().is_empty());
        let found = records.block_devices(&context(), Uuid::from_u128(1)).await.unwrap();
        assert_eq!(found.items(), [disk]);
    })
    .await;
}
