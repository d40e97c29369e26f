//! The types that a versioned object's field may have, and how each is spelt on the wire.
//!
//! A value of a neighbouring type is taken where nova takes it (`"2"` for an integer): older
//! records and image properties hold such. oslo.versionedobjects: fields.py, `coerce`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use serde_json::{Value, json};
use uuid::Uuid;

use super::codec::{AnyObject, ObjectError, VersionedObject, Versions};

/// The type of a field: how it is spelt on the wire.
pub trait FieldType: Sized {
    /// # Errors
    /// [`ObjectError`] when `value` isn't of this type.
    fn decode(value: &Value) -> Result<Self, ObjectError>;

    fn encode(&self) -> Value;

    /// Whether this is an object with changes of its own.
    fn is_dirty(&self) -> bool {
        false
    }

    /// Whether this is a list with such an object in it.
    fn has_dirty_element(&self) -> bool {
        false
    }

    /// Marks the objects in it as saved.
    fn forget_changes(&mut self) {}

    /// Adds the classes that this leads to.
    fn collect_versions(_into: &mut Versions) {}
}

impl FieldType for String {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(ObjectError::wrong_type("a string", other)),
        }
    }

    fn encode(&self) -> Value {
        json!(self)
    }
}

impl FieldType for i64 {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        let number = match value {
            Value::Number(number) => number.as_i64().or_else(|| {
                // Beyond 2^53 a float no longer says which integer it means.
                let float = number.as_f64()?;
                (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as Self)
            }),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| ObjectError::wrong_type("an integer", value))
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
        match value {
            Value::Bool(flag) => Ok(*flag),
            // A column of MySQL's that went out as it is.
            Value::Number(number) if number.as_i64() == Some(0) => Ok(false),
            Value::Number(number) if number.as_i64() == Some(1) => Ok(true),
            other => Err(ObjectError::wrong_type("a boolean", other)),
        }
    }

    fn encode(&self) -> Value {
        json!(self)
    }
}

/// A boolean that image properties may spell in many ways: `yes`, `on`, `1`, `true`, …; any other
/// text is false. It goes out as it came. oslo.utils: strutils.py, `bool_from_string`.
#[derive(Debug, Clone, PartialEq)]
pub struct FlexibleBoolean(Value);

impl FlexibleBoolean {
    pub fn is_true(&self) -> bool {
        let text = match &self.0 {
            Value::Bool(flag) => return *flag,
            Value::String(text) => text.trim().to_ascii_lowercase(),
            other => other.to_string(),
        };
        matches!(text.as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
    }
}

impl From<bool> for FlexibleBoolean {
    fn from(flag: bool) -> Self {
        Self(Value::Bool(flag))
    }
}

impl FieldType for FlexibleBoolean {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        match value {
            Value::Bool(_) | Value::String(_) | Value::Number(_) => Ok(Self(value.clone())),
            other => Err(ObjectError::wrong_type("a boolean", other)),
        }
    }

    fn encode(&self) -> Value {
        self.0.clone()
    }
}

impl FieldType for Uuid {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        value
            .as_str()
            .and_then(|text| Self::parse_str(text).ok())
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

    fn is_dirty(&self) -> bool {
        self.as_ref().is_some_and(T::is_dirty)
    }

    fn has_dirty_element(&self) -> bool {
        self.as_ref().is_some_and(T::has_dirty_element)
    }

    fn forget_changes(&mut self) {
        self.iter_mut().for_each(T::forget_changes);
    }

    fn collect_versions(into: &mut Versions) {
        T::collect_versions(into);
    }
}

impl<T: FieldType> FieldType for Box<T> {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        T::decode(value).map(Self::new)
    }

    fn encode(&self) -> Value {
        T::encode(self)
    }

    fn is_dirty(&self) -> bool {
        T::is_dirty(self)
    }

    fn has_dirty_element(&self) -> bool {
        T::has_dirty_element(self)
    }

    fn forget_changes(&mut self) {
        T::forget_changes(self);
    }

    fn collect_versions(into: &mut Versions) {
        T::collect_versions(into);
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

    fn has_dirty_element(&self) -> bool {
        self.iter().any(T::is_dirty)
    }

    fn forget_changes(&mut self) {
        self.iter_mut().for_each(T::forget_changes);
    }

    fn collect_versions(into: &mut Versions) {
        T::collect_versions(into);
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

/// A nested object of class `B` or of one of its subclasses. It is kept whole; [`SubclassOf::open`]
/// decodes it as one class or another.
#[derive(Clone, PartialEq)]
pub struct SubclassOf<B> {
    pub object: AnyObject,
    base: PhantomData<B>,
}

impl<B> SubclassOf<B> {
    pub fn new(object: &impl VersionedObject) -> Self {
        Self { object: AnyObject(object.to_primitive()), base: PhantomData }
    }

    /// The object as a `T`; `None` when it is of another class.
    ///
    /// # Errors
    /// [`ObjectError`] when it is a `T` that can't be decoded.
    pub fn open<T: VersionedObject>(&self) -> Result<Option<T>, ObjectError> {
        match self.object.name() == T::NAME {
            true => T::from_primitive(&self.object.0).map(Some),
            false => Ok(None),
        }
    }
}

impl<B> fmt::Debug for SubclassOf<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

impl<B: VersionedObject> FieldType for SubclassOf<B> {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        Ok(Self { object: AnyObject::decode(value)?, base: PhantomData })
    }

    fn encode(&self) -> Value {
        self.object.encode()
    }

    fn is_dirty(&self) -> bool {
        let changes = self.object.0.get("nova_object.changes").and_then(Value::as_array);
        changes.is_some_and(|names| !names.is_empty())
    }

    fn forget_changes(&mut self) {
        if let Value::Object(primitive) = &mut self.object.0 {
            primitive.shift_remove("nova_object.changes");
        }
    }

    /// The manifest names the base class only, as oslo's does.
    fn collect_versions(into: &mut Versions) {
        B::collect_versions(into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_takes_what_nova_takes_and_nothing_else() {
        for (value, number) in
            [(json!(2), 2), (json!("2"), 2), (json!(2.0), 2), (json!(" -1 "), -1)]
        {
            assert_eq!(i64::decode(&value), Ok(number), "{value}");
        }
        for value in [json!(2.5), json!("two"), json!(null), json!(true), json!(1e300), json!([])] {
            assert!(i64::decode(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_flexible_boolean_goes_out_as_it_came() {
        for (value, truth) in [
            (json!(true), true),
            (json!("Yes"), true),
            (json!(" on "), true),
            (json!(1), true),
            (json!("no"), false),
            (json!("perhaps"), false),
            (json!(0), false),
        ] {
            let flag = FlexibleBoolean::decode(&value).unwrap();
            assert_eq!(flag.is_true(), truth, "{value}");
            assert_eq!(flag.encode(), value);
        }
        assert!(FlexibleBoolean::decode(&json!(null)).is_err());
    }

    #[test]
    fn a_set_is_written_without_repeats() {
        let set = BTreeSet::<i64>::decode(&json!([3, 1, 3])).unwrap();
        assert_eq!(set.encode(), json!([1, 3]));
    }
}
