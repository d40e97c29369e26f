//! Answers of the conductor's `object_action`: `[updates, result]`, put into the object.
//!
//! `updates` has the new value of each field that the method changed, and `obj_what_changed`, the
//! names of those that are still to be saved. oslo.versionedobjects: base.py, `remotable`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::codec::{FieldType, ObjectError, VersionedObject};

/// Takes an `object_action` answer into `object` and hands out the method's result. A field that
/// isn't named keeps its value; own changes not named any more count as saved.
///
/// # Errors
/// [`ObjectError`] when the answer has another shape; `object` stays as it was.
pub fn apply_action_result<T: VersionedObject + Clone>(
    object: &mut T,
    answer: &Value,
) -> Result<Value, ObjectError> {
    let wrong = || ObjectError::wrong_type("[updates, result]", answer);
    let [updates, result] = answer.as_array().ok_or_else(wrong)?.as_slice() else {
        return Err(wrong());
    };
    apply_updates(object, updates)?;
    Ok(result.clone())
}

/// Takes the `updates` half of an answer into `object`.
///
/// # Errors
/// [`ObjectError`] when a value isn't of its field's type; `object` stays as it was.
pub fn apply_updates<T: VersionedObject + Clone>(
    object: &mut T,
    updates: &Value,
) -> Result<(), ObjectError> {
    let updates = updates.as_object().ok_or_else(|| ObjectError::wrong_type("a dict", updates))?;
    let mut updated = object.clone();
    let mut changes = BTreeSet::new();
    for (name, value) in updates {
        match name.as_str() {
            "obj_what_changed" => {
                changes = BTreeSet::decode(value).map_err(|e| e.within("obj_what_changed"))?;
            }
            name => updated.load_field(name, value)?,
        }
    }
    updated.set_changes(changes);
    *object = updated;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::object::{Flavor, Instance};
    use crate::model::state::VmState;

    fn instance() -> Instance {
        let mut instance = Instance::default();
        instance.id.load(Some(7));
        instance.vm_state.set(Some(VmState::Active));
        instance.host.set(Some("compute1".into()));
        instance
    }

    #[test]
    fn updates_are_saved_values_and_what_changed_is_what_they_say() {
        let mut instance = instance();
        let answer = json!([
            {"updated_at": "2026-11-20T23:07:46Z", "host": null, "obj_what_changed": ["host"]},
            true
        ]);
        assert_eq!(apply_action_result(&mut instance, &answer), Ok(json!(true)));
        assert!(instance.updated_at.is_set() && !instance.updated_at.is_changed());
        assert_eq!(instance.host.get(), Some(&None));
        assert_eq!(instance.vm_state.value(), Some(&VmState::Active));
        assert_eq!(instance.what_changed(), BTreeSet::from(["host".to_owned()]));
    }

    #[test]
    fn a_nested_object_of_a_newer_minor_replaces_the_old_one() {
        let mut instance = instance();
        let mut flavor = Flavor::default();
        flavor.name.set(Some("m1.tiny".into()));
        instance.flavor.set(flavor.clone());
        flavor.extra.version = Some("1.9".into());
        flavor.reset_changes();
        let updates = json!({"flavor": flavor.to_primitive(), "obj_what_changed": []});
        apply_updates(&mut instance, &updates).unwrap();
        assert!(instance.what_changed().is_empty());
        assert_eq!(instance.flavor.get(), Some(&flavor));
    }

    #[test]
    fn a_bad_answer_changes_nothing() {
        for answer in [
            json!(null),
            json!([]),
            json!([{}, 1, 2]),
            json!([[], null]),
            json!([{"host": "other", "id": null}, null]),
            json!([{"host": "other", "obj_what_changed": 3}, null]),
        ] {
            let mut given = instance();
            assert!(apply_action_result(&mut given, &answer).is_err(), "{answer}");
            assert_eq!(given, instance(), "{answer}");
        }
    }
}
