//! The 2.0 envelope: bytes <-> requests and replies. JSON in a string in JSON, with the transport's
//! own keys (`_msg_id`, `_unique_id`, `_context_*`, …) beside the request's.
//!
//! Nothing here trusts its input: whatever arrives is a request, a request that can still be
//! answered ([`BrokenRequest`]), or an [`EnvelopeError`].
//!
//! oslo.messaging: _drivers/common.py, serialize_msg; _drivers/amqp.py, unpack_context

use std::time::Duration;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::rpc::failure::{Fault, RemoteFailure};

const VERSION_KEY: &str = "oslo.version";
const MESSAGE_KEY: &str = "oslo.message";
const CONTEXT_PREFIX: &str = "_context_";
/// What oslo's receiver, or this agent, puts into a context, and what must not travel on from there.
const NOT_CONTEXT: &[&str] = &["msg_id", "reply_q", "client_timeout", "span"];
/// AMQP's limit on a queue's name.
const MAX_QUEUE_NAME: usize = 255;

/// A method to run, as it was asked for. Arguments are not looked into.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcRequest {
    pub method: String,
    pub namespace: Option<String>,
    /// Such as `6.0`. What a message without one means: `1.0`.
    pub version: String,
    pub args: Map<String, Value>,
    /// 32 hex digits, the same when the same message arrives again; `None` from a sender that
    /// doesn't number its messages.
    pub unique_id: Option<String>,
}

impl RpcRequest {
    /// A request with an id of its own.
    pub fn new(method: &str, version: &str, args: Map<String, Value>) -> Self {
        Self {
            method: method.to_owned(),
            namespace: None,
            version: version.to_owned(),
            args,
            unique_id: Some(new_id()),
        }
    }
}

/// Where the answer to a call goes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplyAddress {
    pub msg_id: String,
    pub reply_queue: String,
    /// The caller gives up when it hears nothing for so long: `call_monitor_timeout`.
    pub monitor: Option<Duration>,
}

impl ReplyAddress {
    /// Time between two signs of life: half of what the caller waits. `None` when it didn't ask,
    /// or wants them faster than once a second, as oslo's server decides.
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        let interval = Duration::from_secs(self.monitor?.as_secs()) / 2;
        (interval >= Duration::from_secs(1)).then_some(interval)
    }
}

/// A request with its circumstances.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceivedRequest {
    pub request: RpcRequest,
    pub context: RequestContext,
    pub reply: Option<ReplyAddress>,
}

/// A message that is no request, but whose sender may still be waiting.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokenRequest {
    pub reply: Option<ReplyAddress>,
    pub reason: String,
}

/// An answer, or a sign of life (`ending` false, no result) that precedes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub msg_id: String,
    pub unique_id: Option<String>,
    pub outcome: Result<Value, RemoteFailure>,
    pub ending: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the message is compressed and can't be read: {0}")]
    Compressed(String),
    #[error("the message is not JSON: {0}")]
    NotJson(String),
    #[error("the message is not a JSON object")]
    NotObject,
    #[error("the envelope's version is {0}, not 2.0")]
    Version(String),
    #[error("the message is no reply: {0}")]
    NotReply(&'static str),
}

/// 32 hex digits that nobody else has.
pub fn new_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Opens an envelope. A dict without one is the message itself (format 1.0).
pub fn open(body: &[u8]) -> Result<Map<String, Value>, EnvelopeError> {
    let outer = object(body)?;
    let (Some(version), Some(message)) = (outer.get(VERSION_KEY), outer.get(MESSAGE_KEY)) else {
        return Ok(outer);
    };
    let spelt = match version {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // Compatible: the same major, no newer minor.
    if spelt.split('.').next() != Some("2") || !matches!(spelt.as_str(), "2" | "2.0") {
        return Err(EnvelopeError::Version(spelt));
    }
    match message {
        Value::String(inner) => object(inner.as_bytes()),
        _ => Err(EnvelopeError::NotObject),
    }
}

fn object(text: &[u8]) -> Result<Map<String, Value>, EnvelopeError> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(EnvelopeError::NotObject),
        // Only where it went wrong: the text itself may hold a token.
        Err(error) => Err(EnvelopeError::NotJson(format!(
            "{:?} error at line {} column {}",
            error.classify(),
            error.line(),
            error.column()
        ))),
    }
}

