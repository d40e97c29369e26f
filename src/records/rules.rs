//! The rules of a record, without I/O: what a message may add to it, when a save goes through and
//! what it changes. `sqlite.rs` and `fake.rs` both follow them, so that they can't drift apart.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Expected, RecordsError};
use crate::model::object::{BlockDeviceMapping, Instance, ObjectError, VersionedObject};
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;

/// The ids that a message may bring: nova's column is a 32-bit integer.
const IDS: std::ops::RangeInclusive<i64> = 1..=i32::MAX as i64;

/// The instance's uuid, without which nothing can be recorded.
pub(super) fn uuid_of(instance: &Instance) -> Result<Uuid, ObjectError> {
    let missing = ObjectError::Missing { class: "Instance", field: "uuid" };
    instance.uuid.get().copied().ok_or(missing)
}

/// The id that a message brings, if it brings one.
pub(super) fn id_of(uuid: Uuid, instance: &Instance) -> Result<Option<i64>, RecordsError> {
    match instance.id.get() {
        None => Ok(None),
        Some(id) if IDS.contains(id) => Ok(Some(*id)),
        Some(id) => Err(RecordsError::Clash { uuid, what: format!("id {id} can't be recorded") }),
    }
}

/// Checks that a message for an instance on record doesn't give it another id.
pub(super) fn check_id(record: &Instance, id: Option<i64>) -> Result<(), RecordsError> {
    match (record.id.get(), id) {
        (Some(own), Some(id)) if *own != id => {
            let what = format!("it has id {own}, the message says {id}");
            Err(RecordsError::Clash { uuid: uuid_of(record)?, what })
        }
        _ => Ok(()),
    }
}

/// A new record: the message's instance, on this host, with nothing left to save.
pub(super) fn enter(
    mut instance: Instance,
    id: i64,
    host: &str,
    now: Timestamp,
) -> Result<Instance, ObjectError> {
    instance.id.load(Some(id));
    instance.host.load(Some(Some(host.to_owned())));
    if instance.created_at.value().is_none() {
        instance.created_at.load(Some(Some(now)));
    }
    instance.deleted.load(Some(false));
    instance.deleted_at.load(Some(None));
    saved(&instance)
}

/// Lets a message for an instance on record do what nova-api's own save would have done: set the
/// task state. Says whether that changed the record.
///
/// A change under way keeps its task state. `scheduling` belongs to a build that is still to come:
/// a build sent twice doesn't take a finished instance back to it.
pub(super) fn adopt_task_state(record: &mut Instance, message: &Instance, now: Timestamp) -> bool {
    let Some(&task_state) = message.task_state.value() else { return false };
    let building = record.vm_state.value() == Some(&VmState::Building);
    let late_build = task_state == TaskState::Scheduling && !building;
    if record.task_state.value().is_some() || late_build {
        return false;
    }
    record.task_state.load(Some(Some(task_state)));
    record.updated_at.load(Some(Some(now)));
    true
}

/// What a message about a deleted instance is told: a new build under its uuid is a clash, any
/// other request finds nothing.
pub(super) fn refuse_deleted(uuid: Uuid, message: &Instance) -> RecordsError {
    let build = message.vm_state.value() == Some(&VmState::Building)
        && message.task_state.value() == Some(&TaskState::Scheduling);
    match build {
        true => RecordsError::Clash { uuid, what: "a deleted instance had this uuid".into() },
        false => RecordsError::NotFound(uuid),
    }
}

/// Says whether a save may go through. nova: db/main/api.py, `_instance_update`.
pub(super) fn check(record: &Instance, expected: &Expected) -> Result<(), RecordsError> {
    let Expected::OneOf(expected) = expected else { return Ok(()) };
    let found = record.task_state.value().copied();
    if expected.contains(&found) {
        return Ok(());
    }
    let uuid = uuid_of(record)?;
    if found == Some(TaskState::Deleting) {
        return Err(RecordsError::Deleting(uuid));
    }
    let name = |state: &Option<TaskState>| state.map_or("none", TaskState::as_str);
    let expected = expected.iter().map(name).collect::<Vec<_>>().join(" or ");
    Err(RecordsError::UnexpectedTaskState { uuid, expected, found: name(&found).to_owned() })
}

/// The record with the changed fields of `instance`, unknown ones included.
pub(super) fn merge(
    record: &Instance,
    instance: &Instance,
    now: Timestamp,
) -> Result<Instance, ObjectError> {
    let mut merged = merge_changes(record, instance)?;
    merged.updated_at.load(Some(Some(now)));
    Ok(merged)
}

