//! The records under test, each with its own way to put an instance on record.

use std::sync::Arc;
use std::time::Duration;

use hypernova::model::context::RequestContext;
use hypernova::model::object::{
    BlockDeviceMapping, Flavor, Instance, VersionedObject, apply_action_result, manifest,
};
use hypernova::model::state::{TaskState, VmState};
use hypernova::records::Records;
use hypernova::records::conductor::fake::FakeConductor;
use hypernova::records::conductor::{Call, Caller, Conductor, ConductorOptions, ConductorRecords};
use hypernova::records::fake::FakeRecords;
use hypernova::records::history::History;
use hypernova::records::sqlite::SqliteRecords;
use hypernova::rpc::bus::{Bus, BusSettings};
use hypernova::rpc::options::RabbitOptions;
use hypernova::rpc::transport_url::TransportUrl;
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub trait Both: Records + History {}
impl<T: Records + History> Both for T {}

/// Records, and the control plane around them.
pub struct World {
    pub records: Box<dyn Both>,
    /// nova-api's way to the records; `None`: the agent enters what it gets.
    conductor: Option<Arc<dyn Caller>>,
    host: String,
    /// Set apart from other runs, as a real control plane remembers.
    offset: u128,
}

impl World {
    fn standalone(records: impl Records + History + 'static) -> Self {
        Self { records: Box::new(records), conductor: None, host: "h1".to_owned(), offset: 0 }
    }

    fn nova(caller: Arc<dyn Caller>, host: &str, offset: u128) -> Self {
        let options = ConductorOptions::new(Duration::from_secs(60));
        let conductor = Conductor::new(caller.clone(), options);
        let records = Box::new(ConductorRecords::new(conductor, host));
        Self { records, conductor: Some(caller), host: host.to_owned(), offset }
    }

    pub fn uuid(&self, number: u128) -> Uuid {
        Uuid::from_u128(self.offset + number)
    }

    /// Puts an instance that is being built on record, on this host.
    pub async fn add(&self, number: u128) -> Instance {
        let mut instance = build(self.offset + number);
        instance.host.load(Some(Some(self.host.clone())));
        let Some(conductor) = &self.conductor else {
            return self.records.receive(&context(), instance).await.unwrap();
        };
        let mut flavor = Flavor::default();
        flavor.id.set(1);
        flavor.name.set(Some("m1.contract".to_owned()));
        flavor.flavorid.set("contract".to_owned());
        flavor.memory_mb.set(128);
        flavor.vcpus.set(1);
        flavor.root_gb.set(1);
        flavor.ephemeral_gb.set(0);
        flavor.swap.set(0);
        flavor.extra_specs.set(Default::default());
        instance.flavor.set(flavor);
        instance.project_id.set(Some("contract".to_owned()));
        instance.user_id.set(Some("contract".to_owned()));
        instance.display_name.set(Some("contract".to_owned()));
        instance.image_ref.set(Some(String::new()));
        instance.metadata.set([("a".to_owned(), "1".to_owned())].into());
        instance.system_metadata.set([("b".to_owned(), Some("2".to_owned()))].into());
        let mut primitive = instance.to_primitive();
        let names: Vec<String> =
            primitive["nova_object.data"].as_object().unwrap().keys().cloned().collect();
        primitive["nova_object.changes"] = json!(names);
        self.create(conductor, &mut instance, primitive).await;
        instance
    }

    /// Puts a disk of an instance on record.
    pub async fn add_disk(&self, number: u128) -> BlockDeviceMapping {
        let mut disk = BlockDeviceMapping::default();
        disk.uuid.set(self.uuid(1000 + number));
        disk.instance_uuid.set(self.uuid(number));
        disk.boot_index.set(Some(0));
        disk.delete_on_termination.set(true);
        match &self.conductor {
            None => self.records.save_block_device(&context(), &mut disk).await.unwrap(),
            Some(conductor) => {
                let primitive = disk.to_primitive();
                self.create(conductor, &mut disk, primitive).await;
            }
        }
        disk
    }

