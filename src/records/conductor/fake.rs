//! A nova-conductor in memory: tables of versioned objects, and the methods that are called on
//! them, by nova's rules. It can lose a request or an answer, and says what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{Call, CallFailure, Caller, Raised};
use crate::model::object::VersionedObject;

mod classes;
mod methods;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Mishap {
    /// It doesn't arrive.
    LostRequest,
    /// It is carried out, and the answer doesn't arrive.
    LostAnswer,
    /// No broker takes it.
    Unsent,
    Raised(Raised),
}

/// A cast, as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub topic: &'static str,
    pub method: &'static str,
    pub args: Map<String, Value>,
    /// To every server of the topic.
    pub to_all: bool,
}

/// A conductor that lives as long as the process.
#[derive(Debug, Default)]
pub struct FakeConductor {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    database: Database,
    /// Mishaps to come, by operation.
    mishaps: BTreeMap<String, VecDeque<Mishap>>,
    calls: Vec<String>,
    sent: Vec<Sent>,
}

/// The rows of each class: an object's data, with what a database adds.
#[derive(Debug, Default)]
struct Database {
    tables: BTreeMap<String, Vec<Map<String, Value>>>,
    last_id: i64,
}

impl FakeConductor {
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a row into the database, as nova-api or an operator would.
    pub fn add<T: VersionedObject>(&self, object: &T) {
        let mut primitive = object.to_primitive();
        let Value::Object(data) = primitive["nova_object.data"].take() else { return };
        self.state().database.insert(T::NAME, data);
    }

    /// The rows of a class, deleted ones included, in the order in which they came.
    pub fn rows<T: VersionedObject>(&self) -> Vec<T> {
        let state = self.state();
        let table = state.database.tables.get(T::NAME);
        let rows = table.into_iter().flatten().map(|row| primitive::<T>(row));
        rows.filter_map(|row| T::from_primitive(&row).ok()).collect()
    }

    /// Changes the rows of a class in place.
    pub fn change(&self, class: &str, change: impl Fn(&mut Map<String, Value>)) {
        let mut state = self.state();
        state.database.tables.entry(class.to_owned()).or_default().iter_mut().for_each(change);
    }

    /// Lets the next call of an operation (`Instance.save`, `ping`) go wrong; several are taken in
    /// order.
    pub fn mishap(&self, operation: &str, mishap: Mishap) {
        self.state().mishaps.entry(operation.to_owned()).or_default().push_back(mishap);
    }

    /// What was called since the last look, as `Class.method`.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// What was cast since the last look.
    pub fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.state().sent)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn primitive<T: VersionedObject>(row: &Map<String, Value>) -> Value {
    let mut data = row.clone();
    data.retain(|name, _| T::field_names().contains(&name.as_str()));
    wrap(T::NAME, T::VERSION, data)
}

fn wrap(class: &str, version: &str, data: Map<String, Value>) -> Value {
    json!({
        "nova_object.name": class,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    })
}

impl State {
    fn answer(&mut self, call: &Call<'_>) -> Result<Value, CallFailure> {
        let operation = operation(call);
        self.calls.push(operation.clone());
        let mishap = self.mishaps.get_mut(&operation).and_then(VecDeque::pop_front);
        match mishap {
            Some(Mishap::LostRequest) => return Err(CallFailure::NoAnswer),
            Some(Mishap::Unsent) => return Err(CallFailure::Unsent("no broker".to_owned())),
            Some(Mishap::Raised(raised)) => return Err(CallFailure::Raised(Box::new(raised))),
            Some(Mishap::LostAnswer) | None => {}
        }
        let answer = self.database.run(call).map_err(CallFailure::Raised);
        match mishap {
            Some(_) => Err(CallFailure::NoAnswer),
            None => answer,
        }
    }
}

fn operation(call: &Call<'_>) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let class = match call.args.get("objinst") {
        Some(object) => text(&object["nova_object.name"]),
        None => call.args.get("objname").map(text).unwrap_or_default(),
    };
    match call.args.get("objmethod") {
        Some(method) => format!("{class}.{}", text(method)),
        None if class.is_empty() => call.method.to_owned(),
        None => format!("{class}.{}", call.method),
    }
}

#[async_trait]
impl Caller for FakeConductor {
    async fn call(&self, call: Call<'_>, within: Duration) -> Result<Value, CallFailure> {
        let answer = self.state().answer(&call);
        if answer == Err(CallFailure::NoAnswer) {
            tokio::time::sleep(within).await;
        }
        answer
    }

    async fn cast(&self, call: Call<'_>, _: Duration) -> Result<(), CallFailure> {
        let Call { topic, method, args, .. } = call;
        self.state().sent.push(Sent { topic, method, args, to_all: false });
        Ok(())
    }

    async fn fanout(&self, call: Call<'_>, _: Duration) -> Result<(), CallFailure> {
        let Call { topic, method, args, .. } = call;
        self.state().sent.push(Sent { topic, method, args, to_all: true });
        Ok(())
    }
}
