//! Instances whose time is up: soft-deleted ones that nobody wants back, rescued ones, shelved ones that
//! are still here, and builds that take too long.
//! nova: compute/manager.py, `_reclaim_queued_deletes`, `_poll_rescued_instances`,
//! `_poll_shelved_instances`, `_check_instance_build_time`

use std::time::Duration;

use tracing::{info, warn};
use uuid::Uuid;

use crate::dispatch::own::{OwnError, OwnRequests};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;
use crate::records::{Expected, InstancePart, RecordsError};
use crate::telemetry::Chain;
use crate::workflow::shelved;
use crate::workflow::terminate::Terminate;

/// Deletes what was soft-deleted longer than `after` ago.
///
/// # Errors
/// The records can't be read; an instance that can't be deleted is logged.
pub async fn reclaim(own: &OwnRequests, after: Duration) -> Result<(), RecordsError> {
    let queued = move |instance: &Instance| {
        is_idle(instance, VmState::SoftDeleted) && is_older(instance.deleted_at.value(), after)
    };
    each(own, &[], queued, |own, context, instance| async move {
        info!(instance_uuid = ?instance.uuid.get(), "reclaiming a soft-deleted instance");
        own.submit(&context, instance, "terminate_instance", Terminate::new).await
    })
    .await
}

/// Unrescues what has been rescued for longer than `after`.
///
/// # Errors
/// The records can't be read; an instance that can't be unrescued is logged.
pub async fn unrescue(own: &OwnRequests, after: Duration) -> Result<(), RecordsError> {
    let overdue = move |instance: &Instance| {
        is_idle(instance, VmState::Rescued) && is_older(instance.launched_at.value(), after)
    };
    each(own, &[], overdue, |own, context, instance| async move {
        info!(instance_uuid = ?instance.uuid.get(), "its time to be rescued is over");
        own.unrescue(&context, instance).await
    })
    .await
}

/// Has what was shelved longer than `after` ago leave this host. One whose record doesn't say when it was
/// shelved stays: nobody knows whether there is an image of it.
///
/// # Errors
/// The records can't be read; an instance that can't leave is logged.
pub async fn offload(own: &OwnRequests, after: Duration) -> Result<(), RecordsError> {
    let overdue = move |instance: &Instance| {
        let since = shelved::shelved_at(instance);
        is_idle(instance, VmState::Shelved) && since.is_some() && is_older(since.as_ref(), after)
    };
    each(own, &[InstancePart::SystemMetadata], overdue, |own, context, instance| async move {
        info!(instance_uuid = ?instance.uuid.get(), "offloading a shelved instance");
        own.offload(&context, instance).await
    })
    .await
}

/// Whether the instance is in this state, and nobody is at work on it.
fn is_idle(instance: &Instance, vm_state: VmState) -> bool {
    instance.vm_state.value() == Some(&vm_state) && instance.task_state.value().is_none()
}

/// Does `work` on every instance of this host that is `overdue`, in a turn of its own; looked at again
/// then, as others may have come first.
async fn each<W, F, O>(
    own: &OwnRequests,
    parts: &[InstancePart],
    overdue: O,
    work: W,
) -> Result<(), RecordsError>
where
    O: Fn(&Instance) -> bool + Copy + Send + Sync + 'static,
    W: Fn(OwnRequests, RequestContext, Instance) -> F + Copy + Send + 'static,
    F: Future<Output = Result<(), OwnError>> + Send,
{
    let context = RequestContext::admin();
    for instance in own.backends().records.instances(&context, parts).await? {
        if !(overdue(&instance) && is_ours(own, &instance)) {
            continue;
        }
        let Ok(uuid) = instance.uuid() else { continue };
        let (again, context) = (own.clone(), context.clone());
        let turn = async move {
            match fresh(&again, &context, uuid).await?.filter(|found| overdue(found)) {
                Some(instance) => work(again, context, instance).await,
                None => Ok(()),
            }
        };
        let done = own.dispatcher().if_idle(uuid, turn).await;
        log_failure(uuid, done);
    }
    Ok(())
}

/// Makes an error of what has been building for longer than `after`. The build itself goes on, as
/// nova's does: its end is the instance's state again.
///
/// # Errors
/// The records can't be read; an instance that can't be written is logged.
pub async fn fail_slow_builds(own: &OwnRequests, after: Duration) -> Result<(), RecordsError> {
    let context = RequestContext::admin();
    let records = &own.backends().records;
    for mut instance in records.instances(&context, &[]).await? {
        let is_slow = instance.vm_state.value() == Some(&VmState::Building)
            && instance.created_at.value().is_some()
            && is_older(instance.created_at.value(), after);
        if !(is_slow && is_ours(own, &instance)) {
            continue;
        }
        let Ok(uuid) = instance.uuid() else { continue };
        let task_state = instance.task_state.value().copied();
        instance.vm_state.set(Some(VmState::Error));
        let found = Expected::OneOf(vec![task_state]);
        match records.save(&context, &mut instance, found).await {
            Ok(()) => {
                let task_state = task_state.map_or("none", TaskState::as_str);
                warn!(instance_uuid = %uuid, task_state, "the build takes too long: it is an error");
            }
            // It got on meanwhile.
            Err(RecordsError::UnexpectedTaskState { .. } | RecordsError::Deleting(_)) => {}
            Err(error) => log_failure(uuid, Some(Err(error.into()))),
        }
    }
    Ok(())
}

