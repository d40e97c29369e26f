//! Images as a build gets them: from Glance's dict, or from what nova kept of one beside the
//! instance. nova: objects/image_meta.py, utils.py.
//!
//! An image is hostile until checked: a property of an unknown value, an id that is no UUID or a
//! negative size is refused here, before anything is made of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::model::object::{
    Flavor, ImageMeta, ImageMetaProps, Instance, ObjectError, VersionedObject,
};

mod choices;
mod properties;

pub use choices::{ConfigDrivePolicy, DiskBus, FirmwareType, OsType, SecureBoot};

/// Properties that are lists, too long for the system metadata. nova: utils.py, `SM_SKIP_KEYS`.
const SKIPPED: [&str; 4] =
    ["mappings", "block_device_mapping", "img_mappings", "img_block_device_mapping"];
/// What isn't a property. nova: utils.py, `SM_INHERITABLE_KEYS`.
const INHERITED: [&str; 4] = ["min_ram", "min_disk", "disk_format", "container_format"];
/// nova: utils.py, `SM_IMAGE_PROP_PREFIX`.
const PREFIX: &str = "image_";

impl ImageMeta {
    /// Reads the `image` argument of a build: Glance's record, with its `properties` under nova's
    /// names of today or of old. Null stands for no image, as when booting from a volume.
    ///
    /// Text and sizes that Glance leaves null become empty and 0; other keys that aren't fields of
    /// the object are left out. Every field counts as changed, as on any object made here.
    ///
    /// # Errors
    /// [`ObjectError`] when a field or a property isn't what it has to be.
    pub fn from_image_dict(image: &Value) -> Result<Self, ObjectError> {
        let empty = Map::new();
        let image = match image {
            Value::Null => &empty,
            Value::Object(image) => image,
            other => return Err(ObjectError::wrong_type("an image's dict", other)),
        };
        let properties = match image.get("properties") {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(properties)) => properties,
            Some(other) => {
                return Err(ObjectError::wrong_type("a dict", other).within("ImageMeta.properties"));
            }
        };
        let mut meta = Self::default();
        for (name, value) in image {
            if name == "properties" || !Self::field_names().contains(&name.as_str()) {
                continue;
            }
            match (name.as_str(), value) {
                (
                    "name" | "checksum" | "owner" | "container_format" | "disk_format",
                    Value::Null,
                ) => {
                    meta.load_field(name, &json!(""))?;
                }
                ("size" | "virtual_size", Value::Null) => meta.load_field(name, &json!(0))?,
                ("created_at" | "updated_at", Value::Null) => meta.load_field(name, value)?,
                (_, Value::Null) => {}
                _ => meta.load_field(name, value)?,
            }
        }
        for (field, value) in [
            ("size", &meta.size),
            ("virtual_size", &meta.virtual_size),
            ("min_disk", &meta.min_disk),
            ("min_ram", &meta.min_ram),
        ] {
            if value.get().is_some_and(|number| *number < 0) {
                let negative = ObjectError::WrongType {
                    path: format!("ImageMeta.{field}"),
                    expected: "a number that is not negative",
                    found: "a negative one".to_owned(),
                };
                return Err(negative);
            }
        }
        meta.properties.set(ImageMetaProps::from_dict(properties)?);
        let set = meta.to_primitive()["nova_object.data"].as_object().cloned().unwrap_or_default();
        meta.set_changes(set.keys().cloned().collect());
        Ok(meta)
    }

    /// The image that an instance was built from, out of what its system metadata kept.
    ///
    /// # Errors
    /// [`ObjectError`] when what was kept isn't what it has to be.
    pub fn from_instance(instance: &Instance) -> Result<Self, ObjectError> {
        let empty = BTreeMap::new();
        let mut image = image_dict(instance.system_metadata.get().unwrap_or(&empty));
        if let (None, Some(id)) = (image.get("id"), instance.image_ref()) {
            image.insert("id".to_owned(), json!(id));
        }
        Self::from_image_dict(&Value::Object(image))
    }

    /// The properties; none of them set when there are none.
    pub fn properties(&self) -> &ImageMetaProps {
        static NONE: LazyLock<ImageMetaProps> = LazyLock::new(ImageMetaProps::default);
        self.properties.get().unwrap_or(&NONE)
    }
}

/// Glance's dict out of an instance's system metadata. nova keeps other things there, too: they
/// become properties that nobody knows. nova: utils.py, `get_image_from_system_metadata`.
pub fn image_dict(system_metadata: &BTreeMap<String, Option<String>>) -> Map<String, Value> {
    let mut image = Map::new();
    let mut properties = Map::new();
    for (key, value) in system_metadata {
        let Some(value) = value else { continue };
        let key = key.strip_prefix(PREFIX).unwrap_or(key);
        if SKIPPED.contains(&key) {
            continue;
        }
        let into = if INHERITED.contains(&key) { &mut image } else { &mut properties };
        into.insert(key.to_owned(), json!(value));
    }
    image.insert("properties".to_owned(), Value::Object(properties));
    image
}

