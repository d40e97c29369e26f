//! Text that never shows: tokens, passwords, keys, user data.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::object::codec::{FieldType, ObjectError};

/// A secret. `Debug` and `Display` print `***`; [`Secret::expose`] is the only way to the text.
///
/// It is serialised in clear, for messages to the control plane and for the journal, which seals
/// what it writes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FieldType for Secret {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        String::decode(value).map(Self)
    }

    fn encode(&self) -> Value {
        self.0.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
    }
}
