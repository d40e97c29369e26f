//! Why an object can't be read, told without its content.

use serde_json::Value;

use crate::model::class::Class;

/// Why a primitive can't be decoded. `path` leads from the outermost object to the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Another class than the one that belongs here.
    #[error("{}expected an object {expected}, found {found}", lead(path))]
    WrongClass { path: String, expected: &'static str, found: String },
    /// A class that nobody here knows, or of another project. oslo: `UnsupportedObjectError`.
    #[error("{}Unsupported object type {found}", lead(path))]
    UnsupportedClass { path: String, found: String },
    /// Another major version: its meaning is unknown. nova: `IncompatibleObjectVersion`.
    #[error("version {found} of {class} is not supported, supported version is {supported}")]
    IncompatibleVersion { class: &'static str, found: String, supported: &'static str },
    /// A value of another type, or not one of the enum's.
    #[error("{}expected {expected}, found {found}", lead(path))]
    WrongType { path: String, expected: &'static str, found: String },
    /// The object lacks a field that the caller can't do without.
    #[error("{class} has no {field}")]
    Missing { class: &'static str, field: &'static str },
}

fn lead(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl ObjectError {
    /// Always [`Class::Refused`]: the sender has to say it otherwise.
    pub fn class(&self) -> Class {
        Class::Refused
    }

    pub fn wrong_type(expected: &'static str, found: &Value) -> Self {
        Self::WrongType { path: String::new(), expected, found: kind(found) }
    }

    /// Puts `step` before the path: called once for each level on the way out.
    #[must_use]
    pub fn within(self, step: &str) -> Self {
        let longer = |path: String| match path.is_empty() {
            true => clip(step),
            false => format!("{}.{path}", clip(step)),
        };
        match self {
            Self::WrongClass { path, expected, found } => {
                Self::WrongClass { path: longer(path), expected, found }
            }
            Self::UnsupportedClass { path, found } => {
                Self::UnsupportedClass { path: longer(path), found }
            }
            Self::WrongType { path, expected, found } => {
                Self::WrongType { path: longer(path), expected, found }
            }
            other => other,
        }
    }
}

/// Keeps a name out of a message short and readable: it becomes part of an error and of a log line.
pub fn clip(name: &str) -> String {
    const LONGEST: usize = 64;
    let clean = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut kept: String = clean.take(LONGEST).collect();
    if name.chars().nth(LONGEST).is_some() {
        kept.push('…');
    }
    kept
}

/// Names a JSON value's kind, never its content: it may be a secret.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "another string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
    .to_owned()
}
