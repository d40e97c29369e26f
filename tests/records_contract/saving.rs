//! Reading, saving and destroying.

use hypernova::model::class::Class;
use hypernova::model::object::{Flavor, Instance, VersionedObject};
use hypernova::model::state::TaskState;
use hypernova::records::{Expected, InstancePart, RecordsError};

use crate::worlds::{context, over_all};

#[tokio::test]
async fn this_hosts_instances_are_listed() {
    over_all(async |world| {
        world.add(1).await;
        world.add(2).await;
        let listed = world.records.instances(&context(), &[InstancePart::InfoCache]).await.unwrap();
        let mut uuids: Vec<_> = listed.iter().map(|instance| instance.uuid().unwrap()).collect();
        uuids.sort();
        assert_eq!(uuids, [world.uuid(1), world.uuid(2)]);
        assert!(listed.iter().all(|instance| instance.what_changed().is_empty()));
    })
    .await;
}

#[tokio::test]
async fn a_save_writes_only_what_changed_and_takes_what_others_changed() {
    over_all(async |world| {
        let records = &world.records;
        let mut one = world.add(1).await;
        let mut two = one.clone();
        one.display_name.set(Some("one".into()));
        records.save(&context(), &mut one, Expected::Any).await.unwrap();
        two.power_state.set(Some(4));
        records.save(&context(), &mut two, Expected::Any).await.unwrap();
        assert!(two.what_changed().is_empty());
        assert!(two.updated_at.value().is_some());
        assert_eq!(two.display_name.text(), Some("one"));
        assert_eq!(two.power_state.value(), Some(&4));
        let on_record = records.instance(&context(), world.uuid(1)).await.unwrap().unwrap();
        assert_eq!(on_record.power_state.value(), Some(&4));
        assert_eq!(on_record.display_name.text(), Some("one"));
        assert_eq!(on_record.id, two.id);
    })
    .await;
}

#[tokio::test]
async fn maps_are_written_whole() {
    over_all(async |world| {
        let mut instance = world.add(1).await;
        let values = [("boot_roles".to_owned(), Some("admin".to_owned()))];
        instance.system_metadata.set(values.clone().into());
        world.records.save(&context(), &mut instance, Expected::Any).await.unwrap();
        let found = world.records.instance(&context(), world.uuid(1)).await.unwrap().unwrap();
        assert_eq!(found.system_metadata.get(), Some(&values.into()));
    })
    .await;
}

#[tokio::test]
async fn a_place_is_written_and_taken_away() {
    over_all(async |world| {
        let mut instance = world.add(1).await;
        let host = instance.host.text().unwrap().to_owned();
        instance.host.set(Some(host.clone()));
        instance.node.set(Some("n1".to_owned()));
        instance.compute_id.set(Some(7));
        instance.launched_on.set(Some(host));
        world.records.save(&context(), &mut instance, Expected::Any).await.unwrap();
        let found = world.records.instance(&context(), world.uuid(1)).await.unwrap().unwrap();
        assert_eq!(found.compute_id.value(), Some(&7));
        assert_eq!(found.node.text(), Some("n1"));
    })
    .await;
}

#[tokio::test]
async fn what_was_stored_beside_the_instance_is_read_when_it_is_asked_for() {
    over_all(async |world| {
        let records = &world.records;
        let mut instance = world.add(1).await;
        let mut flavor = Flavor::default();
        for (name, value) in [("name", "m1.tiny"), ("flavorid", "2")] {
            flavor.load_field(name, &value.into()).unwrap();
        }
        for name in ["id", "memory_mb", "vcpus", "root_gb", "ephemeral_gb", "swap"] {
            flavor.load_field(name, &1.into()).unwrap();
        }
        flavor.load_field("extra_specs", &serde_json::json!({})).unwrap();
        instance.flavor.set(flavor.clone());
        instance.old_flavor.set(None);
        instance.new_flavor.set(None);
        records.save(&context(), &mut instance, Expected::Any).await.unwrap();
        assert!(instance.what_changed().is_empty());

        let mut bare = Instance::default();
        bare.uuid.load(Some(world.uuid(1)));
        let wanted = [InstancePart::Flavor, InstancePart::SystemMetadata];
        records.load(&context(), &mut bare, &wanted).await.unwrap();
        assert_eq!(bare.flavor().unwrap().name.text(), Some("m1.tiny"));
        assert!(bare.what_changed().is_empty());
        bare.flavor.set(Flavor::default());
        records.load(&context(), &mut bare, &wanted).await.unwrap();
        assert_eq!(bare.flavor.get(), Some(&Flavor::default()), "its own stays");

        bare.uuid.load(Some(world.uuid(9)));
        bare.flavor.load(None);
        let refused = records.load(&context(), &mut bare, &wanted).await.unwrap_err();
        assert_eq!(refused.class(), Class::Absent);
    })
    .await;
}

#[tokio::test]
async fn a_save_compares_the_task_state_with_what_was_expected() {
    over_all(async |world| {
        let records = &world.records;
        let mut instance = world.add(1).await;
        let mut stale = instance.clone();
        instance.task_state.set(Some(TaskState::Networking));
        let expected = Expected::OneOf(vec![Some(TaskState::Scheduling), None]);
        records.save(&context(), &mut instance, expected.clone()).await.unwrap();

        stale.task_state.set(Some(TaskState::Spawning));
        let refused = records.save(&context(), &mut stale, expected.clone()).await;
        assert!(
            matches!(&refused, Err(RecordsError::UnexpectedTaskState { expected, found, .. })
                if found == "networking" && expected == "scheduling or none"),
            "{refused:?}"
        );
        assert!(stale.task_state.is_changed(), "still to be saved");

        instance.task_state.set(Some(TaskState::Deleting));
        records.save(&context(), &mut instance, Expected::Any).await.unwrap();
        let refused = records.save(&context(), &mut stale, expected).await;
        assert!(matches!(refused, Err(RecordsError::Deleting(_))), "{refused:?}");
        let found = records.instance(&context(), world.uuid(1)).await.unwrap().unwrap();
        assert_eq!(found.task_state.value(), Some(&TaskState::Deleting));
    })
    .await;
}

