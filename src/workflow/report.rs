//! What is told of a workflow: notifications, the fault of one that failed, and the result of its
//! event. nova: compute/manager.py, wrap_instance_fault; compute/utils.py,
//! add_instance_fault_from_exc, EventReporter

use serde_json::Map;
use tracing::warn;

use super::StepResult;
use super::engine::Stage;
use super::instance::Subject;
use super::journal::Failure;
use crate::model::fault::{Raised, cut};
use crate::model::object::{BlockDeviceMapping, Instance, VersionedObject};
use crate::model::time::Timestamp;
use crate::notify::{Action, Details, Event, InstanceEvent, Phase};
use crate::records::{InstanceFault, InstancePart};
use crate::telemetry::Chain;

/// What the event of an instance's action is called: this and the method's name.
const PREFIX: &str = "compute_";

/// What notifications tell of an instance that isn't read with it unasked.
const TOLD: [InstancePart; 4] = [
    InstancePart::Flavor,
    InstancePart::InfoCache,
    InstancePart::Metadata,
    InstancePart::SystemMetadata,
];

impl Subject {
    /// The event of a method's action.
    pub(super) fn event_of(method: &str) -> String {
        format!("{PREFIX}{method}")
    }

    /// Notifies of a phase of an action, once: a step that is done again has nothing new to tell. It
    /// is told a second time only when the agent ends before the journal knows that it was told.
    pub fn tell(&mut self, action: Action, phase: Phase, stage: &Stage<'_>) {
        self.tell_of(action, phase, Details::default(), stage);
    }

    /// [`Self::tell`], with what the instance's record doesn't say.
    pub fn tell_of(
        &mut self,
        action: Action,
        phase: Phase,
        details: Details<'_>,
        stage: &Stage<'_>,
    ) {
        if self.has_told(action, phase) {
            return;
        }
        self.told.push((action, phase));
        // nova tells of a stop without the disks, also of one that is a part of a rebuild.
        let block_devices = self.volumes.as_deref().filter(|_| action != Action::PowerOff);
        let details = Details { block_devices, ..details };
        let event = InstanceEvent { instance: &self.instance, action, phase, details };
        stage.on.notifier.notify(stage.context, &Event::Instance(event));
    }

    /// Has the volumes among its disks told of from now on.
    pub fn with_disks(mut self, disks: &[BlockDeviceMapping]) -> Self {
        let is_told = |disk: &&BlockDeviceMapping| disk.volume_id.value().is_some();
        self.volumes = Some(disks.iter().filter(is_told).cloned().collect());
        self
    }

    /// [`Self::with_disks`] of those on record, for an action whose request doesn't name them.
    pub(super) async fn load_disks(&mut self, stage: &Stage<'_>) -> StepResult {
        if self.volumes.is_none() && stage.on.notifier.is_on() {
            let disks = stage.on.records.block_devices(stage.context, self.uuid()?).await?;
            *self = self.clone().with_disks(disks.items());
        }
        Ok(())
    }

    /// Notifies that the instance exists as it is, for whoever counts its use: before something
    /// changes what is counted. nova: compute/utils.py, `notify_usage_exists` with `current_period`
    pub fn tell_exists(&self, before: Option<&Instance>, stage: &Stage<'_>) {
        let (instance, now) = (&self.instance, Timestamp::now());
        let period = stage.on.settings.audit_period.current(now);
        stage.on.notifier.notify(stage.context, &Event::Exists { instance, before, period });
    }

    pub fn has_told(&self, action: Action, phase: Phase) -> bool {
        self.told.contains(&(action, phase))
    }

    /// Notifies of the exception that the method raised. nova: exception_wrapper.py
    pub fn tell_exception(&self, raised: &Raised, stage: &Stage<'_>) {
        if stage.on.notifier.is_on() {
            let mut args = Map::new();
            args.insert("instance".to_owned(), self.instance.to_primitive());
            let (method, args) = (self.method(), &args);
            stage.on.notifier.notify(stage.context, &Event::Exception { method, args, raised });
        }
    }

    /// A message has what its sender happened to have read of the instance, and notifications tell
    /// more. One that can't be had is told without.
    pub(super) async fn load_what_is_told(&mut self, stage: &Stage<'_>) {
        if !stage.on.notifier.is_on() {
            return;
        }
        let loaded = stage.on.records.load(stage.context, &mut self.instance, &TOLD);
        if let Err(error) = loaded.await {
            warn!(error = %Chain(&error), "notifications tell less of the instance");
        }
    }

