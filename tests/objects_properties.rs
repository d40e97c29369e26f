//! Whatever JSON arrives, decoding answers: an object or an error, never a panic.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use hypernova::model::network::parse_network_info;
use hypernova::model::object::{
    BlockDeviceMapping, ComputeNode, Field, FieldType, ImageMeta, Instance, NameTemplate,
    ObjectError, RequestSpec, VersionedObject, apply_action_result, apply_updates,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Any JSON, up to some depth, with the keys of primitives among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("Instance")),
        Just(json!("2.9")),
        Just(json!("2026-11-20T23:07:46Z")),
    ];
    let key = prop_oneof![
        Just("nova_object.name".to_owned()),
        Just("nova_object.namespace".to_owned()),
        Just("nova_object.version".to_owned()),
        Just("nova_object.data".to_owned()),
        Just("nova_object.changes".to_owned()),
        Just("flavor".to_owned()),
        Just("properties".to_owned()),
        ".{0,8}".prop_map(String::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

static INSTANCES: LazyLock<Vec<Value>> = LazyLock::new(|| recorded("Instance"));
static OTHERS: LazyLock<[Value; 2]> =
    LazyLock::new(|| ["RequestSpec", "ComputeNode"].map(|class| recorded(class).remove(0)));

fn recorded(class: &str) -> Vec<Value> {
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/objects");
    let text = fs::read_to_string(objects.join(format!("{class}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Puts `new` in place of the `nth` value, counted from the outside in.
fn replace(value: &mut Value, nth: &mut usize, new: &Value) -> bool {
    if *nth == 0 {
        *value = new.clone();
        return true;
    }
    *nth -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| replace(item, nth, new)),
        Value::Object(map) => map.values_mut().any(|item| replace(item, nth, new)),
        _ => false,
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// What decodes encodes, and decodes again to the same object.
fn stable<T: VersionedObject + PartialEq>(primitive: &Value) -> Result<(), ObjectError> {
    let object = T::from_primitive(primitive)?;
    let again = T::from_primitive(&object.to_primitive()).expect("what we encode, we decode");
    assert_eq!(object.to_primitive(), again.to_primitive());
    assert!(!format!("{object:?}").is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_json_is_answered(value in any_json()) {
        Instance::from_primitive(&value).ok();
        BlockDeviceMapping::from_primitive(&value).ok();
        RequestSpec::decode(&value).ok();
        ImageMeta::from_image_dict(&value).ok();
        parse_network_info(&value.to_string()).ok();
        let mut instance = Instance::default();
        apply_action_result(&mut instance, &value).ok();
        apply_updates(&mut instance, &value).ok();
        instance.to_primitive();
    }

    #[test]
    fn any_data_of_an_instance_is_answered(data in any_json(), changes in any_json()) {
        let primitive = json!({
            "nova_object.name": "Instance", "nova_object.namespace": "nova",
            "nova_object.version": "2.8", "nova_object.data": data, "nova_object.changes": changes,
        });
        stable::<Instance>(&primitive).ok();
    }

    #[test]
    fn a_mutated_instance_is_answered(pick in any::<prop::sample::Index>(),
                                      at in any::<prop::sample::Index>(), new in any_json()) {
        let mut primitive = pick.get(&INSTANCES).clone();
        let mut nth = at.index(count(&primitive));
        prop_assert!(replace(&mut primitive, &mut nth, &new));
        stable::<Instance>(&primitive).ok();
    }

    #[test]
    fn a_mutated_request_is_answered(at in any::<prop::sample::Index>(), new in any_json()) {
        for mut primitive in OTHERS.clone() {
            let mut nth = at.index(count(&primitive));
            prop_assert!(replace(&mut primitive, &mut nth, &new));
            stable::<RequestSpec>(&primitive).ok();
            stable::<ComputeNode>(&primitive).ok();
        }
    }

    /// A name is a file name or an error, whatever the template and the fields.
    #[test]
    fn a_name_is_one_file_name(template in "[%a-z()0-9./-]{0,20}|%\\((uuid|hostname|id)\\)[sdx]",
                               hostname in ".{0,20}", id in any::<i64>()) {
        let Ok(template) = NameTemplate::parse(&template) else { return Ok(()) };
        let instance = Instance {
            id: Field::saved(id),
            uuid: Field::saved(uuid::Uuid::nil()),
            hostname: Field::saved(Some(hostname)),
            ..Instance::default()
        };
        if let Ok(name) = instance.name(&template) {
            prop_assert_eq!(Path::new(&name).components().count(), 1);
            prop_assert!(!name.contains('/') && name != ".." && !name.is_empty());
        }
    }
}

#[test]
fn deeply_nested_json_does_not_exhaust_the_stack() {
    let deep = "[".repeat(120) + &"]".repeat(120);
    let text = format!(
        r#"{{"nova_object.name": "Instance", "nova_object.version": "2.8",
             "nova_object.data": {{"unknown": {deep}, "flavor": {deep}}}}}"#
    );
    let primitive: Value = serde_json::from_str(&text).unwrap();
    assert!(Instance::from_primitive(&primitive).is_err());
}
