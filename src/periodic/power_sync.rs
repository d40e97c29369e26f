//! Power states: what the hypervisor says, and what the records say, brought together.
//! nova: compute/manager.py, `_sync_power_states`
//!
//! One question to the hypervisor and one to the records say who differs; only those are looked at
//! again, each in a turn of its own, and what follows goes through the instance's queue.

use futures_util::StreamExt;
use tracing::{Instrument, debug, info, info_span, warn};
use uuid::Uuid;

use super::power_rules::{Remedy, remedy};
use crate::dispatch::Dispatcher;
use crate::dispatch::own::{OwnError, OwnRequests};
use crate::hypervisor::HypervisorError;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::state::PowerState;
use crate::records::{Expected, RecordsError};
use crate::telemetry::Chain;

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Own(#[from] OwnError),
}

impl SyncError {
    pub fn class(&self) -> Class {
        match self {
            Self::Hypervisor(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Own(error) => error.class(),
        }
    }
}

/// Brings power states together.
#[derive(Clone)]
pub struct PowerSync {
    own: OwnRequests,
    /// `[DEFAULT] sync_power_state_pool_size`
    parallel: usize,
}

impl PowerSync {
    pub fn new(own: OwnRequests, parallel: usize) -> Self {
        Self { own, parallel: parallel.max(1) }
    }

    pub fn dispatcher(&self) -> &Dispatcher {
        self.own.dispatcher()
    }

    /// How many instances may be looked at at once.
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// All instances of this host.
    ///
    /// # Errors
    /// Nobody could be asked; an instance on which it fails is logged and left to the next run.
    pub async fn run(&self) -> Result<(), SyncError> {
        let context = RequestContext::admin();
        let on = self.own.backends();
        // Asked in this order, an instance that is built meanwhile is in neither answer or has no
        // domain yet: it is building, and left alone.
        let states = on.hypervisor.power_states().await?;
        let instances = on.records.instances(&context, &[]).await?;
        if states.len() != instances.len() {
            let (on_record, on_hypervisor) = (instances.len(), states.len());
            info!(on_record, on_hypervisor, "instances on record and domains differ in number");
        }
        let differing = instances.iter().filter_map(|instance| {
            let uuid = instance.uuid.get().copied()?;
            let power = states.get(&uuid).copied().unwrap_or(PowerState::NoState);
            differs(instance, power).then_some(uuid)
        });
        let differing: Vec<_> = differing.collect();
        futures_util::stream::iter(differing)
            .for_each_concurrent(self.parallel, |uuid| async move {
                self.one(uuid, None).await;
            })
            .await;
        Ok(())
    }

    /// One instance, after an event: `only_if` is the state that its domain must still be in, or it
    /// is left alone. Says whether its turn came: a request of the instance goes first.
    pub async fn one_if(&self, uuid: Uuid, only_if: PowerState) -> bool {
        self.one(uuid, Some(only_if)).await
    }

