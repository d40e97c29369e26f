//! What nova-conductor is asked is what nova-compute asked it, and its recorded answers are
//! understood.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hypernova::model::context::RequestContext;
use hypernova::model::object::{
    BlockDeviceMapping, ComputeNode, ConsoleAuthToken, Instance, Migration, MigrationType, Service,
    VersionedObject, VirtualInterface,
};
use hypernova::model::state::TaskState;
use hypernova::records::conductor::{
    Call, CallFailure, Caller, Conductor, ConductorOptions, ConductorRecords, MigrationFilter,
    Raised,
};
use hypernova::records::{Expected, InstanceFault, InstancePart, Records};
use hypernova::rpc::failure::RemoteFailure;
use serde_json::{Map, Value, json};
use uuid::Uuid;

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rpc");
    serde_json::from_str(&fs::read_to_string(path.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// Answers as the recorded conductor did, and keeps what it was asked.
#[derive(Default)]
struct Recorded {
    answer: Value,
    asked: Mutex<Vec<(String, Map<String, Value>)>>,
}

impl Recorded {
    fn keep(&self, call: Call<'_>) {
        let version = call.version;
        self.asked.lock().unwrap().push((format!("{} {version}", call.method), call.args));
    }
}

#[async_trait]
impl Caller for Recorded {
    async fn call(&self, call: Call<'_>, _: Duration) -> Result<Value, CallFailure> {
        self.keep(call);
        match &self.answer["failure"] {
            Value::Null => Ok(self.answer["result"].clone()),
            failure => {
                let RemoteFailure { class, module, message, kwargs, .. } =
                    RemoteFailure::from_wire(failure);
                Err(CallFailure::Raised(Box::new(Raised { class, module, message, kwargs })))
            }
        }
    }

    async fn cast(&self, call: Call<'_>, _: Duration) -> Result<(), CallFailure> {
        self.keep(call);
        Ok(())
    }

    async fn fanout(&self, call: Call<'_>, _: Duration) -> Result<(), CallFailure> {
        self.keep(call);
        Ok(())
    }
}

/// Plays one recorded call: what is asked in `ask` must be what was asked then. With `partly`, an
/// object may be sent with fewer fields, if the changed ones are all there.
async fn play(name: &str, partly: bool, ask: impl AsyncFnOnce(&ConductorRecords, &Conductor)) {
    let mut request = fixture(name);
    if name == "console_authorize" {
        // By position then, by name now: it is the same to conductor.
        let ttl = request["args"]["args"][0].take();
        request["args"]["args"] = json!([]);
        request["args"]["kwargs"] = json!({"ttl": ttl});
    }
    let reply =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/rpc/{name}.reply.json"));
    let answer = if reply.exists() { fixture(&format!("{name}.reply")) } else { json!({}) };
    let caller = Arc::new(Recorded { answer, ..Recorded::default() });
    let conductor = Conductor::new(caller.clone(), ConductorOptions::new(Duration::from_secs(1)));
    ask(&ConductorRecords::new(conductor.clone(), "compute1"), &conductor).await;

    let asked = caller.asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "{name}: one call");
    let (method, args) = &asked[0];
    let (recorded, version) = (&request["method"], &request["version"]);
    let expected = format!("{} {}", recorded.as_str().unwrap(), version.as_str().unwrap());
    assert_eq!(method, &expected, "{name}");
    let (mut ours, mut theirs) = (Value::Object(args.clone()), request["args"].clone());
    sort_changes(&mut ours);
    sort_changes(&mut theirs);
    if theirs["objinst"].is_object() {
        let (ours, theirs) = (ours["objinst"].take(), theirs["objinst"].take());
        assert_same_object(name, &ours, &theirs, partly);
    }
    assert_eq!(ours, theirs, "{name}");
}

/// They are sets: their order says nothing.
fn sort_changes(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(names)) = fields.get_mut("nova_object.changes") {
                names.sort_by_key(Value::to_string);
            }
            fields.values_mut().for_each(sort_changes);
        }
        Value::Array(items) => items.iter_mut().for_each(sort_changes),
        _ => {}
    }
}

