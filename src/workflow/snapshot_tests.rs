//! What becomes of the guest, the files and the image, whatever happens to a snapshot.

use std::time::Duration;

use super::board::Running;
use super::engine::Controls;
use super::journal::{Phase, Record};
use super::pause::Pause;
use super::power_off::PowerOff;
use super::snapshot::{Kind, Snapshot};
use super::world::{MemoryJournal, UUID, World, subject};
use crate::images::sink::TargetImage;
use crate::images::sink::fake::SinkCall;
use crate::images::snapshots::SnapshotFormat;
use crate::images::snapshots::fake::SnapshotCall;
use crate::model::class::Class;
use crate::model::state::{PowerState, TaskState, VmState};

const IMAGE: &str = "93a15203-f3a0-4a0c-90ba-2fa6aad90db2";

fn image() -> TargetImage {
    TargetImage { id: IMAGE.to_owned(), any_file: false }
}

pub fn snapshot() -> Snapshot {
    let subject = subject(TaskState::ImageSnapshotPending, "snapshot_instance");
    Snapshot::new(subject, Kind::Snapshot, image())
}

pub fn backup() -> Snapshot {
    let kind = Kind::Backup { backup_type: "daily".to_owned(), rotation: 2 };
    Snapshot::new(subject(TaskState::ImageBackup, "backup_instance"), kind, image())
}

/// A guest with an agent, whose image says so, and `more`.
pub async fn with_agent(more: &[(&str, &str)]) -> World {
    let world = World::with_guest().await;
    world.hypervisor.add_guest_agent(UUID);
    let more: Vec<_> = more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    world
        .change(|instance| {
            instance.system_metadata.update(|all| {
                all.insert("image_hw_qemu_guest_agent".to_owned(), Some("yes".to_owned()));
                all.extend(more.into_iter().map(|(k, v)| (format!("image_{k}"), Some(v))));
            });
        })
        .await;
    world
}

async fn done(world: &World, workflow: Snapshot) -> Record<Snapshot> {
    let record = ended(world, workflow).await;
    assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
    record
}

async fn ended(world: &World, workflow: Snapshot) -> Record<Snapshot> {
    let mut record = world.record(workflow).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert!(record.head.settled);
    record
}

async fn nothing_is_left(world: &World) {
    assert_eq!(world.snapshots.directories(), 0);
    assert!(world.hypervisor.copies().is_empty());
    assert!(!world.hypervisor.is_frozen(UUID));
    let task_state = world.records.all()[0].task_state.value().copied();
    assert_eq!(task_state, None);
}

