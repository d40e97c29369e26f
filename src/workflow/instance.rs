//! What the workflows share: an instance's record before and after, and waiting for its domain.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::engine::{Ending, Stage};
use super::journal::Failure;
use super::{Backends, StepError, StepResult};
use crate::hypervisor::{DomainInfo, HypervisorError};
use crate::model::object::{BlockDeviceMapping, Instance, ObjectError};
use crate::model::state::{PowerState, TaskState, VmState};
use crate::model::time::Timestamp;
use crate::notify::{Action, Phase};
use crate::records::{Expected, RecordsError};

/// How often a domain is asked for its state while an event is awaited: events can be lost.
const POLL: Duration = Duration::from_millis(500);
/// What an image may ask for: whoever made it must not hold up a host's instance for ever.
const MAX_SHUTDOWN_SECONDS: u64 = 3600;

/// The instance a workflow works on, and how it was before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    pub instance: Instance,
    /// The event of the instance's action: `compute_` and the method's name.
    pub event: String,
    before: Option<Before>,
    /// Whether its event has been started.
    #[serde(default)]
    has_event: bool,
    /// Whether its fault is on record: an end that is told again doesn't repeat it.
    #[serde(default)]
    pub(super) has_fault: bool,
    /// Of what has been notified.
    #[serde(default)]
    pub(super) told: Vec<(Action, Phase)>,
    /// Its volumes, where nova tells of them.
    #[serde(default)]
    pub(super) volumes: Option<Vec<BlockDeviceMapping>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Before {
    vm_state: Option<VmState>,
    power_state: Option<i64>,
}

impl Subject {
    pub fn new(instance: Instance, method: &str) -> Self {
        Self {
            instance,
            event: Self::event_of(method),
            before: None,
            has_event: false,
            has_fault: false,
            told: Vec::new(),
            volumes: None,
        }
    }

    /// # Errors
    /// `Missing` when the instance came without a UUID.
    pub fn uuid(&self) -> Result<Uuid, ObjectError> {
        self.instance.uuid()
    }

    /// The first step of every workflow: remembers how the instance was, and starts the event.
    pub async fn begin(&mut self, stage: &Stage<'_>) -> StepResult {
        if self.before.is_none() {
            self.before = Some(Before {
                vm_state: self.instance.vm_state.value().copied(),
                power_state: self.instance.power_state.value().copied(),
            });
        }
        let uuid = self.uuid()?;
        // A workflow that does another one's steps has one event for all.
        if !self.has_event {
            stage.on.records.event_started(stage.context, uuid, &self.event).await?;
            self.has_event = true;
        }
        self.load_what_is_told(stage).await;
        Ok(())
    }

    /// The vm_state before the workflow.
    pub fn vm_state_before(&self) -> Option<VmState> {
        self.before.as_ref().and_then(|before| before.vm_state)
    }

    /// Writes the new stable state, ends the task, and takes the power state from the domain.
    pub async fn record(
        &mut self,
        vm_state: VmState,
        power_state: PowerState,
        expected: Expected,
        stage: &Stage<'_>,
    ) -> StepResult {
        self.instance.vm_state.set(Some(vm_state));
        self.instance.task_state.set(None);
        self.instance.power_state.set(Some(power_state.number()));
        Ok(stage.on.records.save(stage.context, &mut self.instance, expected).await?)
    }

    /// The usual end, in nova's order: a failure becomes a fault and the event's result, then the
    /// task is over. A stuck instance is an error.
    pub async fn settle(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        self.settle_expecting(ending, unless_deleting(), stage).await
    }

    /// The same, for the request whose task the states in `expected` belong to.
    pub async fn settle_expecting(
        &mut self,
        ending: Ending<'_>,
        expected: Expected,
        stage: &Stage<'_>,
    ) -> StepResult {
        let failure = match ending {
            Ending::Done => return self.finish(None, stage).await,
            Ending::Undone(failure) => failure,
            Ending::Stuck(failure) => {
                if !failure.is_preempted() {
                    self.instance.vm_state.set(Some(VmState::Error));
                    self.save_end(expected.clone(), stage).await?;
                }
                failure
            }
        };
        let raised = self.raised(failure);
        self.fail(&raised, stage).await?;
        self.end_task(failure, expected, stage).await?;
        self.tell_exception(&raised, stage);
        Ok(())
    }

    /// The end of what changes no state of the instance, however it ends: a failure becomes a fault and
    /// the event's result.
    pub async fn settle_as_it_is(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let (Ending::Undone(failure) | Ending::Stuck(failure)) = ending else {
            return self.finish(None, stage).await;
        };
        let raised = self.raised(failure);
        self.fail(&raised, stage).await?;
        self.tell_exception(&raised, stage);
        Ok(())
    }

