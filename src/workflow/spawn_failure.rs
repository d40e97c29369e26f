//! A build that failed: what its record and its neighbours are told, in nova's order.
//! nova: compute/manager.py, _do_build_and_run_instance, _build_resources,
//! _cleanup_allocated_networks; virt/libvirt/driver.py, _cleanup

use tracing::warn;

use super::StepResult;
use super::build_volumes;
use super::engine::{Stage, Workflow};
use super::instance::{note_cleaned, unless_deleting};
use super::interfaces::place_vifs;
use super::journal::Failure;
use super::reschedule::{Retry, aborted, rescheduled, retry};
use super::spawn::{Spawn, Step};
use crate::model::class::Class;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::notify::{Action, Details, Phase};
use crate::records::Expected;
use crate::telemetry::Chain;

/// Whether the ports are this build's, in the instance's system metadata.
pub const NETWORK_ALLOCATED: &str = "network_allocated";

/// Whether the step at which the build failed is `first` or a later one.
fn reached(failure: Option<&Failure>, first: Step) -> bool {
    let number = Spawn::STEPS.iter().position(|step| *step == first).map(|at| at + 1);
    failure.is_some_and(|failure| Some(failure.number) >= number)
}

impl Spawn {
    /// Tells that the guest was shut down, once nothing of it is left on the host; nova does so for a
    /// build that had got as far as its network. It counts a cleanup of the driver's for a guest that was to start,
    /// and one of the manager's.
    pub(super) async fn count_cleanups(&mut self, stage: &Stage<'_>) -> StepResult {
        if !self.subject.has_told(Action::Shutdown, Phase::Start)
            && reached(stage.failure, Step::CreateConfigDrive)
        {
            self.save_cleaned(stage).await?;
        }
        self.tell_shut_down(stage).await
    }

    async fn tell_shut_down(&mut self, stage: &Stage<'_>) -> StepResult {
        self.subject.tell(Action::Shutdown, Phase::Start, stage);
        if !self.subject.has_told(Action::Shutdown, Phase::End) {
            self.save_cleaned(stage).await?;
        }
        self.subject.tell(Action::Shutdown, Phase::End, stage);
        Ok(())
    }

    async fn save_cleaned(&mut self, stage: &Stage<'_>) -> StepResult {
        note_cleaned(&mut self.subject.instance);
        self.save_if_there(stage).await
    }

    /// Saves what has changed. An instance that is gone meanwhile needs nothing of it.
    async fn save_if_there(&mut self, stage: &Stage<'_>) -> StepResult {
        let instance = &mut self.subject.instance;
        match stage.on.records.save(stage.context, instance, Expected::Any).await {
            Err(error) if error.class() == Class::Absent => Ok(()),
            saved => Ok(saved?),
        }
    }

    /// Gives back what the host had set aside.
    pub(super) async fn give_claim_back(&mut self, stage: &Stage<'_>) -> StepResult {
        if self.subject.has_told(Action::Create, Phase::Error) {
            // The record has left the host with its network.
            return Ok(stage.on.claims.abort(stage.context, &mut self.subject.instance).await?);
        }
        self.leave_host(stage).await?;
        self.note_no_network(stage).await
    }

    async fn leave_host(&mut self, stage: &Stage<'_>) -> StepResult {
        stage.on.claims.abort(stage.context, &mut self.subject.instance).await?;
        if let Some(failure) = stage.failure
            && !self.subject.has_told(Action::Create, Phase::Error)
        {
            self.save_if_there(stage).await?;
            self.tell_failed(failure, stage);
        }
        Ok(())
    }

    /// Unbinds the user's ports and removes those of this build. The host is left first, as nova
    /// leaves it, so that whoever listens sees the ports go from an instance without one.
    pub(super) async fn give_network_back(&mut self, stage: &Stage<'_>) -> StepResult {
        if !reached(stage.failure, Step::FetchImage) {
            self.tell_shut_down(stage).await?;
        }
        self.leave_host(stage).await?;
        let (instance, keep) = (&mut self.subject.instance, self.build.wanted.ports());
        match stage.on.network.deallocate(stage.context, instance, &keep).await {
            // They are its owner's project's and found by its uuid: whoever deletes it takes them away.
            Err(error) if error.class() == Class::Transient => {
                warn!(error = %Chain(&error), "the failed build's ports may be left");
                return Ok(());
            }
            deallocated => deallocated?,
        }
        self.vifs.clear();
        place_vifs(instance, &[]);
        self.note_no_network(stage).await
    }

