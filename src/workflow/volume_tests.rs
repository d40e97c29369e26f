//! Volumes that come to guests and go from them, over the fakes.

use std::pin::Pin;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::attach_volume::AttachVolume;
use super::detach_volume::DetachVolume;
use super::instance::Subject;
use super::journal::Phase;
use super::power_off::PowerOff;
use super::reboot::{Kind, Reboot};
use super::remove_connection::RemoveConnection;
use super::reserve_device::{Asked, ReserveDevice};
use super::spawn::Spawn;
use super::swap_volume::{Swap, SwapVolume};
use super::terminate::Terminate;
use super::world::{HasSubject, MemoryJournal, UUID, World, instance, spawn, subject};
use super::{StepError, engine::Workflow};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::spec::{DiskSource, DiskSpec, DomainSpec};
use crate::model::context::RequestContext;
use crate::model::object::{BlockDeviceMapping, DestinationType, SourceType};
use crate::model::state::{TaskState, VmState};
use crate::records::Records;
use crate::volumes::VolumeError;
use crate::volumes::fake::FakeVolume;

type Prepared = Pin<Box<dyn Future<Output = World>>>;

const VOLUME: &str = "vol-1";

fn without_task(method: &str) -> Subject {
    Subject::new(instance(None), method)
}

fn subject_of_a_hard_reboot() -> Subject {
    subject(TaskState::RebootingHard, "reboot_instance")
}

/// The volume's record as nova-api sends it.
fn device() -> BlockDeviceMapping {
    let mut device = BlockDeviceMapping::default();
    device.uuid.load(Some(Uuid::from_u128(0xb0)));
    device.instance_uuid.load(Some(UUID));
    device.source_type.load(Some(Some(SourceType::Volume)));
    device.destination_type.load(Some(Some(DestinationType::Volume)));
    device.volume_id.load(Some(Some(VOLUME.to_owned())));
    device.device_name.load(Some(Some("/dev/vde".to_owned())));
    // The fake's first.
    device.attachment_id.load(Some(Some(Uuid::from_u128(0xa77a_c000))));
    device
}

pub fn attach() -> AttachVolume {
    AttachVolume::new(without_task("attach_volume"), device())
}

pub fn detach() -> DetachVolume {
    DetachVolume::new(without_task("detach_volume"), VOLUME.to_owned())
}

pub fn reserve() -> ReserveDevice {
    let asked =
        Asked { volume_id: VOLUME.to_owned(), disk_bus: None, device_type: None, tag: None };
    ReserveDevice::new(without_task("reserve_block_device_name"), asked)
}

pub fn swap() -> SwapVolume {
    let attachment = Some(Uuid::from_u128(0xa77a_c001));
    let (old, new) = (VOLUME.to_owned(), "vol-2".to_owned());
    let swap = Swap { old, new, attachment, connection: None };
    SwapVolume::new(without_task("swap_volume"), swap)
}

pub fn remove_connection() -> RemoveConnection {
    RemoveConnection::new(without_task("remove_volume_connection"), VOLUME.to_owned(), true)
}

/// A guest has a volume, and a larger one is reserved to take its place.
pub fn with_two_volumes() -> Prepared {
    Box::pin(async {
        let world = attached().await;
        let volume = FakeVolume { status: "reserved".into(), size_gib: 2, ..FakeVolume::default() };
        world.volumes.add("vol-2", volume);
        world.volumes.attachment("vol-2", UUID);
        world
    })
}

async fn done<W: Workflow + HasSubject>(world: &World, workflow: W) {
    let mut record = world.record(workflow).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
}

/// Runs it to its end, and says what stopped it.
async fn failed<W: Workflow + HasSubject>(world: &World, workflow: W) -> (StepError, Phase) {
    let mut record = world.record(workflow).await;
    let error = world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    (error.expect("it failed"), record.head.phase)
}

async fn add_volume(world: &World) {
    let volume = FakeVolume { status: "reserved".into(), size_gib: 1, ..FakeVolume::default() };
    world.volumes.add(VOLUME, volume);
    world.volumes.attachment(VOLUME, UUID);
    let mut device = device();
    world.records.save_block_device(&RequestContext::admin(), &mut device).await.unwrap();
}

