//! What deleted instances have left on this host: domains that still are, and files.
//! nova: compute/manager.py, `_cleanup_running_deleted_instances`, `_run_pending_deletes`
//!
//! Nothing is touched but what is nova's by its own metadata and deleted by its own record. Records
//! that can't be read, or that don't know an instance, say nothing.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::overdue::is_older;
use crate::dispatch::own::OwnRequests;
use crate::hypervisor::HypervisorError;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::records::RecordsError;
use crate::telemetry::Chain;
use crate::workflow::board::Running;
use crate::workflow::engine::Stage;
use crate::workflow::instance::{
    Subject, clean_attempts, cut_power, is_active, note_clean_attempt, note_cleaned,
};
use crate::workflow::terminate::Terminate;
use crate::workflow::{Backends, StepError};

/// `[DEFAULT] running_deleted_instance_action`, but for `noop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Log,
    /// The power is cut, and everything stays for an operator to look at.
    Shutdown,
    /// Everything of it goes.
    Reap,
}

#[derive(Debug, thiserror::Error)]
pub enum DeletedError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Step(#[from] StepError),
}

impl DeletedError {
    pub fn class(&self) -> Class {
        match self {
            Self::Hypervisor(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Step(error) => error.class(),
        }
    }
}

/// Looks for domains of instances that were deleted longer than `after` ago.
///
/// # Errors
/// Nobody could be asked, and nothing was done; a domain on which it fails is logged.
pub async fn clean_domains(
    own: &OwnRequests,
    action: Action,
    after: Duration,
) -> Result<(), DeletedError> {
    let context = RequestContext::admin();
    let domains = own.backends().hypervisor.domains().await?;
    let ours = domains.iter().filter(|domain| domain.nova_owned);
    let uuids: Vec<Uuid> = ours.map(|domain| domain.instance_uuid).collect();
    if uuids.is_empty() {
        return Ok(());
    }
    for instance in own.upkeep().deleted_among(&context, &uuids).await? {
        let is_deleted = instance.deleted.get() == Some(&true);
        let Ok(uuid) = instance.uuid() else { continue };
        // The answer is held to the question.
        if !(is_deleted && uuids.contains(&uuid) && is_older(instance.deleted_at.value(), after)) {
            continue;
        }
        if action == Action::Log {
            warn!(instance_uuid = %uuid, "the instance is deleted, and its domain is still here");
            continue;
        }
        let (on, context) = (own.backends().clone(), context.clone());
        let turn = async move { clean_domain(&on, &context, uuid, instance, action).await };
        match own.dispatcher().if_idle(uuid, turn).await {
            None => debug!(instance_uuid = %uuid, "it has requests: left to them"),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let error = Chain(&error);
                warn!(instance_uuid = %uuid, %error, "the deleted instance's domain is left");
            }
        }
    }
    Ok(())
}

async fn clean_domain(
    on: &Backends,
    context: &RequestContext,
    uuid: Uuid,
    instance: Instance,
    action: Action,
) -> Result<(), DeletedError> {
    let found = on.hypervisor.domain(uuid).await?;
    if !found.as_ref().is_some_and(|domain| domain.nova_owned) {
        return Ok(());
    }
    if action == Action::Shutdown {
        if is_active(found.as_ref()) {
            info!(instance_uuid = %uuid, "the instance is deleted: cutting its domain's power");
            cut_power(on, uuid).await?;
        }
        return Ok(());
    }
    info!(instance_uuid = %uuid, "the instance is deleted: removing what is left of it here");
    let mut terminate = Terminate::new(Subject::new(instance, "terminate_instance"));
    let (running, never) = (Running::detached(), CancellationToken::new());
    let stage =
        Stage { on, context, running: &running, hurry: &never, give_up: &never, failure: None };
    Ok(terminate.clear_host(&stage).await?)
}

/// Removes the files of deleted instances whose record doesn't say that they are gone; each is tried
/// `attempts` times at most.
///
/// # Errors
/// Nobody could be asked, and nothing was done; an instance on which it fails is logged.
pub async fn clean_files(own: &OwnRequests, attempts: u32) -> Result<(), DeletedError> {
    let context = RequestContext::admin();
    let uncleaned = own.upkeep().uncleaned(&context).await?;
    for instance in uncleaned {
        let Ok(uuid) = instance.uuid() else { continue };
        let ours = instance.host.value().is_none_or(|host| *host == own.backends().settings.host);
        let had = clean_attempts(&instance);
        if !ours || instance.deleted.get() != Some(&true) || had >= attempts {
            continue;
        }
        let (again, context) = (own.clone(), context.clone());
        let turn = async move { clean(&again, &context, uuid, instance).await };
        if let Some(Err(error)) = own.dispatcher().if_idle(uuid, turn).await {
            warn!(instance_uuid = %uuid, error = %Chain(&error), "a deleted instance's files are left");
        }
    }
    Ok(())
}

