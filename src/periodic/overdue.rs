//! Instances whose time is up: soft-deleted ones that nobody wants back, and builds that take too
//! long. nova: compute/manager.py, `_reclaim_queued_deletes`, `_check_instance_build_time`

use std::time::Duration;

use tracing::{info, warn};
use uuid::Uuid;

use crate::dispatch::own::{OwnError, OwnRequests};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;
use crate::records::{Expected, RecordsError};
use crate::telemetry::Chain;
use crate::workflow::terminate::Terminate;

/// Deletes what was soft-deleted longer than `after` ago.
///
/// # Errors
/// The records can't be read; an instance that can't be deleted is logged.
pub async fn reclaim(own: &OwnRequests, after: Duration) -> Result<(), RecordsError> {
    let context = RequestContext::admin();
    let queued = move |instance: &Instance| {
        instance.vm_state.value() == Some(&VmState::SoftDeleted)
            && instance.task_state.value().is_none()
            && is_older(instance.deleted_at.value(), after)
    };
    for instance in own.backends().records.instances(&context, &[]).await? {
        if !(queued(&instance) && is_ours(own, &instance)) {
            continue;
        }
        let Ok(uuid) = instance.uuid() else { continue };
        let (again, context) = (own.clone(), context.clone());
        let turn = async move {
            let Some(instance) = fresh(&again, &context, uuid).await?.filter(queued) else {
                return Ok(());
            };
            info!(instance_uuid = %uuid, "reclaiming a soft-deleted instance");
            again.submit(&context, instance, "terminate_instance", Terminate::new).await
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