/// Puts a message into an envelope.
pub fn seal(message: &Map<String, Value>) -> Vec<u8> {
    let inner = serde_json::to_string(message).expect("a map with string keys is JSON");
    let outer = json!({ VERSION_KEY: "2.0", MESSAGE_KEY: inner });
    serde_json::to_vec(&outer).expect("a map with string keys is JSON")
}

impl ReceivedRequest {
    /// Reads an opened message as a request.
    pub fn read(message: Map<String, Value>) -> Result<Self, BrokenRequest> {
        let reply = reply_address(&message);
        Self::fields(message, reply.clone()).map_err(|reason| BrokenRequest { reply, reason })
    }

    fn fields(message: Map<String, Value>, reply: Option<ReplyAddress>) -> Result<Self, String> {
        let mut method = None;
        let mut namespace = None;
        let mut version = "1.0".to_owned();
        let mut args = Map::new();
        let mut unique_id = None;
        let mut context = Map::new();
        for (key, value) in message {
            match (key.as_str(), value) {
                ("method", Value::String(text)) => method = Some(text),
                ("namespace" | "version" | "args", Value::Null) => {}
                ("namespace", Value::String(text)) => namespace = Some(text),
                ("version", Value::String(text)) => version = text,
                ("args", Value::Object(map)) => args = map,
                ("_unique_id", Value::String(text)) => unique_id = Some(text),
                ("method" | "namespace" | "version", _) => {
                    return Err(format!("{key} is not a string"));
                }
                ("args", _) => return Err("args is not an object".into()),
                (_, value) => {
                    if let Some(name) = key.strip_prefix(CONTEXT_PREFIX) {
                        context.insert(name.to_owned(), value);
                    }
                }
            }
        }
        Ok(Self {
            request: RpcRequest {
                method: method.ok_or("the message names no method")?,
                namespace,
                version,
                args,
                unique_id,
            },
            context: context_from(context)?,
            reply,
        })
    }

    /// The message for it.
    pub fn write(&self) -> Map<String, Value> {
        let mut message = Map::new();
        message.insert("method".into(), self.request.method.clone().into());
        message.insert("args".into(), self.request.args.clone().into());
        message.insert("version".into(), self.request.version.clone().into());
        if let Some(namespace) = &self.request.namespace {
            message.insert("namespace".into(), namespace.clone().into());
        }
        if let Some(id) = &self.request.unique_id {
            message.insert("_unique_id".into(), id.clone().into());
        }
        if let Some(reply) = &self.reply {
            message.insert("_msg_id".into(), reply.msg_id.clone().into());
            message.insert("_reply_q".into(), reply.reply_queue.clone().into());
            let monitor = reply.monitor.map(|monitor| monitor.as_secs());
            message.insert("_timeout".into(), monitor.into());
        }
        write_context(&self.context, &mut message);
        message
    }
}

fn reply_address(message: &Map<String, Value>) -> Option<ReplyAddress> {
    let text = |key: &str| {
        let text = message.get(key)?.as_str()?;
        (!text.is_empty() && text.len() <= MAX_QUEUE_NAME).then(|| text.to_owned())
    };
    let monitor = message
        .get("_timeout")
        .and_then(Value::as_f64)
        .filter(|seconds| (0.0..=1e9).contains(seconds))
        .map(Duration::from_secs_f64);
    Some(ReplyAddress { msg_id: text("_msg_id")?, reply_queue: text("_reply_q")?, monitor })
}

