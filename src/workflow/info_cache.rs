//! The instance's network as it is recorded: asked of the network anew, and written down.
//! nova: network/neutron.py, update_instance_cache_with_nw_info, `refresh_cache`
//!
//! Workflows, events and periodic tasks all do it, so it is one at a time for each instance: who
//! reads first and writes last would bring back what is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tracing::debug;
use uuid::Uuid;

use super::{Backends, StepError};
use crate::model::context::RequestContext;
use crate::model::network::network_info_text;
use crate::model::object::Instance;
use crate::network::{NetworkError, Refresh, Vif};

/// Whose turn it is. nova: lock `refresh_cache-<uuid>`
#[derive(Debug, Default)]
pub struct InfoCaches {
    turns: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>,
}

impl InfoCaches {
    /// Waits for this instance's turn, which lasts until the guard goes.
    pub async fn turn(&self, instance: Uuid) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has or waits for.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(instance).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// Asks the network for the instance's interfaces, records them if anything has changed, and puts
/// them into `instance`. The record is read first: others may have written it. An instance that has
/// no interface on record has none to ask for, unless it is [`Refresh::All`] that are.
///
/// # Errors
/// The network's, the records'.
pub async fn refresh(
    on: &Backends,
    context: &RequestContext,
    instance: &mut Instance,
    which: Refresh,
) -> Result<Vec<Vif>, StepError> {
    let uuid = instance.uuid()?;
    let _turn = on.info_caches.turn(uuid).await;
    let Some(recorded) = on.records.info_cache(context, uuid).await? else {
        return Ok(instance.vifs().map_err(NetworkError::from)?);
    };
    let before = recorded.vifs();
    instance.info_cache.load(Some(Some(recorded)));
    if which != Refresh::All && before.as_ref().is_ok_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let vifs = on.network.refresh(context, instance, which).await?;
    if before.is_ok_and(|before| before == vifs) {
        debug!(instance_uuid = %uuid, "the network is as it was");
        return Ok(vifs);
    }
    on.records.save_info_cache(context, instance, network_info_text(&vifs)).await?;
    Ok(vifs)
}

/// Changes the recorded network, and puts it into `instance`. The record is read first, and nobody else
/// writes it meanwhile.
///
/// # Errors
/// The records'; `Unreadable` for a record that isn't nova's model.
pub async fn change(
    on: &Backends,
    context: &RequestContext,
    instance: &mut Instance,
    change: impl FnOnce(&mut Vec<Vif>),
) -> Result<(), StepError> {
    let uuid = instance.uuid()?;
    let _turn = on.info_caches.turn(uuid).await;
    if let Some(recorded) = on.records.info_cache(context, uuid).await? {
        instance.info_cache.load(Some(Some(recorded)));
    }
    let before = instance.vifs().map_err(NetworkError::from)?;
    let mut after = before.clone();
    change(&mut after);
    if after != before {
        let text = network_info_text(&after);
        on.records.save_info_cache(context, instance, text).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_instance_s_turns_come_one_by_one_and_others_don_t_wait() {
        let caches = Arc::new(InfoCaches::default());
        let first = caches.turn(Uuid::from_u128(1)).await;
        let _other = caches.turn(Uuid::from_u128(2)).await;
        let second = tokio::spawn({
            let caches = caches.clone();
            async move { drop(caches.turn(Uuid::from_u128(1)).await) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
    }
}
