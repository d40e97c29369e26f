//! One suite over both networks, the real one on bridges and taps of a network namespace of its
//! own. Needs root and `ip`.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;

use hypernova::model::class::Class;
use hypernova::model::context::RequestContext;
use hypernova::model::object::{Instance, InstanceInfoCache};
use hypernova::network::fake::FakeNetwork;
use hypernova::network::standalone::StandaloneNetwork;
use hypernova::network::{Network, NetworkError, PlugFor, Refresh, RequestedNetwork, Vif, Wanted};
use namespace::{in_namespace, ip};
use uuid::Uuid;

#[path = "support/namespace.rs"]
mod namespace;

fn ask(network: &str) -> RequestedNetwork {
    RequestedNetwork { network_id: Some(network.to_owned()), ..RequestedNetwork::default() }
}

fn wanted(networks: &[RequestedNetwork]) -> Wanted {
    Wanted { networks: networks.to_vec(), ..Wanted::default() }
}

const OWNER: PlugFor = PlugFor { instance: Uuid::from_u128(9), multiqueue: false };

fn instance() -> Instance {
    let mut instance = Instance::default();
    instance.uuid.load(Some(OWNER.instance));
    instance
}

fn info_cache(vifs: &[Vif]) -> InstanceInfoCache {
    let mut cache = InstanceInfoCache::default();
    cache.set_vifs(vifs);
    cache
}

async fn allocate(network: &dyn Network, requested: &[RequestedNetwork]) -> Vec<Vif> {
    let wanted = wanted(requested);
    network.allocate(&RequestContext::admin(), &instance(), &wanted).await.unwrap()
}

/// What every network keeps to. The host has a bridge `hn-br0` and no other.
async fn contract(network: &dyn Network) {
    let (context, uuid) = (RequestContext::admin(), OWNER.instance);
    let requested = [ask("user"), ask("bridge:hn-br0"), ask("network:default")];

    let vifs = allocate(network, &requested).await;
    assert_eq!(vifs, allocate(network, &requested).await, "a repeat gives the same ones");
    assert_eq!(vifs.len(), 3);
    assert_eq!(allocate(network, &[ask("none")]).await, []);
    assert_eq!(allocate(network, &[]).await.len(), 1, "the default is user");

    for vif in &vifs {
        network.unplug(uuid, vif).await.expect("absent is success");
        network.plug(OWNER, vif).await.unwrap();
        network.plug(OWNER, vif).await.expect("a repeat changes nothing");
    }
    for vif in &vifs {
        network.unplug(uuid, vif).await.unwrap();
        network.unplug(uuid, vif).await.expect("absent is success");
    }
    assert_eq!(vifs, allocate(network, &requested).await);
    let mut recorded = instance();
    recorded.info_cache.load(Some(Some(info_cache(&vifs))));
    let refreshed = network.refresh(&context, &recorded, Refresh::All).await.unwrap();
    assert_eq!(refreshed.len(), vifs.len());
    network.bind(&context, &recorded, "another").await.unwrap();
    network.deallocate(&context, &instance(), &[]).await.unwrap();
    network.deallocate(&context, &instance(), &[]).await.expect("absent is success");

    let missing = allocate(network, &[ask("bridge:hn-br1")]).await;
    let refused = network.plug(OWNER, &missing[0]).await.unwrap_err();
    assert!(matches!(&refused, NetworkError::NotFound(name) if name == "hn-br1"), "{refused:?}");
    assert_eq!(refused.class(), Class::Reschedule);

    let unknown = wanted(&[ask("bridge:a/b")]);
    let unknown = network.allocate(&context, &instance(), &unknown).await.unwrap_err();
    assert_eq!(unknown.class(), Class::Refused);
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    contract(&FakeNetwork::with_bridges(["hn-br0"])).await;
}

#[test]
fn the_standalone_network_keeps_the_contract() {
    in_namespace("the_standalone_network_keeps_the_contract", async || {
        ip("link add hn-br0 type bridge");
        contract(&StandaloneNetwork::new("user").unwrap()).await;
    });
}

#[test]
fn a_left_over_tap_is_removed_and_nothing_else_is() {
    in_namespace("a_left_over_tap_is_removed_and_nothing_else_is", async || {
        ip("link add hn-br0 type bridge");
        let network = StandaloneNetwork::new("user").unwrap();
        let vifs = allocate(&network, &[ask("bridge:hn-br0"), ask("user")]).await;
        ip(&format!("tuntap add dev {} mode tap", vifs[0].device_name()));
        ip(&format!("link set {} master hn-br0", vifs[0].device_name()));
        // Has the name of one of ours, but isn't a tap: somebody else made it.
        ip(&format!("link add {} type bridge", vifs[1].device_name()));

        for vif in &vifs {
            network.unplug(Uuid::from_u128(9), vif).await.unwrap();
        }
        let there = |device: &str| Path::new("/sys/class/net").join(device).exists();
        assert!(!there(&vifs[0].device_name()), "the tap");
        assert!(there(&vifs[1].device_name()) && there("hn-br0"), "the others");
    });
}

#[test]
fn a_device_that_is_no_bridge_is_not_found() {
    in_namespace("a_device_that_is_no_bridge_is_not_found", async || {
        let network = StandaloneNetwork::new("bridge:lo").unwrap();
        let vifs = allocate(&network, &[]).await;
        let refused = network.plug(OWNER, &vifs[0]).await;
        assert!(matches!(refused, Err(NetworkError::NotFound(_))), "{refused:?}");
    });
}
