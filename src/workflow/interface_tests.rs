//! Interfaces that come to guests and go from them, over the fakes.

use std::pin::Pin;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::attach_interface::AttachInterface;
use super::detach_interface::DetachInterface;
use super::exception::step_fault;
use super::fixed_ip::{Change, FixedIp};
use super::instance::Subject;
use super::journal::Phase;
use super::power_off::PowerOff;
use super::world::{HasSubject, MemoryJournal, UUID, World, instance, subject};
use super::{StepError, engine::Workflow};
use crate::model::class::Class;
use crate::model::state::TaskState;
use crate::network::RequestedNetwork;

type Prepared = Pin<Box<dyn Future<Output = World>>>;

fn without_task(method: &str) -> Subject {
    Subject::new(instance(None), method)
}

pub fn attach() -> AttachInterface {
    let network_id = Some("user".to_owned());
    let asked = RequestedNetwork { network_id, ..RequestedNetwork::default() };
    AttachInterface::new(without_task("attach_interface"), asked)
}

/// Of the second port that the network gives the instance.
pub fn detach() -> DetachInterface {
    DetachInterface::new(without_task("detach_interface"), port(1).to_string())
}

pub fn add_ip() -> FixedIp {
    let change = Change::Add { network_id: "br0".to_owned() };
    FixedIp::new(without_task("add_fixed_ip_to_instance"), change)
}

pub fn remove_ip() -> FixedIp {
    let change = Change::Remove { address: "192.0.2.10".to_owned() };
    FixedIp::new(without_task("remove_fixed_ip_from_instance"), change)
}

fn port(place: usize) -> Uuid {
    crate::network::standalone::port_id(UUID, place)
}

async fn done<W: Workflow + HasSubject>(world: &World, workflow: W) {
    let mut record = world.record(workflow).await;
    world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
}

async fn failed<W: Workflow + HasSubject>(world: &World, workflow: W) -> (StepError, Phase) {
    let mut record = world.record(workflow).await;
    let error = world.run(&mut record, &MemoryJournal::default()).await.unwrap();
    (error.expect("it failed"), record.head.phase)
}

/// A guest runs, and was given a second interface.
pub fn with_nic() -> Prepared {
    Box::pin(async {
        let world = World::with_guest().await;
        done(&world, attach()).await;
        world
    })
}

pub fn with_nic_stopped() -> Prepared {
    Box::pin(async {
        let world = with_nic().await;
        done(&world, PowerOff::new(subject(TaskState::PoweringOff, "stop_instance"), false)).await;
        world
    })
}

pub fn with_ip() -> Prepared {
    Box::pin(async {
        let world = World::with_guest().await;
        done(&world, add_ip()).await;
        world
    })
}

#[tokio::test(start_paused = true)]
async fn an_interface_comes_to_a_running_guest_and_goes_again() {
    let world = World::with_guest().await;
    let before = world.state().await;
    let [live, _] = world.hypervisor.interfaces(UUID);
    assert_eq!(live.len(), 1, "it has one from its build");

    done(&world, attach()).await;
    let [live, next] = world.hypervisor.interfaces(UUID);
    assert_eq!((live.len(), &live), (2, &next));
    let ports = [port(0).to_string(), port(1).to_string()];
    assert_eq!(world.hypervisor.described_ports(UUID), ports);
    let state = world.state().await;
    assert_eq!(state["plugged"], json!(2));
    assert_eq!(state["recorded_network"], json!(ports));
    assert_eq!((&state["record"][0], &state["record"][1]), (&json!("active"), &json!(null)));

    done(&world, detach()).await;
    assert_eq!(world.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_free_again_is_given_again() {
    let world = with_nic().await;
    done(&world, DetachInterface::new(without_task("detach_interface"), port(0).to_string())).await;
    done(&world, attach()).await;
    let state = world.state().await;
    assert_eq!(state["recorded_network"], json!([port(1), port(0)]));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_keeps_its_interface_is_asked_again_and_then_left_with_it() {
    let world = with_nic().await;
    world.hypervisor.keep_disks(UUID, Some(2));
    let begun = Instant::now();
    done(&world, detach()).await;
    assert!(begun.elapsed() >= Duration::from_secs(40), "{:?}", begun.elapsed());

    for refuses in [false, true] {
        let world = with_nic().await;
        let before = world.state().await;
        match refuses {
            true => world.hypervisor.refuse_releases(UUID),
            false => world.hypervisor.keep_disks(UUID, None),
        }
        let (error, phase) = failed(&world, detach()).await;
        assert_eq!(step_fault(&error).class, "InterfaceDetachFailed", "{error}");
        assert_eq!(phase, Phase::Undone);
        assert_eq!(world.state().await, before, "it stays plugged, and in its definition");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_host_can_t_do_is_nova_s_failure_and_leaves_nothing() {
    let world = World::with_guest().await;
    let before = world.state().await;
    world.hypervisor.fail_with("attach_interface", Class::Refused, 1);
    let (error, phase) = failed(&world, attach()).await;
    assert_eq!(step_fault(&error).class, "InterfaceAttachFailed", "{error}");
    assert_eq!((phase, world.state().await), (Phase::Undone, before.clone()));

    world.network.fail_at("plug");
    let (error, _) = failed(&world, attach()).await;
    assert_eq!(step_fault(&error).class, "InterfaceAttachFailed", "{error}");
    assert_eq!(world.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_refused_in_nova_s_words() {
    let world = World::with_guest().await;
    let before = world.state().await;
    let (error, _) = failed(&world, detach()).await;
    let fault = step_fault(&error);
    assert_eq!(fault.class, "PortNotFound");
    assert_eq!(fault.message, format!("Port {} is not attached", port(1)));
    let (error, _) = failed(&world, remove_ip()).await;
    assert_eq!(step_fault(&error).class, "FixedIpNotFoundForInstance");
    let change = Change::Add { network_id: "other".to_owned() };
    let (error, _) = failed(&world, FixedIp::new(without_task("add"), change)).await;
    assert_eq!(step_fault(&error).class, "NetworkNotFoundForInstance");
    // A port that the instance has already is not given back when it is asked for once more.
    let asked = RequestedNetwork { port_id: Some(port(0)), ..RequestedNetwork::default() };
    let twice = AttachInterface::new(without_task("attach_interface"), asked);
    let (error, _) = failed(&world, twice).await;
    assert_eq!(step_fault(&error).class, "PortInUse");
    assert_eq!(world.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn addresses_come_and_go() {
    let world = with_ip().await;
    assert_eq!(world.network.addresses_of(UUID), [["192.0.2.10"]]);
    done(&world, add_ip()).await;
    assert_eq!(world.network.addresses_of(UUID), [["192.0.2.10", "192.0.2.11"]]);
    done(&world, remove_ip()).await;
    assert_eq!(world.network.addresses_of(UUID), [["192.0.2.11"]]);
    let ports = world.hypervisor.get(UUID).unwrap().spec.metadata.ports;
    assert_eq!(ports[0].ips, [("fixed".to_owned(), "192.0.2.11".to_owned(), 4)]);
}
