//! A network in memory: it gives out the same interfaces as `standalone.rs` and remembers which
//! are allocated and plugged, so that a test can ask what is left. A named call can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use uuid::Uuid;

use super::standalone::vifs_for;
use super::{Network, NetworkError, RequestedNetwork, Vif, VifSource};
use crate::model::context::RequestContext;

/// A network without a host.
#[derive(Debug, Default)]
pub struct FakeNetwork {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The bridges that there are; `None`: every name is one.
    bridges: Option<BTreeSet<String>>,
    allocated: BTreeMap<Uuid, Vec<Vif>>,
    plugged: BTreeSet<(Uuid, String)>,
    fail_at: Option<String>,
}

impl FakeNetwork {
    /// A host on which every bridge exists.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host with these bridges only.
    pub fn with_bridges<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bridges = Some(names.into_iter().map(str::to_owned).collect());
        Self { state: Mutex::new(State { bridges, ..State::default() }) }
    }

    /// Makes the next call of the method named `call` fail as a broken host would.
    pub fn fail_at(&self, call: &str) {
        self.state().fail_at = Some(call.to_owned());
    }

    /// The interfaces that are given out, by instance.
    pub fn allocated(&self) -> BTreeMap<Uuid, Vec<Vif>> {
        self.state().allocated.clone()
    }

    /// The devices that are plugged, with their instance.
    pub fn plugged(&self) -> BTreeSet<(Uuid, String)> {
        self.state().plugged.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(
        &self,
        call: &'static str,
        device: &str,
    ) -> Result<MutexGuard<'_, State>, NetworkError> {
        let mut state = self.state();
        if state.fail_at.as_deref() == Some(call) {
            state.fail_at = None;
            let message = format!("told to fail at {call}");
            return Err(NetworkError::Host { operation: call, device: device.to_owned(), message });
        }
        Ok(state)
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn allocate(
        &self,
        _: &RequestContext,
        instance: Uuid,
        requested: &[RequestedNetwork],
    ) -> Result<Vec<Vif>, NetworkError> {
        let mut state = self.enter("allocate", "interfaces")?;
        let vifs = vifs_for(instance, requested, "user")?;
        state.allocated.insert(instance, vifs.clone());
        Ok(vifs)
    }

    async fn plug(&self, instance: Uuid, vif: &Vif) -> Result<(), NetworkError> {
        let mut state = self.enter("plug", &vif.device)?;
        if let (VifSource::Bridge { bridge }, Some(bridges)) = (&vif.source, &state.bridges)
            && !bridges.contains(bridge)
        {
            return Err(NetworkError::NotFound(bridge.clone()));
        }
        state.plugged.insert((instance, vif.device.clone()));
        Ok(())
    }

    async fn unplug(&self, instance: Uuid, vif: &Vif) -> Result<(), NetworkError> {
        let mut state = self.enter("unplug", &vif.device)?;
        state.plugged.remove(&(instance, vif.device.clone()));
        Ok(())
    }

    async fn deallocate(
        &self,
        _: &RequestContext,
        instance: Uuid,
        vifs: &[Vif],
    ) -> Result<(), NetworkError> {
        let mut state = self.enter("deallocate", "interfaces")?;
        if let Some(allocated) = state.allocated.get_mut(&instance) {
            allocated.retain(|vif| !vifs.contains(vif));
            if allocated.is_empty() {
                state.allocated.remove(&instance);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_allocated_and_plugged_can_be_asked_for() {
        let network = FakeNetwork::new();
        let (context, instance) = (RequestContext::admin(), Uuid::from_u128(1));
        let vifs = network.allocate(&context, instance, &[]).await.unwrap();
        network.plug(instance, &vifs[0]).await.unwrap();
        assert_eq!(network.allocated()[&instance], vifs);
        assert_eq!(network.plugged().len(), 1);

        network.unplug(instance, &vifs[0]).await.unwrap();
        network.deallocate(&context, instance, &vifs).await.unwrap();
        assert!(network.plugged().is_empty() && network.allocated().is_empty());
    }

    #[tokio::test]
    async fn a_named_call_fails_once() {
        let network = FakeNetwork::new();
        let (context, instance) = (RequestContext::admin(), Uuid::from_u128(1));
        let vifs = network.allocate(&context, instance, &[]).await.unwrap();
        network.fail_at("plug");
        assert!(matches!(
            network.plug(instance, &vifs[0]).await,
            Err(NetworkError::Host { operation: "plug", .. })
        ));
        network.plug(instance, &vifs[0]).await.unwrap();
    }
}
