//! Methods of classes: questions, and the events of actions.

use serde_json::{Value, json};

use super::methods::{is_deleted, refuse, text};
use super::{Database, wrap};
use crate::model::object::{
    BlockDeviceMapping, BlockDeviceMappingList, ComputeNode, ComputeNodeList, Instance,
    InstanceAction, InstanceActionEvent, InstanceActionEventList, InstanceActionList,
    InstanceFault, InstanceFaultList, InstanceInfoCache, InstanceList, Migration, MigrationList,
    PciDevice, PciDeviceList, Service, VersionedObject, VirtualInterface, VirtualInterfaceList,
};
use crate::model::time::Timestamp;
use crate::records::InstancePart;
use crate::records::conductor::{Call, Raised};

type Row = serde_json::Map<String, Value>;

/// Fields that an instance has only when they are asked for.
fn is_optional(field: &str) -> bool {
    InstancePart::FOR_GUEST.iter().any(|part| part.field() == field)
}

impl Database {
    pub(super) fn class_action(&mut self, call: &Call<'_>) -> Result<Value, Box<Raised>> {
        let argument = |name: &str| call.args.get(name).cloned().unwrap_or_default();
        let (class, method) = (argument("objname"), argument("objmethod"));
        let (args, kwargs) = (argument("args"), argument("kwargs"));
        let first = args.get(0).cloned().unwrap_or_default();
        let by = |name: &'static str, value: Value| {
            move |row: &Row| !is_deleted(row) && row.get(name) == Some(&value)
        };
        let sees_deleted = call.context.rest.get("read_deleted") == Some(&json!("yes"));
        match (class.as_str().unwrap_or_default(), method.as_str().unwrap_or_default()) {
            ("Instance", "get_by_uuid") => {
                let same = |row: &&Row| {
                    row.get("uuid") == Some(&first) && (sees_deleted || !is_deleted(row))
                };
                let found = self.table("Instance").find(same);
                let found = found.ok_or_else(|| refuse("InstanceNotFound"))?.clone();
                Ok(wrap(Instance::NAME, Instance::VERSION, self.instance(found, &kwargs)))
            }
            ("InstanceList", "get_by_host") => Ok(self.instances(by("host", first), &kwargs)),
            ("InstanceList", "get_by_host_and_node") => {
                let node = by("node", args.get(1).cloned().unwrap_or_default());
                let host = by("host", first);
                Ok(self.instances(move |row| host(row) && node(row), &kwargs))
            }
            ("InstanceList", "get_by_filters") => {
                let wanted =
                    |row: &Row| (sees_deleted || !is_deleted(row)) && matches_filters(row, &first);
                Ok(self.instances(wanted, &kwargs))
            }
            ("InstanceInfoCache", "get_by_instance_uuid") => self
                .one::<InstanceInfoCache>(by("instance_uuid", first), "InstanceInfoCacheNotFound"),
            ("BlockDeviceMappingList", "get_by_instance_uuid") => {
                let of_it = by("instance_uuid", first);
                Ok(self.rows_as::<BlockDeviceMappingList, BlockDeviceMapping>(of_it))
            }
            ("BlockDeviceMappingList", "get_by_instance_uuids") => {
                let uuids = first.as_array().cloned().unwrap_or_default();
                let of_them = move |row: &Row| {
                    let instance = row.get("instance_uuid");
                    !is_deleted(row) && instance.is_some_and(|uuid| uuids.contains(uuid))
                };
                Ok(self.rows_as::<BlockDeviceMappingList, BlockDeviceMapping>(of_them))
            }
            ("VirtualInterfaceList", "get_by_instance_uuid") => {
                let of_it = by("instance_uuid", first);
                Ok(self.rows_as::<VirtualInterfaceList, VirtualInterface>(of_it))
            }
            ("VirtualInterface", "get_by_uuid") => {
                Ok(self.one::<VirtualInterface>(by("uuid", first), "").unwrap_or_default())
            }
            ("VirtualInterface", "delete_by_instance_uuid") => {
                let table = self.tables.entry("VirtualInterface".to_owned()).or_default();
                table.retain(|row| row.get("instance_uuid") != Some(&first));
                Ok(Value::Null)
            }
            ("PciDeviceList", "get_by_compute_node") => {
                Ok(self.rows_as::<PciDeviceList, PciDevice>(by("compute_node_id", first)))
            }
            ("PciDeviceList", "get_by_instance_uuid") => {
                Ok(self.rows_as::<PciDeviceList, PciDevice>(by("instance_uuid", first)))
            }
            ("MigrationList", "get_by_filters") => {
                Ok(self.rows_as::<MigrationList, Migration>(matching(&first)))
            }
            ("MigrationList", "get_in_progress_and_error") => {
                let host = first.as_str().unwrap_or_default().to_owned();
                let over = ["confirmed", "reverted", "failed", "completed", "cancelled", "done"];
                Ok(self.rows_as::<MigrationList, Migration>(move |row| {
                    let at = |name| text(row, name) == Some(&host);
                    (at("source_compute") || at("dest_compute"))
                        && !over.contains(&text(row, "status").unwrap_or_default())
                }))
            }
            ("Service", "get_by_host_and_binary") => {
                let binary = by("binary", args.get(1).cloned().unwrap_or_default());
                let host = by("host", first);
                Ok(self.one::<Service>(move |row| host(row) && binary(row), "").unwrap_or_default())
            }
            ("Service", "get_by_compute_host") => {
                let (host, binary) = (by("host", first), by("binary", json!("nova-compute")));
                self.one::<Service>(move |row| host(row) && binary(row), "ComputeHostNotFound")
            }
            ("Service", "get_minimum_version") => {
                Ok(json!(self.minimum_version(first.as_str().unwrap_or_default())))
            }
            ("ComputeNode", "get_by_uuid") => {
                let same = move |row: &Row| {
                    row.get("uuid") == Some(&first) && (sees_deleted || !is_deleted(row))
                };
                self.one::<ComputeNode>(same, "ComputeHostNotFound")
            }
            ("ComputeNode", "get_by_nodename") => {
                self.one::<ComputeNode>(by("hypervisor_hostname", first), "ComputeHostNotFound")
            }
            ("ComputeNodeList", "get_all_by_uuids") => {
                let uuids = first.as_array().cloned().unwrap_or_default();
                Ok(self.rows_as::<ComputeNodeList, ComputeNode>(move |row| {
                    row.get("uuid").is_some_and(|uuid| uuids.contains(uuid))
                }))
            }
            ("ComputeNodeList", "get_all_by_host") => {
                let host = by("host", first);
                match self.table("ComputeNode").any(&host) {
                    true => Ok(self.rows_as::<ComputeNodeList, ComputeNode>(host)),
                    false => Err(refuse("ComputeHostNotFound")),
                }
            }
            ("InstanceAction", "action_start") => {
                let row = json!({
                    "instance_uuid": first,
                    "action": args.get(1),
                    "request_id": call.context.request_id(),
                });
                self.insert("InstanceAction", row.as_object().cloned().unwrap_or_default());
                Ok(Value::Null)
            }
            ("InstanceAction", "get_by_request_id") => {
                let request = by("request_id", args.get(1).cloned().unwrap_or_default());
                let of_it = by("instance_uuid", first);
                let same = move |row: &Row| of_it(row) && request(row);
                Ok(self.one::<InstanceAction>(same, "").unwrap_or_default())
            }
            ("InstanceActionList", "get_by_instance_uuid") => {
                let of_it = by("instance_uuid", first);
                Ok(self.rows_as::<InstanceActionList, InstanceAction>(of_it))
            }
            ("InstanceActionEventList", "get_by_action") => {
                let of_it = by("action_id", first);
                Ok(self.rows_as::<InstanceActionEventList, InstanceActionEvent>(of_it))
            }
            ("InstanceActionEvent", "event_start") => {
                self.event_start(call, &first, &args, &kwargs)
            }
            ("InstanceActionEvent", "event_finish_with_failure") => {
                self.event_finish(call, &first, &args, &kwargs)
            }
            ("InstanceFault", "get_latest_for_instance") => {
                let of_it = by("instance_uuid", first);
                let last = self.table("InstanceFault").filter(|row| of_it(row)).last();
                Ok(last.map_or(Value::Null, super::primitive::<InstanceFault>))
            }
            ("InstanceFaultList", "get_by_instance_uuids") => {
                let uuids = first.as_array().cloned().unwrap_or_default();
                Ok(self.rows_as::<InstanceFaultList, InstanceFault>(move |row| {
                    row.get("instance_uuid").is_some_and(|uuid| uuids.contains(uuid))
                }))
            }
            ("ConsoleAuthToken", "clean_expired_console_auths_for_host") => {
                let now = Timestamp::now().as_second();
                let over = |row: &Row| row.get("expires").and_then(Value::as_i64) < Some(now);
                let table = self.tables.entry("ConsoleAuthToken".to_owned()).or_default();
                table.retain(|row| row.get("host") != Some(&first) || !over(row));
                Ok(Value::Null)
            }
            ("ConsoleAuthToken", "clean_console_auths_for_instance") => {
                let table = self.tables.entry("ConsoleAuthToken".to_owned()).or_default();
                table.retain(|row| row.get("instance_uuid") != Some(&first));
                Ok(Value::Null)
            }
            (class, method) => {
                Err(Box::new(Raised::nova("NoSuchMethod", format!("{class}.{method}"))))
            }
        }
    }

    fn one<T: VersionedObject>(
        &self,
        same: impl Fn(&Row) -> bool,
        absent: &str,
    ) -> Result<Value, Box<Raised>> {
        let found = self.table(T::NAME).find(|row| same(row));
        found.map(super::primitive::<T>).ok_or_else(|| refuse(absent))
    }

    fn rows_as<L: VersionedObject, T: VersionedObject>(
        &self,
        wanted: impl Fn(&Row) -> bool,
    ) -> Value {
        let rows = self.table(T::NAME).filter(|row| !is_deleted(row) && wanted(row));
        Self::list((L::NAME, L::VERSION), (T::NAME, T::VERSION), rows.cloned().collect())
    }

    fn instances(&self, wanted: impl Fn(&Row) -> bool, kwargs: &Value) -> Value {
        let rows = self.table("Instance").filter(|row| wanted(row)).cloned();
        let rows = rows.map(|row| self.instance(row, kwargs)).collect();
        let list = (InstanceList::NAME, InstanceList::VERSION);
        Self::list(list, (Instance::NAME, Instance::VERSION), rows)
    }

    /// The row with the parts that are asked for, and no others.
    fn instance(&self, mut row: Row, kwargs: &Value) -> Row {
        let wanted = kwargs["expected_attrs"].as_array().cloned().unwrap_or_default();
        let is_wanted = |name: &str| wanted.iter().any(|part| part == name);
        let uuid = row.get("uuid").cloned().unwrap_or_default();
        let of_it = |cache: &Row| cache.get("instance_uuid") == Some(&uuid);
        if let Ok(cache) = self.one::<InstanceInfoCache>(of_it, "") {
            row.insert("info_cache".to_owned(), cache);
        }
        row.retain(|name, _| !is_optional(name) || is_wanted(name));
        for part in InstancePart::FOR_GUEST {
            let empty = match part {
                InstancePart::Metadata | InstancePart::SystemMetadata => json!({}),
                InstancePart::KeyPairs | InstancePart::Flavor => continue,
                _ => Value::Null,
            };
            if is_wanted(part.field()) {
                row.entry(part.field()).or_insert(empty);
            }
        }
        row
    }

    /// The action that the request is; the agent's own work counts for the last one.
    fn action(&self, call: &Call<'_>, instance: &Value) -> Option<Value> {
        let own = call.context.project_id.is_none();
        let of_it = |row: &&Row| row.get("instance_uuid") == Some(instance);
        let request = |row: &&Row| text(row, "request_id") == Some(call.context.request_id());
        let actions: Vec<&Row> = self.table("InstanceAction").filter(of_it).collect();
        let last = || actions.last().filter(|_| own);
        actions.iter().find(|row| request(row)).or_else(last)?.get("id").cloned()
    }

    fn event_start(
        &mut self,
        call: &Call<'_>,
        instance: &Value,
        args: &Value,
        kwargs: &Value,
    ) -> Result<Value, Box<Raised>> {
        let action = self.action(call, instance);
        let action = action.ok_or_else(|| refuse("InstanceActionNotFound"))?;
        let event = json!({
            "action_id": action,
            "event": args.get(1),
            "host": kwargs.get("host"),
            "start_time": Timestamp::now().to_string(),
            "finish_time": null,
            "result": null,
            "traceback": null,
            "details": null,
        });
        self.insert("InstanceActionEvent", event.as_object().cloned().unwrap_or_default());
        Ok(Value::Null)
    }

    fn event_finish(
        &mut self,
        call: &Call<'_>,
        instance: &Value,
        args: &Value,
        kwargs: &Value,
    ) -> Result<Value, Box<Raised>> {
        let action = self.action(call, instance);
        let action = action.ok_or_else(|| refuse("InstanceActionNotFound"))?;
        let name = args.get(1);
        let table = self.tables.entry("InstanceActionEvent".to_owned()).or_default();
        let event = table
            .iter_mut()
            .find(|row| row.get("action_id") == Some(&action) && row.get("event") == name);
        let event = event.ok_or_else(|| refuse("InstanceActionEventNotFound"))?;
        let failed = kwargs.get("exc_val").is_some_and(|message| !message.is_null());
        let result = if failed { "Error" } else { "Success" };
        event.insert("finish_time".to_owned(), json!(Timestamp::now().to_string()));
        event.insert("result".to_owned(), json!(result));
        event.insert("details".to_owned(), kwargs.get("exc_val").cloned().unwrap_or_default());
        event.insert("traceback".to_owned(), kwargs.get("exc_tb").cloned().unwrap_or_default());
        Ok(Value::Null)
    }
}

/// nova: db/main/api.py, migration_get_all_by_filters
/// nova: db/main/api.py, `instance_get_all_by_filters_sort`
fn matches_filters(row: &Row, filters: &Value) -> bool {
    let Some(filters) = filters.as_object() else { return true };
    filters.iter().all(|(name, wanted)| match (name.as_str(), wanted) {
        ("deleted", wanted) => json!(is_deleted(row)) == *wanted,
        ("soft_deleted", Value::Bool(true)) => true,
        ("soft_deleted", _) => text(row, "vm_state") != Some("soft-delete"),
        (name, Value::Array(several)) => row.get(name).is_some_and(|own| several.contains(own)),
        (name, wanted) => row.get(name) == Some(wanted),
    })
}

fn matching(filters: &Value) -> impl Fn(&Row) -> bool + use<> {
    let filters = filters.as_object().cloned().unwrap_or_default();
    move |row| {
        filters.iter().all(|(name, wanted)| match (name.as_str(), wanted) {
            ("host", host) => {
                row.get("source_compute") == Some(host) || row.get("dest_compute") == Some(host)
            }
            (name, Value::Array(any)) => row.get(name).is_some_and(|value| any.contains(value)),
            (name, value) => row.get(name) == Some(value),
        })
    }
}
