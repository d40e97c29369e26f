//! The three engine tests, for every workflow: a failure at any step leaves nothing behind, every
//! step done twice ends the same, and a crash at any journal write resumes to the same end.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attach_interface::AttachInterface;
use super::attach_volume::AttachVolume;
use super::board::{Board, Running};
use super::crash_dump::CrashDump;
use super::detach_interface::DetachInterface;
use super::detach_volume::DetachVolume;
use super::engine::{Controls, Ending, Stage, Workflow};
use super::fixed_ip::FixedIp;
use super::interface_tests::{
    add_ip, attach as attach_nic, detach as detach_nic, remove_ip, with_ip, with_nic,
    with_nic_stopped,
};
use super::journal::{Phase, Record};
use super::pause::Pause;
use super::power_off::PowerOff;
use super::power_on::PowerOn;
use super::quiesce::Quiesce;
use super::reboot::{Kind, Reboot};
use super::rebuild::Rebuild;
use super::remove_connection::RemoveConnection;
use super::rescue::Rescue;
use super::reserve_device::ReserveDevice;
use super::resume::Resume;
use super::set_password::SetPassword;
use super::shelf_tests::{
    offload, offloaded, offloaded_with_a_volume, offloading, rebuild, rescue, rescue_in_place,
    shelve, shelved_with_a_volume, soft_delete, unrescue, unshelve,
};
use super::shelve::Shelve;
use super::shelve_offload::ShelveOffload;
use super::snapshot::Snapshot;
use super::snapshot_tests::{backup, snapshot};
use super::soft_delete::SoftDelete;
use super::spawn::Spawn;
use super::suspend::Suspend;
use super::swap_volume::SwapVolume;
use super::terminate::Terminate;
use super::unpause::Unpause;
use super::unquiesce::Unquiesce;
use super::unrescue::Unrescue;
use super::unshelve::Unshelve;
use super::volume_tests::{
    attach, attached, attached_stopped, detach, remove_connection, reserve, reserved,
    reserved_stopped, spawn_with_volumes, swap, with_two_volumes, with_volumes_to_build,
};
use super::world::{HasSubject, MemoryJournal, UUID, World, spawn, subject};
use super::{StepError, StepResult};
use crate::health::Metrics;
use crate::model::class::Class;
use crate::model::state::{TaskState, VmState};

/// When a step is made to fail: before its work, or after all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum When {
    Before,
    After,
}

/// A workflow of which one step fails each time, or of which each step is done twice.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(serialize = "W: Serialize", deserialize = "W: DeserializeOwned"))]
struct Tampered<W> {
    inner: W,
    fail: Option<(String, When)>,
    twice: bool,
}

impl<W: Workflow> Workflow for Tampered<W> {
    type Step = W::Step;
    const NAME: &'static str = W::NAME;
    const STEPS: &'static [Self::Step] = W::STEPS;
    const COMMITTED_FROM: usize = W::COMMITTED_FROM;

    async fn apply(&mut self, step: Self::Step, stage: &Stage<'_>) -> StepResult {
        let here = self.fail.clone().filter(|(failing, _)| *failing == format!("{step:?}"));
        let error = || StepError::NotThere {
            wanted: "tampered",
            found: "with".to_owned(),
            within: std::time::Duration::ZERO,
        };
        match here {
            Some((_, When::Before)) => return Err(error()),
            Some((_, When::After)) => {
                self.inner.apply(step, stage).await?;
                return Err(error());
            }
            None => {}
        }
        self.inner.apply(step, stage).await?;
        if self.twice {
            self.inner.apply(step, stage).await?;
        }
        Ok(())
    }

    async fn undo(&mut self, step: Self::Step, stage: &Stage<'_>) -> StepResult {
        self.inner.undo(step, stage).await?;
        if self.twice { self.inner.undo(step, stage).await } else { Ok(()) }
    }

    async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.inner.settle(ending, stage).await
    }
}

impl<W: HasSubject> HasSubject for Tampered<W> {
    fn subject(&mut self) -> &mut super::instance::Subject {
        self.inner.subject()
    }
}

/// Brings a fresh world to where a workflow can start.
type Prepare = fn() -> std::pin::Pin<Box<dyn Future<Output = World>>>;