/// A context from its keys without their prefix.
fn context_from(mut keys: Map<String, Value>) -> Result<RequestContext, String> {
    keys.retain(|key, value| {
        // Null means unset where the type has no null.
        let unset = value.is_null() && matches!(key.as_str(), "is_admin" | "roles");
        !unset && !NOT_CONTEXT.contains(&key.as_str())
    });
    // serde would quote the value, which may be a token.
    serde_json::from_value(Value::Object(keys)).map_err(|_| "the context does not fit".to_owned())
}

/// Adds a context's keys, with their prefix.
pub fn write_context(context: &RequestContext, message: &mut Map<String, Value>) {
    let keys = serde_json::to_value(context).expect("a context is plain JSON");
    let Value::Object(keys) = keys else { return };
    for (key, value) in keys {
        if !NOT_CONTEXT.contains(&key.as_str()) {
            message.insert(format!("{CONTEXT_PREFIX}{key}"), value);
        }
    }
}

/// The last message of a call.
pub fn final_reply(msg_id: &str, outcome: Result<Value, Fault>) -> Map<String, Value> {
    let (result, failure) = match outcome {
        Ok(result) => (result, Value::Null),
        Err(fault) => (Value::Null, Value::String(fault.to_wire())),
    };
    reply(msg_id, result, failure, true)
}

/// Says that the method still runs.
pub fn heartbeat(msg_id: &str) -> Map<String, Value> {
    reply(msg_id, Value::Null, Value::Null, false)
}

fn reply(msg_id: &str, result: Value, failure: Value, ending: bool) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("result".into(), result);
    message.insert("failure".into(), failure);
    message.insert("ending".into(), ending.into());
    message.insert("_msg_id".into(), msg_id.into());
    message.insert("_unique_id".into(), new_id().into());
    message
}

