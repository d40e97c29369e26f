//! A running guest lets go of a volume or an interface: it is asked, libvirt's event tells what it did, and it
//! is asked again. nova: virt/libvirt/driver.py, `_detach_from_live_with_retry`

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
use crate::hypervisor::spec::InterfaceSpec;
use crate::network::NetworkError;
use crate::volumes::VolumeError;

/// How often the domain is looked at while an event is awaited: events can be lost.
const POLL: Duration = Duration::from_secs(1);

/// What a guest can be asked for.
#[derive(Debug, Clone, Copy)]
pub enum Device<'a> {
    Disk(&'a VolumeDisk),
    Interface(&'a InterfaceSpec),
}

impl<'a> From<&'a VolumeDisk> for Device<'a> {
    fn from(disk: &'a VolumeDisk) -> Self {
        Self::Disk(disk)
    }
}

impl<'a> From<&'a InterfaceSpec> for Device<'a> {
    fn from(interface: &'a InterfaceSpec) -> Self {
        Self::Interface(interface)
    }
}

impl Device<'_> {
    fn name(&self) -> String {
        match self {
            Self::Disk(disk) => disk.target.clone(),
            Self::Interface(interface) => {
                interface.target.as_ref().unwrap_or(&interface.mac_address).clone()
            }
        }
    }

    /// Asks for it, and says what it is called there.
    async fn ask(&self, on: &Backends, uuid: Uuid) -> Result<Option<String>, HypervisorError> {
        match self {
            Self::Disk(disk) => on.hypervisor.release_disk(uuid, disk).await,
            Self::Interface(interface) => on.hypervisor.release_interface(uuid, interface).await,
        }
    }

    async fn is_there(&self, on: &Backends, uuid: Uuid) -> Result<bool, HypervisorError> {
        match self {
            Self::Disk(disk) => {
                let disks = on.hypervisor.disks(uuid).await?;
                Ok(disks.iter().any(|there| disk.is(there)))
            }
            Self::Interface(interface) => on.hypervisor.has_interface(uuid, interface).await,
        }
    }

    fn kept(&self, reason: String) -> StepError {
        let device = self.name();
        match self {
            Self::Disk(_) => VolumeError::NotReleased { device, reason }.into(),
            Self::Interface(_) => NetworkError::NotReleased { device, reason }.into(),
        }
    }
}

/// Waits until the guest has let go of the device. A guest that doesn't have it has, and so has one that
/// doesn't run. It is done again by whoever takes the work up after a crash.
///
/// # Errors
/// `NotReleased` when the guest refuses, or keeps the device in spite of `[libvirt]
/// device_detach_attempts`; [`StepError::Cancelled`]; the hypervisor's.
pub fn release<'a>(
    on: &'a Backends,
    uuid: Uuid,
    device: impl Into<Device<'a>>,
    cancel: &'a CancellationToken,
) -> BoxFuture<'a, StepResult> {
    Box::pin(ask_until_released(on, uuid, device.into(), cancel))
}

async fn ask_until_released(
    on: &Backends,
    uuid: Uuid,
    device: Device<'_>,
    cancel: &CancellationToken,
) -> StepResult {
    let (attempts, within) = on.settings.volumes.detach;
    // Subscribed before it is asked, so that no event falls in between.
    let mut events = on.hypervisor.device_events();
    let mut last = String::new();
    for attempt in 1..=attempts {
        let Some(alias) = device.ask(on, uuid).await? else { return Ok(()) };
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let until = deadline.min(Instant::now() + POLL);
            let waited = event_of(&mut events, uuid, &alias, until);
            match cancel.run_until_cancelled(waited).await {
                None => return Err(StepError::Cancelled),
                Some(Some(false)) => {
                    let reason = "DeviceRemovalFailedEvent received from libvirt".to_owned();
                    return Err(device.kept(reason));
                }
                Some(_) => {}
            }
            if !has(on, uuid, device).await? {
                return Ok(());
            }
        }
        warn!(attempt, attempts, device = alias, "the guest keeps a device that it was asked for");
        last = alias;
    }
    let reason = format!(
        "Run out of retry while detaching device {target} with device alias {last} from instance \
         {uuid} from the live domain config. Device is still attached to the guest.",
        target = device.name(),
    );
    Err(device.kept(reason))
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

/// Whether the running guest has the device.
async fn has(on: &Backends, uuid: Uuid, device: Device<'_>) -> Result<bool, HypervisorError> {
    let found = on.hypervisor.domain(uuid).await?;
    if !super::instance::is_active(found.as_ref()) {
        return Ok(false);
    }
    match device.is_there(on, uuid).await {
        Err(HypervisorError::NoDomain(_)) => Ok(false),
        there => there,
    }
}