async fn run_straight<W: Workflow + HasSubject>(prepare: Prepare, workflow: W) -> (Value, usize) {
    let world = prepare().await;
    let journal = MemoryJournal::default();
    let mut record = world.record(workflow).await;
    world.run(&mut record, &journal).await.unwrap();
    assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
    assert!(record.head.settled);
    (world.state().await, journal.writes())
}

async fn a_failure_at_any_step<W: Workflow + HasSubject>(prepare: Prepare, workflow: fn() -> W) {
    for (position, step) in W::STEPS.iter().enumerate() {
        for when in [When::Before, When::After] {
            for twice in [false, true] {
                let world = prepare().await;
                let before = world.state().await;
                let fail = Some((format!("{step:?}"), when));
                let tampered = Tampered { inner: workflow(), fail, twice };
                let mut record = world.record(tampered).await;
                world.run(&mut record, &MemoryJournal::default()).await.unwrap();
                let at = format!("{} {step:?} {when:?}", W::NAME);
                assert!(record.head.settled, "{at}");
                if position >= W::COMMITTED_FROM {
                    assert_eq!(record.head.phase, Phase::Stuck, "{at}");
                    let after = world.state().await;
                    let (vm_state, task_state) = (&after["record"][0], &after["record"][1]);
                    assert_eq!(*task_state, Value::Null, "{at}");
                    let by_domain = match after["domain"][0].as_str() {
                        Some("running") => "active",
                        _ => "stopped",
                    };
                    let deleted = after["record"][4] == true;
                    match W::NAME {
                        _ if deleted => {}
                        PowerOff::NAME => assert_eq!(vm_state, by_domain, "{at}"),
                        // What is left to do isn't the guest's.
                        Snapshot::NAME
                        | SetPassword::NAME
                        | DetachVolume::NAME
                        | RemoveConnection::NAME
                        | DetachInterface::NAME
                        | SwapVolume::NAME => {
                            assert_eq!(*vm_state, before["record"][0], "{at}");
                        }
                        Reboot::NAME if by_domain == "active" => {
                            assert_eq!(vm_state, by_domain, "{at}");
                        }
                        // What is shelved has its image: the next offload goes on.
                        ShelveOffload::NAME => assert_ne!(vm_state, "error", "{at}"),
                        Shelve::NAME if format!("{step:?}").starts_with("Offload") => {
                            assert_ne!(vm_state, "error", "{at}");
                        }
                        _ => assert_eq!(vm_state, "error", "{at}"),
                    }
                    continue;
                }
                assert_eq!(record.head.phase, Phase::Undone, "{at}");
                if W::NAME == AttachVolume::NAME {
                    // As nova leaves it: what was reserved for the attempt goes with it.
                    for gone in ["attachments", "connected"] {
                        assert_eq!(world.state().await[gone], Value::Array(Vec::new()), "{at}");
                    }
                    let guest = [Vec::<()>::new(), Vec::new()];
                    assert_eq!(
                        world.state().await["guest_volumes"],
                        serde_json::json!(guest),
                        "{at}"
                    );
                    let devices = world.state().await["devices"].as_array().unwrap().len();
                    assert_eq!(devices + 1, before["devices"].as_array().unwrap().len(), "{at}");
                    assert_eq!(world.state().await["record"], before["record"], "{at}");
                    assert_eq!(world.faults().await, 1, "{at}");
                    continue;
                }
                if W::NAME == SwapVolume::NAME {
                    // The guest is where it was, and what was reserved for the attempt is given back.
                    let after = world.state().await;
                    for part in ["guest_volumes", "connected", "devices", "record", "copies"] {
                        assert_eq!(after[part], before[part], "{at}: {part}");
                    }
                    let left = after["attachments"].as_array().unwrap().len();
                    assert!(position == 0 || left == 1, "{at}: {left}");
                    continue;
                }
                let silent = [Quiesce::NAME, Unquiesce::NAME, RemoveConnection::NAME];
                let tells = !silent.contains(&W::NAME);
                assert_eq!(world.faults().await, usize::from(tells), "{at}");
                if W::NAME == Spawn::NAME {
                    assert_eq!(world.leftovers().await, Vec::<String>::new(), "{at}");
                    let after = world.state().await;
                    assert_eq!(after["record"][0], "error", "{at}");
                    assert_eq!(after["record"][3], Value::Null, "{at}: it has no host");
                } else if W::NAME == Rebuild::NAME {
                    // The guest runs on; the record says another image than it has.
                    let after = world.state().await;
                    for part in ["domain", "definition", "disks", "plugged", "claimed"] {
                        assert_eq!(after[part], before[part], "{at}");
                    }
                    let expected = match position {
                        0 => before["record"][0].clone(),
                        _ => "error".into(),
                    };
                    assert_eq!(after["record"][0], expected, "{at}");
                    assert_eq!(after["record"][1], Value::Null, "{at}");
                } else {
                    assert_eq!(world.state().await, before, "{at}");
                }
            }
        }
    }
}