    /// The end of what can't be undone but leaves the domain as it is: a stuck instance is what its
    /// domain says.
    pub async fn settle_by_domain(&mut self, ending: Ending<'_>, stage: &Stage<'_>) -> StepResult {
        let Ending::Stuck(failure) = ending else { return self.settle(ending, stage).await };
        let uuid = self.uuid()?;
        let Ok(found) = stage.on.hypervisor.domain(uuid).await else {
            return self.settle(ending, stage).await;
        };
        let raised = self.raised(failure);
        self.fail(&raised, stage).await?;
        let runs = is_active(found.as_ref());
        let before = self.vm_state_before().unwrap_or(VmState::Error);
        let power_state = found.map_or(PowerState::NoState, |info| info.power_state);
        self.instance.vm_state.set(Some(if runs { before } else { VmState::Stopped }));
        self.instance.power_state.set(Some(power_state.number()));
        self.end_task(failure, unless_deleting(), stage).await?;
        self.tell_exception(&raised, stage);
        Ok(())
    }

    /// Takes the task state back, unless somebody else has set another one meanwhile.
    /// nova: compute/manager.py, reverts_task_state
    pub(super) async fn end_task(
        &mut self,
        failure: &Failure,
        expected: Expected,
        stage: &Stage<'_>,
    ) -> StepResult {
        if failure.is_preempted() {
            return Ok(());
        }
        self.instance.task_state.set(None);
        self.save_end(expected, stage).await?;
        Ok(())
    }