/// The record with the changed fields of `object`, and nothing left to save. `id` and `uuid` name
/// the record and never change.
pub(super) fn merge_changes<T: VersionedObject>(record: &T, object: &T) -> Result<T, ObjectError> {
    let mut primitive = record.to_primitive();
    let changed = object.to_primitive();
    let (Some(into), Some(from)) = (data_mut(&mut primitive), data(&changed)) else {
        return Err(ObjectError::wrong_type("an object with data", &primitive));
    };
    for name in object.what_changed() {
        if let (false, Some(value)) = (name == "id" || name == "uuid", from.get(&name)) {
            into.insert(name, value.clone());
        }
    }
    saved(&T::from_primitive(&primitive)?)
}

/// The record of an instance whose network has become known.
pub(super) fn connect(
    record: &Instance,
    network_info: String,
    now: Timestamp,
) -> Result<Instance, ObjectError> {
    let mut cache = record.info_cache.value().cloned().unwrap_or_default();
    cache.instance_uuid.load(record.uuid.get().copied());
    cache.network_info.load(Some(Some(network_info)));
    cache.updated_at.load(Some(Some(now)));
    let mut record = record.clone();
    record.info_cache.load(Some(Some(cache)));
    saved(&record)
}

/// The record of a disk that was saved: with its changes, or as a new one.
pub(super) fn keep_disk(
    record: Option<&BlockDeviceMapping>,
    disk: &BlockDeviceMapping,
    now: Timestamp,
) -> Result<BlockDeviceMapping, ObjectError> {
    let mut kept = match record {
        Some(record) => merge_changes(record, disk)?,
        None => saved(disk)?,
    };
    // It is read with its instance, or without.
    kept.instance.load(None);
    if !kept.uuid.is_set() {
        kept.uuid.load(Some(Uuid::new_v4()));
    }
    match record {
        Some(_) => kept.updated_at.load(Some(Some(now))),
        None => kept.created_at.load(Some(Some(now))),
    }
    kept.deleted.load(Some(false));
    Ok(kept)
}

/// The instance that a disk is of.
pub(super) fn instance_of(disk: &BlockDeviceMapping) -> Result<Uuid, ObjectError> {
    let missing = ObjectError::Missing { class: "BlockDeviceMapping", field: "instance_uuid" };
    disk.instance_uuid.get().copied().ok_or(missing)
}

/// The record of a deleted instance.
pub(super) fn bury(record: &Instance, now: Timestamp) -> Result<Instance, ObjectError> {
    let mut buried = record.clone();
    buried.deleted.load(Some(true));
    buried.deleted_at.load(Some(Some(now)));
    saved(&buried)
}

pub(super) fn is_deleted(record: &Instance) -> bool {
    record.deleted.get() == Some(&true)
}

/// The object without unsaved changes, also in the objects inside it.
fn saved<T: VersionedObject>(object: &T) -> Result<T, ObjectError> {
    let mut primitive = object.to_primitive();
    forget_changes(&mut primitive);
    T::from_primitive(&primitive)
}

pub(super) fn forget_changes(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("nova_object.name") {
                // `shift_remove` keeps the order of the rest, as an operator reads it.
                map.shift_remove("nova_object.changes");
            }
            map.values_mut().for_each(forget_changes);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_changes),
        _ => {}
    }
}

fn data(primitive: &Value) -> Option<&Map<String, Value>> {
    primitive.get("nova_object.data")?.as_object()
}