async fn clean(
    own: &OwnRequests,
    context: &RequestContext,
    uuid: Uuid,
    mut instance: Instance,
) -> Result<(), DeletedError> {
    let on = own.backends();
    // A domain may still write to them.
    if on.hypervisor.domain(uuid).await?.is_some() {
        return Ok(());
    }
    let removed = on.images.remove_directory(uuid).await;
    match removed {
        Ok(()) => note_cleaned(&mut instance),
        Err(_) => note_clean_attempt(&mut instance),
    }
    own.upkeep().save_deleted(context, &mut instance).await?;
    Ok(removed.map_err(StepError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Hypervisor;
    use crate::images::Images;
    use crate::images::fake::ImageCall;
    use crate::records::Records;
    use crate::workflow::world::{UUID, World};

    /// A guest that runs, with a record that says deleted.
    async fn left_running() -> World {
        let world = World::with_guest().await;
        let mut instance = world.records.all().remove(0);
        world.records.destroy(&RequestContext::admin(), &mut instance).await.unwrap();
        world
    }

    #[tokio::test(start_paused = true)]
    async fn each_action_does_no_more_than_it_says() {
        for (action, runs, remains) in [
            (Action::Log, true, true),
            (Action::Shutdown, false, true),
            (Action::Reap, false, false),
        ] {
            let world = left_running().await;
            clean_domains(&world.own_requests(), action, Duration::ZERO).await.unwrap();
            let domain = world.hypervisor.domain(UUID).await.unwrap();
            assert_eq!(is_active(domain.as_ref()), runs, "{action:?}");
            assert_eq!(world.images.has_directory(UUID).await.unwrap(), remains, "{action:?}");
            assert_eq!(world.network.allocated().is_empty(), !remains, "{action:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_domain_without_a_deleted_record_is_never_touched() {
        // Not deleted; deleted just now; not on record; records that can't be read.
        let world = World::with_guest().await;
        clean_domains(&world.own_requests(), Action::Reap, Duration::ZERO).await.unwrap();
        assert!(is_active(world.hypervisor.domain(UUID).await.unwrap().as_ref()));

        let world = left_running().await;
        let hour = Duration::from_secs(3600);
        clean_domains(&world.own_requests(), Action::Reap, hour).await.unwrap();
        assert!(is_active(world.hypervisor.domain(UUID).await.unwrap().as_ref()));
        world.records.fail_at("deleted_among");
        let own = world.own_requests();
        assert!(clean_domains(&own, Action::Reap, Duration::ZERO).await.is_err());
        assert!(is_active(world.hypervisor.domain(UUID).await.unwrap().as_ref()));

        let guest = World::with_guest().await;
        let other = World { records: World::new().records, ..guest };
        clean_domains(&other.own_requests(), Action::Reap, Duration::ZERO).await.unwrap();
        assert!(is_active(other.hypervisor.domain(UUID).await.unwrap().as_ref()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_domain_that_is_not_novas_is_never_touched() {
        let world = left_running().await;
        let spec = world.hypervisor.get(UUID).unwrap().spec;
        world.hypervisor.add_foreign(spec);
        clean_domains(&world.own_requests(), Action::Reap, Duration::ZERO).await.unwrap();
        assert!(world.hypervisor.domain(UUID).await.unwrap().is_some());
        assert!(world.images.has_directory(UUID).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn files_of_deleted_instances_go_but_not_under_a_domain() {
        let world = left_running().await;
        let own = world.own_requests();
        clean_files(&own, 5).await.unwrap();
        assert!(world.images.has_directory(UUID).await.unwrap());
        world.hypervisor.destroy(UUID).await.unwrap();
        world.hypervisor.undefine(UUID).await.unwrap();
        world.images.fail_once_at(ImageCall::RemoveDirectory);
        clean_files(&own, 5).await.unwrap();
        let record = world.records.all().remove(0);
        assert_eq!(record.system_metadata("clean_attempts"), Some("1"));
        assert_ne!(record.cleaned.get(), Some(&true));
        clean_files(&own, 1).await.unwrap();
        assert!(world.images.has_directory(UUID).await.unwrap(), "one attempt too many");
        clean_files(&own, 5).await.unwrap();
        assert!(!world.images.has_directory(UUID).await.unwrap());
        assert_eq!(world.records.all()[0].cleaned.get(), Some(&true));
    }

    #[tokio::test(start_paused = true)]
    async fn files_of_an_instance_that_is_there_stay() {
        let world = World::with_guest().await;
        world.hypervisor.destroy(UUID).await.unwrap();
        world.hypervisor.undefine(UUID).await.unwrap();
        clean_files(&world.own_requests(), 5).await.unwrap();
        assert!(world.images.has_directory(UUID).await.unwrap());
    }
}
