//! Lifecycle events: a guest that goes off by itself is noticed at once, and not with the next
//! [`PowerSync`] run. nova: compute/manager.py, `handle_lifecycle_event`
//!
//! A reboot is an end and a start to libvirt. So an end is only looked at when nothing else has
//! happened to the domain for a while. nova: virt/libvirt/host.py, `_event_emit_delayed`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::power_sync::PowerSync;
use crate::hypervisor::DomainEvent;
use crate::model::state::PowerState;
use crate::telemetry::Chain;

/// How long an end must last before it is one. nova: virt/libvirt/host.py, 15 seconds.
const SETTLE: Duration = Duration::from_secs(15);

/// Follows the hypervisor's events, until it is dropped or there are none any more. `events` is from
/// [`Hypervisor::events`](crate::hypervisor::Hypervisor::events).
pub async fn follow(sync: PowerSync, mut events: broadcast::Receiver<DomainEvent>) {
    let looks = Arc::new(Semaphore::new(sync.parallel()));
    let (again, mut postponed) = mpsc::unbounded_channel();
    // Of each domain that went off: when to look, and in which state it must still be.
    let mut ends: BTreeMap<Uuid, (Instant, PowerState)> = BTreeMap::new();
    loop {
        let first = ends.iter().map(|(uuid, (at, state))| (*at, *uuid, *state)).min_by_key(|e| e.0);
        let due = async {
            match first {
                Some((at, uuid, state)) => {
                    tokio::time::sleep_until(at).await;
                    (uuid, state)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    let DomainEvent { instance_uuid: uuid, power_state: state, detail } = event;
                    debug!(instance_uuid = %uuid, state = state.name(), detail, "lifecycle event");
                    // Whatever it is, the end before it was none.
                    ends.remove(&uuid);
                    if is_end(state) {
                        ends.insert(uuid, (Instant::now() + SETTLE, state));
                    } else {
                        look(&sync, &looks, uuid, state, None);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    info!(missed, "lifecycle events were missed: looking at every instance");
                    let all = sync.clone();
                    tokio::spawn(async move {
                        if let Err(error) = all.run().await {
                            warn!(error = %Chain(&error), "the power states could not be read");
                        }
                    });
                }
                Err(RecvError::Closed) => return,
            },
            (uuid, state) = due => {
                ends.remove(&uuid);
                look(&sync, &looks, uuid, state, Some(again.clone()));
            }
            Some((uuid, state)) = postponed.recv() => {
                ends.entry(uuid).or_insert((Instant::now() + SETTLE, state));
            }
        }
    }
}

/// Whether the guest is off.
fn is_end(state: PowerState) -> bool {
    matches!(state, PowerState::Shutdown | PowerState::Crashed)
}

type Again = mpsc::UnboundedSender<(Uuid, PowerState)>;

/// Looks at the instance in a task of its own. An end during a request is looked at again after it:
/// most requests that end a guest say so in the record.
fn look(
    sync: &PowerSync,
    looks: &Arc<Semaphore>,
    uuid: Uuid,
    state: PowerState,
    again: Option<Again>,
) {
    let (sync, looks) = (sync.clone(), looks.clone());
    tokio::spawn(async move {
        let Ok(_look) = looks.acquire().await else { return };
        if !sync.one_if(uuid, state).await
            && let Some(again) = again
        {
            // The receiver goes with the agent.
            again.send((uuid, state)).ok();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::{Hypervisor, StartOptions};
    use crate::periodic::power_sync::tests::power_sync;
    use crate::workflow::world::{UUID, World};

    async fn vm_state(world: &World) -> &'static str {
        world.records.all()[0].vm_state.value().unwrap().as_str()
    }

    async fn followed() -> World {
        let world = World::with_guest().await;
        let events = world.hypervisor.events();
        tokio::spawn(follow(power_sync(&world), events));
        tokio::task::yield_now().await;
        world
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_counts_when_it_has_lasted() {
        let world = followed().await;
        world.hypervisor.guest_powers_off(UUID);
        tokio::time::sleep(SETTLE - Duration::from_secs(1)).await;
        assert_eq!(vm_state(&world).await, "active");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(vm_state(&world).await, "stopped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reboot_is_no_end() {
        let world = followed().await;
        for _ in 0..3 {
            world.hypervisor.guest_powers_off(UUID);
            tokio::time::sleep(Duration::from_secs(10)).await;
            world.hypervisor.start(UUID, StartOptions::default()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        tokio::time::sleep(SETTLE * 2).await;
        assert_eq!(vm_state(&world).await, "active");
        assert!(world.hypervisor.get(UUID).unwrap().id.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_during_a_request_is_looked_at_after_it() {
        let world = World::with_guest().await;
        let sync = power_sync(&world);
        let events = world.hypervisor.events();
        tokio::spawn(follow(sync.clone(), events));
        tokio::task::yield_now().await;
        let dispatcher = sync.dispatcher().clone();
        let busy =
            tokio::spawn(
                async move { dispatcher.if_idle(UUID, tokio::time::sleep(SETTLE * 2)).await },
            );
        tokio::task::yield_now().await;
        world.hypervisor.guest_powers_off(UUID);
        tokio::time::sleep(SETTLE * 2).await;
        assert_eq!(vm_state(&world).await, "active");
        busy.await.unwrap();
        tokio::time::sleep(SETTLE * 2).await;
        assert_eq!(vm_state(&world).await, "stopped");
    }

    #[tokio::test(start_paused = true)]
    async fn missed_events_make_it_look_at_all() {
        let world = World::with_guest().await;
        let (sender, events) = tokio::sync::broadcast::channel(1);
        let event = || DomainEvent {
            instance_uuid: Uuid::nil(),
            power_state: PowerState::Running,
            detail: String::new(),
        };
        world.hypervisor.guest_powers_off(UUID);
        sender.send(event()).unwrap();
        sender.send(event()).unwrap();
        tokio::spawn(follow(power_sync(&world), events));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(vm_state(&world).await, "stopped");
    }
}