fn data_mut(primitive: &mut Value) -> Option<&mut Map<String, Value>> {
    primitive.get_mut("nova_object.data")?.as_object_mut()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000)
    }

    fn instance(vm_state: VmState, task_state: Option<TaskState>) -> Instance {
        let mut instance = Instance::default();
        instance.uuid.load(Some(Uuid::from_u128(7)));
        instance.vm_state.load(Some(Some(vm_state)));
        instance.task_state.load(Some(task_state));
        instance
    }

    #[test]
    fn a_message_sets_the_task_state_of_an_idle_instance_only() {
        let stop = instance(VmState::Active, Some(TaskState::PoweringOff));
        let mut idle = instance(VmState::Active, None);
        assert!(adopt_task_state(&mut idle, &stop, now()));
        assert_eq!(idle.task_state.value(), Some(&TaskState::PoweringOff));

        let mut busy = instance(VmState::Active, Some(TaskState::Pausing));
        assert!(!adopt_task_state(&mut busy, &stop, now()));
        assert_eq!(busy.task_state.value(), Some(&TaskState::Pausing));
    }

    #[test]
    fn a_repeated_build_leaves_a_finished_instance_alone() {
        let build = instance(VmState::Building, Some(TaskState::Scheduling));
        let mut active = instance(VmState::Active, None);
        assert!(!adopt_task_state(&mut active, &build, now()));
        assert_eq!(active.task_state.value(), None);
    }

    #[test]
    fn a_save_goes_through_in_an_expected_task_state() {
        let record = instance(VmState::Building, Some(TaskState::Spawning));
        let only = |state| Expected::OneOf(vec![state]);
        assert!(check(&record, &Expected::Any).is_ok());
        assert!(check(&record, &only(Some(TaskState::Spawning))).is_ok());
        let error = check(&record, &Expected::OneOf(vec![None, Some(TaskState::Networking)]));
        assert_eq!(
            error.unwrap_err().to_string(),
            "instance 00000000-0000-0000-0000-000000000007 is in task state spawning, expected \
             none or networking"
        );
    }

    #[test]
    fn a_delete_under_way_is_told_apart_unless_it_is_expected() {
        let record = instance(VmState::Building, Some(TaskState::Deleting));
        let refused = check(&record, &Expected::OneOf(vec![Some(TaskState::Spawning)]));
        assert!(matches!(refused, Err(RecordsError::Deleting(_))), "{refused:?}");
        assert!(check(&record, &Expected::OneOf(vec![Some(TaskState::Deleting)])).is_ok());
    }

    #[test]
    fn a_new_record_is_on_this_host_and_has_nothing_to_save() {
        let mut primitive = instance(VmState::Building, None).to_primitive();
        primitive["nova_object.changes"] = json!(["vm_state", "novelty"]);
        primitive["nova_object.data"]["novelty"] = json!({
            "nova_object.name": "Novelty", "nova_object.data": {"a": 1}, "nova_object.changes": ["a"],
        });
        let message = Instance::from_primitive(&primitive).unwrap();
        let record = enter(message, 4, "h1", now()).unwrap();
        assert_eq!(record.host.value().map(String::as_str), Some("h1"));
        assert_eq!(record.created_at.value(), Some(&now()));
        assert!(record.what_changed().is_empty());
        let novelty = &record.to_primitive()["nova_object.data"]["novelty"];
        assert_eq!(novelty, &json!({"nova_object.name": "Novelty", "nova_object.data": {"a": 1}}));
    }

    #[test]
    fn a_message_cant_bring_any_id() {
        let uuid = Uuid::from_u128(7);
        for (id, fits) in [(0, false), (-3, false), (1, true), (i64::MAX, false)] {
            let mut instance = instance(VmState::Building, None);
            instance.id.load(Some(id));
            assert_eq!(id_of(uuid, &instance).is_ok(), fits, "{id}");
        }
    }

    #[test]
    fn a_save_never_renames_the_record() {
        let record = enter(instance(VmState::Building, None), 4, "h1", now()).unwrap();
        let mut changed = record.clone();
        changed.id.set(9);
        changed.uuid.set(Uuid::from_u128(8));
        let merged = merge(&record, &changed, now()).unwrap();
        assert_eq!((merged.id.get(), merged.uuid.get()), (record.id.get(), record.uuid.get()));
    }

    proptest! {
        /// Fields that this build doesn't know survive being received, saved and deleted; those
        /// that the sender changed arrive in the record.
        #[test]
        fn unknown_fields_are_never_lost(
            old in proptest::collection::btree_map("x_[a-z]{1,8}", ".{0,12}", 0..6),
            new in proptest::collection::btree_map("x_[a-z]{1,8}", ".{0,12}", 0..6),
        ) {
            let mut primitive = instance(VmState::Building, None).to_primitive();
            for (name, value) in &old {
                primitive["nova_object.data"][name] = json!({"nested": [value]});
            }
            let message = Instance::from_primitive(&primitive).unwrap();
            let record = enter(message, 1, "h1", now()).unwrap();

            let mut primitive = record.to_primitive();
            for (name, value) in &new {
                primitive["nova_object.data"][name] = json!(value);
            }
            primitive["nova_object.changes"] = json!(new.keys().collect::<Vec<_>>());
            let changed = Instance::from_primitive(&primitive).unwrap();
            let record = bury(&merge(&record, &changed, now()).unwrap(), now()).unwrap();

            let data = &record.to_primitive()["nova_object.data"];
            for (name, value) in &new {
                prop_assert_eq!(&data[name], &json!(value));
            }
            for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                prop_assert_eq!(&data[name], &json!({"nested": [value]}));
            }
        }
    }
}
