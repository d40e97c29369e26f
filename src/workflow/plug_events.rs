//! A domain whose ports are only just being plugged starts paused, and runs when Neutron has said
//! that they are: a guest that asks for its address too early goes without.
//! nova: virt/libvirt/driver.py, _create_guest_with_network

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::engine::Stage;
use super::external_events::{EventKey, Reported};
use super::instance::{await_domain, await_running};
use super::{Backends, StepError, StepResult};
use crate::hypervisor::StartOptions;
use crate::model::object::Instance;
use crate::model::state::PowerState;
use crate::network::{NetworkError, Vif};
use crate::telemetry::Chain;

/// When a port's state is asked for, because no event has come. Neutron gathers its events for two
/// seconds (`[DEFAULT] send_events_interval`), and most ports are up long before; or the event was
/// lost, or came before a crash. Each pause is half as long again as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// `vif_plugging_timeout`, `vif_plugging_is_fatal`, and what is awaited when.
#[derive(Debug, Clone)]
pub struct PlugSettings {
    /// Zero: nothing is awaited.
    pub timeout: Duration,
    /// Whether a guest without its network is a failure.
    pub is_fatal: bool,
    /// `[workarounds] wait_for_vif_plugged_event_during_hard_reboot`: kinds of ports that are awaited
    /// when a domain is made anew, too.
    pub awaited_at_reboot: Vec<String>,
}

/// Ports whose plug is awaited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Awaited {
    ports: Vec<Uuid>,
    /// Whether a port that is up counts as plugged: it was down before.
    was_down: bool,
}

impl Awaited {
    /// Those of a new instance: ports that are up won't come up any more.
    /// nova: virt/libvirt/driver.py, _get_neutron_events
    pub fn of_new(vifs: &[Vif], on: &Backends) -> Self {
        let down = vifs.iter().filter(|vif| !vif.active).map(|vif| vif.id);
        let ports = if awaits(on) { down.collect() } else { Vec::new() };
        Self { ports, was_down: true }
    }

    /// Those of a domain that is made anew: none, but for the workaround.
    /// nova: virt/libvirt/driver.py, _hard_reboot
    pub fn of_old(vifs: &[Vif], on: &Backends) -> Self {
        let kinds = &on.settings.plugging.awaited_at_reboot;
        let is_awaited = |vif: &&Vif| {
            let kind = vif.vnic_type.as_deref().unwrap_or("normal");
            kinds.iter().any(|awaited| awaited == kind)
        };
        let awaited = vifs.iter().filter(is_awaited).map(|vif| vif.id);
        let ports = if awaits(on) { awaited.collect() } else { Vec::new() };
        Self { ports, was_down: false }
    }

    /// Registers them: to be called before the plug.
    pub fn expect(&self, instance: Uuid, on: &Backends) {
        on.events.expect(instance, self.ports.iter().copied().map(EventKey::vif_plugged));
    }
}

fn awaits(on: &Backends) -> bool {
    let emulated = matches!(on.settings.virt_type.as_str(), "kvm" | "qemu");
    emulated && !on.settings.plugging.timeout.is_zero()
}

/// Starts the domain, and lets it run once its ports are plugged. A repeat goes on where the domain
/// stands: one that runs got through before.
///
/// # Errors
/// `PlugNotReported` when `vif_plugging_is_fatal`; what the hypervisor says.
pub async fn start(instance: &Instance, awaited: &Awaited, stage: &Stage<'_>) -> StepResult {
    let (on, uuid) = (stage.on, instance.uuid()?);
    if awaited.ports.is_empty() {
        on.hypervisor.start(uuid, StartOptions::default()).await?;
        await_running(stage, uuid).await?;
        return Ok(());
    }
    let found = on.hypervisor.domain(uuid).await?;
    if found.is_some_and(|info| info.power_state == PowerState::Running) {
        on.events.forget(uuid);
        return Ok(());
    }
    awaited.expect(uuid, on);
    let options = StartOptions { paused: true, ..StartOptions::default() };
    on.hypervisor.start(uuid, options).await?;
    let there = on.settings.state_timeout;
    await_domain(on, uuid, "started", there, stage.give_up, |found| {
        let state = found.map(|info| info.power_state);
        matches!(state, Some(PowerState::Paused | PowerState::Running))
    })
    .await?;
    let plugged = stage.unless_given_up(all_plugged(instance, uuid, awaited, stage)).await;
    on.events.forget(uuid);
    plugged?;
    on.hypervisor.unpause(uuid).await?;
    await_running(stage, uuid).await?;
    Ok(())
}

/// Waits for all of them, and decides what a failure or silence means.
async fn all_plugged(
    instance: &Instance,
    uuid: Uuid,
    awaited: &Awaited,
    stage: &Stage<'_>,
) -> StepResult {
    let on = stage.on;
    let PlugSettings { timeout, is_fatal, .. } = on.settings.plugging;
    let (started, deadline) = (Instant::now(), Instant::now() + timeout);
    let mut left: BTreeSet<Uuid> = awaited.ports.iter().copied().collect();
    let mut pause = FIRST_LOOK;
    let mut look = started + pause;
    while let Some(port) = left.first().copied() {
        let key = EventKey::vif_plugged(port);
        let until = if awaited.was_down { look.min(deadline) } else { deadline };
        match tokio::time::timeout_at(until, on.events.wait(uuid, &key)).await {
            Ok(Some(Reported::Completed) | None) => {
                left.remove(&port);
                continue;
            }
            Ok(Some(Reported::Failed)) => {
                error!(port_id = %port, "neutron reports that the plug failed");
                if is_fatal {
                    return Err(NetworkError::PlugNotReported(port).into());
                }
                left.remove(&port);
                continue;
            }
            Err(_) => {}
        }
        match on.network.active_ports(stage.context, instance).await {
            Ok(active) => left.retain(|port| !active.contains(port)),
            Err(error) => warn!(error = %Chain(&error), "the ports' state is not known"),
        }
        if Instant::now() >= deadline {
            break;
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        look = Instant::now() + pause;
    }
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match left.first() {
        None => {
            info!(elapsed_ms, ports = awaited.ports.len(), "all ports are plugged");
            Ok(())
        }
        Some(port) if is_fatal => Err(StepError::Network(NetworkError::PlugNotReported(*port))),
        Some(port) => {
            warn!(elapsed_ms, port_id = %port, "not reported as plugged: going on without");
            Ok(())
        }
    }
}
