//! A running guest lets go of a volume: it is asked, libvirt's event tells what it did, and it is asked
//! again. nova: virt/libvirt/driver.py, `_detach_from_live_with_retry`

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{Backends, StepError, StepResult};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::{DeviceEvent, VolumeDisk};
use crate::volumes::VolumeError;

/// How often the domain is looked at while an event is awaited: events can be lost.
const POLL: Duration = Duration::from_secs(1);

/// Waits until the guest has let go of the volume. A guest that doesn't have it has, and so has one that
/// doesn't run. It is done again by whoever takes the work up after a crash.
///
/// # Errors
/// `NotReleased` when the guest refuses, or keeps the disk in spite of `[libvirt]
/// device_detach_attempts`; [`StepError::Cancelled`]; the hypervisor's.
pub fn release<'a>(
    on: &'a Backends,
    uuid: Uuid,
    disk: &'a VolumeDisk,
    cancel: &'a CancellationToken,
) -> BoxFuture<'a, StepResult> {
    Box::pin(ask_until_released(on, uuid, disk, cancel))
}

async fn ask_until_released(
    on: &Backends,
    uuid: Uuid,
    disk: &VolumeDisk,
    cancel: &CancellationToken,
) -> StepResult {
    let (attempts, within) = on.settings.volumes.detach;
    // Subscribed before it is asked, so that no event falls in between.
    let mut events = on.hypervisor.device_events();
    let mut last = String::new();
    for attempt in 1..=attempts {
        let Some(alias) = on.hypervisor.release_disk(uuid, disk).await? else { return Ok(()) };
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let until = deadline.min(Instant::now() + POLL);
            let waited = event_of(&mut events, uuid, &alias, until);
            match cancel.run_until_cancelled(waited).await {
                None => return Err(StepError::Cancelled),
                Some(Some(false)) => {
                    let reason = "DeviceRemovalFailedEvent received from libvirt".to_owned();
                    let device = disk.target.clone();
                    return Err(VolumeError::NotReleased { device, reason }.into());
                }
                Some(_) => {}
            }
            if !has(on, uuid, disk).await? {
                return Ok(());
            }
        }
        warn!(attempt, attempts, device = alias, "the guest keeps a disk that it was asked for");
        last = alias;
    }
    let reason = format!(
        "Run out of retry while detaching device {target} with device alias {last} from instance \
         {uuid} from the live domain config. Device is still attached to the guest.",
        target = disk.target,
    );
    Err(VolumeError::NotReleased { device: disk.target.clone(), reason }.into())
}

/// What became of the device by `until`: removed or refused; `None`: nobody said.
async fn event_of(
    events: &mut Receiver<DeviceEvent>,
    uuid: Uuid,
    alias: &str,
    until: Instant,
) -> Option<bool> {
    loop {
        match tokio::time::timeout_at(until, events.recv()).await {
            Ok(Ok(event)) if event.instance_uuid == uuid && event.alias == alias => {
                return Some(event.removed);
            }
            Ok(Ok(_)) => {}
            Ok(Err(RecvError::Lagged(_))) | Err(_) => return None,
            Ok(Err(RecvError::Closed)) => {
                tokio::time::sleep_until(until).await;
                return None;
            }
        }
    }
}

/// Whether the running guest has the volume.
async fn has(on: &Backends, uuid: Uuid, disk: &VolumeDisk) -> Result<bool, HypervisorError> {
    let found = on.hypervisor.domain(uuid).await?;
    if !super::instance::is_active(found.as_ref()) {
        return Ok(false);
    }
    match on.hypervisor.disks(uuid).await {
        Ok(disks) => Ok(disks.iter().any(|there| disk.is(there))),
        Err(HypervisorError::NoDomain(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