async fn every_step_twice<W: Workflow + HasSubject>(prepare: Prepare, workflow: fn() -> W) {
    let (once, _) = run_straight(prepare, workflow()).await;
    let tampered = Tampered { inner: workflow(), fail: None, twice: true };
    let (twice, _) = run_straight(prepare, tampered).await;
    assert_eq!(once, twice, "{}", W::NAME);
}

async fn a_crash_at_any_write<W: Workflow + HasSubject>(prepare: Prepare, workflow: fn() -> W) {
    let (straight, writes) = run_straight(prepare, workflow()).await;
    assert!(writes > W::STEPS.len());
    for write in 0..writes {
        let world = prepare().await;
        let journal = MemoryJournal::breaking_at(write);
        let mut record = world.record(workflow()).await;
        use super::journal::Journal;
        let body = super::engine::body(&record).unwrap();
        journal.add(&record.head, &body).await.unwrap();
        world.run(&mut record, &journal).await.expect_err("the journal breaks");
        let mut found = journal.found().expect("the record was added");
        let healthy = MemoryJournal::default();
        let running = Running::detached();
        let on = world.backends();
        found.run(&healthy, &on, &running, &Controls::default()).await.unwrap();
        assert_eq!(found.head().phase, Phase::Done, "{} write {write}", W::NAME);
        assert!(found.head().settled);
        assert_eq!(world.state().await, straight, "{} write {write}", W::NAME);
    }
}

/// The same for a workflow that is being undone: the undo resumes too.
async fn a_crash_while_undoing<W: Workflow + HasSubject>(prepare: Prepare, workflow: fn() -> W) {
    let last = W::STEPS.len().min(W::COMMITTED_FROM).saturating_sub(1);
    let Some(step) = W::STEPS.get(last).filter(|_| W::COMMITTED_FROM > 0) else { return };
    let failing = || {
        let fail = Some((format!("{step:?}"), When::After));
        Tampered { inner: workflow(), fail, twice: false }
    };
    let world = prepare().await;
    let journal = MemoryJournal::default();
    let mut record = world.record(failing()).await;
    world.run(&mut record, &journal).await.unwrap();
    let straight = world.state().await;
    for write in last + 1..journal.writes() {
        let world = prepare().await;
        let journal = MemoryJournal::breaking_at(write);
        let mut record = world.record(failing()).await;
        world.run(&mut record, &journal).await.expect_err("the journal breaks");
        // The tampering goes on: what is resumed from here fails or is undone again.
        let stored = {
            use super::journal::Journal;
            journal.unsettled().await.unwrap().pop().expect("it was written")
        };
        let (context, workflow) = serde_json::from_slice(&stored.body).unwrap();
        let mut found: Record<Tampered<W>> = Record { head: stored.head, context, workflow };
        world.run(&mut found, &MemoryJournal::default()).await.unwrap();
        assert_eq!(found.head.phase, Phase::Undone, "{} write {write}", W::NAME);
        assert_eq!(world.state().await, straight, "{} write {write}", W::NAME);
    }
}

macro_rules! engine_test_cases {
    ($($name:ident: $prepare:expr, $workflow:expr;)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn a_failure_at_any_step_leaves_nothing_behind() {
                a_failure_at_any_step($prepare, $workflow).await;
            }

            #[tokio::test(start_paused = true)]
            async fn every_step_done_twice_ends_the_same() {
                every_step_twice($prepare, $workflow).await;
            }

            #[tokio::test(start_paused = true)]
            async fn a_crash_at_any_journal_write_resumes_to_the_same_end() {
                a_crash_at_any_write($prepare, $workflow).await;
                a_crash_while_undoing($prepare, $workflow).await;
            }
        })*
    };
}

