//! What happens when answers don't come.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::fake::{FakeConductor, Mishap};
use super::*;
use crate::model::object::{ComputeNode, Instance, InstanceFault as FaultObject, VirtualInterface};
use crate::model::state::{TaskState, VmState};
use crate::records::{Expected, InstanceFault, Records, RecordsError};

const UUID: Uuid = Uuid::from_u128(7);

fn world() -> (Arc<FakeConductor>, ConductorRecords) {
    let fake = Arc::new(FakeConductor::new());
    let conductor = Conductor::new(fake.clone(), ConductorOptions::new(Duration::from_secs(60)));
    (fake, ConductorRecords::new(conductor, "h1"))
}

fn spawning(fake: &FakeConductor) -> Instance {
    let mut instance = Instance::default();
    instance.id.load(Some(3));
    instance.uuid.load(Some(UUID));
    instance.host.load(Some(Some("h1".to_owned())));
    instance.vm_state.load(Some(Some(VmState::Building)));
    instance.task_state.load(Some(Some(TaskState::Spawning)));
    fake.add(&instance);
    instance
}

fn activate(instance: &mut Instance) {
    instance.vm_state.set(Some(VmState::Active));
    instance.task_state.set(None);
}

fn while_spawning() -> Expected {
    Expected::OneOf(vec![Some(TaskState::Spawning)])
}

fn on_record(fake: &FakeConductor) -> Instance {
    fake.rows::<Instance>().remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_save_whose_answer_was_lost_is_recognised() {
    let (fake, records) = world();
    let mut instance = spawning(&fake);
    activate(&mut instance);
    fake.mishap("Instance.save", Mishap::LostAnswer);
    records.save(&RequestContext::admin(), &mut instance, while_spawning()).await.unwrap();
    assert_eq!(on_record(&fake).vm_state.value(), Some(&VmState::Active));
    assert!(instance.what_changed().is_empty());
    assert_eq!(fake.take_calls(), ["Instance.save", "Instance.get_by_uuid"]);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_was_lost_is_sent_again() {
    let (fake, records) = world();
    let mut instance = spawning(&fake);
    activate(&mut instance);
    fake.mishap("Instance.save", Mishap::LostRequest);
    fake.mishap("Instance.save", Mishap::Unsent);
    records.save(&RequestContext::admin(), &mut instance, while_spawning()).await.unwrap();
    assert_eq!(on_record(&fake).vm_state.value(), Some(&VmState::Active));
    assert!(instance.what_changed().is_empty());
}

/// The user stops the instance as soon as it is active, before we know that we saved that.
#[tokio::test(start_paused = true)]
async fn a_task_state_that_moved_on_after_our_save_is_left_alone() {
    let (fake, records) = world();
    let mut instance = spawning(&fake);
    activate(&mut instance);
    fake.mishap("Instance.save", Mishap::LostAnswer);
    let context = RequestContext::admin();
    let save = records.save(&context, &mut instance, while_spawning());
    let user = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        fake.change("Instance", |row| {
            row.insert("task_state".to_owned(), json!("powering-off"));
        });
    };
    let (saved, ()) = tokio::join!(save, user);
    saved.unwrap();
    assert_eq!(on_record(&fake).task_state.value(), Some(&TaskState::PoweringOff));
    assert_eq!(instance.task_state.value(), Some(&TaskState::PoweringOff));
}

#[tokio::test(start_paused = true)]
async fn a_lost_save_of_an_instance_that_is_deleted_meanwhile_is_refused() {
    let (fake, records) = world();
    let mut instance = spawning(&fake);
    activate(&mut instance);
    fake.mishap("Instance.save", Mishap::LostRequest);
    let context = RequestContext::admin();
    let save = records.save(&context, &mut instance, while_spawning());
    let user = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        fake.change("Instance", |row| {
            row.insert("task_state".to_owned(), json!("deleting"));
        });
    };
    let (saved, ()) = tokio::join!(save, user);
    assert!(matches!(saved, Err(RecordsError::Deleting(UUID))), "{saved:?}");
    assert_eq!(on_record(&fake).vm_state.value(), Some(&VmState::Building));
}

#[tokio::test(start_paused = true)]
async fn a_conductor_that_stays_away_is_given_up() {
    let (fake, records) = world();
    let mut instance = spawning(&fake);
    activate(&mut instance);
    fake.mishap("Instance.save", Mishap::LostRequest);
    for _ in 0..3 {
        fake.mishap("Instance.get_by_uuid", Mishap::LostRequest);
    }
    let begun = tokio::time::Instant::now();
    let saved = records.save(&RequestContext::admin(), &mut instance, while_spawning()).await;
    let error = saved.unwrap_err();
    assert_eq!(error.class(), crate::model::class::Class::Transient);
    assert_eq!(
        error.to_string(),
        "nova-conductor gave no answer to Instance.get_by_uuid in 3 tries of 60s"
    );
    assert!(begun.elapsed() < Duration::from_secs(250), "{:?}", begun.elapsed());
    assert!(instance.vm_state.is_changed(), "still to be saved");
}

