//! An instance's rights to its volumes, made anew: as long as it is on no host its volumes are kept for
//! it, and open to nobody. nova: compute/manager.py, `_terminate_volume_connections`

use std::collections::BTreeMap;

use uuid::Uuid;

use super::StepResult;
use super::engine::Stage;
use crate::model::object::BlockDeviceMapping;

/// Rights by the disks that they are for.
pub type Rights = BTreeMap<Uuid, Uuid>;

/// Those on record, to be written down before they are made anew. In standalone mode there are none:
/// connections stay good.
pub fn of(devices: &[BlockDeviceMapping]) -> Rights {
    let right =
        |device: &BlockDeviceMapping| Some((*device.uuid.get()?, *device.attachment_id.value()?));
    devices.iter().filter(|device| device.is_volume()).filter_map(right).collect()
}

/// Makes them anew, and gives the old ones back: in this order, so that nobody else gets a volume in
/// between. A repeat goes on where an earlier attempt ended.
///
/// # Errors
/// The volume service's, the records'.
pub async fn renew(stage: &Stage<'_>, instance: Uuid, old: &Rights) -> StepResult {
    let (on, context) = (stage.on, stage.context);
    let devices = on.records.block_devices(context, instance).await?.into_items();
    for mut device in devices {
        let Some(right) = device.uuid.get().and_then(|id| old.get(id)).copied() else { continue };
        let Some(volume) = device.volume_id.text().map(str::to_owned) else { continue };
        if device.attachment_id.value() == Some(&right) {
            let new = on.volumes.reserve(context, &volume, instance).await?;
            device.attachment_id.set(Some(new));
            // On record at once: nothing else says whose right it is.
            on.records.save_block_device(context, &mut device).await?;
        }
        device.attachment_id.load(Some(Some(right)));
        on.volumes.close(context, &device).await?;
    }
    Ok(())
}
