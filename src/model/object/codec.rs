//! The versioned-object codec: oslo.versionedobjects' primitives to typed structs and back.
//!
//! A primitive is `{"nova_object.name", "nova_object.namespace", "nova_object.version",
//! "nova_object.data": {…}, "nova_object.changes": […]}`. What a peer sent is sent back unchanged:
//! the version it came with, fields this build doesn't know, and the names of changed fields.
//!
//! Rules (oslo.versionedobjects 3.x, base.py): a field that is absent is *unset*, which is not
//! `null`; a receiver takes its own major version only. Unlike oslo, any newer minor is taken.
//! The types that a field may have are in `field_types.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Debug;

use serde_json::{Map, Value, json};

pub use super::error::ObjectError;
use super::error::{clip, kind};
pub use super::field::Field;
pub use super::field_types::{FieldType, FlexibleBoolean};

/// What a versioned object keeps beside its fields, so that it can be sent back as it came.
#[derive(Clone, PartialEq, Default)]
pub struct Extra {
    /// The version it came with; `None` for one made here, which goes out at the class's own.
    pub version: Option<String>,
    /// Fields that this build doesn't know.
    pub unknown: Map<String, Value>,
    /// Names of unknown fields that the sender marked as changed.
    pub unknown_changes: BTreeSet<String>,
}

/// Prints the names of unknown fields, never their values: one may be a secret of a newer nova.
impl Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra")
            .field("version", &self.version)
            .field("unknown", &self.unknown.keys().collect::<Vec<_>>())
            .field("unknown_changes", &self.unknown_changes)
            .finish()
    }
}

/// Classes and their versions: the manifest of an indirection call.
pub type Versions = BTreeMap<&'static str, &'static str>;

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

    /// The names of the class's fields, as they are spelt on the wire.
    fn field_names() -> &'static [&'static str];

    /// Names of the fields that differ from the saved record: those marked as changed, and those
    /// that hold an object which has changed itself. oslo: `obj_what_changed`.
    fn what_changed(&self) -> BTreeSet<String>;

    /// Marks every field as saved, those of nested objects too.
    fn reset_changes(&mut self);

    /// Takes one field's value from the record: set, not changed. A field that this build doesn't
    /// know is kept.
    ///
    /// # Errors
    /// [`ObjectError`] when the value isn't of the field's type; the field stays as it was.
    fn load_field(&mut self, name: &str, value: &Value) -> Result<(), ObjectError>;

    /// Says which of the object's own fields differ from the saved record; nested objects keep
    /// their marks.
    fn set_changes(&mut self, changes: BTreeSet<String>);

    /// Adds the class and every class that its fields lead to. oslo: `obj_tree_get_versions`.
    fn collect_versions(into: &mut Versions);
}

/// The `object_versions` of an indirection call: `T` and every class that its fields lead to, at the
/// versions that this build reads. The conductor answers with nothing newer.
pub fn manifest<T: VersionedObject>() -> Versions {
    let mut versions = Versions::new();
    T::collect_versions(&mut versions);
    versions
}

/// An opened primitive.
pub struct Opened<'a> {
    pub version: String,
    pub data: &'a Map<String, Value>,
    /// Names of the fields that the sender marked as changed.
    pub changes: BTreeSet<String>,
}

/// Opens a primitive: checks class and major version, and hands out its data and changes.
///
/// # Errors
/// [`ObjectError`] when it isn't a primitive of `class`, or of another major version.
pub fn open<'a>(
    class: &'static str,
    supported: &'static str,
    primitive: &'a Value,
) -> Result<Opened<'a>, ObjectError> {
    let wrong = |found: &str| ObjectError::WrongClass {
        path: String::new(),
        expected: class,
        found: clip(found),
    };
    let name = primitive.get("nova_object.name").and_then(Value::as_str);
    let name = name.ok_or_else(|| wrong(&kind(primitive)))?;
    let unsupported =
        |found: &str| ObjectError::UnsupportedClass { path: String::new(), found: clip(found) };
    let namespace = primitive.get("nova_object.namespace").unwrap_or(&Value::Null);
    match namespace.as_str() {
        Some("nova") | None => {}
        Some(other) => return Err(unsupported(&format!("{other}.{name}"))),
    }
    if name != class {
        return Err(if super::is_known_class(name) { wrong(name) } else { unsupported(name) });
    }
    let version = primitive.get("nova_object.version").and_then(Value::as_str).unwrap_or("1.0");
    let numbers = |version: &str| -> Option<Vec<u32>> {
        version.split('.').map(|part| part.parse().ok()).collect()
    };
    let major = |version: &str| numbers(version)?.first().copied();
    if major(version).is_none() || major(version) != major(supported) {
        let found = clip(version);
        return Err(ObjectError::IncompatibleVersion { class, found, supported });
    }
    let data = primitive.get("nova_object.data").and_then(Value::as_object);
    let data = data.ok_or_else(|| wrong("an object without data"))?;
    let changes = match primitive.get("nova_object.changes") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(list) => BTreeSet::<String>::decode(list).map_err(|e| e.within("changes"))?,
    };
    Ok(Opened { version: version.to_owned(), data, changes })
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
#[derive(Clone, PartialEq)]
pub struct AnyObject(pub Value);

