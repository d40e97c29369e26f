//! The versioned-object codec: oslo.versionedobjects' primitives to typed structs and back.
//!
//! A primitive is `{"nova_object.name", "nova_object.namespace", "nova_object.version",
//! "nova_object.data": {…}, "nova_object.changes": […]}`. What a peer sent is sent back unchanged:
//! the version it came with, fields this build doesn't know, and the names of changed fields.
//!
//! Rules (oslo.versionedobjects 3.x, base.py): a field that is absent is *unset*, which is not
//! `null`; a receiver takes its own major version only. Unlike oslo, any newer minor is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Why a primitive can't be decoded. `path` leads from the outermost object to the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Another class than the one that belongs here.
    #[error("{path}: expected an object {expected}, found {found}")]
    WrongClass { path: String, expected: &'static str, found: String },
    /// Another major version: its meaning is unknown. nova: `IncompatibleObjectVersion`.
    #[error("version {found} of {class} is not supported, supported version is {supported}")]
    IncompatibleVersion { class: &'static str, found: String, supported: &'static str },
    /// A value of another type, or not one of the enum's.
    #[error("{path}: expected {expected}, found {found}")]
    WrongType { path: String, expected: &'static str, found: String },
    /// The object lacks a field that the caller can't do without.
    #[error("{class} has no {field}")]
    Missing { class: &'static str, field: &'static str },
}

impl ObjectError {
    pub fn wrong_type(expected: &'static str, found: &Value) -> Self {
        Self::WrongType { path: String::new(), expected, found: kind(found) }
    }

    /// Puts `step` before the path: called once for each level on the way out.
    #[must_use]
    pub fn within(self, step: &str) -> Self {
        let lead = |path: String| match path.is_empty() {
            true => step.to_owned(),
            false => format!("{step}.{path}"),
        };
        match self {
            Self::WrongClass { path, expected, found } => {
                Self::WrongClass { path: lead(path), expected, found }
            }
            Self::WrongType { path, expected, found } => {
                Self::WrongType { path: lead(path), expected, found }
            }
            other => other,
        }
    }
}

/// Names a JSON value's kind, never its content: it may be a secret.
fn kind(value: &Value) -> String {
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

/// A field of a versioned object: unset, or set to a value; and whether it has been changed since
/// the record was last saved. A nullable field holds an `Option`.
#[derive(Debug, Clone, PartialEq)]
pub struct Field<T> {
    value: Option<T>,
    changed: bool,
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self { value: None, changed: false }
    }
}

impl<T> Field<T> {
    /// A field that is set and counts as saved.
    pub fn saved(value: T) -> Self {
        Self { value: Some(value), changed: false }
    }

    /// The value, or `None` when unset.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Sets the value and marks the field as changed.
    pub fn set(&mut self, value: T) {
        *self = Self { value: Some(value), changed: true };
    }

    /// Changes the value in place and marks the field as changed; does nothing when unset.
    pub fn update(&mut self, change: impl FnOnce(&mut T)) {
        if let Some(value) = &mut self.value {
            change(value);
            self.changed = true;
        }
    }

    pub fn is_set(&self) -> bool {
        self.value.is_some()
    }

    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Says whether the field differs from the saved record.
    pub fn mark(&mut self, changed: bool) {
        self.changed = changed;
    }

    /// Takes a value from the record: set, not changed.
    pub fn load(&mut self, value: Option<T>) {
        *self = Self { value, changed: false };
    }
}

impl<T> Field<Option<T>> {
    /// The value of a nullable field; `None` for both null and unset.
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref().and_then(Option::as_ref)
    }
}

/// What a versioned object keeps beside its fields, so that it can be sent back as it came.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extra {
    /// The version it came with; `None` for one made here, which goes out at the class's own.
    pub version: Option<String>,
    /// Fields that this build doesn't know.
    pub unknown: Map<String, Value>,
    /// Names of unknown fields that the sender marked as changed.
    pub unknown_changes: BTreeSet<String>,
}

/// A class of versioned objects.
pub trait VersionedObject: Sized + Debug {
    /// The name on the wire, such as `Instance`.
    const NAME: &'static str;
    /// The version sent for an object made here, such as `2.8`.
    const VERSION: &'static str;

    /// # Errors
    /// [`ObjectError`] for another class, another major version, or a field of another type.
    fn from_primitive(primitive: &Value) -> Result<Self, ObjectError>;

    fn to_primitive(&self) -> Value;