macro_rules! has_subject {
    ($($type:ty),*) => {
        $(impl HasSubject for $type {
            fn subject(&mut self) -> &mut super::instance::Subject {
                &mut self.subject
            }
        })*
    };
}

has_subject!(
    Spawn,
    Terminate,
    PowerOff,
    PowerOn,
    Reboot,
    Pause,
    Unpause,
    Suspend,
    Resume,
    Snapshot,
    Quiesce,
    Unquiesce,
    SetPassword,
    CrashDump,
    SoftDelete,
    Rescue,
    Unrescue,
    Rebuild,
    Shelve,
    ShelveOffload,
    Unshelve,
    AttachVolume,
    DetachVolume,
    ReserveDevice,
    AttachInterface,
    DetachInterface,
    FixedIp,
    SwapVolume,
    RemoveConnection
);

fn empty() -> std::pin::Pin<Box<dyn Future<Output = World>>> {
    Box::pin(async { World::new() })
}

fn running() -> std::pin::Pin<Box<dyn Future<Output = World>>> {
    Box::pin(World::with_guest())
}

/// A world in which the guest runs and `workflow` has been done.
fn after<W: Workflow + HasSubject>(workflow: W) -> std::pin::Pin<Box<dyn Future<Output = World>>> {
    Box::pin(async {
        let world = World::with_guest().await;
        let mut record = world.record(workflow).await;
        world.run(&mut record, &MemoryJournal::default()).await.unwrap();
        assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
        world
    })
}

/// A guest with an agent, whose image says so.
fn with_agent() -> std::pin::Pin<Box<dyn Future<Output = World>>> {
    Box::pin(super::snapshot_tests::with_agent(&[]))
}

async fn without_live_snapshots(prepared: impl Future<Output = World>) -> World {
    let mut world = prepared.await;
    world.settings.snapshots.live = false;
    world
}

fn subject_without_task(method: &str) -> super::instance::Subject {
    super::instance::Subject::new(super::world::instance(None), method)
}

fn pause() -> Pause {
    Pause::new(subject(TaskState::Pausing, "pause_instance"))
}

fn suspend() -> Suspend {
    Suspend::new(subject(TaskState::Suspending, "suspend_instance"))
}

fn power_off() -> PowerOff {
    PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), true)
}

