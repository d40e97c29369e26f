//! Methods of objects: what a call changes, and what it answers.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Database, wrap};
use crate::model::time::Timestamp;
use crate::records::conductor::{Call, Raised};

type Row = Map<String, Value>;

/// The column by which a class's rows are found; `id` for the others.
fn key_of(class: &str) -> &'static str {
    match class {
        "Instance" => "uuid",
        "InstanceInfoCache" => "instance_uuid",
        _ => "id",
    }
}

pub(super) fn text<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str)
}

/// nova: context.py, `read_deleted`
pub(super) fn sees_deleted(call: &Call<'_>) -> bool {
    call.context.rest.get("read_deleted") == Some(&json!("yes"))
}

pub(super) fn is_deleted(row: &Row) -> bool {
    row.get("deleted") == Some(&json!(true))
}

pub(super) fn refuse(class: &str) -> Box<Raised> {
    Box::new(Raised::nova(class, format!("{class}, says the fake")))
}

impl Database {
    pub(super) fn run(&mut self, call: &Call<'_>) -> Result<Value, Box<Raised>> {
        match call.method {
            "ping" => Ok(json!({"service": "conductor", "arg": call.args.get("arg")})),
            "object_action" => self.object_action(call),
            "object_class_action_versions" => self.class_action(call),
            "object_backport_versions" => Ok(call.args.get("objinst").cloned().unwrap_or_default()),
            other => Err(Box::new(Raised::nova("NoSuchMethod", other))),
        }
    }

    pub(super) fn insert(&mut self, class: &str, mut row: Row) -> &mut Row {
        self.last_id += 1;
        let now = json!(Timestamp::now().to_string());
        for (name, value) in [
            ("id", json!(self.last_id)),
            ("created_at", now),
            ("updated_at", Value::Null),
            ("deleted_at", Value::Null),
            ("deleted", json!(false)),
        ] {
            row.entry(name).or_insert(value);
        }
        let table = self.tables.entry(class.to_owned()).or_default();
        table.push(row);
        let last = table.len() - 1;
        &mut table[last]
    }

    pub(super) fn table(&self, class: &str) -> impl Iterator<Item = &Row> {
        self.tables.get(class).into_iter().flatten()
    }

    fn object_action(&mut self, call: &Call<'_>) -> Result<Value, Box<Raised>> {
        let object = call.args.get("objinst").cloned().unwrap_or_default();
        let class = object["nova_object.name"].as_str().unwrap_or_default().to_owned();
        let sent = object["nova_object.data"].as_object().cloned().unwrap_or_default();
        let names = object["nova_object.changes"].as_array().cloned().unwrap_or_default();
        let changes: Row = names
            .iter()
            .filter_map(Value::as_str)
            .filter_map(|name| Some((name.to_owned(), sent.get(name)?.clone())))
            .collect();
        let kwargs = call.args.get("kwargs").cloned().unwrap_or_default();
        let method = call.args.get("objmethod").and_then(Value::as_str).unwrap_or_default();
        let mut result = Value::Null;
        let row = match method {
            "create" => self.create(&class, changes)?,
            "save" => self.save(&class, &sent, changes, &kwargs, sees_deleted(call))?,
            "destroy" => self.destroy(&class, &sent)?,
            "authorize" => {
                let token = Uuid::new_v4().to_string();
                result = json!(token);
                let mut row = changes;
                row.insert("token".to_owned(), result.clone());
                row.insert("expires".to_owned(), json!(Timestamp::now().as_second()));
                self.insert(&class, row).clone()
            }
            other => return Err(Box::new(Raised::nova("NoSuchMethod", other))),
        };
        let mut updates = row;
        updates.retain(|name, value| sent.get(name) != Some(value));
        updates.insert("obj_what_changed".to_owned(), json!([]));
        Ok(json!([updates, result]))
    }

    fn create(&mut self, class: &str, mut row: Row) -> Result<Row, Box<Raised>> {
        self.check_new(class, &row)?;
        if class == "Service" {
            for (name, value) in [
                ("uuid", json!(Uuid::new_v4().to_string())),
                ("disabled", json!(false)),
                ("disabled_reason", Value::Null),
                ("last_seen_up", Value::Null),
                ("forced_down", json!(false)),
            ] {
                row.entry(name).or_insert(value);
            }
        }
        let row = self.insert(class, row).clone();
        if class == "Instance" {
            let uuid = row.get("uuid").cloned().unwrap_or_default();
            let cache = json!({"instance_uuid": uuid, "network_info": "[]"});
            self.insert("InstanceInfoCache", cache.as_object().cloned().unwrap_or_default());
        }
        Ok(row)
    }

