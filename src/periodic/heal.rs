//! The recorded networks of instances, brought in line with Neutron's ports: one instance a run.
//! nova: compute/manager.py, `_heal_instance_info_cache`

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{debug, warn};
use uuid::Uuid;

use crate::dispatch::own::OwnRequests;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::network::network_info_text;
use crate::model::object::Instance;
use crate::model::state::{TaskState, VmState};
use crate::network::{NetworkError, Refresh};
use crate::records::RecordsError;
use crate::telemetry::Chain;

#[derive(Debug, thiserror::Error)]
pub enum HealError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl HealError {
    pub fn class(&self) -> Class {
        match self {
            Self::Network(error) => error.class(),
            Self::Records(error) => error.class(),
        }
    }
}

/// Goes round the instances of this host.
#[derive(Clone)]
pub struct Healer {
    own: OwnRequests,
    left: Arc<Mutex<VecDeque<Uuid>>>,
}

impl Healer {
    pub fn new(own: OwnRequests) -> Self {
        Self { own, left: Arc::default() }
    }

    /// Looks at the next instance; after the last, the first.
    ///
    /// # Errors
    /// The records can't be read; an instance on which it fails is logged.
    pub async fn run(&self) -> Result<(), HealError> {
        let context = RequestContext::admin();
        if self.left().is_empty() {
            let instances = self.own.backends().records.instances(&context, &[]).await?;
            let worth = instances.iter().filter(|instance| is_worth_it(instance));
            let uuids = worth.filter_map(|instance| instance.uuid.get().copied()).collect();
            *self.left() = uuids;
        }
        loop {
            let Some(uuid) = self.left().pop_front() else { return Ok(()) };
            let (own, context) = (self.own.clone(), context.clone());
            let turn = async move { heal(&own, &context, uuid).await };
            match self.own.dispatcher().if_idle(uuid, turn).await {
                Some(Ok(true)) => return Ok(()),
                // Gone, or at something else: the next one.
                Some(Ok(false)) | None => {}
                Some(Err(error)) => {
                    let error = Chain(&error);
                    warn!(instance_uuid = %uuid, %error, "its network can't be refreshed");
                    return Ok(());
                }
            }
        }
    }

    fn left(&self) -> std::sync::MutexGuard<'_, VecDeque<Uuid>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_worth_it(instance: &Instance) -> bool {
    instance.vm_state.value() != Some(&VmState::Building)
        && instance.task_state.value() != Some(&TaskState::Deleting)
}

/// Says whether the instance was one to look at.
async fn heal(own: &OwnRequests, context: &RequestContext, uuid: Uuid) -> Result<bool, HealError> {
    let on = own.backends();
    let Some(mut instance) = on.records.instance(context, uuid).await? else { return Ok(false) };
    if !is_worth_it(&instance) || instance.host.value() != Some(&on.settings.host) {
        return Ok(false);
    }
    if instance.task_state.value().is_none() {
        // An evacuation that failed may have left its ports bound elsewhere.
        on.network.bind(context, &instance, &on.settings.host).await?;
    }
    let vifs = on.network.refresh(context, &instance, Refresh::All).await?;
    let text = network_info_text(&vifs);
    on.records.save_info_cache(context, &mut instance, text).await?;
    debug!(instance_uuid = %uuid, interfaces = vifs.len(), "its network is refreshed");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;
    use crate::workflow::world::{UUID, World};

    async fn recorded(world: &World) -> usize {
        let cache = world.records.info_cache(&RequestContext::admin(), UUID).await.unwrap();
        let text = cache.unwrap().network_info.value().cloned().unwrap();
        serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap().len()
    }

    async fn forget(world: &World) {
        let context = RequestContext::admin();
        let mut instance = world.records.instance(&context, UUID).await.unwrap().unwrap();
        world.records.save_info_cache(&context, &mut instance, "[]".to_owned()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_lost_its_network_gets_it_back() {
        let world = World::with_guest().await;
        let healer = Healer::new(world.own_requests());
        let interfaces = recorded(&world).await;
        assert!(interfaces > 0);
        for _ in 0..2 {
            forget(&world).await;
            healer.run().await.unwrap();
            assert_eq!(recorded(&world).await, interfaces);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_is_built_or_deleted_is_left_alone() {
        let world = World::with_guest().await;
        let healer = Healer::new(world.own_requests());
        forget(&world).await;
        world.change(|instance| instance.task_state.set(Some(TaskState::Deleting))).await;
        healer.run().await.unwrap();
        assert_eq!(recorded(&world).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_neutron_that_fails_changes_nothing_and_the_next_run_goes_on() {
        let world = World::with_guest().await;
        let healer = Healer::new(world.own_requests());
        let interfaces = recorded(&world).await;
        world.network.fail_at("refresh");
        healer.run().await.unwrap();
        assert_eq!(recorded(&world).await, interfaces);
        forget(&world).await;
        healer.run().await.unwrap();
        assert_eq!(recorded(&world).await, interfaces);
    }
}