    /// Saves how a task ended. nova-api may have begun a delete meanwhile: then nothing is saved,
    /// and the states are the delete's. Says whether it was saved.
    pub async fn save_end(
        &mut self,
        expected: Expected,
        stage: &Stage<'_>,
    ) -> Result<bool, StepError> {
        let saved = stage.on.records.save(stage.context, &mut self.instance, expected).await;
        match saved {
            Ok(()) => Ok(true),
            Err(RecordsError::Deleting(_) | RecordsError::UnexpectedTaskState { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Every task state but those of a delete, which nova-api sets over any other.
pub fn unless_deleting() -> Expected {
    let deletes = [TaskState::Deleting, TaskState::SoftDeleting];
    let others = TaskState::ALL.iter().copied().filter(|state| !deletes.contains(state));
    Expected::OneOf(others.map(Some).chain([None]).collect())
}

/// Task states in which a save may go through, always with "none": a resumed workflow may have
/// saved before.
pub fn expecting(states: &[TaskState]) -> Expected {
    let some = states.iter().copied().map(Some);
    Expected::OneOf(some.chain([None]).collect())
}

/// Waits until the domain is as `test` wants it: by events, with polling behind them.
///
/// # Errors
/// [`StepError::NotThere`] after `within`; [`StepError::Cancelled`] when `cancel` says so; what the
/// hypervisor says.
pub async fn await_domain(
    on: &Backends,
    uuid: Uuid,
    wanted: &'static str,
    within: Duration,
    cancel: &CancellationToken,
    test: impl Fn(Option<&DomainInfo>) -> bool + Send,
) -> Result<Option<DomainInfo>, StepError> {
    let deadline = Instant::now() + within;
    // Subscribed before the first look, so that no change falls in between.
    let mut events = on.hypervisor.events();
    loop {
        let found = match on.hypervisor.domain(uuid).await {
            Ok(found) => found,
            Err(error @ HypervisorError::NotOurs { .. }) => return Err(error.into()),
            // libvirtd may be restarting: the deadline decides.
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => {
                let pause = cancel.run_until_cancelled(tokio::time::sleep(POLL)).await;
                pause.ok_or(StepError::Cancelled)?;
                continue;
            }
        };
        if test(found.as_ref()) {
            return Ok(found);
        }
        let now = Instant::now();
        if now >= deadline {
            let found = found.map_or("absent", |info| info.power_state.name()).to_owned();
            return Err(StepError::NotThere { wanted, found, within });
        }
        let poll = tokio::time::sleep_until(deadline.min(now + POLL));
        tokio::pin!(poll);
        loop {
            tokio::select! {
                () = &mut poll => break,
                () = cancel.cancelled() => return Err(StepError::Cancelled),
                event = events.recv() => match event {
                    Ok(event) if event.instance_uuid == uuid => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => { cancel.run_until_cancelled(&mut poll).await; break; }
                },
            }
        }
    }
}

/// Waits until no job works on the domain: how a save ends, nobody knows before.
///
/// # Errors
/// As for [`await_domain`].
pub async fn await_no_job(
    on: &Backends,
    uuid: Uuid,
    within: Duration,
    cancel: &CancellationToken,
) -> StepResult {
    let deadline = Instant::now() + within;
    loop {
        let late = Instant::now() >= deadline;
        match on.hypervisor.has_job(uuid).await {
            Ok(false) => return Ok(()),
            Ok(true) if late => {
                let (wanted, found) = ("left alone by libvirt", "being saved".to_owned());
                return Err(StepError::NotThere { wanted, found, within });
            }
            Err(error) if late => return Err(error.into()),
            // libvirtd may be restarting: the deadline decides.
            Ok(true) | Err(_) => {}
        }
        let pause = cancel.run_until_cancelled(tokio::time::sleep(POLL)).await;
        pause.ok_or(StepError::Cancelled)?;
    }
}

/// Waits until the domain runs (or is paused, which a resumed guest may be), or the step is given
/// up.
pub async fn await_running(stage: &Stage<'_>, uuid: Uuid) -> Result<DomainInfo, StepError> {
    let (on, within) = (stage.on, stage.on.settings.state_timeout);
    let found = await_domain(on, uuid, "running", within, stage.give_up, is_running).await?;
    found.ok_or_else(|| HypervisorError::NoDomain(uuid).into())
}

/// Whether the guest's virtual CPUs run.
pub fn is_running(found: Option<&DomainInfo>) -> bool {
    found.is_some_and(|info| info.power_state == PowerState::Running)
}

/// Whether the domain holds memory and disks. libvirt numbers a domain for as long as its QEMU is
/// there, also while it ends.
pub fn is_active(found: Option<&DomainInfo>) -> bool {
    found.is_some_and(|info| info.id.is_some())
}

/// Presses the power button until the guest is off or `shutdown_timeout` is over, pressing again
/// each `shutdown_retry_interval`: a guest may be too early in its boot to notice. Says whether it
/// went off by itself; one that is to be deleted gets no more time.
/// nova: virt/libvirt/driver.py, _clean_shutdown
pub async fn shut_down(
    stage: &Stage<'_>,
    uuid: Uuid,
    timeout: Duration,
) -> Result<bool, StepError> {
    let on = stage.on;
    let deadline = Instant::now() + timeout;
    loop {
        let found = on.hypervisor.domain(uuid).await?;
        if !is_active(found.as_ref()) {
            return Ok(true);
        }
        let ends = found.as_ref().is_some_and(|info| info.power_state == PowerState::Shutdown);
        let left = deadline.saturating_duration_since(Instant::now());
        // A paused guest can't react.
        let hurry = stage.hurry.is_cancelled();
        if hurry || left.is_zero() || !(ends || is_running(found.as_ref())) {
            return Ok(false);
        }
        if !ends {
            match on.hypervisor.press_power_button(uuid).await {
                Ok(()) => {}
                // It may have gone off between the look and the press.
                Err(HypervisorError::Refused { .. } | HypervisorError::NoDomain(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let within = left.min(on.settings.shutdown_retry_interval.max(POLL));
        let off = |found: Option<&DomainInfo>| !is_active(found);
        match await_domain(on, uuid, "shut off", within, stage.hurry, off).await {
            Ok(_) => return Ok(true),
            Err(StepError::NotThere { .. } | StepError::Cancelled) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Cuts the power and waits until libvirt says that it is off; absent is success.
pub async fn cut_power(on: &Backends, uuid: Uuid) -> StepResult {
    match on.hypervisor.destroy(uuid).await {
        Ok(()) | Err(HypervisorError::NoDomain(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let within = on.settings.state_timeout;
    let never = CancellationToken::new();
    await_domain(on, uuid, "shut off", within, &never, |found| !is_active(found)).await?;
    Ok(())
}

/// How long this instance's guest may take to shut down: the image's `os_shutdown_timeout` in
/// seconds, else the option. nova: compute/manager.py, _get_power_off_values
pub fn shutdown_timeout(instance: &Instance, on: &Backends) -> Duration {
    let metadata = instance.system_metadata.get();
    let own = metadata.and_then(|all| all.get("image_os_shutdown_timeout")).cloned().flatten();
    let seconds = own.and_then(|text| text.parse().ok()).filter(|own| *own <= MAX_SHUTDOWN_SECONDS);
    seconds.map_or(on.settings.shutdown_timeout, Duration::from_secs)
}

/// In the system metadata: how often the instance's files were to be taken away.
const CLEAN_ATTEMPTS: &str = "clean_attempts";

/// How often it was tried to take the instance's files away.
pub fn clean_attempts(instance: &Instance) -> u32 {
    let recorded = instance.system_metadata(CLEAN_ATTEMPTS).and_then(|text| text.parse().ok());
    recorded.unwrap_or(0)
}

/// Notes with the instance that it was tried once more.
pub fn note_clean_attempt(instance: &mut Instance) {
    let now = clean_attempts(instance).saturating_add(1).to_string();
    instance.system_metadata.update(|metadata| {
        metadata.insert(CLEAN_ATTEMPTS.to_owned(), Some(now));
    });
}

/// Notes with the instance that its files are gone. nova: virt/libvirt/driver.py, `cleanup`
pub fn note_cleaned(instance: &mut Instance) {
    instance.cleaned.set(true);
    note_clean_attempt(instance);
}

/// Now, for a record.
pub fn now() -> Option<Timestamp> {
    Some(Timestamp::now())
}