    /// Field names and nested class versions, for the manifest of an indirection call.
    fn field_names() -> &'static [&'static str];

    /// Names of the fields that differ from the saved record.
    fn what_changed(&self) -> BTreeSet<String>;

    /// Marks every field as saved.
    fn reset_changes(&mut self);
}

/// The type of a field: how it is spelt on the wire.
pub trait FieldType: Sized {
    /// # Errors
    /// [`ObjectError`] when `value` isn't of this type.
    fn decode(value: &Value) -> Result<Self, ObjectError>;

    fn encode(&self) -> Value;
}

impl FieldType for String {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        value.as_str().map(str::to_owned).ok_or_else(|| ObjectError::wrong_type("a string", value))
    }

    fn encode(&self) -> Value {
        json!(self)
    }
}

impl FieldType for i64 {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        value.as_i64().ok_or_else(|| ObjectError::wrong_type("an integer", value))
    }

    fn encode(&self) -> Value {
        json!(self)
    }
}

/// A float keeps the spelling it came with: `1` stays `1`, `1.0` stays `1.0`.
impl FieldType for serde_json::Number {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        match value {
            Value::Number(number) => Ok(number.clone()),
            other => Err(ObjectError::wrong_type("a number", other)),
        }
    }

    fn encode(&self) -> Value {
        Value::Number(self.clone())
    }
}

impl FieldType for bool {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        value.as_bool().ok_or_else(|| ObjectError::wrong_type("a boolean", value))
    }

    fn encode(&self) -> Value {
        json!(self)
    }
}

impl FieldType for Uuid {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        value
            .as_str()
            .and_then(|text| Uuid::parse_str(text).ok())
            .ok_or_else(|| ObjectError::wrong_type("a UUID", value))
    }

    fn encode(&self) -> Value {
        json!(self.hyphenated().to_string())
    }
}

impl<T: FieldType> FieldType for Option<T> {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        match value {
            Value::Null => Ok(None),
            value => T::decode(value).map(Some),
        }
    }

    fn encode(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::encode)
    }
}

impl<T: FieldType> FieldType for Box<T> {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        T::decode(value).map(Self::new)
    }

    fn encode(&self) -> Value {
        T::encode(self)
    }
}

impl<T: FieldType> FieldType for Vec<T> {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        let items = value.as_array().ok_or_else(|| ObjectError::wrong_type("a list", value))?;
        let decode = |(i, item)| T::decode(item).map_err(|e| e.within(&format!("[{i}]")));
        items.iter().enumerate().map(decode).collect()
    }

    fn encode(&self) -> Value {
        self.iter().map(T::encode).collect()
    }
}

/// Dict fields. Their keys are always strings on the wire.
impl<T: FieldType> FieldType for BTreeMap<String, T> {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        let items = value.as_object().ok_or_else(|| ObjectError::wrong_type("a dict", value))?;
        let decode = |(key, item): (&String, _)| {
            Ok((key.clone(), T::decode(item).map_err(|e: ObjectError| e.within(key))?))
        };
        items.iter().map(decode).collect()
    }

    fn encode(&self) -> Value {
        Value::Object(self.iter().map(|(key, item)| (key.clone(), item.encode())).collect())
    }
}

/// Set fields: a list on the wire, in any order.
impl<T: FieldType + Ord> FieldType for BTreeSet<T> {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        Ok(Vec::<T>::decode(value)?.into_iter().collect())
    }

    fn encode(&self) -> Value {
        self.iter().map(T::encode).collect()
    }
}

/// Opens a primitive: checks class and major version, and hands out its data and changes.
///
/// # Errors
/// [`ObjectError`] when it isn't a primitive of `class`, or of another major version.
pub fn open<'a>(
    class: &'static str,
    supported: &'static str,
    primitive: &'a Value,
) -> Result<(String, &'a Map<String, Value>, BTreeSet<String>), ObjectError> {
    let wrong = |found: &str| ObjectError::WrongClass {
        path: String::new(),
        expected: class,
        found: found.to_owned(),
    };
    let name = primitive.get("nova_object.name").and_then(Value::as_str);
    let name = name.ok_or_else(|| wrong(&kind(primitive)))?;
    if name != class {
        return Err(wrong(name));
    }
    let version = primitive.get("nova_object.version").and_then(Value::as_str).unwrap_or("1.0");
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(version) != major(supported) {
        let found = version.to_owned();
        return Err(ObjectError::IncompatibleVersion { class, found, supported });
    }
    let data = primitive.get("nova_object.data").and_then(Value::as_object);
    let data = data.ok_or_else(|| wrong("an object without data"))?;
    let changes = match primitive.get("nova_object.changes") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(list) => BTreeSet::<String>::decode(list).map_err(|e| e.within("changes"))?,
    };
    Ok((version.to_owned(), data, changes))
}