    async fn note_no_network(&mut self, stage: &Stage<'_>) -> StepResult {
        let no = Some("False".to_owned());
        let metadata = &mut self.subject.instance.system_metadata;
        if metadata.get().is_some_and(|metadata| metadata.get(NETWORK_ALLOCATED) != Some(&no)) {
            metadata.update(|metadata| {
                metadata.insert(NETWORK_ALLOCATED.to_owned(), no);
            });
        }
        self.save_if_there(stage).await
    }

    /// Notifies that the build failed: nova does so when the instance has left the host, and before
    /// it loses its network.
    pub(super) fn tell_failed(&mut self, failure: &Failure, stage: &Stage<'_>) {
        let raised = self.subject.raised(failure);
        let here = (self.subject.instance.host.clone(), self.subject.instance.node.clone());
        self.subject.instance.host.load(Some(None));
        self.subject.instance.node.load(Some(None));
        let details = Details { raised: Some(&raised), ..Details::default() };
        self.subject.tell_of(Action::Create, Phase::Error, details, stage);
        (self.subject.instance.host, self.subject.instance.node) = here;
    }

    /// The end of a build of which nothing is left here: another host's turn, or the user's.
    pub(super) async fn end_failed(&mut self, failure: &Failure, stage: &Stage<'_>) -> StepResult {
        self.tell_failed(failure, stage);
        let instance = &mut self.subject.instance;
        instance.host.set(None);
        instance.node.set(None);
        instance.compute_id.set(None);
        instance.launched_on.set(None);
        // Without a host it is in no aggregate.
        instance.availability_zone.set(None);
        if failure.cancelled {
            // The delete that follows owns the states.
            return self.subject.finish(None, stage).await;
        }
        stage.on.claims.built(stage.context, false).await;
        let raised = self.subject.raised(failure);
        let (raised, message) = match retry(&raised.fault, &failure.step) {
            Retry::Elsewhere if self.build.arguments.may_retry() => {
                return self.build_elsewhere(failure, stage).await;
            }
            // There is no count of attempts: nobody tries again, and the user reads the reason.
            Retry::Elsewhere => {
                let reason = raised.fault.message.clone();
                (rescheduled(&self.subject.instance, raised), reason)
            }
            Retry::Never { reason } => {
                let aborted = aborted(&self.subject.instance, raised, &reason);
                let message = aborted.fault.shown().to_owned();
                (aborted, message)
            }
        };
        build_volumes::close(stage, &self.build.block_devices).await?;
        build_volumes::delete(stage, &self.build.block_devices).await;
        stage.on.claims.release_allocation(stage.context, &self.subject.instance).await?;
        self.subject.record_fault(&raised, &message, stage).await?;
        let instance = &mut self.subject.instance;
        instance.vm_state.set(Some(VmState::Error));
        instance.task_state.set(None);
        instance.power_state.set(Some(PowerState::NoState.number()));
        self.subject.save_end(unless_deleting(), stage).await?;
        self.subject.finish(None, stage).await
    }

    /// Hands the build back: the conductor tries the hosts that are left, and tells the user when
    /// there is none. The allocation goes first: the next host may be this one's neighbour in the
    /// same project's quota, and claims its own.
    async fn build_elsewhere(&mut self, failure: &Failure, stage: &Stage<'_>) -> StepResult {
        let instance = &mut self.subject.instance;
        instance.task_state.set(Some(TaskState::Scheduling));
        if !self.subject.save_end(unless_deleting(), stage).await? {
            // What is being deleted isn't built anywhere.
            return self.subject.finish(None, stage).await;
        }
        let instance = &mut self.subject.instance;
        stage.on.claims.release_allocation(stage.context, instance).await?;
        let args = self.build.arguments.build_instances(instance, failure);
        stage.on.scheduling.build_elsewhere(stage.context, args).await?;
        self.subject.finish(None, stage).await
    }
}
