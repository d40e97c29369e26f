//! A volume has grown in its service: this host and the guest are told. nova: compute/manager.py,
//! extend_volume; virt/libvirt/driver.py, extend_volume

use tracing::{info, warn};

use super::instance::is_active;
use super::volume_connections::{connection_of, volume_disk_of};
use super::{Backends, StepError, StepResult};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::volumes::VolumeError;
use crate::volumes::host::LOCAL;

const BYTES_PER_GIB: u64 = 1 << 30;

/// Does it. A volume that isn't the instance's any more is passed over.
///
/// # Errors
/// `NotExtendable` for a connection that doesn't grow under its guest; the rooms'.
pub async fn extend(
    on: &Backends,
    context: &RequestContext,
    instance: &Instance,
    volume_id: &str,
) -> StepResult {
    let uuid = instance.uuid()?;
    let devices = on.records.block_devices(context, uuid).await?.into_items();
    let Some(mut device) = devices.into_iter().find(|d| d.volume_id.text() == Some(volume_id))
    else {
        warn!(volume_id, "the volume that has grown is no disk of the instance");
        return Ok(());
    };
    let volume = on.volumes.volume(context, volume_id).await?;
    let Some(connection) = connection_of(&device)? else {
        warn!(volume_id, "the volume that has grown isn't connected");
        return Ok(());
    };
    let size_gib = volume.size_gib.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    let bytes = size_gib.checked_mul(BYTES_PER_GIB);
    let no_size = || VolumeError::Invalid("the volume has no size".to_owned());
    // In standalone mode only the file or the device itself knows how large it is.
    let is_known = |bytes: &u64| *bytes > 0 || connection.kind() == LOCAL;
    let bytes = bytes.filter(is_known).ok_or_else(no_size)?;
    if volume.size_gib.is_some() {
        device.volume_size.set(volume.size_gib);
        on.records.save_block_device(context, &mut device).await?;
    }
    if connection.flag("encrypted") {
        // What the guest sees is smaller than the volume by the size of its header.
        return Err(VolumeError::NotExtendable.into());
    }
    let bytes = on.host_volumes.grow(&connection, bytes).await?;
    if !is_active(on.hypervisor.domain(uuid).await?.as_ref()) {
        return Ok(());
    }
    let disk = volume_disk_of(&device)?;
    let disks = on.hypervisor.disks(uuid).await?;
    let Some(there) = disks.iter().find(|there| disk.is(there)) else {
        return Err(StepError::Volume(VolumeError::NotAttached(volume_id.to_owned())));
    };
    on.hypervisor.resize_disk(uuid, &there.target, bytes).await?;
    info!(volume_id, bytes, "the guest is told that its disk has grown");
    Ok(())
}
