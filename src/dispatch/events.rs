//! Events from outside: what nova-api passes on for Neutron, Cinder and others. They are no
//! requests of a user's and wait in no queue: a build that is under way is who they are for.
//! nova: compute/manager.py, external_instance_event

use serde_json::Value;
use tracing::{Instrument, debug, info, info_span, warn};
use uuid::Uuid;

use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::fault::Fault;
use crate::model::object::Instance;
use crate::model::state::{TaskState, VmState};
use crate::network::{Refresh, Vif};
use crate::records::{InstanceFault, InstancePart};
use crate::telemetry::Chain;
use crate::workflow::exception::step_fault;
use crate::workflow::extend_volume::extend;
use crate::workflow::external_events::{EventKey, Reported};
use crate::workflow::{Backends, StepError, info_cache, interface_device};

/// An event and the instance that it is about.
#[derive(Debug, Clone)]
pub struct InstanceEvent {
    pub instance: Instance,
    pub uuid: Uuid,
    pub key: EventKey,
    pub reported: Reported,
}

/// Tells those who wait. What needs work is returned, in its order.
pub fn deliver(on: &Backends, events: Vec<InstanceEvent>) -> Vec<InstanceEvent> {
    let needs_work = |event: &InstanceEvent| {
        const WORK: [&str; 4] =
            ["network-changed", "network-vif-deleted", "volume-extended", "power-update"];
        WORK.contains(&event.key.name.as_str())
    };
    let (work, told): (Vec<_>, Vec<_>) = events.into_iter().partition(needs_work);
    for event in &told {
        tell(on, event);
    }
    work
}

fn tell(on: &Backends, event: &InstanceEvent) {
    let InstanceEvent { instance, uuid, key, reported } = event;
    let (name, tag) = (key.name.as_str(), key.tag.as_deref().unwrap_or("-"));
    if on.events.deliver(*uuid, key, *reported) {
        return debug!(instance_uuid = %uuid, event = name, tag, ?reported, "an awaited event");
    }
    let task_state = instance.task_state.value().copied();
    let goes = matches!(task_state, Some(TaskState::Deleting | TaskState::Migrating));
    if name == "network-vif-unplugged" && goes {
        return debug!(instance_uuid = %uuid, event = name, tag, "an event that was to come");
    }
    let vm_state = instance.vm_state.value().map_or("-", |state| VmState::as_str(*state));
    let task_state = task_state.map_or("-", TaskState::as_str);
    info!(instance_uuid = %uuid, event = name, tag, vm_state, task_state, "an event for nobody");
}

/// Does what events ask for, one after the other. What fails is logged: nobody waits for an answer.
///
/// # Errors
/// None.
pub async fn work_all(
    on: &Backends,
    context: &RequestContext,
    events: Vec<InstanceEvent>,
) -> Result<Value, Fault> {
    for event in events {
        work(on, context, event).await;
    }
    Ok(Value::Null)
}

async fn work(on: &Backends, context: &RequestContext, event: InstanceEvent) {
    let span = info_span!(
        "event",
        instance_uuid = %event.uuid,
        event = event.key.name,
        request_id = context.request_id()
    );
    async {
        let worked = match event.key.name.as_str() {
            "network-changed" => network_changed(on, context, event).await,
            "network-vif-deleted" => vif_deleted(on, context, event).await,
            "volume-extended" => volume_extended(on, context, event).await,
            _ => not_supported(on, context, event).await,
        };
        match worked {
            Ok(()) => {}
            // The instance is gone, or its port.
            Err(error) if error.class() == Class::Absent => {
                info!(error = %Chain(&error), "the event is too late");
            }
            Err(error) => warn!(error = %Chain(&error), "the event came to nothing"),
        }
    }
    .instrument(span)
    .await;
}

/// The instance's network as recorded follows.
async fn network_changed(
    on: &Backends,
    context: &RequestContext,
    mut event: InstanceEvent,
) -> Result<(), StepError> {
    let which = match event.key.tag.as_deref().map(Uuid::parse_str) {
        Some(Ok(port)) => Refresh::Port(port),
        Some(Err(_)) => {
            warn!(tag = ?event.key.tag, "no port is called that");
            return Ok(());
        }
        None => Refresh::Recorded,
    };
    info_cache::refresh(on, context, &mut event.instance, which).await.map(drop)
}

/// A port was deleted under its instance: the record follows, and the guest loses its interface.
/// nova: compute/manager.py, `_process_instance_vif_deleted_event`
async fn vif_deleted(
    on: &Backends,
    context: &RequestContext,
    mut event: InstanceEvent,
) -> Result<(), StepError> {
    let is_deleted = |vif: &Vif| event.key.tag.as_deref() == Some(vif.id.to_string().as_str());
    let mut deleted = None;
    info_cache::change(on, context, &mut event.instance, |vifs| {
        deleted = vifs.iter().position(is_deleted).map(|at| vifs.remove(at));
    })
    .await?;
    let Some(vif) = deleted else { return Ok(()) };
    info!(port_id = %vif.id, "neutron deleted the port: its guest loses the interface");
    on.records.load(context, &mut event.instance, InstancePart::FOR_GUEST).await?;
    interface_device::take_away(on, &event.instance, &vif).await
}