/// What an instance's system metadata keeps of the image it is built from: for an agent that has no
/// nova-api before it. Text is cut at 255 bytes; `min_disk` is at least the flavor's root disk.
/// nova: utils.py, `get_system_metadata_from_image`.
pub fn system_metadata_of(
    image: &Value,
    flavor: Option<&Flavor>,
) -> BTreeMap<String, Option<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        other => other.to_string(),
    };
    let mut kept = BTreeMap::new();
    let properties = image.get("properties").and_then(Value::as_object);
    for (key, value) in properties.into_iter().flatten() {
        if !SKIPPED.contains(&key.as_str()) {
            kept.insert(format!("{PREFIX}{key}"), Some(cut(&text(value), 255)));
        }
    }
    for key in INHERITED {
        let mut value = image.get(key).cloned().unwrap_or(Value::Null);
        if key == "min_disk"
            && let Some(root) = flavor.and_then(|flavor| flavor.root_gb.get())
        {
            let image_needs = value.as_i64().unwrap_or(0);
            let whole = image.get("disk_format").and_then(Value::as_str) == Some("vhd");
            value = json!(if whole { *root } else { image_needs.max(*root) });
        }
        if !value.is_null() {
            kept.insert(format!("{PREFIX}{key}"), Some(text(&value)));
        }
    }
    kept
}

/// The longest start of `text` that has at most `bytes` bytes.
fn cut(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn glance() -> Value {
        json!({
            "properties": {"owner_specified.openstack.md5": "", "hw_disk_bus": "scsi"},
            "deleted": false, "deleted_at": null, "disk_format": "qcow2",
            "container_format": null, "name": "tb-disk", "checksum": null, "is_public": true,
            "size": 17367040, "virtual_size": null, "status": "active", "min_ram": 0, "min_disk": 1,
            "owner": "1636986d", "id": "9ac5fd6a-073c-423e-8bb6-9593064b906d",
            "created_at": "2026-11-20T23:03:14.000000", "updated_at": null, "stores": "fs",
        })
    }

    #[test]
    fn glances_nulls_become_empty_and_unknown_keys_are_left_out() {
        let meta = ImageMeta::from_image_dict(&glance()).unwrap();
        assert_eq!(meta.checksum.get().unwrap(), "");
        assert_eq!(meta.virtual_size.get(), Some(&0));
        assert_eq!(meta.updated_at.get(), Some(&None));
        assert_eq!(meta.created_at.value().unwrap().to_string(), "2026-11-20T23:03:14Z");
        assert_eq!(meta.properties().hw_disk_bus.text(), Some("scsi"));
        assert!(!meta.tags.is_set() && meta.extra.unknown.is_empty());
        assert!(meta.what_changed().contains("size") && !meta.what_changed().contains("tags"));
    }

    #[test]
    fn no_image_is_an_image_without_anything() {
        for nothing in [json!(null), json!({}), json!({"properties": null})] {
            let meta = ImageMeta::from_image_dict(&nothing).unwrap();
            assert!(!meta.id.is_set());
            assert!(meta.properties().field_texts().is_empty());
        }
    }

    #[test]
    fn a_hostile_image_is_refused() {
        for (key, value) in [
            ("id", json!("../../etc")),
            ("size", json!(-1)),
            ("min_disk", json!("many")),
            ("name", json!(["x"])),
            ("properties", json!("x")),
            ("properties", json!({"hw_disk_bus": "x'/><evil"})),
        ] {
            let mut image = glance();
            image[key] = value.clone();
            assert!(ImageMeta::from_image_dict(&image).is_err(), "{key}: {value}");
        }
        assert!(ImageMeta::from_image_dict(&json!([])).is_err());
    }

    #[test]
    fn an_instances_image_is_what_its_system_metadata_kept() {
        let mut flavor = Flavor::default();
        flavor.root_gb.load(Some(5));
        let mut instance = Instance::default();
        let mut kept = system_metadata_of(&glance(), Some(&flavor));
        assert_eq!(kept["image_min_disk"].as_deref(), Some("5"));
        assert!(!kept.contains_key("image_container_format"));
        kept.insert("boot_roles".into(), Some("admin".into()));
        kept.insert("image_mappings".into(), Some("[…]".into()));
        kept.insert("image_hw_video_model".into(), None);
        instance.system_metadata.load(Some(kept));
        instance.image_ref.load(Some(Some(Uuid::from_u128(7).to_string())));

        let meta = ImageMeta::from_instance(&instance).unwrap();
        assert_eq!(meta.id.get(), Some(&Uuid::from_u128(7)));
        assert_eq!((meta.min_disk.get(), meta.min_ram.get()), (Some(&5), Some(&0)));
        assert_eq!(meta.disk_format.text(), Some("qcow2"));
        assert_eq!(meta.properties().field_texts(), [("hw_disk_bus", "scsi".to_owned())]);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let image = json!({"properties": {"a": "é".repeat(200)}});
        let kept = system_metadata_of(&image, None);
        assert_eq!(kept["image_a"].as_ref().unwrap().len(), 254);
    }
}