engine_test_cases! {
    spawn_: empty, spawn;
    terminate: running, || Terminate::new(subject(TaskState::Deleting, "terminate_instance"));
    terminate_of_a_suspended_guest: || after(suspend()),
        || Terminate::new(subject(TaskState::Deleting, "terminate_instance"));
    power_off_clean: running, power_off;
    power_off_hard: running,
        || PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), false);
    power_on: || after(power_off()),
        || PowerOn::new(subject(TaskState::PoweringOn, "start_instance"));
    reboot_soft: running,
        || Reboot::new(subject(TaskState::Rebooting, "reboot_instance"), Kind::Soft);
    reboot_hard: running,
        || Reboot::new(subject(TaskState::RebootingHard, "reboot_instance"), Kind::Hard);
    pausing: running, pause;
    unpause: || after(pause()),
        || Unpause::new(subject(TaskState::Unpausing, "unpause_instance"));
    suspending: running, suspend;
    snapshot_live: running, snapshot;
    snapshot_live_quiesced: with_agent, snapshot;
    snapshot_cold: || Box::pin(without_live_snapshots(running())), snapshot;
    snapshot_of_a_stopped_guest: || after(power_off()), snapshot;
    snapshot_of_a_paused_guest: || after(pause()), snapshot;
    backup_live: running, backup;
    quiescing: with_agent, || Quiesce::new(subject_without_task("quiesce_instance"));
    unquiescing: with_agent, || {
        let snapshots = vec!["gone".to_owned()];
        Unquiesce::new(subject_without_task("unquiesce_instance"), snapshots)
    };
    password: with_agent, || {
        let subject = subject(TaskState::UpdatingPassword, "set_admin_password");
        SetPassword::new(subject, crate::model::secret::Secret::new("p"))
    };
    crash_dump: running, || CrashDump::new(subject_without_task("trigger_crash_dump"));
    soft_deleting: running, soft_delete;
    restoring: || after(soft_delete()),
        || PowerOn::restoring(subject(TaskState::Restoring, "restore_instance"));
    rescue_: running, rescue;
    rescue_of_a_stopped_guest: || after(power_off()), rescue;
    rescue_in_place: running, rescue_in_place;
    unrescue_: || after(rescue()), unrescue;
    unrescue_in_place: || after(rescue_in_place()), unrescue;
    rebuild_: running, || rebuild(false);
    rebuild_of_a_stopped_guest: || after(power_off()), || rebuild(false);
    rebuild_that_preserves: running, || rebuild(true);
    shelve_: running, shelve;
    shelve_of_a_stopped_guest: || after(power_off()), shelve;
    shelve_of_a_suspended_guest: || after(suspend()), shelve;
    shelve_and_offload: || Box::pin(offloading(running())), shelve;
    offload_: || after(shelve()), offload;
    unshelve_: || Box::pin(offloaded()), unshelve;
    rebuild_with_a_volume: attached, || rebuild(false);
    shelve_and_offload_with_a_volume: || Box::pin(offloading(attached())), shelve;
    unshelve_with_a_volume: || Box::pin(offloaded_with_a_volume()), unshelve;
    rescue_in_place_with_a_volume: attached, rescue_in_place;
    start_of_a_shelved_guest: || after(shelve()),
        || PowerOn::new(subject(TaskState::PoweringOn, "start_instance"));
    attach_interface: running, attach_nic;
    attach_interface_to_a_stopped_guest: || after(power_off()), attach_nic;
    detach_interface: with_nic, detach_nic;
    detach_interface_of_a_stopped_guest: with_nic_stopped, detach_nic;
    add_fixed_ip: running, add_ip;
    remove_fixed_ip: with_ip, remove_ip;
    attach_volume: reserved, attach;
    attach_volume_to_a_stopped_guest: reserved_stopped, attach;
    detach_volume: attached, detach;
    detach_volume_of_a_stopped_guest: attached_stopped, detach;
    reserve_device: running, reserve;
    swap_volume: with_two_volumes, swap;
    remove_connection: attached, remove_connection;
    remove_connection_of_nothing: running, remove_connection;
    offload_of_a_guest_with_a_volume: || Box::pin(shelved_with_a_volume()), offload;
    spawn_of_volumes: with_volumes_to_build, spawn_with_volumes;
    terminate_with_a_volume: attached,
        || Terminate::new(subject(TaskState::Deleting, "terminate_instance"));
    power_on_with_a_volume: attached_stopped,
        || PowerOn::new(subject(TaskState::PoweringOn, "start_instance"));
    reboot_hard_with_a_volume: attached,
        || Reboot::new(subject(TaskState::RebootingHard, "reboot_instance"), Kind::Hard);
    resume: || after(suspend()), || Resume::new(subject(TaskState::Resuming, "resume_instance"));
}

