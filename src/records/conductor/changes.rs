//! What of an instance is sent to be saved, and what the answer means.

use serde_json::{Value, json};
use uuid::Uuid;

use super::ConductorError;
use crate::model::object::{Instance, ObjectError, VersionedObject};
use crate::records::{RecordsError, rules};

/// Fields that conductor never saves through the instance: nothing of them is sent.
/// nova: objects/instance.py, `_save_tags` and the like
const NEVER_SAVED: &[&str] =
    &["ec2_ids", "fault", "pci_devices", "security_groups", "services", "tags"];
/// What is sent with every save: the record's names, and what conductor's notification of the change
/// shows. It would read these from its database one by one, which takes longer. They come back
/// as they are there.
const SAVED_WITH: &[&str] =
    &["id", "uuid", "metadata", "system_metadata", "flavor", "info_cache", "keypairs", "tags"];
/// What a call needs that changes nothing by itself. An instance on a host isn't destroyed by one
/// who believes it to be on none.
const NAMED_BY: &[&str] = &["id", "uuid", "host", "deleted"];
/// Stored together, so sent together.
const FLAVORS: &[&str] = &["flavor", "old_flavor", "new_flavor"];

pub(super) fn is_never_saved(name: &str) -> bool {
    NEVER_SAVED.contains(&name)
}

/// The instance with its changed fields and those that go with them.
pub(super) fn to_save(instance: &Instance) -> Value {
    let changed = instance.what_changed();
    let mut keep: Vec<&str> = SAVED_WITH.to_vec();
    if FLAVORS.iter().any(|name| changed.contains(*name)) {
        keep.extend(FLAVORS);
    }
    only(instance, &keep, true)
}

/// The instance with what says which it is, and where it is believed to be.
pub(super) fn to_name(instance: &Instance) -> Value {
    only(instance, NAMED_BY, false)
}

/// The instance with the named fields of those it has, and with its changed ones if these are
/// wanted.
fn only(instance: &Instance, keep: &[&str], changes: bool) -> Value {
    let changed: Vec<String> = match changes {
        true => instance.what_changed().into_iter().filter(|name| !is_never_saved(name)).collect(),
        false => Vec::new(),
    };
    let mut primitive = instance.to_primitive();
    let Value::Object(fields) = &mut primitive else { return primitive };
    if let Some(data) = fields.get_mut("nova_object.data").and_then(Value::as_object_mut) {
        data.retain(|name, _| keep.contains(&name.as_str()) || changed.contains(name));
    }
    match changed.is_empty() {
        true => drop(fields.remove("nova_object.changes")),
        false => drop(fields.insert("nova_object.changes".to_owned(), json!(changed))),
    }
    primitive
}

/// Whether the record has everything that `instance` was to be saved with, apart from the task
/// state, which may have moved on since; something else must have been saved to tell by.
pub(super) fn are_applied(instance: &Instance, record: &Instance) -> bool {
    let (ours, theirs) = (instance.to_primitive(), record.to_primitive());
    let field = |primitive: &Value, name: &str| {
        let mut value = primitive["nova_object.data"].get(name).cloned();
        value.iter_mut().for_each(rules::forget_changes);
        value
    };
    let same = |name: &str| field(&ours, name) == field(&theirs, name);
    let changed = instance.what_changed();
    let mut saved = changed.iter().filter(|name| !is_never_saved(name));
    let others = saved.clone().filter(|name| *name != "task_state").count();
    match others {
        0 => same("task_state"),
        _ => saved.all(|name| name == "task_state" || same(name)),
    }
}

/// Takes the record's own fields over, and keeps those that weren't read.
pub(super) fn take(instance: &mut Instance, record: &Instance) -> Result<(), ObjectError> {
    let primitive = record.to_primitive();
    let mut taken = instance.clone();
    for (name, value) in primitive["nova_object.data"].as_object().into_iter().flatten() {
        taken.load_field(name, value)?;
    }
    taken.reset_changes();
    *instance = taken;
    Ok(())
}

/// An error of a call about one instance, as all kinds of records say it.
pub(super) fn error_of(uuid: Uuid, error: ConductorError) -> RecordsError {
    let Some(raised) = error.raised() else { return error.into() };
    let state = |key: &str| match raised.kwargs.get(key).and_then(|states| states.get("task_state"))
    {
        Some(Value::Array(states)) => states.iter().map(name_of).collect::<Vec<_>>().join(" or "),
        Some(state) => name_of(state),
        None => "unknown".to_owned(),
    };
    match raised.class.as_str() {
        // The last: a row that would belong to an instance that isn't there.
        "InstanceNotFound"
        | "InstanceActionNotFound"
        | "InstanceActionEventNotFound"
        | "DBReferenceError" => RecordsError::NotFound(uuid),
        "UnexpectedDeletingTaskStateError" => RecordsError::Deleting(uuid),
        "UnexpectedTaskStateError" => {
            let (expected, found) = (state("expected"), state("actual"));
            RecordsError::UnexpectedTaskState { uuid, expected, found }
        }
        _ => error.into(),
    }
}

fn name_of(state: &Value) -> String {
    state.as_str().unwrap_or("none").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::{Flavor, TagList};
    use crate::model::state::{TaskState, VmState};

    fn names(primitive: &Value) -> Vec<&str> {
        primitive["nova_object.data"].as_object().unwrap().keys().map(String::as_str).collect()
    }

    fn instance() -> Instance {
        let mut instance = Instance::default();
        instance.id.load(Some(1));
        instance.uuid.load(Some(Uuid::from_u128(7)));
        instance.host.load(Some(Some("h1".to_owned())));
        instance.flavor.load(Some(Flavor::default()));
        instance.old_flavor.load(Some(None));
        instance
    }

    #[test]
    fn only_what_changed_is_sent_and_the_records_names() {
        let mut instance = instance();
        instance.power_state.set(Some(1));
        instance.tags.set(TagList::default());
        let primitive = to_save(&instance);
        let mut sent = names(&primitive);
        sent.sort_unstable();
        assert_eq!(sent, ["flavor", "id", "power_state", "tags", "uuid"]);
        assert_eq!(primitive["nova_object.changes"], json!(["power_state"]));
        assert_eq!(primitive["nova_object.version"], "2.8");
        assert_eq!(names(&to_name(&instance)), ["id", "host", "uuid"]);
        assert_eq!(to_name(&instance).get("nova_object.changes"), None);
    }

    #[test]
    fn flavors_are_sent_together() {
        let mut instance = instance();
        instance.new_flavor.set(None);
        let primitive = to_save(&instance);
        let mut sent = names(&primitive);
        sent.sort_unstable();
        assert_eq!(sent, ["flavor", "id", "new_flavor", "old_flavor", "uuid"]);
    }

    #[test]
    fn a_save_of_the_task_state_alone_is_told_by_it() {
        let (mut ours, mut record) = (instance(), instance());
        ours.task_state.set(Some(TaskState::Spawning));
        record.task_state.load(Some(Some(TaskState::Networking)));
        assert!(!are_applied(&ours, &record));
        record.task_state.load(Some(Some(TaskState::Spawning)));
        assert!(are_applied(&ours, &record));

        ours.vm_state.set(Some(VmState::Active));
        assert!(!are_applied(&ours, &record));
        record.vm_state.load(Some(Some(VmState::Active)));
        record.task_state.load(Some(Some(TaskState::PoweringOff)));
        assert!(are_applied(&ours, &record), "somebody went on from there");
    }
}
