//! A network in memory: it gives out the same interfaces as `standalone.rs` and remembers which
//! are allocated and plugged, so that a test can ask what is left. A named call can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use uuid::Uuid;

use super::standalone::{uuid, vifs_for};
use super::wiring::Wiring;
use super::{Network, NetworkError, PlugFor, PortAddresses, Refresh, Vif, Wanted};
use crate::model::context::RequestContext;
use crate::model::network::{FixedIp, Subnet};
use crate::model::object::Instance;

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
    /// Addresses of ports, where they have any.
    fixed_ips: BTreeMap<Uuid, Vec<(String, String)>>,
    /// Instances whose interfaces are on no host.
    unbound: BTreeSet<Uuid>,
    /// Who is told of a plug, where ports are down until then.
    reports: Option<Reports>,
    /// Ports that are up.
    active: BTreeSet<Uuid>,
    fail_at: Option<String>,
}

/// Called with the instance and its port; says whether the port comes up.
struct Reports(Box<dyn Fn(Uuid, Uuid) -> bool + Send>);

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reports")
    }
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

    /// From now on ports are down until they are plugged, as Neutron's are. `report` is called with
    /// the instance and the port of each plug, and says whether the port comes up.
    pub fn report_plugs(&self, report: impl Fn(Uuid, Uuid) -> bool + Send + 'static) {
        self.state().reports = Some(Reports(Box::new(report)));
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

    /// The addresses of its ports.
    pub fn addresses_of(&self, instance: Uuid) -> Vec<Vec<String>> {
        let state = self.state();
        let vifs = state.allocated.get(&instance).into_iter().flatten();
        let of = |vif: &Vif| {
            let all = state.fixed_ips.get(&vif.id).into_iter().flatten();
            all.map(|(_, address)| address.clone()).collect()
        };
        vifs.map(of).collect()
    }

    /// Whether the instance's interfaces are on no host.
    pub fn is_unbound(&self, instance: Uuid) -> bool {
        self.state().unbound.contains(&instance)
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
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<Vec<Vif>, NetworkError> {
        let mut state = self.enter("allocate", "interfaces")?;
        let mut vifs = vifs_for(uuid(instance)?, wanted, "user")?;
        for vif in &mut vifs {
            vif.active = state.reports.is_none() || state.active.contains(&vif.id);
        }
        let all = state.allocated.entry(uuid(instance)?).or_default();
        all.retain(|vif| wanted.besides.contains(&vif.id));
        all.extend(vifs.iter().cloned());
        Ok(vifs)
    }

    async fn deallocate(
        &self,
        _: &RequestContext,
        instance: &Instance,
        _: &[Uuid],
    ) -> Result<(), NetworkError> {
        let mut state = self.enter("deallocate", "interfaces")?;
        for vif in state.allocated.remove(&uuid(instance)?).unwrap_or_default() {
            state.active.remove(&vif.id);
        }
        Ok(())
    }

    async fn release(
        &self,
        _: &RequestContext,
        instance: &Instance,
        port: Uuid,
    ) -> Result<(), NetworkError> {
        let mut state = self.enter("release", "interfaces")?;
        if let Some(vifs) = state.allocated.get_mut(&uuid(instance)?) {
            vifs.retain(|vif| vif.id != port);
        }
        state.active.remove(&port);
        state.fixed_ips.remove(&port);
        Ok(())
    }

    async fn refresh(
        &self,
        _: &RequestContext,
        instance: &Instance,
        _: Refresh,
    ) -> Result<Vec<Vif>, NetworkError> {
        let state = self.enter("refresh", "interfaces")?;
        let recorded = instance.vifs()?;
        let mut vifs = state.allocated.get(&uuid(instance)?).cloned().unwrap_or(recorded);
        for vif in &mut vifs {
            vif.active = state.reports.is_none() || state.active.contains(&vif.id);
            place_addresses(vif, state.fixed_ips.get(&vif.id));
        }
        Ok(vifs)
    }

    async fn bind(
        &self,
        _: &RequestContext,
        instance: &Instance,
        _: &str,
    ) -> Result<(), NetworkError> {
        self.enter("bind", "interfaces")?.unbound.remove(&uuid(instance)?);
        Ok(())
    }

    async fn unbind(&self, _: &RequestContext, instance: &Instance) -> Result<(), NetworkError> {
        self.enter("unbind", "interfaces")?.unbound.insert(uuid(instance)?);
        Ok(())
    }

    async fn active_ports(
        &self,
        _: &RequestContext,
        instance: &Instance,
    ) -> Result<BTreeSet<Uuid>, NetworkError> {
        let state = self.enter("active_ports", "interfaces")?;
        let vifs = state.allocated.get(&uuid(instance)?).into_iter().flatten();
        let active = |vif: &&Vif| state.reports.is_none() || state.active.contains(&vif.id);
        Ok(vifs.filter(active).map(|vif| vif.id).collect())
    }

    async fn addresses(
        &self,
        _: &RequestContext,
        instance: &Instance,
    ) -> Result<Vec<PortAddresses>, NetworkError> {
        let state = self.enter("addresses", "interfaces")?;
        let vifs = state.allocated.get(&uuid(instance)?).into_iter().flatten();
        let of = |vif: &Vif| PortAddresses {
            port: vif.id,
            network_id: vif.network.as_ref().and_then(|it| it.label.clone()).unwrap_or_default(),
            fixed_ips: state.fixed_ips.get(&vif.id).cloned().unwrap_or_default(),
        };
        Ok(vifs.map(of).collect())
    }

    /// The first address that nobody has, of the only subnet there is.
    async fn add_address(
        &self,
        _: &RequestContext,
        port: &PortAddresses,
    ) -> Result<bool, NetworkError> {
        let mut state = self.enter("add_address", "interfaces")?;
        let is_taken = |address: &String| {
            state.fixed_ips.values().flatten().chain(&port.fixed_ips).any(|(_, a)| a == address)
        };
        let free = (10..250).map(|host| format!("192.0.2.{host}")).find(|a| !is_taken(a));
        let Some(free) = free else { return Ok(false) };
        let mut all = port.fixed_ips.clone();
        all.push(("subnet".to_owned(), free));
        state.fixed_ips.insert(port.port, all);
        Ok(true)
    }

    async fn set_addresses(
        &self,
        _: &RequestContext,
        port: &PortAddresses,
    ) -> Result<(), NetworkError> {
        let mut state = self.enter("set_addresses", "interfaces")?;
        state.fixed_ips.insert(port.port, port.fixed_ips.clone());
        Ok(())
    }

    async fn security_groups(
        &self,
        _: &RequestContext,
        _: &Instance,
    ) -> Result<Vec<String>, NetworkError> {
        self.enter("security_groups", "interfaces").map(|_| Vec::new())
    }

    async fn plug(&self, owner: PlugFor, vif: &Vif) -> Result<(), NetworkError> {
        let mut state = self.enter("plug", &vif.device_name())?;
        if let (Wiring::Bridge { bridge, .. }, Some(bridges)) = (Wiring::of(vif)?, &state.bridges)
            && !bridges.contains(&bridge)
        {
            return Err(NetworkError::NotFound(bridge));
        }
        let is_new = state.plugged.insert((owner.instance, vif.device_name()));
        if is_new && state.reports.as_ref().is_some_and(|on| (on.0)(owner.instance, vif.id)) {
            state.active.insert(vif.id);
        }
        Ok(())
    }

    async fn unplug(&self, instance: Uuid, vif: &Vif) -> Result<(), NetworkError> {
        let mut state = self.enter("unplug", &vif.device_name())?;
        state.plugged.remove(&(instance, vif.device_name()));
        state.active.remove(&vif.id);
        Ok(())
    }

    async fn unplug_rest(&self, instance: Uuid) -> Result<(), NetworkError> {
        let mut state = self.enter("unplug_rest", "interfaces")?;
        state.plugged.retain(|(owner, _)| *owner != instance);
        Ok(())
    }
}

fn place_addresses(vif: &mut Vif, fixed_ips: Option<&Vec<(String, String)>>) {
    let Some(network) = &mut vif.network else { return };
    let ip = |(_, address): &(String, String)| FixedIp {
        address: Some(address.clone()),
        kind: Some("fixed".to_owned()),
        version: Some(4),
        ..FixedIp::default()
    };
    let ips: Vec<_> = fixed_ips.into_iter().flatten().map(ip).collect();
    let subnet = Subnet { ips, version: Some(4), ..Subnet::default() };
    network.subnets = if subnet.ips.is_empty() { Vec::new() } else { vec![subnet] };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> PlugFor {
        PlugFor { instance: Uuid::from_u128(1), multiqueue: false }
    }

    fn instance() -> Instance {
        let mut instance = Instance::default();
        instance.uuid.load(Some(owner().instance));
        instance
    }

    #[tokio::test]
    async fn what_is_allocated_and_plugged_can_be_asked_for() {
        let network = FakeNetwork::new();
        let (context, instance) = (RequestContext::admin(), instance());
        let vifs = network.allocate(&context, &instance, &Wanted::default()).await.unwrap();
        network.plug(owner(), &vifs[0]).await.unwrap();
        assert_eq!(network.allocated()[&owner().instance], vifs);
        assert_eq!(network.plugged().len(), 1);

        network.unplug(owner().instance, &vifs[0]).await.unwrap();
        network.deallocate(&context, &instance, &[]).await.unwrap();
        assert!(network.plugged().is_empty() && network.allocated().is_empty());
    }

    #[tokio::test]
    async fn a_named_call_fails_once() {
        let network = FakeNetwork::new();
        let context = RequestContext::admin();
        let vifs = network.allocate(&context, &instance(), &Wanted::default()).await.unwrap();
        network.fail_at("plug");
        assert!(matches!(
            network.plug(owner(), &vifs[0]).await,
            Err(NetworkError::Host { operation: "plug", .. })
        ));
        network.plug(owner(), &vifs[0]).await.unwrap();
    }

    #[tokio::test]
    async fn a_port_is_down_until_its_plug_is_reported() {
        let network = FakeNetwork::new();
        network.report_plugs(|_, _| true);
        let (context, instance) = (RequestContext::admin(), instance());
        let vifs = network.allocate(&context, &instance, &Wanted::default()).await.unwrap();
        assert!(!vifs[0].active);
        assert!(network.active_ports(&context, &instance).await.unwrap().is_empty());
        network.plug(owner(), &vifs[0]).await.unwrap();
        assert_eq!(network.active_ports(&context, &instance).await.unwrap(), [vifs[0].id].into());
        let refreshed = network.refresh(&context, &instance, Refresh::All).await.unwrap();
        assert!(refreshed[0].active);
    }
}
