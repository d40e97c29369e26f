//! Errors on the wire. A handler returns a [`Fault`]: the exception class that the caller's nova
//! should raise. An error that the other side raised arrives as a [`RemoteFailure`].
//!
//! nova decides by the class (HTTP status, whether to reschedule), so the name must be one that
//! `nova.exception` has; of any other module the caller makes a plain `RemoteError`.
//!
//! oslo.messaging: _drivers/common.py, serialize_remote_exception

use std::fmt;

use serde_json::{Map, Value, json};

pub use crate::model::fault::Fault;
use crate::model::fault::{BUILTINS, NOVA};

/// What a rebuilt exception's class is called; stripped before it travels on.
const REBUILT: &str = "_Remote";

const DISPATCHER: &str = "oslo_messaging.rpc.dispatcher";

impl Fault {
    /// No endpoint of a fitting version has the method.
    pub fn no_such_method(method: &str) -> Self {
        Self::new(
            "NoSuchMethod",
            DISPATCHER,
            format!("Endpoint does not support RPC method {method}"),
        )
    }

    /// No endpoint serves the version in that namespace.
    pub fn unsupported_version(version: &str, method: &str) -> Self {
        Self::new(
            "UnsupportedVersion",
            DISPATCHER,
            format!("Endpoint does not support RPC version {version}. Attempted method: {method}"),
        )
    }

    /// The text that a reply's `failure` holds: JSON within JSON.
    pub fn to_wire(&self) -> String {
        // Python builtins take no keywords; the caller could not build them.
        let empty = Map::new();
        let kwargs = if self.module == BUILTINS { &empty } else { self.kwargs.as_ref() };
        json!({
            "class": self.class,
            "module": self.module,
            "message": self.message,
            "tb": [],
            "args": [self.message],
            "kwargs": kwargs,
        })
        .to_string()
    }
}

/// An exception that the other side raised.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteFailure {
    /// Without the suffix that oslo gives a rebuilt class.
    pub class: String,
    pub module: String,
    pub message: String,
    pub args: Vec<Value>,
    pub kwargs: Map<String, Value>,
    /// Python's traceback, for a debug log.
    pub traceback: Vec<String>,
}

impl RemoteFailure {
    /// Reads a reply's `failure`. What isn't a failure's JSON becomes a `RemoteError` whose
    /// message is the text: the caller must learn that its call failed, whatever was said.
    pub fn from_wire(failure: &Value) -> Self {
        let parsed = match failure {
            Value::String(text) => serde_json::from_str::<Value>(text).ok(),
            Value::Object(_) => Some(failure.clone()),
            _ => None,
        };
        let Some(Value::Object(mut fields)) = parsed else {
            return Self {
                class: "RemoteError".into(),
                module: "oslo_messaging.rpc.client".into(),
                message: failure.as_str().map_or_else(|| failure.to_string(), str::to_owned),
                args: Vec::new(),
                kwargs: Map::new(),
                traceback: Vec::new(),
            };
        };
        let text = |fields: &Map<String, Value>, key: &str| {
            fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let stripped = |name: String| match name.strip_suffix(REBUILT) {
            Some(bare) => bare.to_owned(),
            None => name,
        };
        let module = match stripped(text(&fields, "module")).as_str() {
            // Python 2's name for it.
            "exceptions" => BUILTINS.to_owned(),
            module => module.to_owned(),
        };
        let traceback = match fields.get("tb") {
            Some(Value::Array(lines)) => {
                lines.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        Self {
            class: stripped(text(&fields, "class")),
            module,
            message: text(&fields, "message"),
            args: match fields.remove("args") {
                Some(Value::Array(args)) => args,
                _ => Vec::new(),
            },
            kwargs: match fields.remove("kwargs") {
                Some(Value::Object(kwargs)) => kwargs,
                _ => Map::new(),
            },
            traceback,
        }
    }

    /// Is it this class of `nova.exception`?
    pub fn is_nova(&self, class: &str) -> bool {
        self.module == NOVA && self.class == class
    }
}

impl fmt::Display for RemoteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

/// A failure that we pass on: the first caller sees what the last callee raised.
impl From<RemoteFailure> for Fault {
    fn from(remote: RemoteFailure) -> Self {
        Self {
            class: remote.class.into(),
            module: remote.module.into(),
            message: remote.message,
            kwargs: Box::new(remote.kwargs),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fault_is_read_back_as_it_was_sent() {
        let fault = Fault::nova("InstanceNotFound", "Instance abc could not be found.")
            .with("instance_id", "abc")
            .with("code", 404);
        let remote = RemoteFailure::from_wire(&Value::String(fault.to_wire()));
        assert!(remote.is_nova("InstanceNotFound"));
        assert_eq!(remote.args, [json!("Instance abc could not be found.")]);
        assert_eq!(remote.kwargs["code"], 404);
        assert_eq!(Fault::from(remote), fault);
    }

    #[test]
    fn a_rebuilt_class_loses_its_suffix() {
        let wire = json!({"class": "Invalid_Remote", "module": "nova.exception_Remote",
            "message": "m\ntb", "tb": ["x"], "args": ["m"], "kwargs": {}});
        let remote = RemoteFailure::from_wire(&Value::String(wire.to_string()));
        assert!(remote.is_nova("Invalid"));
        assert_eq!(remote.traceback, ["x"]);
    }

    #[test]
    fn both_of_pythons_names_for_its_own_module_are_one() {
        let wire = json!({"class": "KeyError", "module": "exceptions"});
        assert_eq!(RemoteFailure::from_wire(&wire).module, "builtins");
    }

    #[test]
    fn a_builtin_is_sent_without_keywords() {
        let fault = Fault::builtin("TypeError", "no").with("code", 1);
        assert!(fault.to_wire().contains(r#""kwargs":{}"#));
    }

    #[test]
    fn what_is_no_failure_is_still_an_error() {
        let remote = RemoteFailure::from_wire(&json!("went wrong"));
        assert_eq!((remote.class.as_str(), remote.message.as_str()), ("RemoteError", "went wrong"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,80}") {
            RemoteFailure::from_wire(&Value::String(text));
        }
    }
}
