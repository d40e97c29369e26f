//! The arguments that speak of volumes.

use serde_json::{Map, Value};

use super::failure::Fault;
use super::request::{take, take_optional, text};
use crate::model::object::{BlockDeviceMapping, BlockDeviceMappingList, DeviceType, clip};
use crate::model::secret::Secret;
use crate::workflow::reserve_device::Asked;
use crate::workflow::swap_volume::Swap;

/// Longer than any id that a volume service gives.
const LONGEST_ID: usize = 255;

/// The disks that a build asks for.
///
/// # Errors
/// The object's own for one that can't be read.
pub(super) fn mapping(
    args: &mut Map<String, Value>,
    from_root: bool,
) -> Result<Vec<BlockDeviceMapping>, Fault> {
    let list: Option<BlockDeviceMappingList> = take_optional(args, "block_device_mapping")?;
    let mut devices = list.map(BlockDeviceMappingList::into_items).unwrap_or_default();
    devices.iter_mut().for_each(|device| only_from_root(device, from_root));
    Ok(devices)
}

/// The disk that comes to a guest.
///
/// # Errors
/// The object's own for one that can't be read.
pub(super) fn attached(
    args: &mut Map<String, Value>,
    from_root: bool,
) -> Result<BlockDeviceMapping, Fault> {
    let mut device: BlockDeviceMapping = take(args, "bdm")?;
    only_from_root(&mut device, from_root);
    Ok(device)
}

/// How a volume is reached is the volume service's to say. Where there is none, whoever may open the
/// socket says which file of this host it is; nobody else does.
fn only_from_root(device: &mut BlockDeviceMapping, from_root: bool) {
    if !from_root {
        device.connection_info.load(Some(None));
    }
}

/// Which volume takes which one's place. In standalone mode whoever may open the socket says how it is reached.
///
/// # Errors
/// `TypeError` for what is no text.
pub(super) fn swapped(args: &Map<String, Value>, from_root: bool) -> Result<Swap, Fault> {
    let attachment = args.get("new_attachment_id").and_then(Value::as_str);
    let connection = args.get("new_connection_info").filter(|_| from_root);
    let connection = connection.and_then(Value::as_str).map(Secret::new);
    Ok(Swap {
        connection,
        old: text(args, "old_volume_id")?,
        new: text(args, "new_volume_id")?,
        attachment: attachment.and_then(|id| id.parse().ok()),
    })
}

/// What a record is asked for. The name that a user wants is passed over, as the guest decides.
///
/// # Errors
/// `TypeError` for what is no text.
pub(super) fn reserved(args: &Map<String, Value>) -> Result<Asked, Fault> {
    let volume_id = text(args, "volume_id")?;
    if volume_id.is_empty() || volume_id.len() > LONGEST_ID {
        let message = format!("{} is no volume's id", clip(&volume_id));
        return Err(Fault::nova("InvalidInput", message));
    }
    let optional = |name: &str| match args.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => text(args, name).map(Some),
    };
    let device_type = optional("device_type")?.and_then(|kind| DeviceType::parse(&kind));
    Ok(Asked { volume_id, disk_bus: optional("disk_bus")?, device_type, tag: optional("tag")? })
}