fn is_ours(own: &OwnRequests, instance: &Instance) -> bool {
    instance.host.value() == Some(&own.backends().settings.host)
}

async fn fresh(
    own: &OwnRequests,
    context: &RequestContext,
    uuid: Uuid,
) -> Result<Option<Instance>, OwnError> {
    let found = own.backends().records.instance(context, uuid).await?;
    Ok(found.filter(|instance| is_ours(own, instance)))
}

/// A time that nobody noted is long ago. nova: compute/manager.py, `_deleted_old_enough`
pub(super) fn is_older(since: Option<&Timestamp>, than: Duration) -> bool {
    let age = since.map(|since| Timestamp::now().as_second() - since.as_second());
    age.is_none_or(|age| u64::try_from(age).is_ok_and(|age| age >= than.as_secs()))
}

fn log_failure(uuid: Uuid, done: Option<Result<(), OwnError>>) {
    if let Some(Err(error)) = done {
        warn!(instance_uuid = %uuid, error = %Chain(&error), "left to the next run");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::shelf_tests::{rescue, shelve};
    use crate::workflow::world::{UUID, World};

    const HOUR: Duration = Duration::from_secs(3600);

    fn ago(age: Duration) -> Option<Timestamp> {
        let now = Timestamp::now().as_second();
        Some(Timestamp::from_second(now - i64::try_from(age.as_secs()).unwrap()))
    }

    async fn soft_deleted(world: &World, age: Duration, task_state: Option<TaskState>) {
        world
            .change(|instance| {
                instance.vm_state.set(Some(VmState::SoftDeleted));
                instance.task_state.set(task_state);
                instance.deleted_at.set(ago(age));
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_soft_deleted_long_ago_is_deleted() {
        let world = World::with_guest().await;
        let own = world.own_requests();
        for (age, task_state, gone) in [
            (HOUR / 2, None, false),
            (HOUR * 2, Some(TaskState::Restoring), false),
            (HOUR * 2, None, true),
        ] {
            soft_deleted(&world, age, task_state).await;
            reclaim(&own, HOUR).await.unwrap();
            while own.dispatcher().is_busy(UUID) {
                tokio::task::yield_now().await;
            }
            let deleted = world.records.all()[0].deleted.get() == Some(&true);
            assert_eq!(deleted, gone, "{age:?} {task_state:?}");
        }
        assert_eq!(world.leftovers().await, Vec::<String>::new());
    }

    async fn settle(own: &OwnRequests) {
        while own.dispatcher().is_busy(UUID) {
            tokio::task::yield_now().await;
        }
    }

    fn vm_state(world: &World) -> Option<VmState> {
        world.records.all()[0].vm_state.value().copied()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_rescued_long_ago_is_unrescued() {
        let world = World::with_guest().await;
        let own = world.own_requests();
        own.submit(
            &RequestContext::admin(),
            world.records.all().remove(0),
            "rescue_instance",
            |_| rescue(),
        )
        .await
        .unwrap();
        settle(&own).await;
        for (age, expected) in [(HOUR / 2, VmState::Rescued), (HOUR * 2, VmState::Active)] {
            world.change(|instance| instance.launched_at.set(ago(age))).await;
            unrescue(&own, HOUR).await.unwrap();
            settle(&own).await;
            assert_eq!(vm_state(&world), Some(expected), "{age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_shelved_long_ago_leaves_the_host() {
        let world = World::with_guest().await;
        let own = world.own_requests();
        let record = world.records.all().remove(0);
        own.submit(&RequestContext::admin(), record, "shelve_instance", |_| shelve())
            .await
            .unwrap();
        settle(&own).await;
        for (at, expected) in [
            (Some("2999-01-01T00:00:00.000000"), VmState::Shelved),
            (None, VmState::Shelved),
            (Some("2020-01-01T00:00:00.000000"), VmState::ShelvedOffloaded),
        ] {
            world
                .change(|instance| {
                    instance.system_metadata.update(|metadata| {
                        metadata.insert("shelved_at".to_owned(), at.map(str::to_owned));
                    });
                })
                .await;
            offload(&own, HOUR).await.unwrap();
            settle(&own).await;
            assert_eq!(vm_state(&world), Some(expected), "{at:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_that_takes_too_long_is_an_error() {
        let world = World::with_guest().await;
        let own = world.own_requests();
        for (vm_state, age, end) in [
            (VmState::Building, HOUR / 2, VmState::Building),
            (VmState::Active, HOUR * 2, VmState::Active),
            (VmState::Building, HOUR * 2, VmState::Error),
        ] {
            world
                .change(|instance| {
                    instance.vm_state.set(Some(vm_state));
                    instance.task_state.set(Some(TaskState::Spawning));
                    instance.created_at.set(ago(age));
                })
                .await;
            fail_slow_builds(&own, HOUR).await.unwrap();
            let record = world.records.all().remove(0);
            assert_eq!(record.vm_state.value(), Some(&end), "{vm_state} {age:?}");
            assert_eq!(record.task_state.value(), Some(&TaskState::Spawning));
        }
    }

    #[test]
    fn a_time_in_the_future_is_not_long_ago() {
        let later = Timestamp::from_second(Timestamp::now().as_second() + 60);
        assert!(!is_older(Some(&later), Duration::ZERO));
        assert!(is_older(None, HOUR));
    }
}