/// A volume has grown. nova: compute/manager.py, extend_volume
async fn volume_extended(
    on: &Backends,
    context: &RequestContext,
    event: InstanceEvent,
) -> Result<(), StepError> {
    const EVENT: &str = "compute_extend_volume";
    on.records.event_started(context, event.uuid, EVENT).await?;
    let volume_id = event.key.tag.as_deref().unwrap_or_default();
    let Err(error) = extend(on, context, &event.instance, volume_id).await else {
        return Ok(on.records.event_finished(context, event.uuid, EVENT, None).await?);
    };
    let fault = step_fault(&error);
    let (code, message) = (fault.code(), fault.shown().to_owned());
    let recorded = InstanceFault { code, message: message.clone(), details: String::new() };
    on.records.record_fault(context, event.uuid, recorded).await?;
    let failed = Some((message.as_str(), ""));
    on.records.event_finished(context, event.uuid, EVENT, failed).await?;
    Err(error)
}

/// What this agent doesn't do is told to who asked, as nova tells what its driver doesn't.
async fn not_supported(
    on: &Backends,
    context: &RequestContext,
    event: InstanceEvent,
) -> Result<(), StepError> {
    let method = "compute_power_update";
    let message = format!("{} is not supported by this agent", event.key.name);
    on.records.event_started(context, event.uuid, method).await?;
    let fault = InstanceFault { code: 500, message: message.clone(), details: String::new() };
    on.records.record_fault(context, event.uuid, fault).await?;
    let failed = Some((message.as_str(), ""));
    Ok(on.records.event_finished(context, event.uuid, method, failed).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;
    use crate::records::history::History;
    use crate::workflow::world::{UUID, World};

    fn event(world: &World, name: &str, tag: &str) -> InstanceEvent {
        InstanceEvent {
            instance: world.records.all().pop().unwrap(),
            uuid: UUID,
            key: EventKey { name: name.to_owned(), tag: Some(tag.to_owned()) },
            reported: Reported::Completed,
        }
    }

    async fn report(world: &World, event: InstanceEvent) {
        let on = world.backends();
        let work = deliver(&on, vec![event]);
        work_all(&on, &RequestContext::admin(), work).await.unwrap();
    }

    async fn recorded(world: &World) -> Vec<crate::network::Vif> {
        let context = RequestContext::admin();
        world.records.info_cache(&context, UUID).await.unwrap().unwrap().vifs().unwrap()
    }

    #[tokio::test]
    async fn who_waits_is_told_at_once_and_nobody_else_is() {
        let world = World::with_guest().await;
        let on = world.backends();
        let plugged = event(&world, "network-vif-plugged", "p");
        on.events.expect(UUID, [plugged.key.clone()]);
        let unknown = event(&world, "accelerator-request-bound", "a");
        assert!(deliver(&on, vec![plugged.clone(), unknown]).is_empty(), "there is nothing to do");
        assert_eq!(on.events.wait(UUID, &plugged.key).await, Some(Reported::Completed));
    }

    #[tokio::test]
    async fn the_recorded_network_follows_what_has_changed() {
        let world = World::with_guest().await;
        let before = recorded(&world).await;
        assert!(before[0].active);
        // From now on the port is down.
        world.network.report_plugs(|_, _| false);
        report(&world, event(&world, "network-changed", &before[0].id.to_string())).await;
        assert!(!recorded(&world).await[0].active);
        for tag in ["no-port", ""] {
            report(&world, event(&world, "network-changed", tag)).await;
        }
        world.network.fail_at("refresh");
        report(&world, event(&world, "network-changed", &before[0].id.to_string())).await;
        assert_eq!(recorded(&world).await.len(), 1, "a failure changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_neutron_deleted_leaves_its_guest() {
        let world = World::with_guest().await;
        let port = recorded(&world).await[0].id.to_string();
        report(&world, event(&world, "network-vif-deleted", "another")).await;
        assert_eq!(recorded(&world).await.len(), 1);
        assert_eq!(world.hypervisor.interfaces(UUID).map(|there| there.len()), [1, 1]);
        report(&world, event(&world, "network-vif-deleted", &port)).await;
        assert_eq!(recorded(&world).await, []);
        assert!(world.network.plugged().is_empty());
        assert_eq!(world.hypervisor.interfaces(UUID).map(|there| there.len()), [0, 0]);
        assert!(world.hypervisor.described_ports(UUID).is_empty());
    }

    #[tokio::test]
    async fn what_is_not_supported_is_a_fault_and_a_failed_event() {
        let world = World::with_guest().await;
        report(&world, event(&world, "power-update", "x")).await;
        let events = world.records.events(UUID).await.unwrap();
        let told = events.iter().find(|event| event.event == "compute_power_update").unwrap();
        assert!(told.failure.as_ref().is_some_and(|why| why.contains("not supported")));
        assert_eq!(world.records.faults(UUID).await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_told_that_its_volume_has_grown() {
        let world = crate::workflow::volume_tests::attached().await;
        let volume = crate::volumes::fake::FakeVolume { size_gib: 3, ..Default::default() };
        world.volumes.add("vol-1", volume);
        report(&world, event(&world, "volume-extended", "vol-1")).await;
        assert_eq!(world.hypervisor.told_size(UUID, "vde"), Some(3 << 30));
        // Of a volume that isn't its own nothing is known.
        report(&world, event(&world, "volume-extended", "vol-2")).await;
        assert_eq!(world.records.faults(UUID).await.unwrap().len(), 0);
        world.connectors.fail_at("grow");
        report(&world, event(&world, "volume-extended", "vol-1")).await;
        assert_eq!(world.records.faults(UUID).await.unwrap().len(), 1);
    }
}
