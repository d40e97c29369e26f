//! Whole recorded messages: their objects, images and answers, as workflows take them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hypernova::model::context::RequestContext;
use hypernova::model::object::{
    BlockDeviceMappingList, ConsoleAuthToken, Diagnostics, ImageMeta, Instance, InstanceList,
    NameTemplate, NetworkRequestList, RequestSpec, Service, VersionedObject, apply_action_result,
};
use hypernova::model::state::{TaskState, VmState};
use serde_json::{Value, json};

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rpc");
    serde_json::from_str(&fs::read_to_string(path.join(format!("{name}.json"))).unwrap()).unwrap()
}

fn fixtures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rpc");
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

const BUILDS: [&str; 5] = [
    "build_and_run_instance",
    "build_and_run_instance_ami",
    "build_and_run_instance_config_drive",
    "build_and_run_instance_no_network",
    "build_and_run_instance_volume",
];

#[test]
fn everything_a_build_brings_is_readable() {
    for name in BUILDS {
        let args = fixture(name)["args"].clone();
        let instance = Instance::from_primitive(&args["instance"]).unwrap();
        assert_eq!(instance.vm_state.value(), Some(&VmState::Building), "{name}");
        assert_eq!(instance.task_state.value(), Some(&TaskState::Scheduling), "{name}");
        assert!(instance.uuid().is_ok() && instance.flavor().unwrap().memory_mib().unwrap() > 0);
        let template = NameTemplate::parse("instance-%08x").unwrap();
        assert!(instance.name(&template).unwrap().starts_with("instance-000000"), "{name}");
        assert_eq!(instance.image_ref().is_none(), name.ends_with("volume"));
        RequestSpec::from_primitive(&args["request_spec"]).unwrap();
        let disks = BlockDeviceMappingList::from_primitive(&args["block_device_mapping"]).unwrap();
        assert!(!disks.items().is_empty(), "{name}");
        if let networks @ Value::Object(_) = &args["requested_networks"] {
            NetworkRequestList::from_primitive(networks).unwrap();
        }
    }
}

/// nova-api made `request_spec.image` of the same image: what we read has to be the same.
#[test]
fn an_image_dict_is_read_as_nova_reads_it() {
    for name in BUILDS {
        let args = fixture(name)["args"].clone();
        let ours = ImageMeta::from_image_dict(&args["image"]).unwrap();
        let novas = &args["request_spec"]["nova_object.data"]["image"];
        let mut ours_data = ours.to_primitive()["nova_object.data"].clone();
        let mut novas_data = novas["nova_object.data"].clone();
        for data in [&mut ours_data, &mut novas_data] {
            let properties = data["properties"]["nova_object.data"].take();
            data["properties"] = properties;
        }
        assert_eq!(ours_data, novas_data, "{name}");
    }
}

#[test]
fn an_instances_image_is_read_from_its_system_metadata() {
    let instance = fixture("stop_instance")["args"]["instance"].clone();
    let image = ImageMeta::from_instance(&Instance::from_primitive(&instance).unwrap()).unwrap();
    assert_eq!(image.disk_format.text(), Some("qcow2"));
    assert_eq!(image.min_disk.get(), Some(&1));
    assert_eq!(image.properties().hw_machine_type.text(), Some("pc"));
    let expected = instance["nova_object.data"]["image_ref"].as_str();
    assert_eq!(image.id.get().map(ToString::to_string).as_deref(), expected);
}

/// The object that was sent and the conductor's answer give the object as the next call sent it.
#[test]
fn an_answer_of_the_conductors_goes_into_the_object() {
    let call = fixture("instance_save");
    let mut instance = Instance::from_primitive(&call["args"]["objinst"]).unwrap();
    assert!(!instance.what_changed().is_empty());
    let answer = fixture("instance_save.reply")["result"].clone();
    assert_eq!(apply_action_result(&mut instance, &answer), Ok(Value::Null));
    // `ec2_ids`, which nova leaves dirty inside, is among them on both sides.
    let still: BTreeSet<String> =
        serde_json::from_value(answer[0]["obj_what_changed"].clone()).unwrap();
    assert_eq!(instance.what_changed(), still);
    let primitive = instance.to_primitive();
    for (field, value) in answer[0].as_object().unwrap() {
        if field != "obj_what_changed" && !value.is_object() {
            assert_eq!(&primitive["nova_object.data"][field], value, "{field}");
        }
    }

    let mut service = Service::from_primitive(&fixture("service_save")["args"]["objinst"]).unwrap();
    apply_action_result(&mut service, &fixture("service_save.reply")["result"]).unwrap();
    assert!(service.what_changed().is_empty());
}

#[test]
fn a_console_token_is_taken_in_and_never_shown() {
    let call = fixture("console_authorize");
    let mut token = ConsoleAuthToken::from_primitive(&call["args"]["objinst"]).unwrap();
    let mut answer = fixture("console_authorize.reply")["result"].clone();
    answer[0]["token"] = json!("hunter2");
    apply_action_result(&mut token, &answer).unwrap();
    assert_eq!(token.token.get().unwrap().expose(), "hunter2");
    let novas = fixture("get_vnc_console.reply")["result"]["access_url"].clone();
    let novas = novas.as_str().unwrap().replace("<scrubbed>", "hunter2");
    assert_eq!(token.access_url().unwrap().expose(), novas);
    assert!(!format!("{token:?}").contains("hunter2"));
}

/// What the agent sends itself has the fields and the changes that nova-compute's has.
#[test]
fn an_object_made_here_is_the_one_that_nova_compute_makes() {
    let recorded = fixture("console_authorize")["args"]["objinst"].clone();
    let given = ConsoleAuthToken::from_primitive(&recorded).unwrap();
    let mut token = ConsoleAuthToken::default();
    token.console_type.set("novnc".into());
    token.host.set(given.host.get().unwrap().clone());
    token.port.set(5900);
    token.internal_access_path.set(None);
    token.instance_uuid.set(*given.instance_uuid.get().unwrap());
    token.access_url_base.set(given.access_url_base.get().unwrap().clone());
    let ours = token.to_primitive();
    assert_eq!(ours["nova_object.version"], recorded["nova_object.version"]);
    assert_eq!(ours["nova_object.data"], recorded["nova_object.data"]);
    let sorted = |list: &Value| {
        let mut names: Vec<_> = list.as_array().unwrap().iter().map(Value::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&ours["nova_object.changes"]), sorted(&recorded["nova_object.changes"]));
}

#[test]
fn replies_are_readable() {
    let reply = fixture("get_instance_diagnostics.reply")["result"].clone();
    let diagnostics = Diagnostics::from_primitive(&reply).unwrap();
    assert_eq!(diagnostics.state.text(), Some("running"));
    let reply = fixture("instance_list_get_by_host.reply")["result"].clone();
    InstanceList::from_primitive(&reply).unwrap();
}

#[test]
fn no_message_holds_a_secret() {
    let forbidden = ["password\": \"", "tb:tb@", "token\": \""];
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        for secret in forbidden {
            for (at, _) in text.match_indices(secret) {
                let value = &text[at + secret.len()..];
                assert!(value.starts_with("<scrubbed>"), "{}: {secret}", path.display());
            }
        }
        assert!(!text.contains("token%3D") || text.contains("token%3D<scrubbed>"));
        if let Ok(context) = serde_json::from_str::<RequestContext>(&text) {
            assert!(context.auth_token.is_none(), "{}", path.display());
        }
    }
}