    async fn one(&self, uuid: Uuid, only_if: Option<PowerState>) -> bool {
        let own = self.own.clone();
        let span = info_span!("power_sync", instance_uuid = %uuid);
        let turn = async move {
            let context = RequestContext::admin();
            if let Err(error) = sync(&own, &context, uuid, only_if).await {
                match error.class() {
                    // It is being deleted, or somebody has just asked for something else.
                    Class::Absent | Class::Refused => debug!(error = %Chain(&error), "left alone"),
                    _ => warn!(error = %Chain(&error), "the power state is not brought in line"),
                }
            }
        };
        self.own.dispatcher().if_idle(uuid, turn.instrument(span)).await.is_some()
    }
}

/// Whether the instance is worth a second look.
fn differs(instance: &Instance, power: PowerState) -> bool {
    instance.task_state.value().is_none()
        && (instance.power_state.value() != Some(&power.number())
            || remedy(instance.vm_state.value().copied(), power) != Remedy::Nothing)
}

/// Looks at record and domain as they are now, and does what the table says.
async fn sync(
    own: &OwnRequests,
    context: &RequestContext,
    uuid: Uuid,
    only_if: Option<PowerState>,
) -> Result<(), SyncError> {
    let on = own.backends();
    let Some(mut instance) = on.records.instance(context, uuid).await? else { return Ok(()) };
    if instance.host.value() != Some(&on.settings.host) {
        info!(host = instance.host.value(), "the instance is another host's");
        return Ok(());
    }
    if let Some(task_state) = instance.task_state.value() {
        info!(%task_state, "the instance has a task: its power state is left alone");
        return Ok(());
    }
    let found = on.hypervisor.domain(uuid).await?;
    let power = found.map_or(PowerState::NoState, |info| info.power_state);
    if only_if.is_some_and(|expected| expected != power) {
        debug!(power = power.name(), "the event is late: the state is another one by now");
        return Ok(());
    }
    let recorded = instance.power_state.value().copied();
    if recorded != Some(power.number()) {
        let recorded = recorded.and_then(PowerState::from_number).unwrap_or(PowerState::NoState);
        info!(recorded = recorded.name(), found = power.name(), "the power state changed");
        instance.power_state.set(Some(power.number()));
        on.records.save(context, &mut instance, Expected::OneOf(vec![None])).await?;
    }
    let vm_state = instance.vm_state.value().copied();
    let shown = vm_state.map_or("none", |state| state.as_str());
    match remedy(vm_state, power) {
        Remedy::Nothing => {}
        Remedy::Warn(reason) => {
            warn!(vm_state = shown, power = power.name(), reason, "left as it is")
        }
        Remedy::Stop(reason) => {
            warn!(vm_state = shown, power = power.name(), reason, "stopping it");
            own.stop(context, instance).await?;
        }
        Remedy::StopOrDelete(reason) if instance.shutdown_terminate.get() == Some(&true) => {
            warn!(vm_state = shown, power = power.name(), reason, "deleting it");
            own.delete(context, instance).await?;
        }
        Remedy::StopOrDelete(reason) => {
            warn!(vm_state = shown, power = power.name(), reason, "stopping it");
            own.stop(context, instance).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::state::{TaskState, VmState};
    use crate::workflow::world::{UUID, World};

    pub(crate) fn power_sync(world: &World) -> PowerSync {
        PowerSync::new(world.own_requests(), 5)
    }

    /// Runs it, and waits until what it asked for has ended.
    async fn run(sync: &PowerSync) {
        sync.run().await.unwrap();
        while sync.own.dispatcher().is_busy(UUID) {
            tokio::task::yield_now().await;
        }
    }

    async fn shown(world: &World) -> String {
        let instance = world.records.all().remove(0);
        let state = instance.vm_state.value().map_or("-", |state| state.as_str());
        let task = instance.task_state.value().map_or("-", |state| state.as_str());
        format!("{state} {task} {}", instance.power_state.value().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_went_off_by_itself_is_stopped_on_record() {
        let world = World::with_guest().await;
        let sync = power_sync(&world);
        run(&sync).await;
        assert_eq!(shown(&world).await, "active - 1");
        world.hypervisor.guest_powers_off(UUID);
        run(&sync).await;
        assert_eq!(shown(&world).await, "stopped - 4");
        assert_eq!(world.faults().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_whose_end_means_deletion_is_deleted() {
        let world = World::with_guest().await;
        world.change(|instance| instance.shutdown_terminate.set(true)).await;
        world.hypervisor.guest_powers_off(UUID);
        run(&power_sync(&world)).await;
        assert_eq!(world.records.all()[0].deleted.get(), Some(&true));
        assert_eq!(world.leftovers().await, Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_runs_though_it_is_stopped_is_stopped() {
        let world = World::with_guest().await;
        world.change(|instance| instance.vm_state.set(Some(VmState::Stopped))).await;
        run(&power_sync(&world)).await;
        assert_eq!(shown(&world).await, "stopped - 4");
        assert!(world.hypervisor.get(UUID).unwrap().id.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_with_a_task_or_of_another_host_is_left_alone() {
        let world = World::with_guest().await;
        world.hypervisor.guest_powers_off(UUID);
        world.change(|instance| instance.task_state.set(Some(TaskState::Migrating))).await;
        run(&power_sync(&world)).await;
        assert_eq!(shown(&world).await, "active migrating 1");
        world
            .change(|instance| {
                instance.task_state.set(None);
                instance.host.set(Some("host2".into()));
            })
            .await;
        let sync = power_sync(&world);
        assert!(sync.one(UUID, None).await);
        assert_eq!(shown(&world).await, "active - 1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hypervisor_that_does_not_answer_stops_nothing() {
        let world = World::with_guest().await;
        let sync = power_sync(&world);
        world.hypervisor.guest_powers_off(UUID);
        world.hypervisor.fail_at("power_states");
        assert!(sync.run().await.is_err());
        world.hypervisor.fail_at("domain");
        run(&sync).await;
        assert_eq!(shown(&world).await, "active - 1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_guest_is_only_noted() {
        let world = World::with_guest().await;
        crate::hypervisor::Hypervisor::pause(&*world.hypervisor, UUID).await.unwrap();
        run(&power_sync(&world)).await;
        assert_eq!(shown(&world).await, "active - 3");
    }
}
