//! What guests read of their volumes and write to them: counted, recorded and told of.
//! nova: compute/manager.py, `_update_volume_usage_cache`, `_notify_volume_usage_detach`

use super::{Backends, StepResult};
use crate::hypervisor::DiskStats;
use crate::model::context::RequestContext;
use crate::model::object::{BlockDeviceMapping, Instance, VolumeUsage};
use crate::notify::Event;

/// The counters of the guest's disk that is the volume.
pub fn disk_of<'a>(device: &BlockDeviceMapping, disks: &'a [DiskStats]) -> Option<&'a DiskStats> {
    let name = device.device_name.text()?;
    let target = name.strip_prefix("/dev/").unwrap_or(name);
    disks.iter().find(|disk| disk.target == target)
}

/// Records and tells what the counters of a volume are. `ends`: the guest loses it.
///
/// # Errors
/// The records'.
pub async fn note(
    on: &Backends,
    context: &RequestContext,
    instance: &Instance,
    (device, disk): (&BlockDeviceMapping, &DiskStats),
    ends: bool,
) -> StepResult {
    let Some(volume_id) = device.volume_id.text() else { return Ok(()) };
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut usage = VolumeUsage::default();
    usage.volume_id.set(volume_id.to_owned());
    usage.instance_uuid.set(instance.uuid.get().copied());
    usage.project_id.set(instance.project_id.value().cloned());
    usage.user_id.set(instance.user_id.value().cloned());
    usage.availability_zone.set(instance.availability_zone.value().cloned());
    usage.curr_reads.set(count(disk.read_requests));
    usage.curr_read_bytes.set(count(disk.read_bytes));
    usage.curr_writes.set(count(disk.write_requests));
    usage.curr_write_bytes.set(count(disk.write_bytes));
    on.records.save_volume_usage(context, &mut usage, ends).await?;
    on.notifier.notify(context, &Event::VolumeUsage(&usage));
    Ok(())
}
