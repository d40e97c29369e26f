//! The `image` argument of a build: Glance's dict, to what the images room fetches.
//!
//! In standalone mode there is no Glance, so the dict says where the bytes are: `direct_url` for the
//! image, and the properties `hypernova_kernel_url` and `hypernova_ramdisk_url` for a guest that
//! is booted without a boot loader (`kernel_id` and `ramdisk_id` name them, as ever, and may be
//! URLs themselves).

use serde_json::Value;

use super::failure::Fault;
use crate::images::ImageRequest;
use crate::images::glance::checksums;
use crate::model::object::ImageMeta;

pub struct ImageArgument {
    pub meta: ImageMeta,
    /// `None` for a guest that boots from something else, such as a volume.
    pub request: Option<ImageRequest>,
    pub kernel: Option<ImageRequest>,
    pub ramdisk: Option<ImageRequest>,
}

/// `any_file`: the request came through the socket, whose users are as good as root.
///
/// # Errors
/// `ImageUnacceptable` for a dict that doesn't describe an image.
pub fn read(image: &Value, any_file: bool) -> Result<ImageArgument, Fault> {
    let unacceptable = |reason: String| {
        let id = text(image, "id").unwrap_or_else(|| "-".to_owned());
        let message = format!("Image {id} is unacceptable: {reason}");
        Fault::nova("ImageUnacceptable", message).with("image_id", id).with("reason", reason)
    };
    let meta =
        ImageMeta::from_image_dict(image).map_err(|error| unacceptable(error.to_string()))?;
    // A volume's image metadata have all of an image's but what names it.
    let request = text(image, "id").map(|id| ImageRequest {
        id,
        url: text(image, "direct_url"),
        disk_format: text(image, "disk_format"),
        checksums: checksums(image),
        size: image.get("size").and_then(Value::as_u64),
        any_file,
    });
    let part = |id: &str, url: &str| {
        let properties = image.get("properties")?;
        let id = text(properties, id).filter(|id| !id.is_empty())?;
        let own_url = Some(id.clone()).filter(|id| id.contains("://"));
        Some(ImageRequest {
            url: text(properties, url).or(own_url),
            id,
            disk_format: None,
            checksums: Vec::new(),
            size: None,
            any_file,
        })
    };
    Ok(ImageArgument {
        meta,
        request,
        kernel: part("kernel_id", "hypernova_kernel_url"),
        ramdisk: part("ramdisk_id", "hypernova_ramdisk_url"),
    })
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn glances_dict_names_bytes_and_checksums() {
        let image = json!({
            "id": "9ac5fd6a-073c-423e-8bb6-9593064b906d", "disk_format": "qcow2", "size": 17,
            "checksum": "30A308D2", "os_hash_algo": "sha512", "os_hash_value": "9389685c",
            "direct_url": "file:///images/a.qcow2", "status": "active", "container_format": "bare",
            "properties": {"kernel_id": "k", "hypernova_kernel_url": "file:///images/k"}
        });
        let read = read(&image, false).unwrap();
        let request = read.request.unwrap();
        assert_eq!(request.url.as_deref(), Some("file:///images/a.qcow2"));
        let algorithms: Vec<_> = request.checksums.iter().map(|c| &c.algorithm).collect();
        assert_eq!(algorithms, ["sha512", "md5"]);
        assert_eq!(request.checksums[1].value, "30a308d2");
        assert_eq!(read.kernel.unwrap().url.as_deref(), Some("file:///images/k"));
        assert!(read.ramdisk.is_none());
    }

    #[test]
    fn a_dict_without_an_id_is_no_image_and_one_that_is_none_is_unacceptable() {
        for none in [json!({}), json!(null), json!({"min_disk": 1, "properties": {}})] {
            assert!(read(&none, false).unwrap().request.is_none(), "{none}");
        }
        for bad in [json!([]), json!({"min_disk": -1})] {
            let Err(fault) = read(&bad, false) else { panic!("taken: {bad}") };
            assert_eq!(fault.class, "ImageUnacceptable");
        }
    }
}
