use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::openstack::Method;
use crate::placement::fake::{FakePlacement, FakeProvider};
use crate::placement::inventory::Ratio;
use crate::placement::traits::{HostFacts, owned};

const NODE: Uuid = Uuid::from_u128(1);

const REFRESH: Duration = Duration::from_secs(300);

fn subject() -> (Arc<FakePlacement>, Reporter) {
    let placement = Arc::new(FakePlacement::default());
    let reporter = Reporter::new(Placement::new(placement.clone()), REFRESH);
    (placement, reporter)
}

fn offer() -> Offer {
    let ratio = Ratio { configured: None, initial: 1.0 };
    Offer {
        vcpus: 2,
        reserved_vcpus: 0,
        pcpus: 0,
        memory_mib: 2048,
        reserved_memory_mib: 512,
        disk_gib: 20,
        reserved_disk_gib: 0,
        cpu_ratio: Ratio { configured: None, initial: 4.0 },
        memory_ratio: ratio,
        disk_ratio: ratio,
    }
}

fn ours() -> Owned {
    owned(&HostFacts { virt_type: "qemu".into(), ..HostFacts::default() })
}

async fn report(reporter: &Reporter, offer: &Offer) -> Result<(), PlacementError> {
    let context = RequestContext::admin();
    reporter.report(&context, (NODE, "node1"), offer, &ours()).await
}

#[tokio::test(start_paused = true)]
async fn a_node_is_added_once_and_left_alone_while_nothing_changes() {
    let (placement, reporter) = subject();
    report(&reporter, &offer()).await.unwrap();
    let provider = placement.provider(NODE).unwrap();
    assert_eq!(provider.name, "node1");
    assert_eq!(provider.inventories["VCPU"]["allocation_ratio"], json!(4.0));
    assert!(provider.traits.contains("COMPUTE_NODE") && provider.traits.contains("OWNER_NOVA"));
    let put = format!("PUT /RESOURCE_PROVIDERS/{NODE}");
    assert_eq!(
        placement.requests(),
        [
            "GET /RESOURCE_PROVIDERS".to_owned(),
            "POST /RESOURCE_PROVIDERS".to_owned(),
            format!("{put}/INVENTORIES"),
            "GET /TRAITS".to_owned(),
            format!("{put}/TRAITS"),
        ]
    );
    report(&reporter, &offer()).await.unwrap();
    assert_eq!(placement.requests(), [""; 0]);
    tokio::time::advance(REFRESH + Duration::from_secs(1)).await;
    report(&reporter, &offer()).await.unwrap();
    assert_eq!(placement.requests().len(), 3, "tree, inventories and traits are read");
    report(&reporter, &Offer { memory_mib: 4096, ..offer() }).await.unwrap();
    assert_eq!(placement.requests(), [format!("{put}/INVENTORIES")]);
}

#[tokio::test]
async fn what_operators_and_schedulers_change_meanwhile_is_read_and_kept() {
    let (placement, reporter) = subject();
    report(&reporter, &offer()).await.unwrap();
    let mut provider = placement.provider(NODE).unwrap();
    provider.traits.insert("CUSTOM_GOLD".to_owned());
    provider.inventories["VCPU"]["allocation_ratio"] = json!(9.0);
    provider.generation += 1;
    placement.set_provider(NODE, provider);
    placement.allocate(Uuid::from_u128(7), NODE);
    report(&reporter, &Offer { disk_gib: 21, ..offer() }).await.unwrap();
    let provider = placement.provider(NODE).unwrap();
    assert!(provider.traits.contains("CUSTOM_GOLD"));
    assert_eq!(provider.inventories["VCPU"]["allocation_ratio"], json!(9.0));
    assert_eq!(provider.inventories["DISK_GB"]["total"], json!(21));
}

#[tokio::test]
async fn a_conflict_is_asked_again_a_few_times() {
    let (placement, reporter) = subject();
    placement.overtake(3);
    report(&reporter, &offer()).await.unwrap();
    assert!(placement.provider(NODE).unwrap().traits.contains("COMPUTE_NODE"));
    placement.overtake(4);
    let error = report(&reporter, &Offer { vcpus: 3, ..offer() }).await.unwrap_err();
    assert!(matches!(error, PlacementError::Conflict { .. }), "{error}");
    report(&reporter, &Offer { vcpus: 3, ..offer() }).await.unwrap();
    assert_eq!(placement.provider(NODE).unwrap().inventories["VCPU"]["total"], json!(3));
}

#[tokio::test]
async fn another_node_of_that_name_is_no_conflict_to_repeat() {
    let (placement, reporter) = subject();
    let other = FakeProvider { name: "node1".to_owned(), ..FakeProvider::default() };
    placement.set_provider(Uuid::from_u128(2), other);
    let error = report(&reporter, &offer()).await.unwrap_err();
    assert!(matches!(error, PlacementError::NameTaken { .. }), "{error}");
}

#[tokio::test]
async fn a_trait_that_placement_does_not_know_is_left_out_and_not_asked_again() {
    let (placement, reporter) = subject();
    placement.forget_trait("OWNER_NOVA");
    report(&reporter, &offer()).await.unwrap();
    let traits = placement.provider(NODE).unwrap().traits;
    assert!(traits.contains("COMPUTE_NODE") && !traits.contains("OWNER_NOVA"));
    placement.requests();
    report(&reporter, &offer()).await.unwrap();
    assert_eq!(placement.requests(), [""; 0]);
}

#[tokio::test]
async fn a_disabled_service_shows_at_once() {
    let (placement, reporter) = subject();
    let context = RequestContext::admin();
    report(&reporter, &offer()).await.unwrap();
    placement.overtake(1);
    for disabled in [true, true, false] {
        reporter.set_disabled(&context, NODE, disabled).await.unwrap();
        assert_eq!(placement.provider(NODE).unwrap().traits.contains(DISABLED), disabled);
    }
}

#[tokio::test]
async fn allocations_go_and_absent_ones_are_gone() {
    let (placement, _) = subject();
    let (instance, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let client = Placement::new(placement.clone());
    let context = RequestContext::admin();
    placement.set_provider(NODE, FakeProvider::default());
    let child = FakeProvider { parent: Some(NODE), ..FakeProvider::default() };
    placement.set_provider(Uuid::from_u128(3), child);
    for provider in [1, 3, 4] {
        placement.allocate(instance, Uuid::from_u128(provider));
    }
    placement.allocate(other, NODE);
    assert_eq!(client.consumers(&context, NODE).await.unwrap(), [instance, other].into());
    client.remove_provider_from_allocations(&context, instance, NODE).await.unwrap();
    assert_eq!(placement.allocated(instance), [Uuid::from_u128(4).to_string()]);
    client.clear_allocations(&context, instance).await.unwrap();
    client.delete_allocations(&context, other).await.unwrap();
    for consumer in [instance, other] {
        assert_eq!(placement.allocated(consumer), [""; 0]);
        client.clear_allocations(&context, consumer).await.unwrap();
        client.delete_allocations(&context, consumer).await.unwrap();
    }
    placement.fail_next(Method::Delete, 503);
    let error = client.delete_allocations(&context, other).await.unwrap_err();
    assert_eq!(error.class(), crate::model::class::Class::Transient);
}