/// A guest runs, and nova-api has reserved a volume for it.
pub fn reserved() -> Prepared {
    Box::pin(async {
        let world = World::with_guest().await;
        add_volume(&world).await;
        world
    })
}

/// The same, and its guest is off.
pub fn reserved_stopped() -> Prepared {
    Box::pin(async {
        let world = reserved().await;
        done(&world, PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), false)).await;
        world
    })
}

/// A guest runs, and has a volume.
pub fn attached() -> Prepared {
    Box::pin(async {
        let world = reserved().await;
        done(&world, attach()).await;
        world
    })
}

pub fn attached_stopped() -> Prepared {
    Box::pin(async {
        let world = attached().await;
        done(&world, PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), false)).await;
        world
    })
}

fn asked(source: SourceType, number: u128) -> BlockDeviceMapping {
    let mut device = BlockDeviceMapping::default();
    device.uuid.load(Some(Uuid::from_u128(number)));
    device.instance_uuid.load(Some(UUID));
    device.source_type.load(Some(Some(source)));
    device.destination_type.load(Some(Some(DestinationType::Volume)));
    device.volume_size.load(Some(Some(1)));
    device.delete_on_termination.load(Some(source == SourceType::Blank));
    device.boot_index.load(Some(Some(if source == SourceType::Image { 0 } else { -1 })));
    device
}

/// A build of a guest that boots from a volume made of an image, with one made of nothing, one of a
/// snapshot, and one that is there.
pub fn spawn_with_volumes() -> Spawn {
    let mut spawn = spawn();
    let mut image = asked(SourceType::Image, 1);
    image.image_id.load(Some(Some("9ac5fd6a-073c-423e-8bb6-9593064b906d".into())));
    let mut snapshot = asked(SourceType::Snapshot, 3);
    snapshot.snapshot_id.load(Some(Some("snap".into())));
    let mut there = asked(SourceType::Volume, 4);
    there.volume_id.load(Some(Some(VOLUME.into())));
    there.attachment_id.load(Some(Some(Uuid::from_u128(0xa77a_c000))));
    spawn.ask_for(vec![image, asked(SourceType::Blank, 2), snapshot, there]);
    spawn
}

/// What is there before such a build: nova-api has reserved a volume, and recorded the disks.
pub fn with_volumes_to_build() -> Prepared {
    Box::pin(async {
        let world = World::new();
        let volume = FakeVolume { status: "reserved".into(), size_gib: 1, ..FakeVolume::default() };
        world.volumes.add(VOLUME, volume);
        world.volumes.attachment(VOLUME, UUID);
        world
    })
}

fn domain(world: &World) -> DomainSpec {
    world.hypervisor.get(UUID).unwrap().spec
}