fn changes(object: &Value) -> BTreeSet<&str> {
    let names = object["nova_object.changes"].as_array();
    // nova-compute has these marked for ever: conductor never saves them.
    let never = ["tags", "ec2_ids"];
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    names.filter(|name| !never.contains(name)).collect()
}

fn assert_same_object(name: &str, ours: &Value, theirs: &Value, partly: bool) {
    for key in ["nova_object.name", "nova_object.namespace", "nova_object.version"] {
        assert_eq!(ours[key], theirs[key], "{name}");
    }
    assert_eq!(changes(ours), changes(theirs), "{name}");
    let (ours, theirs) = (&ours["nova_object.data"], &theirs["nova_object.data"]);
    for (field, value) in ours.as_object().unwrap() {
        assert_eq!(value, &theirs[field], "{name}: {field}");
    }
    if !partly {
        assert_eq!(ours, theirs, "{name}");
    }
}

/// The recorded object as it was before it was sent.
fn object<T: VersionedObject>(name: &str) -> T {
    T::from_primitive(&fixture(name)["args"]["objinst"]).unwrap()
}

fn first_uuid(name: &str) -> Uuid {
    fixture(name)["args"]["args"][0].as_str().unwrap().parse().unwrap()
}

fn context() -> RequestContext {
    RequestContext::admin()
}

#[tokio::test]
async fn an_instance_is_saved_with_less_and_takes_the_answer() {
    play("instance_save", true, async |records, _| {
        let mut instance: Instance = object("instance_save");
        let expected = Expected::OneOf(vec![Some(TaskState::Scheduling), None]);
        records.save(&context(), &mut instance, expected).await.unwrap();
        assert!(instance.what_changed().is_empty());
        assert!(instance.keypairs.is_set());
    })
    .await;
    let mut instance: Instance = object("instance_save");
    instance.tags.mark(false);
    let recorded = fixture("instance_save")["args"]["objinst"].to_string().len();
    let caller =
        Arc::new(Recorded { answer: fixture("instance_save.reply"), ..Recorded::default() });
    let conductor = Conductor::new(caller.clone(), ConductorOptions::new(Duration::from_secs(1)));
    let records = ConductorRecords::new(conductor, "compute1");
    records.save(&context(), &mut instance, Expected::Any).await.unwrap();
    let sent = caller.asked.lock().unwrap()[0].1["objinst"].to_string().len();
    assert!(sent * 3 < recorded * 2, "{sent} of {recorded} bytes");
}

#[tokio::test]
async fn an_instance_is_destroyed_by_its_names() {
    play("instance_destroy", true, async |records, _| {
        let mut instance: Instance = object("instance_destroy");
        records.destroy(&context(), &mut instance).await.unwrap();
        assert_eq!(instance.deleted.get(), Some(&true));
        assert!(instance.deleted_at.value().is_some());
    })
    .await;
}

