//! Rescues, rebuilds and shelvings: what becomes of the guest and its disks, whatever happens.

use serde_json::json;

use super::engine::Workflow;
use super::journal::{Phase, Record};
use super::named_image::{Image, NamedImage};
use super::rebuild::{self, Rebuild};
use super::reschedule::BuildArguments;
use super::rescue::{self, Rescue};
use super::shelve::Shelve;
use super::shelve_offload::ShelveOffload;
use super::soft_delete::SoftDelete;
use super::spawn::Build;
use super::unrescue::Unrescue;
use super::unshelve::Unshelve;
use super::volume_tests::{attached, spawn_with_volumes, with_volumes_to_build};
use super::world::{HasSubject, MemoryJournal, UUID, World, spawn_image, subject};
use crate::hypervisor::spec::{DiskSpec, DomainSpec};
use crate::images::fake::ImageCall;
use crate::images::sink::TargetImage;
use crate::model::class::Class;
use crate::model::object::ImageMeta;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::records::Records;
use crate::records::history::History;

const NEW: &str = "7d8f4b7e-29f5-4f6e-9a43-51e7d7a5c001";
const SHELVED: &str = "1f2a15e3-6b0b-4a9d-8f0c-6c31b4b2c9a7";

pub fn soft_delete() -> SoftDelete {
    SoftDelete::new(subject(TaskState::SoftDeleting, "soft_delete_instance"))
}

fn meta(properties: serde_json::Value) -> ImageMeta {
    let dict = json!({"status": "active", "name": "other", "properties": properties});
    ImageMeta::from_image_dict(&dict).unwrap()
}

fn described(id: &str, properties: serde_json::Value) -> NamedImage {
    let request = spawn_image(id);
    NamedImage::Described(Box::new(Image {
        meta: meta(properties),
        request,
        kernel: None,
        ramdisk: None,
    }))
}

fn rescue_with(image: NamedImage) -> Rescue {
    let asked = rescue::Asked { image: Some(image), password: None, clean: true };
    Rescue::new(subject(TaskState::Rescuing, "rescue_instance"), asked)
}

pub fn rescue() -> Rescue {
    rescue_with(NamedImage::Id { id: "medic".to_owned(), any_file: false })
}

pub fn rescue_in_place() -> Rescue {
    rescue_with(described("medic", json!({"hw_rescue_device": "cdrom", "hw_rescue_bus": "usb"})))
}

pub fn unrescue() -> Unrescue {
    Unrescue::new(subject(TaskState::Unrescuing, "unrescue_instance"))
}

pub fn rebuild(preserve_ephemeral: bool) -> Rebuild {
    let asked = rebuild::Asked {
        image: Some(described(NEW, json!({}))),
        original_image: Some("9ac5fd6a-073c-423e-8bb6-9593064b906d".to_owned()),
        original_metadata: None,
        admin_password: None,
        injected_files: Vec::new(),
        block_devices: None,
        preserve_ephemeral,
        is_evacuation: false,
        migration: None,
    };
    Rebuild::new(subject(TaskState::Rebuilding, "rebuild_instance"), asked)
}

pub fn shelve() -> Shelve {
    let image = TargetImage { id: SHELVED.to_owned(), any_file: false };
    Shelve::new(subject(TaskState::Shelving, "shelve_instance"), image, true)
}

pub fn offload() -> ShelveOffload {
    let subject = subject(TaskState::ShelvingOffloading, "shelve_offload_instance");
    ShelveOffload::new(subject, false)
}

pub fn unshelve() -> Unshelve {
    let subject = subject(TaskState::Unshelving, "unshelve_instance");
    Unshelve::new(subject, unshelve_build())
}

fn unshelve_build() -> Build {
    Build {
        image_meta: meta(json!({})),
        image: Some(spawn_image(SHELVED)),
        kernel: None,
        ramdisk: None,
        wanted: Default::default(),
        admin_password: None,
        injected_files: Vec::new(),
        block_devices: Vec::new(),
        limits: None,
        arguments: BuildArguments::default(),
    }
}

/// The same, where what is shelved leaves its host.
pub async fn offloading(prepared: impl Future<Output = World>) -> World {
    let mut world = prepared.await;
    world.settings.offload_at_once = true;
    world
}

/// A world whose instance is shelved, and on no host.
pub async fn offloaded() -> World {
    let world = offloading(World::with_guest()).await;
    done(&world, shelve()).await;
    world
}

/// Of one with a volume, and still on its host.
pub async fn shelved_with_a_volume() -> World {
    let world = attached().await;
    done(&world, shelve()).await;
    world
}

