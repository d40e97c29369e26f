use super::fake_records::FakeNodeRecords;
use super::*;
use crate::hypervisor::fake::FakeHypervisor;
use crate::model::object::{InstanceNUMATopology, InstancePCIRequest, InstancePCIRequests};
use crate::model::object::{Migration, MigrationType};
use crate::model::state::{TaskState, VmState};
use crate::node::record::tests::settings;
use crate::node::usage::tests::instance;
use crate::openstack::Method;
use crate::placement::fake::{FakePlacement, FakeProvider};

const NODE: Uuid = Uuid::from_u128(0x0de);

struct Subject {
    records: Arc<FakeNodeRecords>,
    placement: Arc<FakePlacement>,
    tracker: Arc<Tracker>,
    _instances_path: tempfile::TempDir,
}

impl Subject {
    fn new() -> Self {
        let instances_path = tempfile::tempdir().unwrap();
        let records = Arc::new(FakeNodeRecords::default());
        let placement = Arc::new(FakePlacement::default());
        let (host, node) = ("host1".to_owned(), "node1".to_owned());
        let options = TrackerOptions {
            node: NodeSettings { uuid: NODE, host, node, ..settings() },
            cpus: CpuOptions::default(),
            features: crate::node::FeatureOptions {
                virt_type: "qemu".into(),
                ..Default::default()
            },
            instances_path: instances_path.path().to_owned(),
            cache_path: None,
            refresh: Duration::from_secs(300),
        };
        let backends = TrackerBackends {
            records: records.clone(),
            placement: Placement::new(placement.clone()),
            hypervisor: Arc::new(FakeHypervisor::new("node1")),
        };
        let tracker = Arc::new(Tracker::new(options, backends));
        tracker.set_service(4);
        Self { records, placement, tracker, _instances_path: instances_path }
    }

    /// One whose node is on record.
    async fn started() -> Self {
        let subject = Self::new();
        subject.audit().await;
        subject
    }

    async fn audit(&self) {
        self.tracker.update_available_resource(&RequestContext::admin()).await.unwrap();
    }

    async fn claim(&self, number: u128) -> Instance {
        let mut instance = instance(number);
        for field in [&mut instance.host, &mut instance.node] {
            field.load(Some(None));
        }
        self.tracker.claim(&RequestContext::admin(), &mut instance, None).await.unwrap();
        instance
    }

    fn node(&self) -> ComputeNode {
        self.records.world().node.clone().unwrap()
    }

    fn memory_used(&self) -> i64 {
        self.node().memory_mb_used.get().copied().unwrap() - 512
    }
}

#[tokio::test]
async fn a_new_node_is_recorded_whole_and_reported() {
    let subject = Subject::started().await;
    let node = subject.node();
    assert_eq!(node.service_id.value(), Some(&4));
    assert_eq!(node.hypervisor_hostname.text(), Some("node1"));
    assert_eq!(node.memory_mb.get(), Some(&800_000));
    assert_eq!(subject.records.world().saves, 1, "one call makes the record");
    assert_eq!(subject.tracker.node_id(), Some(7));
    let provider = subject.placement.provider(NODE).unwrap();
    assert_eq!(provider.name, "node1");
    assert!(provider.traits.contains("COMPUTE_NODE"));
    assert!(!provider.traits.contains("COMPUTE_STATUS_DISABLED"));
}