    fn method(&self) -> &str {
        self.event.strip_prefix(PREFIX).unwrap_or(&self.event)
    }

    /// nova's exception for the failure, at its place in the method.
    pub fn raised(&self, failure: &Failure) -> Raised {
        failure.raised(self.method())
    }

    /// Records what the method raised: as the instance's fault and as its event's result.
    pub async fn fail(&mut self, raised: &Raised, stage: &Stage<'_>) -> StepResult {
        self.record_fault(raised, raised.fault.shown(), stage).await?;
        self.finish(Some(raised), stage).await
    }

    /// Records the instance's fault, once: an end that is told again doesn't repeat it.
    pub async fn record_fault(
        &mut self,
        raised: &Raised,
        message: &str,
        stage: &Stage<'_>,
    ) -> StepResult {
        // nova keeps none for an instance that isn't there.
        if self.has_fault || raised.fault.class == "InstanceNotFound" {
            return Ok(());
        }
        let code = raised.fault.code();
        // Whoever asked for the wrong thing needs no traceback.
        let details = if code == 500 { raised.traceback() } else { String::new() };
        let fault = InstanceFault { code, message: cut(message).to_owned(), details };
        stage.on.records.record_fault(stage.context, self.uuid()?, fault).await?;
        self.has_fault = true;
        Ok(())
    }

    /// Records how the event ended.
    pub async fn finish(&self, raised: Option<&Raised>, stage: &Stage<'_>) -> StepResult {
        let (uuid, records) = (self.uuid()?, &stage.on.records);
        let frames = raised.map(Raised::frames).unwrap_or_default();
        let failure = raised.map(|raised| (raised.fault.shown(), frames.as_str()));
        Ok(records.event_finished(stage.context, uuid, &self.event, failure).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pause::Pause;
    use super::super::world::{MemoryJournal, UUID, World, spawn, subject};
    use crate::model::class::Class;
    use crate::model::state::TaskState;
    use crate::records::history::History;

    #[tokio::test(start_paused = true)]
    async fn what_libvirt_refuses_is_shown_by_name_and_told_in_the_traceback() {
        let world = World::with_guest().await;
        world.hypervisor.fail_with("pause", Class::Refused, 1);
        let pause = Pause::new(subject(TaskState::Pausing, "pause_instance"));
        let mut record = world.record(pause).await;
        world.run(&mut record, &MemoryJournal::default()).await.unwrap().unwrap();
        let faults = world.records.faults(UUID).await.unwrap();
        assert_eq!((faults.len(), faults[0].code), (1, 500));
        assert_eq!(faults[0].message, "libvirtError");
        let lines: Vec<_> = faults[0].details.lines().collect();
        assert_eq!(
            lines,
            [
                "Traceback (most recent call last):",
                "  File \"hypernova/pause_instance\", line 2, in PauseDomain",
                "libvirt.libvirtError: the fake was told to fail",
            ]
        );
        let events = world.records.events(UUID).await.unwrap();
        let event = events.iter().find(|event| event.event == "compute_pause_instance").unwrap();
        assert_eq!(event.failure.as_deref(), Some("libvirtError"));
        assert_eq!(
            event.details.as_deref(),
            lines.get(1).map(|line| format!("{line}\n")).as_deref()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_that_fails_is_told_in_its_fault_and_its_event_succeeds() {
        let world = World::new();
        world.hypervisor.fail_with("start", Class::Refused, 1);
        let mut record = world.record(spawn()).await;
        world.run(&mut record, &MemoryJournal::default()).await.unwrap().unwrap();
        let faults = world.records.faults(UUID).await.unwrap();
        let message = "the fake was told to fail".to_owned();
        assert_eq!((faults[0].code, &faults[0].message), (500, &message));
        let details = &faults[0].details;
        assert!(details.contains("libvirt.libvirtError: the fake was told to fail\n\nDuring"));
        let last = "nova.exception.RescheduledException: Build of instance";
        assert!(details.lines().next_back().unwrap().starts_with(last), "{details}");
        let events = world.records.events(UUID).await.unwrap();
        assert!(events[0].finished_at.is_some() && events[0].failure.is_none());
    }
}
