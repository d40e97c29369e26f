//! Notifications against what nova itself makes of the same instances: tests/python/notifications.py
//! wrote the golden file.

#![allow(clippy::unwrap_used, reason = "tests may")]

use hypernova::model::context::RequestContext;
use hypernova::model::fault::{Fault, Raised};
use hypernova::model::object::codec::VersionedObject;
use hypernova::model::object::{BlockDeviceMapping, Instance, NameTemplate};
use hypernova::model::time::Timestamp;
use hypernova::notify::fake::Recorder;
use hypernova::notify::{Action, Details, Event, InstanceEvent, Notifier, Phase};
use serde_json::{Value, json};

const ACTIONS: [Action; 12] = [
    Action::Create,
    Action::Delete,
    Action::Shutdown,
    Action::PowerOff,
    Action::PowerOn,
    Action::Reboot,
    Action::Pause,
    Action::Unpause,
    Action::Suspend,
    Action::Resume,
    Action::Snapshot,
    Action::TriggerCrashDump,
];

fn phase(name: &str) -> Phase {
    [Phase::Start, Phase::End, Phase::Error].into_iter().find(|p| p.name() == name).unwrap()
}

fn raised(fault: &Value) -> Option<Raised> {
    let class = fault.get("class")?.as_str()?.to_owned();
    let message = fault["message"].as_str().unwrap();
    let fault = match class.as_str() {
        "libvirtError" => Fault::builtin(class, message),
        _ => {
            let kwargs = fault["kwargs"].as_object().unwrap().clone();
            kwargs.into_iter().fold(Fault::nova(class, message), |f, (k, v)| f.with(&k, v))
        }
    };
    Some(Raised::new(fault, "m", "f", 1))
}

/// What nova's places say is nova's own; the rest of an exception is compared.
fn without_places(payload: &mut Value) {
    if let Some(fault) = payload.pointer_mut("/nova_object.data/fault/nova_object.data") {
        for place in ["module_name", "function_name"] {
            fault[place] = Value::Null;
        }
        let traceback = fault["traceback"].as_str().unwrap();
        assert!(traceback.starts_with("Traceback (most recent call last):\n,  File \""));
        let (_, last) = traceback.rsplit_once("\n,").unwrap();
        fault["traceback"] = json!(last);
    }
}

#[test]
fn every_payload_is_the_one_that_nova_makes() {
    let golden = include_str!("golden/notifications.json");
    let cases: Vec<Value> = serde_json::from_str(golden).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let event = case["event"].as_str().unwrap();
        let context: RequestContext = serde_json::from_value(case["context"].clone()).unwrap();
        let instance = Instance::from_primitive(&case["instance"]).unwrap();
        let extra = &case["extra"];
        let raised = raised(&extra["fault"]);
        let devices = extra["bdms"].as_array().map(|devices| {
            let read = |device| BlockDeviceMapping::from_primitive(device).unwrap();
            devices.iter().map(read).collect::<Vec<_>>()
        });
        let recorder = Recorder::new("compute1", NameTemplate::parse("instance-%08x").unwrap());
        let told = if event == "exists" {
            let time = |at: usize| Timestamp::parse(extra["period"][at].as_str().unwrap()).unwrap();
            Event::Exists { instance: &instance, before: None, period: (time(0), time(1)) }
        } else {
            let (action, end) = event.split_once('.').unwrap();
            Event::Instance(InstanceEvent {
                instance: &instance,
                action: ACTIONS.into_iter().find(|a| a.name() == action).unwrap(),
                phase: phase(end),
                details: Details {
                    raised: raised.as_ref(),
                    block_devices: devices.as_deref(),
                    snapshot_image_id: extra["snapshot_image_id"].as_str(),
                    image_name: extra.get("image_name").map(|name| name.as_str()),
                    ..Details::default()
                },
            })
        };
        recorder.notify(&context, &told);
        let sent: Vec<Value> = recorder
            .sent()
            .into_iter()
            .map(|(context, sent)| {
                json!({
                    "publisher_id": sent.publisher_id, "event_type": sent.event_type,
                    "priority": sent.priority.name(), "is_admin": context.is_admin,
                    "roles": context.roles, "payload": sent.payload,
                })
            })
            .collect();
        let expected = case["sent"].as_array().unwrap();
        assert_eq!(sent.len(), expected.len(), "{event}");
        for (mut ours, mut novas) in sent.into_iter().zip(expected.clone()) {
            without_places(&mut ours["payload"]);
            without_places(&mut novas["payload"]);
            assert_same(&ours, &novas, event);
        }
    }
}

/// Equal key by key, so that a failure names the key.
fn assert_same(ours: &Value, novas: &Value, path: &str) {
    match (ours, novas) {
        (Value::Object(ours), Value::Object(novas)) => {
            let names = |all: &serde_json::Map<String, Value>| {
                let mut names: Vec<_> = all.keys().cloned().collect();
                names.sort_unstable();
                names
            };
            assert_eq!(names(ours), names(novas), "{path}");
            for (name, value) in ours {
                assert_same(value, &novas[name], &format!("{path} / {name}"));
            }
        }
        _ => assert_eq!(ours, novas, "{path}"),
    }
}
