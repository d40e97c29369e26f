//! Glance's record of an image, and nova's words for it. nova: image/glance.py,
//! `_translate_from_glance`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::images::{Checksum, ImageError, ImageRequest};
use crate::model::object::ImageMeta;

/// What Glance's schema names; everything else is a property. nova asks for the schema each time:
/// glance: api/v2/images.py, `_get_base_properties`.
const BASE: [&str; 25] = [
    "id",
    "name",
    "status",
    "visibility",
    "protected",
    "os_hidden",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "owner",
    "size",
    "virtual_size",
    "container_format",
    "disk_format",
    "created_at",
    "updated_at",
    "tags",
    "direct_url",
    "min_ram",
    "min_disk",
    "self",
    "file",
    "stores",
    "schema",
    "locations",
];
/// Of those, what nova leaves out. nova: `_extract_attributes_v2`.
const LEFT_OUT: [&str; 8] =
    ["self", "schema", "protected", "virtual_size", "file", "tags", "direct_url", "locations"];
/// Properties that nova stores as JSON text.
const AS_JSON: [&str; 2] = ["block_device_mapping", "mappings"];

/// An image as Glance knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct GlanceImage {
    pub id: String,
    pub name: Option<String>,
    /// `queued`, `saving`, `active`, `deactivated`, …
    pub status: String,
    /// Bytes; `None` without data.
    pub size: Option<u64>,
    pub disk_format: Option<String>,
    pub container_format: Option<String>,
    /// The owner's project.
    pub owner: Option<String>,
    pub visibility: Visibility,
    /// Strongest first.
    pub checksums: Vec<Checksum>,
    /// What isn't of Glance's own schema and is text, such as `kernel_id`.
    pub properties: BTreeMap<String, String>,
    /// As a versioned object.
    pub meta: ImageMeta,
}

/// Who may see an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    Public,
    /// Private, shared with members, or community.
    Other,
}

impl GlanceImage {
    /// # Errors
    /// `Unreachable` for what isn't an image's record at all; `Unacceptable` for one with values
    /// that nova has no words for.
    pub fn parse(id: &str, record: &Value) -> Result<Self, ImageError> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        if text("id").as_deref() != Some(id) {
            let message = "Glance's answer is not the image's record".to_owned();
            return Err(ImageError::Unreachable { image: id.to_owned(), message });
        }
        let status = text("status").unwrap_or_default();
        let meta = ImageMeta::from_image_dict(&nova_dict(record)).map_err(|error| {
            ImageError::Unacceptable { image: id.to_owned(), reason: error.to_string() }
        })?;
        let size = record.get("size").and_then(Value::as_u64);
        Ok(Self {
            id: id.to_owned(),
            name: text("name"),
            size: size.filter(|size| *size > 0 || status == "active"),
            status,
            disk_format: text("disk_format"),
            container_format: text("container_format"),
            owner: text("owner"),
            visibility: match text("visibility").as_deref() {
                Some("public") => Visibility::Public,
                _ => Visibility::Other,
            },
            checksums: checksums(record),
            properties: properties(record),
            meta,
        })
    }

    /// What to fetch it with.
    pub fn request(&self) -> ImageRequest {
        ImageRequest {
            id: self.id.clone(),
            url: None,
            disk_format: self.disk_format.clone(),
            checksums: self.checksums.clone(),
            size: self.size,
            any_file: false,
        }
    }
}

fn properties(record: &Value) -> BTreeMap<String, String> {
    let all = record.as_object().into_iter().flatten();
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    all.filter(|(name, _)| !BASE.contains(&name.as_str())).filter_map(text).collect()
}

/// The `image` argument that nova-api would make of Glance's record.
pub fn nova_dict(record: &Value) -> Value {
    let mut image = json!({
        "deleted": false, "deleted_at": null, "disk_format": null, "container_format": null,
        "name": null, "checksum": null,
    });
    let mut properties = Map::new();
    for (name, value) in record.as_object().into_iter().flatten() {
        match name.as_str() {
            "visibility" => image["is_public"] = json!(value == "public"),
            "size" if value.is_null() => image["size"] = json!(0),
            name if LEFT_OUT.contains(&name) => {}
            name if BASE.contains(&name) => image[name] = value.clone(),
            name => {
                let parsed = value.as_str().filter(|_| AS_JSON.contains(&name));
                let parsed = parsed.and_then(|text| serde_json::from_str(text).ok());
                properties.insert(name.to_owned(), parsed.unwrap_or_else(|| value.clone()));
            }
        }
    }
    image["properties"] = Value::Object(properties);
    image
}

/// What an image's content must hash to, strongest first: Glance's multihash, then its old MD5.
/// `image` is Glance's record, or nova's dict of it.
pub fn checksums(image: &Value) -> Vec<Checksum> {
    let text = |key: &str| image.get(key).and_then(Value::as_str).map(str::to_owned);
    let multi = text("os_hash_algo").zip(text("os_hash_value"));
    let old = text("checksum").map(|value| ("md5".to_owned(), value));
    let make = |(algorithm, value): (String, String)| Checksum {
        algorithm,
        value: value.to_ascii_lowercase(),
    };
    multi.into_iter().chain(old).filter(|(_, value)| !value.is_empty()).map(make).collect()
}