#[tokio::test]
async fn the_instances_of_a_host_are_read_at_once() {
    play("instance_list_get_by_host", false, async |records, _| {
        let parts = [InstancePart::Flavor, InstancePart::SystemMetadata];
        records.instances(&context(), &parts).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_event_begins_and_ends() {
    let uuid = first_uuid("event_start");
    play("event_start", false, async |records, _| {
        let mut context = context();
        // Of a request that came after the agent had started.
        context.rest.insert("timestamp".to_owned(), json!("2999-01-01T00:00:00.000000"));
        records.event_started(&context, uuid, "compute_stop_instance").await.unwrap();
    })
    .await;
    play("event_finish_with_failure", false, async |records, _| {
        let uuid = first_uuid("event_finish_with_failure");
        let event = "compute_stop_instance";
        records.event_finished(&context(), uuid, event, None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_fault_is_recorded() {
    play("fault_create", false, async |records, _| {
        let fault: hypernova::model::object::InstanceFault = object("fault_create");
        let uuid = *fault.instance_uuid.get().unwrap();
        let fault = InstanceFault {
            code: u16::try_from(*fault.code.get().unwrap()).unwrap(),
            message: fault.message.text().unwrap().to_owned(),
            details: fault.details.text().unwrap().to_owned(),
        };
        records.record_fault(&context(), uuid, fault).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_network_is_recorded() {
    play("info_cache_save", false, async |records, _| {
        let mut instance = Instance::default();
        instance.uuid.load(Some(
            *object::<hypernova::model::object::InstanceInfoCache>("info_cache_save")
                .instance_uuid
                .get()
                .unwrap(),
        ));
        records.save_info_cache(&context(), &mut instance, "[]".to_owned()).await.unwrap();
        assert_eq!(instance.info_cache.value().unwrap().network_info.text(), Some("[]"));
    })
    .await;
    play("virtual_interface_create", false, async |_, conductor| {
        let mut interface: VirtualInterface = object("virtual_interface_create");
        conductor.create_interface(&context(), &mut interface).await.unwrap();
        assert_eq!(interface.id.get(), Some(&13));
        assert_eq!(interface.address.text(), Some("fa:16:3e:63:66:4e"));
    })
    .await;
}

#[tokio::test]
async fn disks_are_read_and_saved() {
    play("block_device_list", false, async |records, _| {
        let uuid = first_uuid("block_device_list");
        let disks = records.block_devices(&context(), uuid).await.unwrap();
        assert!(disks.root().is_some());
    })
    .await;
    play("block_device_save", false, async |records, _| {
        let mut disk: BlockDeviceMapping = object("block_device_save");
        records.save_block_device(&context(), &mut disk).await.unwrap();
        assert!(disk.what_changed().is_empty() && disk.updated_at.value().is_some());
    })
    .await;
}

#[tokio::test]
async fn a_service_is_looked_for_created_and_kept_alive() {
    play("service_get_by_host_and_binary", false, async |_, conductor| {
        let found = conductor.service(&context(), "compute1", "nova-compute").await.unwrap();
        assert_eq!(found, None);
    })
    .await;
    play("service_create", false, async |_, conductor| {
        let mut service: Service = object("service_create");
        conductor.create_service(&context(), &mut service).await.unwrap();
        assert_eq!(service.id.get(), Some(&4));
        assert!(service.what_changed().is_empty());
    })
    .await;
    play("service_save", false, async |_, conductor| {
        let mut service: Service = object("service_save");
        conductor.save_service(&context(), &mut service).await.unwrap();
        assert!(service.last_seen_up.value().is_some() && service.what_changed().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_node_is_looked_for_and_created() {
    play("compute_node_get_by_uuid", false, async |_, conductor| {
        let uuid = first_uuid("compute_node_get_by_uuid");
        assert_eq!(conductor.node(&context(), uuid).await.unwrap(), None);
    })
    .await;
    play("compute_node_create", false, async |_, conductor| {
        let mut node: ComputeNode = object("compute_node_create");
        conductor.create_node(&context(), &mut node).await.unwrap();
        assert_eq!(node.id.get(), Some(&1));
        assert!(node.what_changed().is_empty());
    })
    .await;
}

#[tokio::test]
async fn evacuations_are_looked_for() {
    play("migration_list_get_by_filters", false, async |_, conductor| {
        let filter = MigrationFilter {
            source_compute: Some("compute1"),
            kind: Some(MigrationType::Evacuation),
            statuses: &["accepted", "pre-migrating", "done"],
            ..MigrationFilter::default()
        };
        let found: Vec<Migration> = conductor.migrations(&context(), &filter).await.unwrap();
        assert!(found.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_console_is_authorised() {
    play("console_authorize", false, async |_, conductor| {
        let mut token: ConsoleAuthToken = object("console_authorize");
        let ttl = Duration::from_secs(600);
        conductor.authorize_console(&context(), &mut token, ttl).await.unwrap();
        assert!(token.access_url().is_ok());
    })
    .await;
}

#[tokio::test]
async fn schedulers_are_told_of_an_instance() {
    play("update_instance_info", false, async |_, conductor| {
        let info = &fixture("update_instance_info")["args"]["instance_info"];
        let instance = &info["nova_object.data"]["objects"][0];
        let instance = Instance::from_primitive(instance).unwrap();
        conductor.update_instance_info(&context(), "compute1", vec![instance]).await.unwrap();
    })
    .await;
}