#[tokio::test(start_paused = true)]
async fn a_build_over_an_existing_guest_is_refused_and_leaves_it_alone() {
    let world = World::with_guest().await;
    let before = world.state().await;
    let mut record = world.record(spawn()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Undone);
    let after = world.state().await;
    for part in ["domain", "directories", "allocated", "plugged"] {
        assert_eq!(after[part], before[part], "{part}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_stops_a_build_between_two_steps_and_it_is_undone() {
    let world = World::new();
    let mut record = world.record(spawn()).await;
    let controls = Controls::default();
    controls.cancel.cancel();
    record.head.next = 7;
    let journal = MemoryJournal::default();
    let running = Running::detached();
    let on = world.backends();
    let error = super::engine::run(&mut record, &journal, &on, &running, &controls).await.unwrap();
    assert!(matches!(error, Some(StepError::Cancelled)));
    assert_eq!(record.head.phase, Phase::Undone);
    assert_eq!(world.leftovers().await, Vec::<String>::new());
    assert_eq!(world.faults().await, 0, "the delete owns the instance's states");
}

#[tokio::test(start_paused = true)]
async fn each_step_is_counted_under_its_name() {
    let world = World::new();
    let mut record = world.record(spawn()).await;
    let metrics = Arc::new(Metrics::new());
    let board = Board::new(metrics.clone());
    let running = board.add("1", Spawn::NAME, Spawn::STEPS.len(), UUID, "req-1");
    let (journal, on) = (MemoryJournal::default(), world.backends());
    super::engine::run(&mut record, &journal, &on, &running, &Controls::default()).await.unwrap();
    let text = metrics.encode();
    for step in Spawn::STEPS {
        let labels = format!("{{workflow=\"spawn\",step=\"{step:?}\"}}");
        let line = format!("hypernova_step_duration_seconds_count{labels} 1");
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_workflow_goes_on_from_where_it_stood() {
    let world = World::new();
    let mut record = world.record(spawn()).await;
    let journal = MemoryJournal::default();
    let parked = Controls::default();
    parked.park.cancel();
    let running = Running::detached();
    let on = world.backends();
    super::engine::run(&mut record, &journal, &on, &running, &parked).await.unwrap();
    assert_eq!(record.head.phase, Phase::Forward);
    world.run(&mut record, &journal).await.unwrap();
    assert_eq!(record.head.phase, Phase::Done);
}

#[tokio::test(start_paused = true)]
async fn both_errors_are_kept_when_an_undo_fails() {
    let world = World::new();
    let fail = Some(("StartDomain".to_owned(), When::After));
    let mut record = world.record(Tampered { inner: spawn(), fail, twice: false }).await;
    world.hypervisor.fail_always("undefine");
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Stuck);
    assert!(record.head.failure.is_some_and(|failure| failure.step == "StartDomain"));
    assert!(record.head.undo_failure.is_some());
    let state = world.state().await;
    assert_eq!(state["record"][0], "error", "an operator sees it");
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_once_is_asked_again() {
    let world = World::new();
    let fail = Some(("StartDomain".to_owned(), When::After));
    let mut record = world.record(Tampered { inner: spawn(), fail, twice: false }).await;
    world.hypervisor.fail_at("undefine");
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Undone);
    assert_eq!(world.leftovers().await, Vec::<String>::new());
}

/// The agent told the user that the guest is there, and died before it noted that it had.
#[tokio::test(start_paused = true)]
async fn a_guest_that_is_in_use_outlives_the_resumed_end_of_its_build() {
    let world = World::new();
    let mut record = world.record(spawn()).await;
    let journal = MemoryJournal::breaking_at(Spawn::STEPS.len());
    world.run(&mut record, &journal).await.expect_err("the journal breaks");
    assert_eq!(world.state().await["record"][0], "active");
    // Meanwhile nova-api has begun to stop it.
    let mut stopping = world.record(power_off()).await;
    let task_state = Some(TaskState::PoweringOff);
    stopping.workflow.subject.instance.task_state.set(task_state);
    let context = crate::model::context::RequestContext::admin();
    let instance = &mut stopping.workflow.subject.instance;
    use crate::records::{Expected, Records};
    world.records.save(&context, instance, Expected::Any).await.unwrap();
    let before = world.state().await;
    let mut found = journal.found().unwrap();
    let on = world.backends();
    let healthy = MemoryJournal::default();
    found.run(&healthy, &on, &Running::detached(), &Controls::default()).await.unwrap();
    assert_eq!(found.head().phase, Phase::Done);
    assert_eq!(world.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_is_locked_for_a_while_is_waited_for() {
    let world = World::new();
    let mut record = world.record(spawn()).await;
    let journal = MemoryJournal::failing_at(5);
    world.run(&mut record, &journal).await.unwrap();
    assert_eq!(record.head.phase, Phase::Done);
    assert!(record.head.settled);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_does_not_fit_goes_to_the_next_host() {
    let world = World::new();
    world.node.refuse("Free memory 1.00 MB < requested 128 MB");
    let args = serde_json::json!({
        "filter_properties": {"retry": {"num_attempts": 1}}, "host_list": [{"next": "host"}],
    });
    let mut build = spawn();
    build.hand_back(super::reschedule::BuildArguments::of(args.as_object().unwrap()));
    let mut record = world.record(build).await;
    let error = world.run(&mut record, &MemoryJournal::default()).await.unwrap().unwrap();
    assert_eq!(error.class(), Class::Reschedule);
    let sent = serde_json::Value::from(world.node.sent().remove(0));
    assert_eq!(sent["host_lists"], serde_json::json!([[{"next": "host"}]]));
    assert_eq!(world.node.released(), [UUID]);
    let found = world.records.all().remove(0);
    assert_eq!(found.task_state.value(), Some(&TaskState::Scheduling));
    assert_eq!(found.vm_state.value(), Some(&VmState::Building));
    assert_eq!((found.host.value(), world.faults().await), (None, 0));
    assert!(world.leftovers().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_another_try_the_user_is_told_and_the_allocation_goes() {
    let world = World::new();
    world.node.refuse("Free memory 1.00 MB < requested 128 MB");
    let mut record = world.record(spawn()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap().unwrap();
    assert!(world.node.sent().is_empty());
    assert_eq!(world.node.released(), [UUID]);
    let found = world.records.all().remove(0);
    assert_eq!(found.vm_state.value(), Some(&VmState::Error));
    assert_eq!((found.host.value(), world.faults().await), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn a_save_that_outlives_its_deadline_is_undone_once_it_is_over() {
    let world = World::with_guest().await;
    let before = world.state().await;
    world.hypervisor.set_save_time(Duration::from_secs(1830), true);
    let mut record = world.record(suspend()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Undone, "{:?}", record.head.undo_failure);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.state().await, before);
    assert_eq!(world.hypervisor.get(UUID).unwrap().boots, 1, "its memory is restored");
}

#[tokio::test(start_paused = true)]
async fn a_save_that_cannot_be_ended_leaves_the_undo_stuck_and_not_a_false_record() {
    let world = World::with_guest().await;
    world.hypervisor.set_save_time(Duration::from_secs(100_000), true);
    let mut record = world.record(suspend()).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Stuck);
    assert!(record.head.undo_failure.unwrap().contains("being saved"));
}

#[tokio::test(start_paused = true)]
async fn a_save_that_outlives_the_agent_is_waited_for_by_the_next() {
    let world = World::with_guest().await;
    world.hypervisor.set_save_time(Duration::from_secs(20), true);
    let mut record = world.record(suspend()).await;
    world.hypervisor.leave_save(UUID);
    record.head.phase = Phase::Forward;
    record.head.next = 1;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
    assert!(world.hypervisor.get(UUID).unwrap().managed_save);
}

/// Runs `workflow`, whose libvirt is slow and fails at `call`, while nova-api begins a delete.
async fn while_a_delete_begins<W: Workflow + HasSubject>(world: World, workflow: W, call: &str) {
    use crate::records::{Expected, Records};
    world.hypervisor.fail_always(call);
    let mut record = world.record(workflow).await;
    world.hypervisor.set_latency(Duration::from_secs(5));
    let records = world.records.clone();
    let context = record.context.clone();
    let mut instance = record.workflow.subject().instance.clone();
    let nova_api = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(7)).await;
        instance.task_state.set(Some(TaskState::Deleting));
        records.save(&context, &mut instance, Expected::Any).await.unwrap();
    });
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert!(nova_api.is_finished(), "{}: the delete came too late", W::NAME);
    assert!(record.head.settled);
    assert_ne!(record.head.phase, Phase::Done);
    world.hypervisor.set_latency(Duration::ZERO);
    let task_state = &world.state().await["record"][1];
    assert_eq!(*task_state, "deleting", "{} failing at {call}", W::NAME);
}

#[tokio::test(start_paused = true)]
async fn no_end_wipes_the_task_state_of_a_delete() {
    // One that is undone, some that are stuck, and a build.
    while_a_delete_begins(World::with_guest().await, pause(), "pause").await;
    while_a_delete_begins(World::with_guest().await, power_off(), "destroy").await;
    while_a_delete_begins(World::with_guest().await, suspend(), "managed_save").await;
    while_a_delete_begins(World::new(), spawn(), "define").await;
    // These have done their work when the record refuses them.
    while_a_delete_begins(World::with_guest().await, pause(), "nothing").await;
    while_a_delete_begins(World::with_guest().await, power_off(), "nothing").await;
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_is_stuck_can_be_asked_for_again() {
    let world = World::with_guest().await;
    world.hypervisor.fail_always("destroy");
    let terminate = Terminate::new(subject(TaskState::Deleting, "terminate_instance"));
    let mut record = world.record(terminate).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Stuck);
    let state = world.state().await;
    assert_eq!((&state["record"][0], &state["record"][1]), (&"error".into(), &().into()));
}