#[tokio::test(start_paused = true)]
async fn a_running_guest_is_copied_as_it_runs() {
    let world = World::with_guest().await;
    world.hypervisor.set_copy_time(Duration::from_secs(30));
    done(&world, snapshot()).await;
    let guest = world.hypervisor.get(UUID).unwrap();
    assert_eq!((guest.power_state, guest.boots), (PowerState::Running, 1));
    let extracted = world.snapshots.extracted();
    assert_eq!(extracted.len(), 1);
    assert!(extracted[0].0.path.ends_with("delta"));
    assert_eq!(extracted[0].1, SnapshotFormat::Qcow2);
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_image_is_told_of_as_nova_tells_of_it() {
    let world = World::with_guest().await;
    world
        .change(|instance| {
            instance.os_type.set(Some("linux".to_owned()));
            instance.kernel_id.set(Some(String::new()));
        })
        .await;
    done(&world, snapshot()).await;
    let kept = world.sink.images().remove(IMAGE).unwrap().unwrap();
    assert_eq!(kept.name, Some(format!("name of {IMAGE}")));
    assert_eq!(kept.disk_format.as_deref(), Some("qcow2"));
    assert_eq!(kept.container_format.as_deref(), Some("bare"));
    let properties: Vec<_> = kept.properties.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        properties.join(" "),
        "image_location=snapshot image_state=available kernel_id= os_type=linux owner_id=p \
         ramdisk_id="
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_notified_as_nova_notifies_it() {
    let world = World::with_guest().await;
    world.notifier.clear();
    done(&world, snapshot()).await;
    let types = [
        "compute.instance.snapshot.start",
        "instance.snapshot.start",
        "compute.instance.snapshot.end",
        "instance.snapshot.end",
    ];
    assert_eq!(world.notifier.types(), types);
    let payload = &world.notifier.sent()[1].1.payload["nova_object.data"];
    assert_eq!(payload["snapshot_image_id"], IMAGE);
    assert_eq!(payload["task_state"], "image_snapshot");
}

#[tokio::test(start_paused = true)]
async fn the_format_is_the_configured_one() {
    let mut world = World::with_guest().await;
    world.settings.snapshots.format = Some(SnapshotFormat::Vmdk);
    done(&world, snapshot()).await;
    assert_eq!(world.snapshots.extracted()[0].1, SnapshotFormat::Vmdk);
    let kept = world.sink.images().remove(IMAGE).unwrap().unwrap();
    assert_eq!(kept.disk_format.as_deref(), Some("vmdk"));
}

#[tokio::test(start_paused = true)]
async fn a_cold_snapshot_lets_the_guest_go_on_where_it_was() {
    let mut world = World::with_guest().await;
    world.settings.snapshots.live = false;
    done(&world, snapshot()).await;
    let guest = world.hypervisor.get(UUID).unwrap();
    assert_eq!((guest.power_state, guest.boots), (PowerState::Running, 1));
    assert!(!guest.managed_save);
    assert!(world.snapshots.extracted()[0].0.path.ends_with("disk"));
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_stays_paused_copied_or_saved() {
    for live in [true, false] {
        let mut world = World::with_guest().await;
        let mut pausing = world.record(pause()).await;
        world.run(&mut pausing, &MemoryJournal::default()).await.unwrap();
        world.settings.snapshots.live = live;
        done(&world, snapshot()).await;
        let guest = world.hypervisor.get(UUID).unwrap();
        assert_eq!((guest.power_state, guest.boots), (PowerState::Paused, 1), "{live}");
        assert_eq!(world.records.all()[0].vm_state.value(), Some(&VmState::Paused));
    }
}

fn pause() -> Pause {
    Pause::new(subject(TaskState::Pausing, "pause_instance"))
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_off_stays_off() {
    let world = World::with_guest().await;
    let stop = PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), true);
    let mut stopping = world.record(stop).await;
    world.run(&mut stopping, &MemoryJournal::default()).await.unwrap();
    done(&world, snapshot()).await;
    assert_eq!(world.hypervisor.get(UUID).unwrap().power_state, PowerState::Shutdown);
    assert_eq!(world.records.all()[0].vm_state.value(), Some(&VmState::Stopped));
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_guest_keeps_its_memory() {
    let world = World::with_guest().await;
    let suspend = super::suspend::Suspend::new(subject(TaskState::Suspending, "suspend_instance"));
    let mut suspending = world.record(suspend).await;
    world.run(&mut suspending, &MemoryJournal::default()).await.unwrap();
    for fails in [false, true] {
        if fails {
            world.snapshots.fail_at(SnapshotCall::Extract);
        }
        let record = ended(&world, snapshot()).await;
        assert_eq!(record.head.phase == Phase::Done, !fails);
        let guest = world.hypervisor.get(UUID).unwrap();
        assert!(guest.managed_save && guest.id.is_none());
        assert_eq!(world.records.all()[0].vm_state.value(), Some(&VmState::Suspended));
        world.sink.add(IMAGE, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_an_agent_is_copied_all_the_same_unless_quiescing_is_required() {
    // Its image says that there is an agent, and there is none.
    let agent = [("hw_qemu_guest_agent", "yes")];
    let required = [agent[0], ("os_require_quiesce", "yes")];
    for (properties, fault) in [
        (&agent[..], None),
        (&required[..], Some("InstanceQuiesceFailed")),
        (&required[1..], Some("QemuGuestAgentNotEnabled")),
    ] {
        let world = World::with_guest().await;
        let properties: Vec<_> =
            properties.iter().map(|(k, v)| (format!("image_{k}"), Some((*v).to_owned()))).collect();
        world.change(|i| i.system_metadata.update(|all| all.extend(properties))).await;
        let record = ended(&world, snapshot()).await;
        let failure = record.head.failure.and_then(|failure| failure.fault);
        assert_eq!(failure.map(|fault| fault.class.into_owned()).as_deref(), fault);
        assert_eq!(world.sink.images().len(), usize::from(fault.is_none()));
        nothing_is_left(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_thawed_whatever_becomes_of_its_copy() {
    let world = with_agent(&[("os_require_quiesce", "true")]).await;
    world.hypervisor.fail_with("abort_block_job", Class::Refused, 1);
    let record = ended(&world, snapshot()).await;
    assert_eq!(record.head.phase, Phase::Undone);
    nothing_is_left(&world).await;
    done(&world, snapshot()).await;
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_fails_is_no_image() {
    let world = World::with_guest().await;
    world.hypervisor.set_copy_time(Duration::from_secs(3));
    world.hypervisor.fail_copies();
    let record = ended(&world, snapshot()).await;
    assert_eq!(record.head.phase, Phase::Undone);
    assert_eq!(record.head.failure.unwrap().step, "CopyDisk");
    assert!(world.sink.images().is_empty());
    assert_eq!(world.hypervisor.get(UUID).unwrap().power_state, PowerState::Running);
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_deleted_meanwhile_is_nobodys_fault() {
    let world = World::with_guest().await;
    world.sink.forget(IMAGE);
    let record = ended(&world, snapshot()).await;
    assert_eq!(record.head.phase, Phase::Undone);
    assert_eq!(world.faults().await, 0);
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_upload_leaves_no_image_and_tells_its_owner() {
    let world = World::with_guest().await;
    world.sink.fail_at(SinkCall::Fill);
    let record = ended(&world, snapshot()).await;
    assert_eq!(record.head.phase, Phase::Undone);
    assert!(world.sink.images().is_empty());
    assert_eq!(world.faults().await, 1);
    assert_eq!(world.records.all()[0].vm_state.value(), Some(&VmState::Active));
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_with_content_is_never_overwritten_nor_deleted() {
    let world = World::with_guest().await;
    world.sink.add(IMAGE, Some(crate::images::glance::ImageUpdate::default()));
    let record = ended(&world, snapshot()).await;
    assert_eq!(record.head.phase, Phase::Undone);
    assert_eq!(world.sink.images().len(), 1);
}

/// Runs a snapshot that a delete meets after `after`.
async fn met_by_a_delete(world: &World, after: Duration) -> Record<Snapshot> {
    let mut record = world.record(snapshot()).await;
    let (journal, running) = (MemoryJournal::default(), Running::detached());
    let on = world.backends();
    let controls = Controls::default();
    let cancel = controls.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        cancel.cancel();
    });
    super::engine::run(&mut record, &journal, &on, &running, &controls).await.unwrap();
    record
}

#[tokio::test(start_paused = true)]
async fn a_delete_ends_a_copy_an_extraction_and_an_upload_at_once() {
    let hour = Duration::from_secs(3500);
    let slow: [fn(&World, Duration); 3] = [
        |world, hour| world.hypervisor.set_copy_time(hour),
        |world, hour| world.snapshots.set_extract_time(hour),
        |world, hour| world.sink.set_fill_time(hour),
    ];
    for (make_slow, step) in slow.iter().zip(["CopyDisk", "ExtractImage", "KeepImage"]) {
        let world = World::with_guest().await;
        make_slow(&world, hour);
        let begun = tokio::time::Instant::now();
        let record = met_by_a_delete(&world, Duration::from_secs(5)).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{step}: {:?}", begun.elapsed());
        assert_eq!(record.head.phase, Phase::Undone);
        assert_eq!(record.head.failure.unwrap().step, step);
        assert!(world.sink.images().is_empty(), "{step}");
        assert_eq!(world.snapshots.directories(), 0);
        assert!(world.hypervisor.copies().is_empty());
        assert_eq!(world.faults().await, 0, "the delete owns the instance's states");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_outlived_the_agent_is_ended_by_the_next() {
    let world = with_agent(&[]).await;
    world.hypervisor.set_copy_time(Duration::from_secs(1000));
    // The agent goes down while the copy is made.
    let mut record = world.record(snapshot()).await;
    let journal = MemoryJournal::default();
    let on = world.backends();
    let running = Running::detached();
    let controls = Controls::default();
    let run = super::engine::run(&mut record, &journal, &on, &running, &controls);
    tokio::time::timeout(Duration::from_secs(30), run).await.expect_err("it takes longer");
    assert_eq!(world.hypervisor.copies().len(), 1);
    let mut found = journal.found().unwrap();
    world.hypervisor.set_copy_time(Duration::from_secs(3));
    let healthy = MemoryJournal::default();
    found.run(&healthy, &on, &running, &Controls::default()).await.unwrap();
    assert_eq!(found.head().phase, Phase::Done);
    assert_eq!(world.sink.images().len(), 1);
    nothing_is_left(&world).await;
}

#[tokio::test(start_paused = true)]
async fn backups_beyond_the_rotation_go_oldest_first() {
    let world = World::with_guest().await;
    world.sink.set_backups(&["new", "middle", "old", "oldest"]);
    done(&world, backup()).await;
    assert_eq!(world.sink.backups_left(), ["new", "middle"]);
    // The image is kept, whatever becomes of the old ones.
    world.sink.add(IMAGE, None);
    world.sink.fail_at(SinkCall::Backups);
    let record = ended(&world, backup()).await;
    assert_eq!(record.head.phase, Phase::Stuck);
    assert!(world.sink.images()[IMAGE].is_some());
    assert_eq!(world.records.all()[0].vm_state.value(), Some(&VmState::Active));
    nothing_is_left(&world).await;
}

/// What the record says wherever the agent may die.
async fn task_states(workflow: fn() -> Snapshot) -> String {
    let mut seen = Vec::new();
    for write in 0.. {
        let world = World::with_guest().await;
        let mut record = world.record(workflow()).await;
        let ended = world.run(&mut record, &MemoryJournal::breaking_at(write)).await;
        let task = world.records.all()[0].task_state.value().map_or("none", |task| task.as_str());
        if seen.last() != Some(&task) {
            seen.push(task);
        }
        if ended.is_ok() {
            break;
        }
    }
    seen.join(" ")
}

#[tokio::test(start_paused = true)]
async fn the_task_goes_through_novas_states() {
    assert_eq!(
        task_states(snapshot).await,
        "image_snapshot_pending image_snapshot image_pending_upload image_uploading none"
    );
    assert_eq!(task_states(backup).await, "image_backup image_pending_upload image_uploading none");
}

#[tokio::test(start_paused = true)]
async fn a_guest_stays_frozen_until_its_volumes_snapshots_are_made() {
    use super::quiesce::Quiesce;
    use super::unquiesce::Unquiesce;
    let subject = |method| super::instance::Subject::new(super::world::instance(None), method);
    for broken in [false, true] {
        let world = with_agent(&[]).await;
        let mut quiescing = world.record(Quiesce::new(subject("quiesce_instance"))).await;
        world.run(&mut quiescing, &MemoryJournal::default()).await.unwrap();
        assert!(world.hypervisor.is_frozen(UUID));
        world.volumes.make("one", Duration::from_secs(20));
        world.volumes.make("two", Duration::from_secs(40));
        if broken {
            world.volumes.break_off();
        }
        let snapshots = vec!["one".to_owned(), "two".to_owned()];
        let thaw = Unquiesce::new(subject("unquiesce_instance"), snapshots);
        let mut thawing = world.record(thaw).await;
        let begun = tokio::time::Instant::now();
        world.run(&mut thawing, &MemoryJournal::default()).await.unwrap();
        assert!(!world.hypervisor.is_frozen(UUID));
        let waited = begun.elapsed();
        assert_eq!(waited >= Duration::from_secs(40), !broken, "{waited:?}");
        assert!(waited < Duration::from_secs(42), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_is_set_for_the_images_administrator_and_told_to_nobody() {
    use super::set_password::SetPassword;
    use crate::model::secret::Secret;
    let password = || {
        let subject = subject(TaskState::UpdatingPassword, "set_admin_password");
        SetPassword::new(subject, Secret::new("hunter2"))
    };
    for (properties, user) in [(&[][..], "root"), (&[("os_admin_user", "ubuntu")][..], "ubuntu")] {
        let world = with_agent(properties).await;
        let mut record = world.record(password()).await;
        world.run(&mut record, &MemoryJournal::default()).await.unwrap();
        assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
        assert_eq!(world.hypervisor.password(UUID, user).unwrap().expose(), "hunter2");
    }
    let world = with_agent(&[]).await;
    world.hypervisor.fail_with("set_user_password", Class::Refused, 1);
    let mut record = world.record(password()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    let fault = record.head.failure.unwrap().fault.unwrap();
    assert_eq!(&*fault.class, "InstancePasswordSetFailed");
    let reason =
        format!("Failed to set admin password on {UUID} because error setting admin password");
    assert_eq!(fault.message, reason);
}