/// The same, of one with a volume.
pub async fn offloaded_with_a_volume() -> World {
    let world = offloading(attached()).await;
    done(&world, shelve()).await;
    let attachments = world.volumes.attachments();
    assert_eq!(attachments, [("vol-1".to_owned(), UUID, false, false)], "reserved, and on no host");
    assert!(world.connectors.connected().is_empty());
    world
}

async fn done<W: Workflow + HasSubject>(world: &World, workflow: W) -> Record<W> {
    let record = ended(world, workflow).await;
    assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
    record
}

async fn ended<W: Workflow + HasSubject>(world: &World, workflow: W) -> Record<W> {
    let mut record = world.record(workflow).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert!(record.head.settled);
    record
}

fn definition(world: &World) -> DomainSpec {
    world.hypervisor.get(UUID).unwrap().spec
}

/// (target, file name, boot order) of the domain's disks.
fn disks(world: &World) -> Vec<(String, String, Option<u32>)> {
    let disks = definition(world).disks.into_iter();
    let name = |disk: &DiskSpec| {
        disk.source.path().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
    };
    disks.map(|disk| (disk.target.clone(), name(&disk), disk.boot_order)).collect()
}

fn state(world: &World) -> (Option<VmState>, Option<TaskState>) {
    let record = world.records.all().remove(0);
    (record.vm_state.value().copied(), record.task_state.value().copied())
}

async fn fault(world: &World) -> String {
    world.records.faults(UUID).await.unwrap().remove(0).message
}