    fn check_new(&self, class: &str, row: &Row) -> Result<(), Box<Raised>> {
        let taken = |columns: &[&str]| {
            let same = |other: &Row| columns.iter().all(|name| other.get(*name) == row.get(*name));
            self.table(class).any(|other| !is_deleted(other) && same(other))
        };
        match class {
            "Service" if taken(&["host", "binary"]) => Err(refuse("ServiceBinaryExists")),
            "Service" => self.check_version(row),
            "ComputeNode" if taken(&["uuid"]) => Err(refuse("DuplicateRecord")),
            "VirtualInterface" if taken(&["uuid"]) => {
                Err(refuse("VirtualInterfaceCreateException"))
            }
            "InstanceFault" if !self.has_instance(text(row, "instance_uuid")) => {
                Err(Box::new(Raised {
                    module: "oslo_db.exception".to_owned(),
                    ..*refuse("DBReferenceError")
                }))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn has_instance(&self, uuid: Option<&str>) -> bool {
        self.table("Instance").any(|row| text(row, "uuid") == uuid)
    }

    /// A service must not be older than all others of its name.
    fn check_version(&self, service: &Row) -> Result<(), Box<Raised>> {
        let minimum = self.minimum_version(text(service, "binary").unwrap_or_default());
        let own = service.get("version").and_then(Value::as_i64);
        match own.is_some_and(|own| own < minimum) {
            true => Err(refuse("ServiceTooOld")),
            false => Ok(()),
        }
    }

    pub(super) fn minimum_version(&self, binary: &str) -> i64 {
        let counts = |row: &&Row| {
            text(row, "binary") == Some(binary) && row.get("forced_down") != Some(&json!(true))
        };
        let version = |row: &Row| row.get("version").and_then(Value::as_i64);
        self.table("Service").filter(counts).filter_map(version).min().unwrap_or(0)
    }

    fn save(
        &mut self,
        class: &str,
        sent: &Row,
        mut changes: Row,
        kwargs: &Value,
        with_deleted: bool,
    ) -> Result<Row, Box<Raised>> {
        let key = key_of(class);
        if class == "Service" {
            self.check_version(sent)?;
        }
        if class == "Instance"
            && changes.contains_key("node")
            && !changes.contains_key("compute_id")
        {
            return Err(refuse("ObjectActionError"));
        }
        let cache = (class == "Instance").then(|| changes.remove("info_cache")).flatten();
        if let Some(cache) = cache {
            let mut cached = cache["nova_object.data"].as_object().cloned().unwrap_or_default();
            cached.insert("instance_uuid".to_owned(), sent.get(key).cloned().unwrap_or_default());
            self.save("InstanceInfoCache", &cached.clone(), cached, &json!({}), with_deleted)?;
        }
        let table = self.tables.entry(class.to_owned()).or_default();
        let is_there = |row: &Row| with_deleted || !is_deleted(row);
        let found = table.iter_mut().find(|row| is_there(row) && row.get(key) == sent.get(key));
        let row = match found {
            Some(row) => row,
            None if class == "InstanceInfoCache" => return Err(refuse("InstanceNotFound")),
            None => {
                let class = if class == "BlockDeviceMapping" { "BDM" } else { class };
                return Err(refuse(&format!("{class}NotFound")));
            }
        };
        if let Some(expected) = kwargs.get("expected_task_state").and_then(Value::as_array) {
            let found = row.get("task_state").cloned().unwrap_or_default();
            if !expected.contains(&found) {
                let class = match found.as_str() {
                    Some("deleting") => "UnexpectedDeletingTaskStateError",
                    _ => "UnexpectedTaskStateError",
                };
                let kwargs = json!({
                    "expected": {"task_state": expected},
                    "actual": {"task_state": found},
                });
                let kwargs = kwargs.as_object().cloned().unwrap_or_default();
                return Err(Box::new(Raised { kwargs, ..*refuse(class) }));
            }
        }
        let now = json!(Timestamp::now().to_string());
        if class == "Service" {
            let count = |row: &Row| row.get("report_count").and_then(Value::as_i64).unwrap_or(0);
            if changes.contains_key("report_count") && count(&changes) > count(row) {
                changes.insert("last_seen_up".to_owned(), now.clone());
            }
        }
        row.extend(changes);
        row.insert("updated_at".to_owned(), now);
        Ok(row.clone())
    }

    fn destroy(&mut self, class: &str, sent: &Row) -> Result<Row, Box<Raised>> {
        let key = key_of(class);
        let table = self.tables.entry(class.to_owned()).or_default();
        let Some(at) =
            table.iter().position(|row| !is_deleted(row) && row.get(key) == sent.get(key))
        else {
            return match class {
                "Instance" => Err(refuse("InstanceNotFound")),
                "ComputeNode" => Err(refuse("ComputeHostNotFound")),
                _ => Ok(sent.clone()),
            };
        };
        if class != "Instance" {
            table.remove(at);
            return Ok(sent.clone());
        }
        // An instance that its caller believes to be nowhere must be nowhere.
        let row = &mut table[at];
        let nowhere = |row: &Row| text(row, "host").is_none();
        if nowhere(sent) && !nowhere(row) {
            return Err(refuse("ObjectActionError"));
        }
        row.insert("deleted".to_owned(), json!(true));
        row.insert("deleted_at".to_owned(), json!(Timestamp::now().to_string()));
        Ok(row.clone())
    }

    /// A list of objects of `item`, as `class` has them.
    pub(super) fn list(class: (&str, &str), item: (&str, &str), rows: Vec<Row>) -> Value {
        let objects: Vec<Value> = rows.into_iter().map(|row| wrap(item.0, item.1, row)).collect();
        let mut data = Map::new();
        data.insert("objects".to_owned(), json!(objects));
        wrap(class.0, class.1, data)
    }
}