#[tokio::test(start_paused = true)]
async fn what_can_be_asked_twice_is_asked_again_when_it_could_not_be_sent() {
    let (fake, records) = world();
    spawning(&fake);
    fake.mishap("InstanceList.get_by_host", Mishap::Unsent);
    fake.mishap("InstanceList.get_by_host", Mishap::LostAnswer);
    let found = records.instances(&RequestContext::admin(), &[]).await.unwrap();
    assert_eq!(found.len(), 1);
    let error = Raised::nova("Boom", "no");
    fake.mishap("InstanceList.get_by_host", Mishap::Raised(error));
    assert!(records.instances(&RequestContext::admin(), &[]).await.is_err());
    assert_eq!(fake.take_calls().len(), 4, "what was raised isn't asked again");
}

#[tokio::test(start_paused = true)]
async fn what_creates_a_row_creates_one() {
    let (fake, records) = world();
    spawning(&fake);
    let (context, conductor) = (RequestContext::admin(), records.conductor());
    for mishap in [Mishap::LostAnswer, Mishap::LostRequest] {
        fake.mishap("InstanceFault.create", mishap.clone());
        fake.mishap("VirtualInterface.create", mishap.clone());
        fake.mishap("ComputeNode.create", mishap.clone());
        let message = format!("{mishap:?}");
        let fault = InstanceFault { code: 500, message, details: String::new() };
        records.record_fault(&context, UUID, fault).await.unwrap();

        let uuid = Uuid::new_v4();
        let mut interface = VirtualInterface::default();
        interface.uuid.set(uuid);
        interface.instance_uuid.set(UUID);
        conductor.create_interface(&context, &mut interface).await.unwrap();
        assert!(interface.id.is_set());
        let mut again = VirtualInterface::default();
        again.uuid.set(uuid);
        again.instance_uuid.set(UUID);
        conductor.create_interface(&context, &mut again).await.unwrap();
        assert_eq!(again.id, interface.id, "a step that is done twice");

        let mut node = ComputeNode::default();
        node.uuid.set(uuid);
        node.host.set(Some("h1".to_owned()));
        conductor.create_node(&context, &mut node).await.unwrap();
        assert!(node.id.is_set() && node.what_changed().is_empty());
    }
    assert_eq!(fake.rows::<FaultObject>().len(), 2);
    assert_eq!(fake.rows::<VirtualInterface>().len(), 2);
    assert_eq!(fake.rows::<ComputeNode>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_interface_of_another_instance_is_refused() {
    let (fake, records) = world();
    spawning(&fake);
    let mut interface = VirtualInterface::default();
    interface.uuid.set(UUID);
    interface.instance_uuid.set(Uuid::from_u128(8));
    fake.add(&interface);
    interface.instance_uuid.set(UUID);
    let context = RequestContext::admin();
    let refused = records.conductor().create_interface(&context, &mut interface).await;
    assert!(refused.unwrap_err().is("VirtualInterfaceCreateException"));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_conductor_ends_with_it_or_with_the_agent() {
    let (fake, records) = world();
    for _ in 0..12 {
        fake.mishap("ping", Mishap::LostRequest);
    }
    fake.mishap("ping", Mishap::Unsent);
    let stop = CancellationToken::new();
    assert!(records.conductor().wait_until_ready(&stop).await);
    assert_eq!(fake.take_calls().len(), 14);

    fake.mishap("ping", Mishap::LostRequest);
    stop.cancel();
    assert!(!records.conductor().wait_until_ready(&stop).await);
}

#[tokio::test]
async fn a_build_goes_back_with_its_arguments() {
    let (fake, records) = world();
    let instance = spawning(&fake);
    let args = json!({"instances": [instance.to_primitive()], "host_lists": [[]]});
    let args = args.as_object().unwrap().clone();
    records.conductor().build_instances(&RequestContext::admin(), args).await.unwrap();
    let sent = fake.take_sent();
    assert_eq!(
        (sent[0].topic, sent[0].method, sent[0].to_all),
        ("conductor", "build_instances", false)
    );
    assert_eq!(sent[0].args["instances"][0], instance.to_primitive());
    assert_eq!(sent[0].args["host_lists"], json!([[]]));
}

#[tokio::test]
async fn a_level_that_is_too_low_stops_every_call_before_it_is_sent() {
    let fake = Arc::new(FakeConductor::new());
    let conductor_cap = VersionCap::of("conductor", Some("kilo")).unwrap();
    let options =
        ConductorOptions { conductor_cap, ..ConductorOptions::new(Duration::from_secs(1)) };
    let conductor = Conductor::new(fake.clone(), options);
    let refused = conductor.minimum_version(&RequestContext::admin(), "nova-compute").await;
    assert!(matches!(refused, Err(ConductorError::Capped { .. })), "{refused:?}");
    assert_eq!(fake.take_calls(), [""; 0]);
}

#[tokio::test]
async fn an_object_is_asked_for_at_the_versions_that_are_read_here() {
    let (fake, records) = world();
    let mut newer = spawning(&fake).to_primitive();
    newer["nova_object.version"] = json!("2.8");
    let context = RequestContext::admin();
    let instance: Instance = records.conductor().backport(&context, &newer).await.unwrap();
    assert_eq!(instance.uuid.get(), Some(&UUID));
    assert_eq!(fake.take_calls(), ["Instance.object_backport_versions"]);
}
