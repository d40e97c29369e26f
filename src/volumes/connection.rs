//! How a volume is reached: what its service says for this host, as a disk's record keeps it.
//! nova: volume/cinder.py, `_translate_attachment_ref`; virt/block_device.py

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::VolumeError;
use crate::model::object::clip;
use crate::model::secret::Secret;

/// Longer than any that a service gives.
const LONGEST: usize = 64 * 1024;

/// `driver_volume_type`, `data`, and what nova keeps beside them. It holds credentials: it prints its kind
/// and its volume, no more.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionInfo(Map<String, Value>);

impl ConnectionInfo {
    pub fn new(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// Of a disk's record; `None` for a disk that nothing connects yet.
    ///
    /// # Errors
    /// `Connection` for what is no connection.
    pub fn parse(text: &Secret) -> Result<Option<Self>, VolumeError> {
        let text = text.expose();
        let bad = |message: &str| VolumeError::Connection { message: message.to_owned() };
        if text.len() > LONGEST {
            return Err(bad("it is too long"));
        }
        match serde_json::from_str(text) {
            Ok(Value::Null) => Ok(None),
            Ok(Value::Object(fields)) if fields.is_empty() => Ok(None),
            Ok(Value::Object(fields)) => Ok(Some(Self(fields))),
            _ => Err(bad("it is no JSON object")),
        }
    }

    /// For a disk's record, in Python's spelling: whoever compares the texts finds no difference.
    pub fn to_secret(&self) -> Secret {
        let mut text = String::new();
        write_as_python(&Value::Object(self.0.clone()), &mut text);
        Secret::new(text)
    }

    /// `nfs`, `iscsi`, `rbd`, …
    pub fn kind(&self) -> &str {
        self.0.get("driver_volume_type").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn data(&self, key: &str) -> Option<&Value> {
        self.0.get("data")?.get(key).filter(|value| !value.is_null())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.data(key)?.as_str()
    }

    pub fn flag(&self, key: &str) -> bool {
        self.data(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A part that no connection of this kind does without.
    ///
    /// # Errors
    /// `Connection`.
    pub fn required(&self, key: &str) -> Result<&str, VolumeError> {
        self.text(key).ok_or_else(|| VolumeError::Connection {
            message: format!("a connection of kind {} needs {key}", clip(self.kind())),
        })
    }

    /// Notes where the volume is on this host, or anything else that was found out by connecting it.
    pub fn note(&mut self, key: &str, value: impl Into<Value>) {
        let data = self.0.entry("data").or_insert_with(|| Value::Object(Map::new()));
        if let Some(data) = data.as_object_mut() {
            data.insert(key.to_owned(), value.into());
        }
    }

    /// nova: virt/block_device.py, `get_volume_id`
    pub fn volume_id(&self) -> Option<&str> {
        self.text("volume_id").or_else(|| self.serial())
    }

    pub fn serial(&self) -> Option<&str> {
        self.0.get("serial").and_then(Value::as_str)
    }

    /// The guest knows the volume by its id, unless its service says otherwise.
    pub fn default_serial(&mut self, volume_id: &str) {
        self.0.entry("serial").or_insert_with(|| volume_id.into());
    }

    /// The disk is that volume from now on. nova: compute/manager.py, `_do_swap_volume`
    pub fn set_volume(&mut self, volume_id: &str) {
        for key in ["serial", "volume_id"] {
            self.0.insert(key.to_owned(), volume_id.into());
        }
        self.note("volume_id", volume_id);
    }

    pub fn is_multiattach(&self) -> bool {
        self.0.get("multiattach").and_then(Value::as_bool).unwrap_or(false)
    }

    pub fn set_multiattach(&mut self) {
        self.0.insert("multiattach".to_owned(), true.into());
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionInfo({:?} of {:?})", self.kind(), self.volume_id())
    }
}

/// `json.dumps` puts a blank after each colon and comma, and escapes what isn't ASCII.
fn write_as_python(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            text.push('{');
            for (at, (key, value)) in fields.iter().enumerate() {
                text.push_str(if at > 0 { ", " } else { "" });
                write_as_python(&Value::String(key.clone()), text);
                text.push_str(": ");
                write_as_python(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at > 0 { ", " } else { "" });
                write_as_python(item, text);
            }
            text.push(']');
        }
        Value::String(_) => {
            for c in value.to_string().chars() {
                match c.is_ascii() {
                    true => text.push(c),
                    false => {
                        let mut units = [0; 2];
                        for unit in c.encode_utf16(&mut units) {
                            text.push_str(&format!("\\u{unit:04x}"));
                        }
                    }
                }
            }
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn info(value: Value) -> ConnectionInfo {
        ConnectionInfo::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn its_text_is_python_s() {
        let info =
            info(json!({"driver_volume_type": "nfs", "data": {"a": null, "b": [1, "é\"𝄞"]}}));
        let text = info.to_secret();
        let expected = r#"{"driver_volume_type": "nfs", "data": {"a": null, "b": [1, "\u00e9\"\ud834\udd1e"]}}"#;
        assert_eq!(text.expose(), expected);
        assert_eq!(ConnectionInfo::parse(&text).unwrap(), Some(info));
    }

    #[test]
    fn what_nothing_connects_has_none_and_what_is_no_connection_is_refused() {
        for text in ["null", "{}"] {
            assert_eq!(ConnectionInfo::parse(&Secret::new(text)).unwrap(), None);
        }
        for text in ["", "[]", "{", "1"] {
            ConnectionInfo::parse(&Secret::new(text)).unwrap_err();
        }
    }

    #[test]
    fn it_prints_no_credentials() {
        let mut info =
            info(json!({"driver_volume_type": "iscsi", "data": {"auth_password": "x1y2"}}));
        info.default_serial("v");
        assert_eq!(format!("{info:?}"), "ConnectionInfo(\"iscsi\" of Some(\"v\"))");
    }
}