fn volume_disks(world: &World) -> Vec<DiskSpec> {
    domain(world).disks.into_iter().filter(|disk| disk.serial.is_some()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_volume_comes_to_a_running_guest_and_goes_again() {
    let mut world = attached().await;
    world.settings.volumes.counts_use = true;
    let disks = volume_disks(&world);
    assert_eq!(disks.len(), 1);
    let disk = &disks[0];
    assert_eq!((&*disk.target, &*disk.bus, &*disk.device), ("vde", "virtio", "disk"));
    assert_eq!(disk.source, DiskSource::File("/volumes/vol-1".into()));
    assert_eq!(disk.serial.as_deref(), Some(VOLUME));
    assert_eq!(world.volumes.attachments(), [(VOLUME.to_owned(), UUID, true, true)]);
    assert_eq!(world.volumes.all()[VOLUME].status, "in-use");
    let volume = (String::from("vde"), VOLUME.to_owned());
    assert_eq!(world.hypervisor.volumes(UUID), [vec![volume.clone()], vec![volume]]);
    let state = world.state().await;
    assert_eq!(state["devices"][4], json!(["/dev/vde", VOLUME, true]));
    assert_eq!((&state["record"][0], &state["record"][1]), (&json!("active"), &json!(null)));

    done(&world, detach()).await;
    let usages = world.records.usages();
    assert!(usages.len() == 1 && usages[0].1, "it is counted at its end: {usages:?}");
    let state = world.state().await;
    assert_eq!(state["attachments"], json!([]));
    assert_eq!(state["connected"], json!([]));
    assert_eq!(state["guest_volumes"], json!([[], []]));
    assert_eq!(state["devices"].as_array().unwrap().len(), 4);
    assert_eq!(world.volumes.all()[VOLUME].status, "available");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_keeps_the_disk_is_asked_again_and_then_left_with_it() {
    let world = attached().await;
    world.hypervisor.keep_disks(UUID, Some(2));
    let begun = Instant::now();
    done(&world, detach()).await;
    assert!(begun.elapsed() >= Duration::from_secs(40), "{:?}", begun.elapsed());

    let world = attached().await;
    let before = world.state().await;
    world.hypervisor.keep_disks(UUID, None);
    let begun = Instant::now();
    let (error, phase) = failed(&world, detach()).await;
    assert!(matches!(error, StepError::Volume(VolumeError::NotReleased { .. })), "{error}");
    assert_eq!(phase, Phase::Undone);
    let passed = begun.elapsed();
    assert!((160..170).contains(&passed.as_secs()), "eight times twenty seconds: {passed:?}");
    assert_eq!(world.state().await, before, "it stays connected, and in its definition");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_refuses_is_not_asked_again() {
    let world = attached().await;
    world.hypervisor.refuse_releases(UUID);
    let begun = Instant::now();
    let (error, _) = failed(&world, detach()).await;
    assert!(matches!(error, StepError::Volume(VolumeError::NotReleased { .. })), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(world.hypervisor.volumes(UUID)[0].len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_this_instance_s_is_left_alone() {
    let world = attached().await;
    let before = world.state().await;
    // Once more, as a message that came late.
    let (error, _) = failed(&world, attach()).await;
    assert!(matches!(error, StepError::Volume(VolumeError::Invalid(_))), "{error}");
    assert_eq!(world.state().await, before);
    // A record of another instance's, or none.
    let mut other = device();
    other.uuid.load(Some(Uuid::from_u128(0xb1)));
    let other = AttachVolume::new(without_task("attach_volume"), other);
    let (error, _) = failed(&world, other).await;
    assert!(matches!(error, StepError::Volume(VolumeError::NotAttached(_))), "{error}");
    let other = DetachVolume::new(without_task("detach_volume"), "vol-2".to_owned());
    let (error, _) = failed(&world, other).await;
    assert!(matches!(error, StepError::Volume(VolumeError::NotAttached(_))), "{error}");
    assert_eq!(world.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_reserved_once() {
    let world = World::with_guest().await;
    done(&world, reserve()).await;
    assert_eq!(world.state().await["devices"][4], json!(["/dev/vde", VOLUME, false]));
    let (error, _) = failed(&world, reserve()).await;
    assert!(matches!(error, StepError::Volume(VolumeError::Invalid(_))), "{error}");
    assert_eq!(world.state().await["devices"].as_array().unwrap().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_guest_boots_from_a_volume_that_is_made_for_it() {
    let world = with_volumes_to_build().await;
    done(&world, spawn_with_volumes()).await;
    let volumes = world.volumes.all();
    let made = |id: &str| volumes[id].made_of.clone();
    let image = made("made-1").image;
    assert_eq!(image.as_deref(), Some("9ac5fd6a-073c-423e-8bb6-9593064b906d"));
    assert_eq!(made("made-2").name, format!("{UUID}-blank-vol"));
    assert_eq!(made("made-3").snapshot.as_deref(), Some("snap"));
    assert_eq!(made("made-3").volume_type.as_deref(), Some("type-of-its-volume"));
    let spec = domain(&world);
    let disks: Vec<_> = spec
        .disks
        .iter()
        .map(|disk| (disk.target.as_str(), disk.serial.as_deref().unwrap_or("-")))
        .collect();
    // The flavor's ephemeral and swap disks, then the config drive, then the volumes.
    let expected = [
        ("vdb", "-"),
        ("vdc", "-"),
        ("hda", "-"),
        ("vda", "made-1"),
        ("vdd", "made-2"),
        ("vde", "made-3"),
        ("vdf", VOLUME),
    ];
    assert_eq!(disks, expected);
    let files = world.images.directory(UUID).unwrap().disks;
    assert!(!files.iter().any(|disk| disk.path.ends_with("disk")), "{files:?}");
    assert!(world.volumes.attachments().iter().all(|(.., open, complete)| *open && *complete));

    let mut record =
        world.record(Terminate::new(subject(TaskState::Deleting, "terminate_instance"))).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    let left: Vec<_> = world.volumes.all().into_keys().collect();
    assert_eq!(left, ["made-1", "made-3", VOLUME], "only what is to go with it goes");
    let state = world.state().await;
    assert_eq!((&state["attachments"], &state["connected"]), (&json!([]), &json!([])));
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_does_not_come_about_ends_the_build() {
    let world = with_volumes_to_build().await;
    world.volumes.fail_at("create");
    world.volumes.fail_at("reserve");
    let mut record = world.record(spawn_with_volumes()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Done, "one that fails once is asked again");

    let world = with_volumes_to_build().await;
    world.volumes.break_off();
    let mut record = world.record(spawn_with_volumes()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    let records = world.records.all();
    assert_eq!(records[0].vm_state.value(), Some(&VmState::Error));
}

#[tokio::test(start_paused = true)]
async fn an_encrypted_volume_is_opened_by_a_secret_of_libvirt() {
    let world = reserved().await;
    let volume = FakeVolume {
        status: "reserved".into(),
        size_gib: 1,
        passphrase: Some("s3cret".into()),
        ..FakeVolume::default()
    };
    world.volumes.add(VOLUME, volume);
    done(&world, attach()).await;
    assert_eq!(world.hypervisor.kept_secret(VOLUME).unwrap().expose(), "s3cret");
    let secret = world.hypervisor.volume_secret(VOLUME).await.unwrap();
    assert_eq!(volume_disks(&world)[0].luks_secret, secret);
    done(&world, detach()).await;
    assert!(world.hypervisor.kept_secret(VOLUME).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_guest_goes_on_with_another_volume() {
    let world = with_two_volumes().await;
    world.hypervisor.set_copy_time(Duration::from_secs(30));
    done(&world, swap()).await;
    let disks = volume_disks(&world);
    assert_eq!(disks.len(), 1);
    assert_eq!(disks[0].source, DiskSource::File("/volumes/vol-2".into()));
    assert_eq!(world.hypervisor.told_size(UUID, "vde"), Some(2 << 30));
    let attachments = world.volumes.attachments();
    assert_eq!(attachments, [("vol-2".to_owned(), UUID, true, true)]);
    assert_eq!(world.connectors.connected(), [("vol-2".to_owned(), UUID)]);
    assert_eq!(world.state().await["devices"][4], json!(["/dev/vde", "vol-2", true]));
    done(&world, DetachVolume::new(without_task("detach_volume"), "vol-2".to_owned())).await;
    assert!(volume_disks(&world).is_empty());

    // A copy that fails leaves the guest where it was.
    let world = with_two_volumes().await;
    world.hypervisor.fail_copies();
    let (error, phase) = failed(&world, swap()).await;
    assert!(matches!(error, StepError::CopyFailed { .. }), "{error}");
    assert_eq!(phase, Phase::Undone);
    assert_eq!(world.connectors.connected(), [(VOLUME.to_owned(), UUID)]);
    assert_eq!(world.volumes.attachments().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_removed_leaves_the_record() {
    for closes in [false, true] {
        let world = attached().await;
        let subject = without_task("remove_volume_connection");
        done(&world, RemoveConnection::new(subject, VOLUME.to_owned(), closes)).await;
        assert!(volume_disks(&world).is_empty() && world.connectors.connected().is_empty());
        assert_eq!(world.volumes.attachments().is_empty(), closes);
        let state = world.state().await;
        assert_eq!(state["devices"][4], json!(["/dev/vde", VOLUME, true]));
        // The volume comes back with the next definition: the instance has it still.
        if !closes {
            let reboot = Reboot::new(subject_of_a_hard_reboot(), Kind::Hard);
            done(&world, reboot).await;
            assert_eq!(volume_disks(&world).len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_several_guests_is_shared() {
    let world = reserved().await;
    let volume = FakeVolume { is_multiattach: true, ..FakeVolume::default() };
    world.volumes.add(VOLUME, volume);
    done(&world, attach()).await;
    assert!(volume_disks(&world)[0].shareable);
}
