//! What rescues, rebuilds and shelvings name: images by reference, or described as in a build, and
//! what the instance was before.
//!
//! In standalone mode, where no image service knows a reference, each of them takes a build's image dict
//! in its place.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::failure::Fault;
use super::image_argument;
use super::request::{flag, injected_files, limits, take_optional};
use crate::model::object::{BlockDeviceMappingList, Migration};
use crate::model::secret::Secret;
use crate::workflow::named_image::{Image, NamedImage};
use crate::workflow::reschedule::BuildArguments;
use crate::workflow::spawn::Build;
use crate::workflow::{rebuild, rescue};

/// # Errors
/// `TypeError`, `ImageUnacceptable`.
pub fn rescue(args: &Map<String, Value>, any_file: bool) -> Result<rescue::Asked, Fault> {
    Ok(rescue::Asked {
        image: named_image(args, "rescue_image_ref", any_file)?,
        password: password(args, "rescue_password"),
        clean: flag(args, "clean_shutdown")?,
    })
}

/// # Errors
/// `TypeError`, `ImageUnacceptable`; the objects' own.
pub fn rebuild(args: &mut Map<String, Value>, any_file: bool) -> Result<rebuild::Asked, Fault> {
    let disks: Option<BlockDeviceMappingList> = take_optional(args, "bdms")?;
    let migration: Option<Migration> = take_optional(args, "migration")?;
    let text = |name: &str| args.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(rebuild::Asked {
        image: named_image(args, "image_ref", any_file)?,
        original_image: text("orig_image_ref"),
        original_metadata: args.get("orig_sys_metadata").and_then(Value::as_object).map(texts),
        admin_password: password(args, "new_pass"),
        injected_files: injected_files(args.get("injected_files"))?,
        block_devices: disks.map(BlockDeviceMappingList::into_items),
        preserve_ephemeral: args.get("preserve_ephemeral").and_then(Value::as_bool) == Some(true),
        migration,
        is_evacuation: args.get("recreate").and_then(Value::as_bool) == Some(true),
    })
}

/// What an instance is unshelved of.
///
/// # Errors
/// `ImageUnacceptable`; the limits' own.
pub fn unshelve(args: &mut Map<String, Value>, any_file: bool) -> Result<Build, Fault> {
    let image = args.remove("image").unwrap_or(Value::Null);
    let image = image_argument::read(&image, any_file)?;
    let mut properties = match args.remove("filter_properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    Ok(Build {
        image_meta: image.meta,
        image: image.request,
        kernel: image.kernel,
        ramdisk: image.ramdisk,
        wanted: Default::default(),
        admin_password: None,
        injected_files: Vec::new(),
        // Those on record.
        block_devices: Vec::new(),
        limits: limits(&mut properties)?,
        arguments: BuildArguments::default(),
    })
}

/// `None` for no reference, and for an empty one.
fn named_image(
    args: &Map<String, Value>,
    name: &str,
    any_file: bool,
) -> Result<Option<NamedImage>, Fault> {
    match args.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.is_empty() => Ok(None),
        Some(Value::String(id)) => Ok(Some(NamedImage::Id { id: id.clone(), any_file })),
        Some(described @ Value::Object(_)) => {
            let image = image_argument::read(described, any_file)?;
            let described = |request| Image {
                meta: image.meta,
                request,
                kernel: image.kernel,
                ramdisk: image.ramdisk,
            };
            Ok(image.request.map(described).map(Box::new).map(NamedImage::Described))
        }
        Some(_) => Err(Fault::builtin("TypeError", format!("{name} must be a string"))),
    }
}

fn password(args: &Map<String, Value>, name: &str) -> Option<Secret> {
    args.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(Secret::new)
}

fn texts(map: &Map<String, Value>) -> BTreeMap<String, Option<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    map.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(value: Value) -> Result<Option<NamedImage>, Fault> {
        named_image(json!({ "image_ref": value }).as_object().unwrap(), "image_ref", true)
    }

    #[test]
    fn an_image_is_named_or_described() {
        assert_eq!(named(json!(null)).unwrap(), None);
        assert_eq!(named(json!("")).unwrap(), None);
        let id = NamedImage::Id { id: "i".to_owned(), any_file: true };
        assert_eq!(named(json!("i")).unwrap(), Some(id));
        let dict = json!({"id": "9ac5fd6a-073c-423e-8bb6-9593064b906d", "direct_url": "file:///x",
                          "properties": {"hw_rescue_bus": "usb"}});
        let Some(NamedImage::Described(image)) = named(dict).unwrap() else { panic!("a dict") };
        assert_eq!(image.request.url.as_deref(), Some("file:///x"));
        assert_eq!(image.meta.properties().hw_rescue_bus.text(), Some("usb"));
        assert_eq!(named(json!({})).unwrap(), None);
        assert_eq!(named(json!(7)).unwrap_err().class, "TypeError");
        assert_eq!(named(json!({"min_disk": -1})).unwrap_err().class, "ImageUnacceptable");
    }
}