    async fn create<T: VersionedObject + Clone>(
        &self,
        conductor: &Arc<dyn Caller>,
        object: &mut T,
        primitive: Value,
    ) {
        let args = json!({"objinst": primitive, "objmethod": "create", "args": [], "kwargs": {}});
        let answer = ask(conductor, "object_action", args, &context()).await;
        apply_action_result(object, &answer).unwrap();
        object.reset_changes();
    }

    /// A request of a user's for an instance, as nova-api makes it.
    pub async fn request(&self, number: u128, action: &str) -> RequestContext {
        let mut context = context();
        context.project_id = Some("contract".to_owned());
        context.user_id = Some("contract".to_owned());
        if let Some(conductor) = &self.conductor {
            let args = json!({
                "objname": "InstanceAction",
                "objmethod": "action_start",
                "object_versions": manifest::<hypernova::model::object::InstanceAction>(),
                "args": [self.uuid(number).to_string(), action],
                "kwargs": {"want_result": false},
            });
            ask(conductor, "object_class_action_versions", args, &context).await;
        }
        context
    }

    /// What records of a real control plane must not keep.
    async fn clean(&self) {
        for mut instance in self.records.instances(&context(), &[]).await.unwrap() {
            self.records.destroy(&context(), &mut instance).await.unwrap();
        }
    }
}

async fn ask(
    conductor: &Arc<dyn Caller>,
    method: &'static str,
    args: Value,
    context: &RequestContext,
) -> Value {
    let args: Map<String, Value> = args.as_object().unwrap().clone();
    let (topic, namespace, version) = ("conductor", None, "3.0");
    let call = Call { topic, namespace, version, method, args, context };
    conductor.call(call, Duration::from_secs(60)).await.unwrap()
}

/// A bus without topics, to the broker that the environment names.
pub fn real_bus() -> Option<Bus> {
    let url = std::env::var("HYPERNOVA_TEST_TRANSPORT_URL").ok()?;
    let settings = BusSettings {
        url: TransportUrl::parse(&url).unwrap(),
        options: RabbitOptions::default(),
        host: "contract".to_owned(),
        control_exchange: "nova".to_owned(),
        topics: Vec::new(),
        watchdog: None,
    };
    Some(Bus::connect(settings).unwrap().0)
}

pub fn message(uuid: u128, vm_state: VmState, task_state: Option<TaskState>) -> Instance {
    let mut instance = Instance::default();
    instance.uuid.load(Some(Uuid::from_u128(uuid)));
    instance.vm_state.load(Some(Some(vm_state)));
    instance.task_state.load(Some(task_state));
    instance
}

pub fn build(uuid: u128) -> Instance {
    message(uuid, VmState::Building, Some(TaskState::Scheduling))
}

pub fn context() -> RequestContext {
    RequestContext::admin()
}

/// Runs `claim` over the fake and over SQLite.
pub async fn over_standalone(claim: impl AsyncFn(&dyn Both)) {
    over_both(async |world| claim(world.records.as_ref()).await).await;
}

async fn over_both(claim: impl AsyncFn(&World)) {
    claim(&World::standalone(FakeRecords::new("h1"))).await;
    let directory = tempfile::tempdir().unwrap();
    let records = SqliteRecords::open(&directory.path().join("records.sqlite"), "h1").unwrap();
    claim(&World::standalone(records)).await;
}

/// Runs `claim` over every kind of records.
pub async fn over_all(claim: impl AsyncFn(&World)) {
    over_both(&claim).await;
    claim(&World::nova(Arc::new(FakeConductor::new()), "h1", 0)).await;
    let Some(bus) = real_bus() else { return };
    let offset = Uuid::new_v4().as_u128() & !0xffff;
    let host = format!("contract-{offset:x}");
    let world = World::nova(Arc::new(bus.client()), &host, offset);
    claim(&world).await;
    world.clean().await;
    bus.close(Duration::from_secs(5)).await;
}