fn named(all: &[(&str, &str)]) -> Vec<(String, String, Option<u32>)> {
    all.iter().map(|(target, file)| ((*target).to_owned(), (*file).to_owned(), None)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_rescued_guest_boots_the_rescue_disk_and_has_its_own_beside_it() {
    let world = World::with_guest().await;
    let (before, own) = (definition(&world), world.images.directory(UUID).unwrap().disks);
    done(&world, rescue()).await;
    assert_eq!(state(&world), (Some(VmState::Rescued), None));
    let expected = [("vda", "disk.rescue"), ("vdb", "disk"), ("hda", "disk.config.rescue")];
    assert_eq!(disks(&world), named(&expected));
    let found = definition(&world);
    assert!(found.os.boot_devices.is_empty() && found.os.direct_kernel.is_none(), "{:?}", found.os);
    let now = world.images.directory(UUID).unwrap();
    assert!(own.iter().all(|disk| now.disks.contains(disk)) && now.kept.is_some());

    done(&world, unrescue()).await;
    assert_eq!(state(&world), (Some(VmState::Active), None));
    assert_eq!(definition(&world), before);
    let after = world.images.directory(UUID).unwrap();
    assert_eq!((after.disks, after.kept), (own, None));
}

#[tokio::test(start_paused = true)]
async fn a_rescue_in_place_adds_one_disk_and_boots_it() {
    let world = World::with_guest().await;
    let before = disks(&world);
    done(&world, rescue_in_place()).await;
    let mut expected = before.clone();
    expected.push(("sda".to_owned(), "disk.rescue".to_owned(), Some(1)));
    assert_eq!(disks(&world), expected);
    let last = definition(&world).disks.pop().unwrap();
    assert_eq!((last.device.as_str(), last.bus.as_str()), ("cdrom", "usb"));
    assert!(definition(&world).os.boot_devices.is_empty());
    done(&world, unrescue()).await;
    assert_eq!(disks(&world), before);
}

#[tokio::test(start_paused = true)]
async fn a_configured_kernel_boots_the_rescue_disk() {
    let mut world = World::with_guest().await;
    world.settings.rescue.kernel_id = Some("medic-kernel".to_owned());
    done(&world, rescue()).await;
    let kernel = definition(&world).os.direct_kernel.unwrap();
    assert!(kernel.kernel.ends_with("kernel.rescue") && kernel.ramdisk.is_none());
    assert!(kernel.command_line.starts_with("root=/dev/vda "), "{}", kernel.command_line);
}

#[tokio::test(start_paused = true)]
async fn a_rescue_image_that_is_not_there_costs_the_guest_nothing() {
    for (call, message) in [
        (None, "Image medic could not be found."),
        (Some(ImageCall::Cache), "Driver Error: "),
        (Some(ImageCall::CreateRescueRoot), "Driver Error: "),
    ] {
        let world = World::with_guest().await;
        match call {
            Some(call) => world.images.fail_at(call),
            None => world.images.forget_image("medic"),
        }
        let before = world.state().await;
        let record = ended(&world, rescue()).await;
        assert_eq!(record.head.phase, Phase::Undone);
        assert!(fault(&world).await.contains(message), "{}", fault(&world).await);
        assert_eq!(world.hypervisor.get(UUID).unwrap().boots, 1, "{call:?}");
        assert_eq!(world.state().await, before, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rescue_that_the_hypervisor_refuses_gives_the_guest_back() {
    let world = World::with_guest().await;
    let before = definition(&world);
    world.hypervisor.fail_with("start", Class::Refused, 1);
    ended(&world, rescue()).await;
    assert_eq!(state(&world), (Some(VmState::Active), None));
    let guest = world.hypervisor.get(UUID).unwrap();
    assert_eq!((guest.power_state, guest.boots), (PowerState::Running, 2));
    assert_eq!(guest.spec, before);
    let expected = "cannot be rescued: Driver Error: the fake was told to fail";
    assert!(fault(&world).await.contains(expected), "{}", fault(&world).await);
}

#[tokio::test(start_paused = true)]
async fn a_second_rescue_keeps_the_first_definition() {
    let world = World::with_guest().await;
    let before = definition(&world);
    done(&world, rescue()).await;
    // As an administrator's reset leaves it.
    world.change(|instance| instance.vm_state.set(Some(VmState::Error))).await;
    done(&world, rescue_in_place()).await;
    done(&world, unrescue()).await;
    assert_eq!(definition(&world), before);
}

#[tokio::test(start_paused = true)]
async fn an_unrescue_without_the_definition_makes_it_from_the_record() {
    use crate::images::RescueFiles;
    let world = World::with_guest().await;
    let before = disks(&world);
    done(&world, rescue()).await;
    world.images.forget_definition(UUID).await.unwrap();
    done(&world, unrescue()).await;
    assert_eq!(disks(&world), before);
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_makes_new_disks_and_keeps_those_it_is_told_to() {
    for preserves in [false, true] {
        let world = World::with_guest().await;
        done(&world, rebuild(preserves)).await;
        assert_eq!(state(&world), (Some(VmState::Active), None));
        let record = world.records.all().remove(0);
        assert_eq!(record.image_ref.text(), Some(NEW));
        assert_eq!(record.system_metadata("image_base_image_ref"), Some(NEW));
        let kept: Vec<String> = match preserves {
            true => ["disk.eph0", "disk.eph1"].map(str::to_owned).to_vec(),
            false => Vec::new(),
        };
        assert_eq!(world.images.cleared(), [kept]);
        assert_eq!(world.hypervisor.get(UUID).unwrap().boots, 1, "it is a new domain");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_without_its_image_leaves_the_guest_running() {
    let world = World::with_guest().await;
    world.images.fail_at(ImageCall::Cache);
    ended(&world, rebuild(false)).await;
    assert_eq!(state(&world), (Some(VmState::Error), None));
    assert_eq!(world.hypervisor.get(UUID).unwrap().power_state, PowerState::Running);
    assert!(world.images.cleared().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_evacuation_is_refused_and_touches_nothing() {
    let world = World::with_guest().await;
    let before = world.state().await;
    let mut workflow = rebuild(false);
    workflow.set_evacuation();
    ended(&world, workflow).await;
    assert_eq!(fault(&world).await, "Instance evacuate is not supported.");
    assert_eq!(world.node.refused_evacuations(), [UUID]);
    assert_eq!(world.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn what_is_shelved_and_offloaded_leaves_nothing_but_its_image_and_its_ports() {
    let world = offloaded().await;
    let record = world.records.all().remove(0);
    assert_eq!(state(&world), (Some(VmState::ShelvedOffloaded), None));
    assert_eq!((record.host.value(), record.node.value()), (None, None));
    assert_eq!(record.system_metadata("shelved_image_id"), Some(SHELVED));
    assert_eq!(record.system_metadata("shelved_host"), Some("host1"));
    let state = world.state().await;
    for (part, nothing) in [
        ("domain", json!(null)),
        ("directories", json!([])),
        ("plugged", json!(0)),
        ("claimed", json!(0)),
    ] {
        assert_eq!(state[part], nothing, "{part}");
    }
    assert_eq!((&state["allocated"], &state["is_unbound"]), (&json!(1), &json!(true)));
    assert!(world.sink.images().contains_key(SHELVED));

    done(&world, unshelve()).await;
    assert_eq!(self::state(&world), (Some(VmState::Active), None));
    let record = world.records.all().remove(0);
    assert_eq!(record.host.text(), Some("host1"));
    assert_eq!(record.system_metadata("shelved_image_id"), None);
    assert!(!world.sink.images().contains_key(SHELVED), "its image goes");
    let state = world.state().await;
    assert_eq!((&state["claimed"], &state["is_unbound"]), (&json!(1), &json!(false)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_offloaded_that_has_no_image() {
    let world = World::with_guest().await;
    let before = world.state().await;
    ended(&world, offload()).await;
    assert_eq!(world.state().await, before);
    assert!(fault(&world).await.contains("its disk stays"));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_kept_has_the_guest_run_again() {
    use crate::images::sink::fake::SinkCall;
    let world = offloading(World::with_guest()).await;
    world.sink.fail_at(SinkCall::Fill);
    ended(&world, shelve()).await;
    assert_eq!(state(&world), (Some(VmState::Active), None));
    let guest = world.hypervisor.get(UUID).unwrap();
    assert_eq!((guest.power_state, guest.boots), (PowerState::Running, 2));
    assert!(world.sink.images().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unshelve_that_fails_leaves_the_image_and_no_host() {
    for call in ["define", "start"] {
        let world = offloaded().await;
        world.hypervisor.fail_with(call, Class::Refused, 1);
        ended(&world, unshelve()).await;
        assert_eq!(state(&world), (Some(VmState::ShelvedOffloaded), None));
        assert!(world.sink.images().contains_key(SHELVED));
        let left = world.state().await;
        assert_eq!((&left["domain"], &left["directories"]), (&json!(null), &json!([])));
        assert_eq!(world.records.all()[0].host.value(), None);
        // The user asks again.
        done(&world, unshelve()).await;
    }
}

/// The serial numbers of the domain's volumes.
fn volumes(world: &World) -> Vec<String> {
    definition(world).disks.into_iter().filter_map(|disk| disk.serial).collect()
}

#[tokio::test(start_paused = true)]
async fn volumes_stay_with_a_rebuilt_and_a_rescued_guest() {
    let world = attached().await;
    let (before, rights) = (volumes(&world), world.volumes.attachments());
    assert_eq!(before.len(), 1);
    done(&world, rescue_in_place()).await;
    assert_eq!(volumes(&world), before);
    done(&world, unrescue()).await;
    // One that comes first boots alone, and gives the volumes back with the definition.
    done(&world, rescue()).await;
    assert_eq!(volumes(&world), [""; 0]);
    done(&world, unrescue()).await;
    assert_eq!(volumes(&world), before);
    done(&world, rebuild(false)).await;
    assert_eq!((volumes(&world), world.volumes.attachments()), (before, rights));
}

#[tokio::test(start_paused = true)]
async fn volumes_of_an_offloaded_instance_are_kept_for_it() {
    let world = offloading(attached()).await;
    let before = volumes(&world);
    let right = || async {
        let context = crate::model::context::RequestContext::admin();
        let devices = world.records.block_devices(&context, UUID).await.unwrap().into_items();
        devices.into_iter().find_map(|device| device.attachment_id.value().copied()).unwrap()
    };
    let first = right().await;
    // What doesn't answer at once is asked again, and no right is left over.
    world.volumes.fail_at("close");
    done(&world, shelve()).await;
    assert_ne!(right().await, first);
    // One right, which is open to no host.
    let rights = world.volumes.attachments();
    assert_eq!(rights.len(), 1, "{rights:?}");
    assert_eq!((rights[0].1, rights[0].2), (UUID, false));
    assert_eq!(world.state().await["connected"], json!([]));
    done(&world, unshelve()).await;
    assert_eq!(volumes(&world), before);
    let rights = world.volumes.attachments();
    assert!(rights.len() == 1 && rights[0].2 && rights[0].3, "{rights:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_boots_from_a_volume_is_offloaded_without_an_image() {
    let world = with_volumes_to_build().await;
    done(&world, spawn_with_volumes()).await;
    let before = volumes(&world);
    done(&world, offload()).await;
    assert_eq!(state(&world).0, Some(VmState::ShelvedOffloaded));
    let mut build = unshelve_build();
    build.image = None;
    let subject = subject(TaskState::Unshelving, "unshelve_instance");
    done(&world, Unshelve::new(subject, build)).await;
    assert_eq!(volumes(&world), before);
    ended(&world, rebuild(false)).await;
    assert!(fault(&world).await.contains("a new image on a volume is not supported"));
}
