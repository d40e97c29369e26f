//! A field of a versioned object: unset, set, changed.

use super::field_types::{FieldType, FlexibleBoolean};

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

    /// The value itself, or `None` when unset.
    pub fn into_inner(self) -> Option<T> {
        self.value
    }
}

impl<T: FieldType> Field<T> {
    /// Whether the field `name` was changed, or holds an object that was. Of plain lists of objects
    /// only `objects`, a list class's own, looks into its elements, as in oslo's base.py.
    #[doc(hidden)]
    pub fn differs(&self, name: &str) -> bool {
        let within = |value: &T| value.is_dirty() || name == "objects" && value.has_dirty_element();
        self.changed || self.value.as_ref().is_some_and(within)
    }

    /// Marks the field, and what it holds, as saved.
    #[doc(hidden)]
    pub fn forget(&mut self) {
        self.changed = false;
        if let Some(value) = &mut self.value {
            value.forget_changes();
        }
    }
}

impl<T> Field<Option<T>> {
    /// The value of a nullable field; `None` for both null and unset.
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref().and_then(Option::as_ref)
    }
}

impl Field<String> {
    /// The text, or `None` when unset.
    pub fn text(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

impl Field<Option<String>> {
    /// The text; `None` for both null and unset.
    pub fn text(&self) -> Option<&str> {
        self.value().map(String::as_str)
    }
}

impl Field<FlexibleBoolean> {
    /// Whether it is set to true.
    pub fn is_true(&self) -> bool {
        self.value.as_ref().is_some_and(FlexibleBoolean::is_true)
    }
}