/// Writes a primitive.
pub fn close(
    class: &'static str,
    version: &str,
    data: Map<String, Value>,
    changes: BTreeSet<String>,
) -> Value {
    let mut primitive = Map::new();
    primitive.insert("nova_object.name".into(), json!(class));
    primitive.insert("nova_object.namespace".into(), json!("nova"));
    primitive.insert("nova_object.version".into(), json!(version));
    primitive.insert("nova_object.data".into(), Value::Object(data));
    if !changes.is_empty() {
        primitive.insert("nova_object.changes".into(), json!(changes));
    }
    Value::Object(primitive)
}

/// A nested object of a class that depends on the case (a base class with subclasses): kept whole.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyObject(pub Value);

impl FieldType for AnyObject {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        match value.get("nova_object.name").and_then(Value::as_str) {
            Some(_) => Ok(Self(value.clone())),
            None => Err(ObjectError::wrong_type("a versioned object", value)),
        }
    }

    fn encode(&self) -> Value {
        self.0.clone()
    }
}

/// Declares a class of versioned objects: a struct whose fields are [`Field`]s.
#[macro_export]
macro_rules! versioned_object {
    ($(#[$doc:meta])* $class:ident $version:literal { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $class {
            $(pub $field: $crate::model::object::codec::Field<$type>,)*
            /// What came along and isn't a field of this build.
            pub extra: $crate::model::object::codec::Extra,
        }

        impl $crate::model::object::codec::VersionedObject for $class {
            const NAME: &'static str = stringify!($class);
            const VERSION: &'static str = $version;

            fn from_primitive(
                primitive: &serde_json::Value,
            ) -> Result<Self, $crate::model::object::codec::ObjectError> {
                use $crate::model::object::codec::{FieldType, open};
                #[allow(unused_mut, reason = "a class without fields changes nothing")]
                let (version, data, mut changes) = open(Self::NAME, Self::VERSION, primitive)?;
                let mut object = Self::default();
                object.extra.version = Some(version);
                for (name, value) in data {
                    match name.as_str() {
                        $(stringify!($field) => {
                            let value = <$type as FieldType>::decode(value)
                                .map_err(|e| e.within(concat!(stringify!($class), ".", stringify!($field))))?;
                            object.$field.load(Some(value));
                            object.$field.mark(changes.remove(stringify!($field)));
                        })*
                        _ => { object.extra.unknown.insert(name.clone(), value.clone()); }
                    }
                }
                object.extra.unknown_changes = changes;
                Ok(object)
            }

            fn to_primitive(&self) -> serde_json::Value {
                use $crate::model::object::codec::{FieldType, close};
                let mut data = self.extra.unknown.clone();
                $(if let Some(value) = self.$field.get() {
                    data.insert(stringify!($field).into(), FieldType::encode(value));
                })*
                let version = self.extra.version.as_deref().unwrap_or(Self::VERSION);
                close(Self::NAME, version, data, self.what_changed())
            }

            fn field_names() -> &'static [&'static str] {
                &[$(stringify!($field)),*]
            }

            fn what_changed(&self) -> std::collections::BTreeSet<String> {
                #[allow(unused_mut, reason = "a class without fields changes nothing")]
                let mut changes = self.extra.unknown_changes.clone();
                $(if self.$field.is_changed() {
                    changes.insert(stringify!($field).into());
                })*
                changes
            }

            fn reset_changes(&mut self) {
                $(self.$field.mark(false);)*
                self.extra.unknown_changes.clear();
            }
        }

        impl $crate::model::object::codec::FieldType for $class {
            fn decode(
                value: &serde_json::Value,
            ) -> Result<Self, $crate::model::object::codec::ObjectError> {
                $crate::model::object::codec::VersionedObject::from_primitive(value)
            }

            fn encode(&self) -> serde_json::Value {
                $crate::model::object::codec::VersionedObject::to_primitive(self)
            }
        }

        impl serde::Serialize for $class {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::model::object::codec::VersionedObject::to_primitive(self).serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $class {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                $crate::model::object::codec::VersionedObject::from_primitive(&value)
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