#[tokio::test]
async fn a_save_of_nothing_is_a_success_in_any_task_state() {
    over_all(async |world| {
        let mut instance = world.add(1).await;
        let expected = Expected::OneOf(vec![Some(TaskState::Deleting)]);
        world.records.save(&context(), &mut instance, expected).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_deleted_instance_is_gone_but_not_forgotten() {
    over_all(async |world| {
        let records = &world.records;
        let mut instance = world.add(1).await;
        records.destroy(&context(), &mut instance).await.unwrap();
        assert_eq!(instance.deleted.get(), Some(&true));
        let deleted_at = instance.deleted_at.value().copied();
        assert!(deleted_at.is_some());
        records.destroy(&context(), &mut instance).await.unwrap();
        assert_eq!(instance.deleted_at.value().copied(), deleted_at, "deleted once");

        assert_eq!(records.instance(&context(), world.uuid(1)).await.unwrap(), None);
        assert_eq!(records.instances(&context(), &[]).await.unwrap(), []);
        instance.power_state.set(Some(0));
        let refused = records.save(&context(), &mut instance, Expected::Any).await.unwrap_err();
        assert_eq!(refused.class(), Class::Absent);
    })
    .await;
}

#[tokio::test]
async fn what_isnt_on_record_is_absent() {
    over_all(async |world| {
        let records = &world.records;
        let uuid = world.uuid(5);
        assert_eq!(records.instance(&context(), uuid).await.unwrap(), None);
        assert_eq!(records.info_cache(&context(), uuid).await.unwrap(), None);
        assert_eq!(records.block_devices(&context(), uuid).await.unwrap().items(), []);
        let mut unknown = Instance::default();
        unknown.uuid.load(Some(uuid));
        unknown.id.load(Some(2_000_000_000));
        unknown.power_state.set(Some(1));
        let saved = records.save(&context(), &mut unknown.clone(), Expected::Any).await;
        assert_eq!(saved.unwrap_err().class(), Class::Absent);
        let cached = records.save_info_cache(&context(), &mut unknown.clone(), "[]".into()).await;
        assert_eq!(cached.unwrap_err().class(), Class::Absent);
        let destroyed = records.destroy(&context(), &mut unknown).await;
        assert_eq!(destroyed.unwrap_err().class(), Class::Absent);
    })
    .await;
}

#[tokio::test]
async fn the_network_is_recorded_without_a_save_of_the_instance() {
    over_all(async |world| {
        let records = &world.records;
        let mut instance = world.add(1).await;
        instance.power_state.set(Some(1));
        let network = r#"[{"id": "8f6b0dba-0000-4000-8000-000000000001", "meta": {}}]"#;
        records.save_info_cache(&context(), &mut instance, network.to_owned()).await.unwrap();
        let ids = |text: Option<&str>| {
            let vifs: serde_json::Value = serde_json::from_str(text.unwrap()).unwrap();
            vifs[0]["id"].as_str().unwrap().to_owned()
        };
        let own = instance.info_cache.value().unwrap();
        assert_eq!(ids(own.network_info.text()), ids(Some(network)));
        assert_eq!(instance.what_changed(), ["power_state".to_owned()].into());

        let found = records.info_cache(&context(), world.uuid(1)).await.unwrap().unwrap();
        assert_eq!(ids(found.network_info.text()), ids(Some(network)));
        let found = records.instance(&context(), world.uuid(1)).await.unwrap().unwrap();
        assert_eq!(ids(found.info_cache.value().unwrap().network_info.text()), ids(Some(network)));
        assert_eq!(found.power_state.value().copied().unwrap_or(0), 0);
    })
    .await;
}

#[tokio::test]
async fn a_disk_is_saved_read_and_taken_away() {
    over_all(async |world| {
        let records = &world.records;
        world.add(1).await;
        let mut disk = world.add_disk(1).await;
        disk.device_name.set(Some("/dev/vda".to_owned()));
        disk.disk_bus.set(Some("virtio".to_owned()));
        records.save_block_device(&context(), &mut disk).await.unwrap();
        assert!(disk.what_changed().is_empty());
        records.save_block_device(&context(), &mut disk).await.unwrap();

        let found = records.block_devices(&context(), world.uuid(1)).await.unwrap();
        let found = found.items();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].device_name.text(), Some("/dev/vda"));
        assert_eq!(found[0].boot_index.value(), Some(&0));
        assert_eq!(found[0].uuid, disk.uuid);

        records.destroy_block_device(&context(), &mut disk.clone()).await.unwrap();
        records.destroy_block_device(&context(), &mut disk).await.unwrap();
        assert_eq!(records.block_devices(&context(), world.uuid(1)).await.unwrap().items(), []);
    })
    .await;
}

/// Many at once: a compare-and-set is won by one.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_saves_that_expect_the_same_state_one_wins() {
    over_all(async |world| {
        let added = world.add(1).await;
        let saves = (0..8).map(async |_| {
            let mut instance = added.clone();
            instance.task_state.set(Some(TaskState::Networking));
            let expected = Expected::OneOf(vec![Some(TaskState::Scheduling)]);
            world.records.save(&context(), &mut instance, expected).await
        });
        let saves = futures_util::future::join_all(saves).await;
        assert_eq!(saves.iter().filter(|save| save.is_ok()).count(), 1, "{saves:?}");
    })
    .await;
}