#[tokio::test]
async fn a_claim_counts_at_once_and_is_written_soon() {
    let subject = Subject::started().await;
    let stop = CancellationToken::new();
    let tracker = subject.tracker.clone();
    let running = {
        let stop = stop.clone();
        tokio::spawn(async move { tracker.run(&stop).await })
    };
    let claimed = subject.claim(1).await;
    assert_eq!(claimed.host.text(), Some("host1"));
    assert_eq!(claimed.node.text(), Some("node1"));
    assert_eq!(claimed.launched_on.text(), Some("host1"));
    assert_eq!(claimed.compute_id.value(), Some(&7));
    subject.claim(2).await;
    tokio::time::timeout(Duration::from_secs(10), async {
        while subject.memory_used() != 1024 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(subject.records.world().saves, 2, "claims that come together are written together");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_claim_that_is_given_back_leaves_nothing() {
    let subject = Subject::started().await;
    let context = RequestContext::admin();
    let mut instance = subject.claim(1).await;
    subject.tracker.abort(&context, &mut instance).await.unwrap();
    subject.tracker.abort(&context, &mut instance).await.unwrap();
    assert_eq!(instance.host.get(), Some(&None));
    assert_eq!(instance.compute_id.get(), Some(&None));
    let mut gone = subject.claim(2).await;
    gone.vm_state.set(Some(VmState::Deleted));
    subject.tracker.note(&context, &gone).await;
    subject.tracker.write_node(&context).await.unwrap();
    assert_eq!(subject.memory_used(), 0);
    assert_eq!(subject.node().running_vms.value(), Some(&0));
}

#[tokio::test]
async fn a_claim_never_waits_for_an_audit_and_outlives_it() {
    let subject = Subject::started().await;
    let mut here = instance(1);
    here.compute_id.load(Some(Some(7)));
    subject.records.add(&here);
    subject.records.reading.forget_permits(usize::MAX);
    let held = subject.records.may_read.acquire().await.unwrap();
    let tracker = subject.tracker.clone();
    let audit =
        tokio::spawn(
            async move { tracker.update_available_resource(&RequestContext::admin()).await },
        );
    subject.records.reading.acquire().await.unwrap().forget();
    // The audit has read its list, and hasn't got it yet.
    subject.claim(2).await;
    drop(held);
    audit.await.unwrap().unwrap();
    assert_eq!(subject.memory_used(), 1024);
}

#[tokio::test]
async fn what_this_agent_does_not_do_goes_to_another_host() {
    let subject = Subject::started().await;
    let context = RequestContext::admin();
    let mut pinned = instance(1);
    pinned.numa_topology.load(Some(Some(InstanceNUMATopology::default())));
    let mut with_device = instance(2);
    let mut requests = InstancePCIRequests::default();
    requests.requests.load(Some(vec![InstancePCIRequest::default()]));
    with_device.pci_requests.load(Some(Some(requests)));
    for mut instance in [pinned, with_device] {
        let refusal = subject.tracker.claim(&context, &mut instance, None).await.unwrap_err();
        assert_eq!(refusal.class(), crate::model::class::Class::Reschedule, "{refusal}");
        assert!(!instance.compute_id.is_set());
    }
    let unknown = Subject::new();
    let refusal = unknown.tracker.claim(&context, &mut instance(1), None).await.unwrap_err();
    assert!(refusal.to_string().contains("on unknown node node1 failed"), "{refusal}");
}

#[tokio::test]
async fn an_audit_counts_instances_and_links_them_to_the_node() {
    let subject = Subject::started().await;
    let (mut linked, mut other, mut backed, mut offloaded) =
        (instance(1), instance(2), instance(3), instance(4));
    linked.compute_id.load(Some(Some(7)));
    other.compute_id.load(Some(Some(99)));
    backed.compute_id.load(Some(None));
    offloaded.vm_state.load(Some(Some(VmState::ShelvedOffloaded)));
    for instance in [&linked, &other, &backed, &offloaded] {
        subject.records.add(instance);
    }
    subject.records.world().volume_backed = [Uuid::from_u128(3)].into();
    subject.audit().await;
    let node = subject.node();
    assert_eq!(node.running_vms.value(), Some(&3));
    assert_eq!(node.local_gb_used.get(), Some(&(9 + 9 + 4)));
    assert_eq!(node.stats.value().unwrap()["num_vm_active"].as_deref(), Some("3"));
    let links = |subject: &Subject| -> Vec<_> {
        let world = subject.records.world();
        world.instances.values().map(|instance| instance.compute_id.value().copied()).collect()
    };
    assert_eq!(links(&subject), [Some(7); 4]);
    let asked = std::mem::take(&mut subject.records.world().asked);
    assert_eq!(asked.len(), 4);
    subject.audit().await;
    assert_eq!(subject.records.world().asked, [Uuid::from_u128(4)], "the others are known");
    assert_eq!(subject.node().local_gb_used.get(), Some(&(9 + 9 + 4)));
}

#[tokio::test]
async fn a_move_holds_room_and_a_stale_one_is_marked() {
    let subject = Subject::started().await;
    let mut coming = instance(1);
    coming.host.load(Some(Some("host2".to_owned())));
    coming.task_state.load(Some(Some(TaskState::Migrating)));
    subject.records.add(&coming);
    let mut migration = Migration::default();
    migration.id.load(Some(5));
    migration.uuid.load(Some(Uuid::from_u128(50)));
    migration.instance_uuid.load(Some(Some(Uuid::from_u128(1).to_string())));
    migration.migration_type.load(Some(MigrationType::LiveMigration));
    migration.dest_compute.load(Some(Some("host1".to_owned())));
    migration.dest_node.load(Some(Some("node1".to_owned())));
    migration.status.load(Some(Some("running".to_owned())));
    subject.records.world().migrations = vec![migration];
    subject.audit().await;
    assert_eq!(subject.memory_used(), 512);
    let mut context = crate::model::object::MigrationContext::default();
    context.migration_id.load(Some(6));
    coming.migration_context.load(Some(Some(Box::new(context))));
    subject.records.add(&coming);
    subject.audit().await;
    assert_eq!(subject.memory_used(), 0);
    assert_eq!(subject.records.world().migrations[0].status.text(), Some("error"));
}

#[tokio::test]
async fn allocations_of_what_was_deleted_meanwhile_are_removed() {
    let subject = Subject::started().await;
    let (kept, deleted, strange) = (instance(1), instance(2), Uuid::from_u128(3));
    let mut deleted_record = deleted.clone();
    deleted_record.deleted.load(Some(true));
    subject.records.add(&kept);
    subject.records.add(&deleted_record);
    for consumer in [kept.uuid().unwrap(), deleted.uuid().unwrap(), strange] {
        subject.placement.allocate(consumer, NODE);
    }
    subject.audit().await;
    let has = |uuid| !subject.placement.allocated(uuid).is_empty();
    assert!(has(kept.uuid().unwrap()) && has(strange));
    assert!(!has(deleted.uuid().unwrap()));
}

#[tokio::test]
async fn a_deleted_record_is_brought_back_and_a_known_one_is_kept() {
    let subject = Subject::new();
    let mut node = ComputeNode::default();
    node.id.load(Some(3));
    node.uuid.load(Some(NODE));
    node.deleted.load(Some(true));
    subject.records.world().node = Some(node);
    subject.audit().await;
    let node = subject.node();
    assert_eq!((node.id.get(), node.deleted.get()), (Some(&3), Some(&false)));
    assert_eq!(node.vcpus.get(), Some(&1000));
}

#[tokio::test]
async fn a_disabled_service_shows_in_placement() {
    let subject = Subject::started().await;
    subject.records.world().disabled = true;
    subject.audit().await;
    let disabled = || {
        let provider = subject.placement.provider(NODE).unwrap();
        provider.traits.contains("COMPUTE_STATUS_DISABLED")
    };
    assert!(disabled());
    subject.tracker.set_enabled(&RequestContext::admin(), true).await;
    assert!(!disabled());
}

#[tokio::test]
async fn what_fails_is_done_by_the_next_audit() {
    let subject = Subject::started().await;
    let context = RequestContext::admin();
    subject.claim(1).await;
    subject.records.world().fail_saves = true;
    subject.tracker.update_available_resource(&context).await.unwrap_err();
    subject.records.world().fail_saves = false;
    subject.placement.fail_next(Method::Get, 503);
    subject.tracker.update_available_resource(&context).await.unwrap_err();
    assert_eq!(subject.memory_used(), 512, "the record doesn't wait for placement");
    subject.audit().await;
}

#[tokio::test]
async fn allocations_go_with_the_instance_and_absent_ones_are_gone() {
    let subject = Subject::started().await;
    let context = RequestContext::admin();
    let instance = instance(1);
    let uuid = instance.uuid().unwrap();
    let other = Uuid::from_u128(9);
    subject.placement.set_provider(other, FakeProvider::default());
    subject.placement.allocate(uuid, NODE);
    subject.placement.allocate(uuid, other);
    let mut migration = crate::model::object::Migration::default();
    migration.id.load(Some(7));
    migration.status.load(Some(Some("accepted".to_owned())));
    subject.records.world().migrations = vec![migration.clone()];
    let refused = subject.tracker.refuse_evacuation(&context, &instance, Some(&migration));
    refused.await.unwrap();
    assert_eq!(subject.placement.allocated(uuid), [other.to_string()]);
    assert_eq!(subject.records.world().migrations[0].status.text(), Some("failed"));
    subject.tracker.release_allocation(&context, &instance).await.unwrap();
    subject.tracker.release_allocation(&context, &instance).await.unwrap();
    assert_eq!(subject.placement.allocated(uuid), [""; 0]);
    subject.placement.fail_next(Method::Delete, 500);
    let error = subject.tracker.release_allocation(&context, &instance).await.unwrap_err();
    assert_eq!(error.class(), crate::model::class::Class::Transient);
}