impl AnyObject {
    /// The class's name on the wire.
    pub fn name(&self) -> &str {
        self.0.get("nova_object.name").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Prints the class only: the object is another's.
impl Debug for AnyObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyObject({:?})", self.name())
    }
}

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

/// The name of a field on the wire: its own, unless that is a word of Rust's.
#[macro_export]
#[doc(hidden)]
macro_rules! wire_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $wire:literal) => {
        $wire
    };
}

/// Declares a class of versioned objects: a struct whose fields are [`Field`]s. A field whose wire
/// name is a word of Rust's gives it as a literal: `kind = "type": String`.
#[macro_export]
macro_rules! versioned_object {
    ($(#[$doc:meta])* $class:ident $version:literal {
        $($(#[$field_doc:meta])* $field:ident $(= $wire:literal)?: $type:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $class {
            $($(#[$field_doc])* pub $field: $crate::model::object::codec::Field<$type>,)*
            /// What came along and isn't a field of this build.
            pub extra: $crate::model::object::codec::Extra,
        }

        #[allow(unused_mut, unused_variables, reason = "a class may have no fields")]
        impl $crate::model::object::codec::VersionedObject for $class {
            const NAME: &'static str = stringify!($class);
            const VERSION: &'static str = $version;

            fn from_primitive(
                primitive: &serde_json::Value,
            ) -> Result<Self, $crate::model::object::codec::ObjectError> {
                let opened =
                    $crate::model::object::codec::open(Self::NAME, Self::VERSION, primitive)?;
                let mut object = Self::default();
                object.extra.version = Some(opened.version);
                for (name, value) in opened.data {
                    object.load_field(name, value)?;
                }
                object.set_changes(opened.changes);
                Ok(object)
            }

            fn to_primitive(&self) -> serde_json::Value {
                let mut data = self.extra.unknown.clone();
                $(if let Some(value) = self.$field.get() {
                    data.insert(
                        $crate::wire_name!($field $($wire)?).into(),
                        $crate::model::object::codec::FieldType::encode(value),
                    );
                })*
                let version = self.extra.version.as_deref().unwrap_or(Self::VERSION);
                $crate::model::object::codec::close(Self::NAME, version, data, self.what_changed())
            }

            fn field_names() -> &'static [&'static str] {
                &[$($crate::wire_name!($field $($wire)?)),*]
            }

            fn what_changed(&self) -> std::collections::BTreeSet<String> {
                let mut changes = self.extra.unknown_changes.clone();
                $(if self.$field.differs($crate::wire_name!($field $($wire)?)) {
                    changes.insert($crate::wire_name!($field $($wire)?).into());
                })*
                changes
            }

            fn reset_changes(&mut self) {
                $(self.$field.forget();)*
                self.extra.unknown_changes.clear();
            }

            fn load_field(
                &mut self,
                name: &str,
                value: &serde_json::Value,
            ) -> Result<(), $crate::model::object::codec::ObjectError> {
                match name {
                    $($crate::wire_name!($field $($wire)?) => {
                        let value =
                            <$type as $crate::model::object::codec::FieldType>::decode(value);
                        let value = value.map_err(|e| {
                            e.within(concat!(
                                stringify!($class), ".", $crate::wire_name!($field $($wire)?)
                            ))
                        })?;
                        self.$field.load(Some(value));
                    })*
                    _ => { self.extra.unknown.insert(name.to_owned(), value.clone()); }
                }
                Ok(())
            }

            fn set_changes(&mut self, mut changes: std::collections::BTreeSet<String>) {
                $(self.$field.mark(changes.remove($crate::wire_name!($field $($wire)?)));)*
                self.extra.unknown_changes = changes;
            }

            fn collect_versions(into: &mut $crate::model::object::codec::Versions) {
                if into.insert(Self::NAME, Self::VERSION).is_none() {
                    $(<$type as $crate::model::object::codec::FieldType>::collect_versions(into);)*
                }
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

            fn is_dirty(&self) -> bool {
                !$crate::model::object::codec::VersionedObject::what_changed(self).is_empty()
            }

            fn forget_changes(&mut self) {
                $crate::model::object::codec::VersionedObject::reset_changes(self);
            }

            fn collect_versions(into: &mut $crate::model::object::codec::Versions) {
                <Self as $crate::model::object::codec::VersionedObject>::collect_versions(into);
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

/// Declares a list class, whose one field is `objects`. oslo: `ObjectListBase`.
#[macro_export]
macro_rules! object_list {
    ($(#[$doc:meta])* $class:ident $version:literal of $item:ty) => {
        $crate::versioned_object! {
            $(#[$doc])*
            $class $version { objects: Vec<$item> }
        }

        impl $class {
            /// The list's items; none when unset.
            pub fn items(&self) -> &[$item] {
                self.objects.get().map_or(&[], Vec::as_slice)
            }

            /// Takes the items out; none when unset.
            pub fn into_items(self) -> Vec<$item> {
                self.objects.into_inner().unwrap_or_default()
            }
        }

        /// A list made here, whose `objects` counts as changed.
        impl From<Vec<$item>> for $class {
            fn from(items: Vec<$item>) -> Self {
                let mut list = Self::default();
                list.objects.set(items);
                list
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::{Flavor, InstanceNUMATopology, KeyPair, ServiceList};

    fn flavor(version: &str) -> Value {
        json!({
            "nova_object.name": "Flavor", "nova_object.namespace": "nova",
            "nova_object.version": version,
            "nova_object.data": {"id": 1, "name": null, "colour": {"of": "tomorrow"}},
            "nova_object.changes": ["colour", "id"],
        })
    }

    #[test]
    fn what_a_newer_minor_brought_goes_back_as_it_came() {
        let flavor_1_9 = Flavor::from_primitive(&flavor("1.9")).unwrap();
        assert_eq!(flavor_1_9.extra.version.as_deref(), Some("1.9"));
        assert_eq!(flavor_1_9.to_primitive(), flavor("1.9"));
    }

    #[test]
    fn another_major_version_is_refused() {
        for version in ["2.0", "0.9", "x", "", "1.x", "1.", "-1.2"] {
            let refusal = Flavor::from_primitive(&flavor(version)).unwrap_err();
            assert!(matches!(refusal, ObjectError::IncompatibleVersion { .. }), "{refusal}");
        }
    }

    #[test]
    fn another_class_is_refused() {
        let refusal = ServiceList::from_primitive(&flavor("1.2")).unwrap_err();
        assert_eq!(refusal.to_string(), "expected an object ServiceList, found Flavor");
    }

    #[test]
    fn unset_is_not_null() {
        let flavor = Flavor::from_primitive(&flavor("1.2")).unwrap();
        assert!(flavor.name.is_set() && flavor.name.value().is_none());
        assert!(!flavor.description.is_set() && flavor.description.value().is_none());
        let data = flavor.to_primitive()["nova_object.data"].clone();
        assert_eq!(data.get("name"), Some(&Value::Null));
        assert_eq!(data.get("description"), None);
    }

    #[test]
    fn null_in_a_field_that_is_not_nullable_is_refused() {
        let mut primitive = flavor("1.2");
        primitive["nova_object.data"]["id"] = Value::Null;
        let refusal = Flavor::from_primitive(&primitive).unwrap_err();
        assert_eq!(refusal.to_string(), "Flavor.id: expected an integer, found null");
    }

    #[test]
    fn an_error_leads_to_the_field_and_clips_what_a_peer_named() {
        let long = "k\n".repeat(500);
        let mut primitive = flavor("1.2");
        primitive["nova_object.data"]["extra_specs"] = json!({ long: [] });
        let refusal = Flavor::from_primitive(&primitive).unwrap_err().to_string();
        assert!(refusal.starts_with("Flavor.extra_specs.k\u{fffd}k"), "{refusal}");
        assert!(refusal.len() < 250 && !refusal.contains('\n'), "{refusal}");
    }

    #[test]
    fn a_changed_object_changes_the_field_that_holds_it() {
        let mut topology = InstanceNUMATopology::default();
        topology.cells.load(Some(vec![]));
        assert!(topology.what_changed().is_empty());
        let mut list = ServiceList::from(vec![Default::default()]);
        list.reset_changes();
        assert!(list.what_changed().is_empty());
        let mut services = list.into_items();
        services[0].report_count.set(2);
        let mut list = ServiceList::default();
        list.objects.load(Some(services));
        assert_eq!(list.what_changed(), BTreeSet::from(["objects".to_owned()]));
        list.reset_changes();
        assert!(list.what_changed().is_empty());
    }

    #[test]
    fn a_field_named_by_a_word_of_rusts_keeps_its_wire_name() {
        let mut pair = KeyPair::default();
        pair.kind.set("ssh".into());
        let primitive = pair.to_primitive();
        assert_eq!(primitive["nova_object.data"], json!({"type": "ssh"}));
        assert_eq!(primitive["nova_object.changes"], json!(["type"]));
        assert_eq!(KeyPair::from_primitive(&primitive).unwrap().kind, pair.kind);
    }

    #[test]
    fn what_is_unknown_never_prints() {
        let flavor = Flavor::from_primitive(&flavor("1.2")).unwrap();
        let shown = format!("{flavor:?}");
        assert!(shown.contains("colour") && !shown.contains("tomorrow"), "{shown}");
    }
}
