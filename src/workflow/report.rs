//! What is told of a workflow that failed: the instance's fault, and the result of its event.
//! nova: compute/manager.py, wrap_instance_fault; compute/utils.py, add_instance_fault_from_exc,
//! EventReporter

use super::StepResult;
use super::engine::Stage;
use super::instance::Subject;
use super::journal::Failure;
use crate::model::fault::{Raised, cut};
use crate::records::InstanceFault;

/// What the event of an instance's action is called: this and the method's name.
const PREFIX: &str = "compute_";

impl Subject {
    /// The event of a method's action.
    pub(super) fn event_of(method: &str) -> String {
        format!("{PREFIX}{method}")
    }

    /// nova's exception for the failure, at its place in the method.
    pub fn raised(&self, failure: &Failure) -> Raised {
        failure.raised(self.event.strip_prefix(PREFIX).unwrap_or(&self.event))
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
        for (class, message, last) in [
            (
                Class::Refused,
                format!("Build of instance {UUID} aborted: the fake was told to fail"),
                "nova.exception.BuildAbortException: Build of instance",
            ),
            (
                Class::Reschedule,
                "the fake was told to fail".to_owned(),
                "nova.exception.RescheduledException: Build of instance",
            ),
        ] {
            let world = World::new();
            world.hypervisor.fail_with("start", class, 1);
            let mut record = world.record(spawn()).await;
            world.run(&mut record, &MemoryJournal::default()).await.unwrap().unwrap();
            let faults = world.records.faults(UUID).await.unwrap();
            assert_eq!((faults[0].code, &faults[0].message), (500, &message));
            let details = &faults[0].details;
            assert!(details.contains("libvirt.libvirtError: the fake was told to fail\n\nDuring"));
            assert!(details.lines().next_back().unwrap().starts_with(last), "{details}");
            let events = world.records.events(UUID).await.unwrap();
            assert!(events[0].finished_at.is_some() && events[0].failure.is_none());
        }
    }
}