impl Reply {
    /// Reads an opened message as an answer.
    pub fn read(mut message: Map<String, Value>) -> Result<Self, EnvelopeError> {
        let Some(Value::String(msg_id)) = message.remove("_msg_id") else {
            return Err(EnvelopeError::NotReply("it has no _msg_id"));
        };
        let unique_id = match message.remove("_unique_id") {
            Some(Value::String(id)) => Some(id),
            _ => None,
        };
        let outcome = match message.remove("failure") {
            None | Some(Value::Null) => Ok(message.remove("result").unwrap_or(Value::Null)),
            Some(failure) => Err(RemoteFailure::from_wire(&failure)),
        };
        let ending = message.get("ending").and_then(Value::as_bool).unwrap_or(false);
        Ok(Self { msg_id, unique_id, outcome, ending })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::secret::Secret;

    fn call() -> ReceivedRequest {
        let mut args = Map::new();
        args.insert("instance".into(), json!({"uuid": "a", "größe": [1, null, 2.5]}));
        ReceivedRequest {
            request: RpcRequest::new("pause_instance", "6.0", args),
            context: RequestContext {
                auth_token: Some(Secret::new("t")),
                roles: vec!["admin".into()],
                ..RequestContext::admin()
            },
            reply: Some(ReplyAddress {
                msg_id: new_id(),
                reply_queue: "reply_1".into(),
                monitor: Some(Duration::from_secs(60)),
            }),
        }
    }

    #[test]
    fn a_request_is_read_back_as_it_was_written() {
        let sent = call();
        let message = open(&seal(&sent.write())).expect("an envelope");
        assert_eq!(ReceivedRequest::read(message), Ok(sent));
    }

    #[test]
    fn a_context_loses_what_the_transport_put_there_and_keeps_what_it_does_not_know() {
        let message = json!({"method": "m", "_context_msg_id": "x", "_context_reply_q": "y",
            "_context_client_timeout": 1, "_context_quota_class": "q", "_context_is_admin": null,
            "_context_roles": null, "_context_request_id": "req-1"});
        let Value::Object(message) = message else { unreachable!() };
        let context = ReceivedRequest::read(message).expect("valid").context;
        assert_eq!(context.rest.keys().collect::<Vec<_>>(), ["quota_class"]);
        assert_eq!((context.request_id(), context.is_admin), ("req-1", false));
    }

    #[test]
    fn a_broken_request_still_says_where_to_answer() {
        for broken in [
            json!({"_msg_id": "1", "_reply_q": "q"}),
            json!({"method": 1, "_msg_id": "1", "_reply_q": "q"}),
            json!({"method": "m", "args": [], "_msg_id": "1", "_reply_q": "q"}),
            json!({"method": "m", "_context_roles": "admin", "_msg_id": "1", "_reply_q": "q"}),
        ] {
            let Value::Object(message) = broken else { unreachable!() };
            let error = ReceivedRequest::read(message).expect_err("broken");
            assert_eq!(error.reply.expect("an address").reply_queue, "q");
        }
    }

    #[test]
    fn an_envelope_of_another_version_is_refused_and_a_bare_dict_is_not() {
        let body =
            |version: &str| format!(r#"{{"oslo.version":"{version}","oslo.message":"{{}}"}}"#);
        assert!(open(body("2.0").as_bytes()).is_ok());
        for version in ["1.0", "2.1", "3.0", "20.0", "two"] {
            let refused = open(body(version).as_bytes());
            assert_eq!(refused, Err(EnvelopeError::Version(version.into())));
        }
        assert!(open(br#"{"method": "m"}"#).is_ok());
        assert_eq!(open(b"[1]"), Err(EnvelopeError::NotObject));
        assert!(matches!(open(&[0x1f, 0x8b, 8, 0]), Err(EnvelopeError::NotJson(_))));
    }

    #[test]
    fn heartbeats_come_twice_in_the_time_that_the_caller_waits() {
        let every = |seconds: f64| {
            let monitor = Some(Duration::from_secs_f64(seconds));
            ReplyAddress { msg_id: "1".into(), reply_queue: "q".into(), monitor }
                .heartbeat_interval()
        };
        assert_eq!(every(60.0), Some(Duration::from_secs(30)));
        assert_eq!(every(3.9), Some(Duration::from_millis(1500)));
        assert_eq!(every(1.9), None);
    }

    #[test]
    fn a_reply_is_a_result_a_failure_or_a_sign_of_life() {
        let read = |message| Reply::read(open(&seal(&message)).expect("an envelope")).expect("one");
        let done = read(final_reply("7", Ok(json!("pong"))));
        assert_eq!(
            (done.outcome, done.ending, done.msg_id.as_str()),
            (Ok(json!("pong")), true, "7")
        );
        let alive = read(heartbeat("7"));
        assert_eq!((alive.outcome, alive.ending), (Ok(Value::Null), false));
        let failed = read(final_reply("7", Err(Fault::nova("Invalid", "no"))));
        assert!(failed.outcome.expect_err("a failure").is_nova("Invalid"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("\\PC{0,8}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    const KEYS: &[&str] = &[
        "method",
        "args",
        "version",
        "namespace",
        "_unique_id",
        "_msg_id",
        "_reply_q",
        "_timeout",
        "_context_roles",
        "_context_is_admin",
        "result",
        "failure",
        "ending",
        "oslo.version",
        "oslo.message",
    ];

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            open(&body).ok();
        }

        #[test]
        fn no_message_makes_the_reader_panic(
            fields in prop::collection::vec((prop::sample::select(KEYS), any_json()), 0..8),
        ) {
            let message: Map<_, _> =
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            if let Ok(message) = open(&seal(&message)) {
                ReceivedRequest::read(message.clone()).ok();
                Reply::read(message).ok();
            }
            open(&serde_json::to_vec(&message).expect("JSON")).ok();
        }

        #[test]
        fn any_arguments_and_results_survive_the_wire(value in any_json()) {
            let mut sent = call();
            sent.request.args.insert("any".into(), value.clone());
            let message = open(&seal(&sent.write())).expect("an envelope");
            prop_assert_eq!(ReceivedRequest::read(message), Ok(sent));
            let reply = open(&seal(&final_reply("1", Ok(value.clone())))).expect("an envelope");
            prop_assert_eq!(Reply::read(reply).expect("a reply").outcome, Ok(value));
        }
    }
}
