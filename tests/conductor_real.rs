//! A real nova-conductor, when `HYPERNOVA_TEST_TRANSPORT_URL` names the broker of a control plane;
//! else there is nothing to test. What is put on record there is removed again.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::time::Duration;

use hypernova::model::context::RequestContext;
use hypernova::model::object::{
    ComputeNode, HVSpec, MigrationType, Service, VersionedObject, VirtualInterface,
};
use hypernova::node::identity::{Identify, IdentityError, IdentityFiles, identify};
use hypernova::node::service::{self, ServiceOptions};
use hypernova::records::conductor::{
    Call, Caller, Conductor, ConductorOptions, ConductorRecords, MigrationFilter,
};
use hypernova::records::{InstancePart, Records};
use hypernova::rpc::bus::Bus;
use serde_json::{Number, Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[path = "support/control_plane.rs"]
mod control_plane;

struct World {
    bus: Bus,
    conductor: Conductor,
    host: String,
    context: RequestContext,
}

impl World {
    async fn find() -> Option<Self> {
        let bus = control_plane::bus()?;
        let options = ConductorOptions::new(Duration::from_secs(60));
        let conductor = Conductor::new(std::sync::Arc::new(bus.client()), options);
        assert!(conductor.wait_until_ready(&CancellationToken::new()).await);
        let host = format!("contract-{}", Uuid::new_v4().simple());
        Some(Self { bus, conductor, host, context: RequestContext::admin() })
    }

    async fn destroy<T: VersionedObject>(&self, object: &T) {
        let args = json!({
            "objinst": object.to_primitive(), "objmethod": "destroy", "args": [], "kwargs": {}
        });
        let Value::Object(args) = args else { return };
        let (method, version) = ("object_action", "3.0");
        let context = &self.context;
        let call = Call { topic: "conductor", namespace: None, version, method, args, context };
        let destroyed = Caller::call(&self.bus.client(), call, Duration::from_secs(60)).await;
        destroyed.unwrap();
    }
}

#[tokio::test]
async fn a_service_and_its_node_come_live_and_go() {
    let Some(world) = World::find().await else { return };
    let (conductor, context) = (&world.conductor, &world.context);
    assert_eq!(conductor.service(context, &world.host, "nova-compute").await.unwrap(), None);
    assert_eq!(conductor.service_of(context, &world.host).await.unwrap(), None);
    assert!(conductor.minimum_version(context, "nova-conductor").await.unwrap() > 0);
    let newest = conductor.minimum_version(context, "nova-conductor").await.unwrap();

    let mut service = Service::default();
    service.host.set(Some(world.host.clone()));
    service.binary.set(Some("nova-compute".to_owned()));
    service.topic.set(Some("compute".to_owned()));
    service.report_count.set(0);
    service.version.set(newest);
    conductor.create_service(context, &mut service).await.unwrap();
    let mut again = service.clone();
    for field in ["host", "binary", "topic", "report_count", "version"] {
        again.set_changes([field.to_owned()].into_iter().chain(again.what_changed()).collect());
    }
    again.id.load(None);
    let refused = conductor.create_service(context, &mut again).await.unwrap_err();
    assert!(refused.is("ServiceBinaryExists") || refused.is("ServiceTopicExists"), "{refused}");

    service.report_count.set(1);
    conductor.save_service(context, &mut service).await.unwrap();
    assert!(service.last_seen_up.value().is_some());
    service.version.set(1);
    let refused = conductor.save_service(context, &mut service).await.unwrap_err();
    assert!(refused.is("ServiceTooOld"), "{refused}");
    let found = conductor.service_of(context, &world.host).await.unwrap().unwrap();
    assert_eq!((found.id.get(), found.version.get()), (service.id.get(), Some(&newest)));

    let mut node = ComputeNode::default();
    node.uuid.set(Uuid::new_v4());
    node.host.set(Some(world.host.clone()));
    node.hypervisor_hostname.set(Some(world.host.clone()));
    node.service_id.set(service.id.get().copied());
    for name in ["vcpus", "memory_mb", "local_gb", "vcpus_used", "memory_mb_used", "local_gb_used"]
    {
        node.load_field(name, &json!(0)).unwrap();
    }
    node.hypervisor_type.set("QEMU".to_owned());
    node.hypervisor_version.set(8_002_002);
    node.cpu_info.set(Some("{}".to_owned()));
    node.stats.set(Some([("failed_builds".to_owned(), Some("0".to_owned()))].into()));
    node.cpu_allocation_ratio.set(Number::from_f64(4.0).unwrap());
    node.ram_allocation_ratio.set(Number::from_f64(1.0).unwrap());
    node.disk_allocation_ratio.set(Number::from_f64(1.0).unwrap());
    let mut spec = HVSpec::default();
    spec.arch.set("x86_64".to_owned());
    spec.hv_type.set("kvm".to_owned());
    spec.vm_mode.set("hvm".to_owned());
    node.supported_hv_specs.set(vec![spec]);
    let all = ComputeNode::field_names().iter().map(|name| (*name).to_owned());
    let primitive = node.to_primitive();
    let set = |name: &String| !primitive["nova_object.data"][name].is_null();
    node.set_changes(all.filter(set).collect());
    conductor.create_node(context, &mut node).await.unwrap();
    let uuid = *node.uuid.get().unwrap();
    node.memory_mb_used.set(512);
    conductor.save_node(context, &mut node).await.unwrap();
    assert!(node.what_changed().is_empty());
    let found = conductor.node(context, uuid).await.unwrap().unwrap();
    assert_eq!(found.memory_mb_used.get(), Some(&512));
    assert_eq!(conductor.nodes(context, &[uuid, Uuid::new_v4()]).await.unwrap().len(), 1);
    assert_eq!(conductor.nodes_of_host(context, &world.host).await.unwrap().len(), 1);
    assert_eq!(conductor.nodes_of_host(context, "nobody").await.unwrap(), []);
    assert!(conductor.node_named(context, &world.host).await.unwrap().is_some());
    let id = *node.id.get().unwrap();
    assert_eq!(conductor.pci_devices_of_node(context, id).await.unwrap(), []);

    conductor.destroy_node(context, &mut node).await.unwrap();
    assert_eq!(conductor.node(context, uuid).await.unwrap(), None);
    conductor.destroy_node(context, &mut node).await.unwrap();
    world.destroy(&service).await;
}

#[tokio::test]
async fn a_host_registers_lives_and_starts_again() {
    let Some(world) = World::find().await else { return };
    let (conductor, context) = (&world.conductor, &world.context);
    let options = ServiceOptions {
        host: world.host.clone(),
        report_interval: Duration::from_secs(10),
        allow_old_computes: false,
    };
    let directory = tempfile::tempdir().unwrap();
    let files = IdentityFiles::new(&[], directory.path());
    let found = service::find(conductor, options.clone()).await.unwrap();
    let who = async |service: Option<&Service>, domains| {
        let (files, host) = (&files, world.host.as_str());
        let ask = Identify { files, host, node: "n", service, domains };
        identify(conductor, context, ask).await
    };
    let identity = who(found.service(), 0).await.unwrap();
    assert!(identity.record.is_none());
    let service = found.register().await.unwrap();
    service.beat().await;
    service.beat().await;
    let record = conductor.service(context, &world.host, "nova-compute").await.unwrap().unwrap();
    let same: Service = conductor.backport(context, &record.to_primitive()).await.unwrap();
    assert_eq!(same, record);
    let record = conductor.service(context, &world.host, "nova-compute").await.unwrap().unwrap();
    assert_eq!(record.report_count.get(), Some(&2));
    assert!(record.last_seen_up.value().is_some());
    assert!(service.set_enabled(Some("a test")).await.unwrap());
    let status = service.status();
    assert_eq!(status.disabled_reason.as_deref(), Some("AUTO: a test"));

    // The second start: the record is there, and so is the file.
    let found = service::find(conductor, options).await.unwrap();
    assert_eq!(who(found.service(), 3).await.unwrap().uuid, identity.uuid);
    let again = found.register().await.unwrap();
    assert_eq!(again.status(), status);
    again.beat().await;
    std::fs::remove_file(directory.path().join("compute_id")).unwrap();
    let lost = who(Some(&record), 0).await;
    assert!(matches!(lost, Err(IdentityError::Lost { .. })), "{lost:?}");
    world.destroy(&record).await;
    again.beat().await;
}

#[tokio::test]
async fn questions_are_answered() {
    let Some(world) = World::find().await else { return };
    let (conductor, context) = (&world.conductor, &world.context);
    let nobody = Uuid::new_v4();
    assert_eq!(conductor.interfaces(context, nobody).await.unwrap(), []);
    assert_eq!(conductor.interface(context, nobody).await.unwrap(), None);
    conductor.delete_interfaces(context, nobody).await.unwrap();
    assert_eq!(conductor.pci_devices_of_instance(context, nobody).await.unwrap(), []);
    conductor.forget_consoles(context, nobody).await.unwrap();
    conductor.forget_expired_consoles(context, &world.host).await.unwrap();
    let moving = conductor.migrations_in_progress_and_error(context, &world.host, "n").await;
    assert_eq!(moving.unwrap(), []);
    let filter = MigrationFilter {
        source_compute: Some(&world.host),
        kind: Some(MigrationType::Evacuation),
        statuses: &["accepted", "done"],
        ..MigrationFilter::default()
    };
    assert_eq!(conductor.migrations(context, &filter).await.unwrap(), []);
    assert_eq!(conductor.migrations_to_confirm(context, 60, &world.host).await.unwrap(), []);
    let records = ConductorRecords::new(conductor.clone(), &world.host);
    let parts = InstancePart::FOR_TRACKER;
    assert_eq!(records.instances_of_node(context, "n", parts).await.unwrap(), []);
    let filters = [("deleted".to_owned(), json!(true)), ("host".to_owned(), json!(world.host))];
    let filters = filters.into_iter().collect();
    assert_eq!(records.instances_by_filters(context, filters, parts).await.unwrap(), []);
    assert_eq!(records.instances(context, InstancePart::FOR_GUEST).await.unwrap(), []);
    conductor.sync_instance_info(context, &world.host, &[]).await.unwrap();
    conductor.delete_instance_info(context, &world.host, nobody).await.unwrap();
    let mut interface = VirtualInterface::default();
    interface.uuid.set(nobody);
    interface.instance_uuid.set(nobody);
    interface.address.set(Some(format!("fa:16:3e:00:00:01/{nobody}")));
    interface.tag.set(None);
    let refused = conductor.create_interface(context, &mut interface).await.unwrap_err();
    assert!(refused.is("VirtualInterfaceCreateException"), "{refused}");
}
