//! What requests about snapshots name: the image to be made, and snapshots of volumes.

use serde_json::{Map, Value};

use super::failure::Fault;
use super::request::text;
use crate::images::sink::TargetImage;

/// Of an instance; QEMU takes fewer.
const MOST_VOLUMES: usize = 1000;

/// The image that a snapshot becomes. `any_file`: the request came through the socket, which only root can
/// open.
///
/// # Errors
/// `TypeError`.
pub fn target_image(args: &Map<String, Value>, any_file: bool) -> Result<TargetImage, Fault> {
    Ok(TargetImage { id: text(args, "image_id")?, any_file })
}

/// The volumes' snapshots among an image's block devices.
pub fn volume_snapshots(mapping: Option<&Value>) -> Vec<String> {
    let all = mapping.and_then(Value::as_array).into_iter().flatten();
    let of_volume = |device: &&Value| device["source_type"] == "snapshot";
    let ids = all.filter(of_volume).filter_map(|device| device["snapshot_id"].as_str());
    ids.take(MOST_VOLUMES).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_snapshots_of_volumes_are_awaited() {
        let mapping = json!([
            {"source_type": "snapshot", "snapshot_id": "a"},
            {"source_type": "image", "snapshot_id": "b"},
            {"source_type": "snapshot", "snapshot_id": null},
            "no device",
        ]);
        assert_eq!(volume_snapshots(Some(&mapping)), ["a"]);
        assert!(volume_snapshots(Some(&json!(null))).is_empty());
        assert!(volume_snapshots(None).is_empty());
        let many = vec![mapping[0].clone(); MOST_VOLUMES + 1];
        assert_eq!(volume_snapshots(Some(&json!(many))).len(), MOST_VOLUMES);
    }
}
