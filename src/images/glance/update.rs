//! Changes to an image's record, as a JSON patch. nova: image/glance.py, `update` and
//! `_convert_to_v2`; glanceclient: v2/images.py, `update`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What to change; what isn't named stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageUpdate {
    pub name: Option<String>,
    /// `qcow2`, `raw`, …
    pub disk_format: Option<String>,
    /// `bare`, …
    pub container_format: Option<String>,
    /// Properties such as `image_state`; those set to nothing are left out by nova, too.
    pub properties: BTreeMap<String, String>,
}

impl ImageUpdate {
    /// The patch that makes `record` as it shall be; `None` when it is.
    pub(super) fn patch(&self, record: &Value) -> Option<Value> {
        let base = [
            ("name", &self.name),
            ("disk_format", &self.disk_format),
            ("container_format", &self.container_format),
        ];
        let base = base.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let properties = self.properties.iter().map(|(name, value)| (name.as_str(), value));
        let unset = |name: &str, value: &str| {
            // A server without a kernel has one named so.
            matches!(name, "kernel_id" | "ramdisk_id")
                && matches!(value.trim().to_lowercase().as_str(), "" | "none")
        };
        let steps: Vec<Value> = base
            .chain(properties)
            .filter(|(name, value)| !unset(name, value))
            .filter_map(|(name, value)| {
                let op = match record.get(name) {
                    Some(there) if there.as_str() == Some(value) => return None,
                    Some(_) => "replace",
                    None => "add",
                };
                // JSON pointers: RFC 6901.
                let path = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                Some(json!({ "op": op, "path": path, "value": value }))
            })
            .collect();
        (!steps.is_empty()).then_some(Value::Array(steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_sent_and_what_is_new_is_added() {
        let record = json!({"name": "snap-live", "disk_format": null, "container_format": "bare",
            "image_type": "snapshot", "image_state": "creating", "min_disk": 1});
        let properties = [
            ("image_state", "available"),
            ("image_type", "snapshot"),
            ("owner_id", "p"),
            ("kernel_id", ""),
            ("ramdisk_id", "None"),
            ("a/b~c", "x"),
        ];
        let update = ImageUpdate {
            name: Some("snap-live".to_owned()),
            disk_format: Some("qcow2".to_owned()),
            container_format: Some("bare".to_owned()),
            properties: properties.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        let patch = json!([
            {"op": "replace", "path": "/disk_format", "value": "qcow2"},
            {"op": "add", "path": "/a~1b~0c", "value": "x"},
            {"op": "replace", "path": "/image_state", "value": "available"},
            {"op": "add", "path": "/owner_id", "value": "p"},
        ]);
        assert_eq!(update.patch(&record), Some(patch));
        assert_eq!(ImageUpdate::default().patch(&record), None);
    }
}
