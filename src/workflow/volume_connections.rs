//! An instance's volumes on this host: connected for its guest, and let go of when it goes.
//! nova: virt/libvirt/driver.py, `_connect_volume`, `_disconnect_volume`, `_get_guest_storage_config`

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::future::BoxFuture;
use tracing::warn;
use uuid::Uuid;

use super::{Backends, StepError, StepResult, volume_disk};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::VolumeDisk;
use crate::hypervisor::guest;
use crate::hypervisor::spec::DiskSpec;
use crate::model::context::RequestContext;
use crate::model::object::{BlockDeviceMapping, DeviceType};
use crate::telemetry::Chain;
use crate::volumes::host::{DiskUser, LOCAL};
use crate::volumes::{ConnectionInfo, VolumeError};

/// How the disk is reached, as its record has it; `None` for one that nothing connects.
///
/// # Errors
/// `Connection`.
pub fn connection_of(device: &BlockDeviceMapping) -> Result<Option<ConnectionInfo>, VolumeError> {
    let text = device.connection_info.value();
    let mut found = text.map(ConnectionInfo::parse).transpose()?.flatten();
    if let (Some(connection), Some(id)) = (&mut found, device.volume_id.text()) {
        connection.default_serial(id);
    }
    Ok(found)
}

/// The disk by which a domain knows the volume.
///
/// # Errors
/// `Invalid` for a record that isn't one of a volume's.
pub fn volume_disk_of(device: &BlockDeviceMapping) -> Result<VolumeDisk, VolumeError> {
    let volume_id = device.volume_id.text().map(str::to_owned);
    let name = device.device_name.text().unwrap_or_default();
    let target = name.strip_prefix("/dev/").unwrap_or(name).to_owned();
    let missing = || VolumeError::Invalid("the disk has no volume".to_owned());
    let path = connection_of(device)?
        .and_then(|connection| connection.text("device_path").map(std::path::PathBuf::from));
    Ok(VolumeDisk { volume_id: volume_id.ok_or_else(missing)?, target, path })
}

/// Connects a volume to this host for a guest, and says what its disk is. A repeat changes nothing.
///
/// # Errors
/// The connector's; `Invalid` for a file or a device that another guest of this host has.
pub fn connect<'a>(
    on: &'a Backends,
    context: &'a RequestContext,
    connection: &'a mut ConnectionInfo,
    instance: Uuid,
) -> BoxFuture<'a, Result<DiskSpec, StepError>> {
    // On the heap: the steps that wait for it are many.
    Box::pin(connect_here(on, context, connection, instance))
}

async fn connect_here(
    on: &Backends,
    context: &RequestContext,
    connection: &mut ConnectionInfo,
    instance: Uuid,
) -> Result<DiskSpec, StepError> {
    on.host_volumes.connect(connection, instance).await?;
    if connection.kind() == LOCAL {
        must_be_free(on, connection, instance).await?;
    }
    let secret = match connection.volume_id().filter(|_| connection.flag("encrypted")) {
        Some(id) => luks_secret(on, context, id, connection).await?,
        None => None,
    };
    Ok(volume_disk::disk(connection, secret, &on.settings.volumes)?)
}

/// A secret that is there is left as it is: the guest was only off, or its host was.
/// nova: `_attach_encryptor`
async fn luks_secret(
    on: &Backends,
    context: &RequestContext,
    volume_id: &str,
    connection: &ConnectionInfo,
) -> Result<Option<Uuid>, StepError> {
    if let Some(secret) = on.hypervisor.volume_secret(volume_id).await? {
        return Ok(Some(secret));
    }
    match on.volumes.passphrase(context, volume_id, connection).await? {
        Some(passphrase) => {
            Ok(Some(on.hypervisor.keep_volume_secret(volume_id, &passphrase).await?))
        }
        None => Ok(None),
    }
}

/// Nobody answers for a local file but who names it: it must not be another guest's.
async fn must_be_free(on: &Backends, connection: &ConnectionInfo, instance: Uuid) -> StepResult {
    let path = connection.required("device_path")?;
    let real = real_path(Path::new(path)).await;
    for user in disk_users(on).await? {
        if user.instance != instance && real_path(&user.path).await == real {
            let message = format!("{path} is a disk of instance {}", user.instance);
            return Err(VolumeError::Invalid(message).into());
        }
    }
    Ok(())
}

async fn real_path(path: &Path) -> std::path::PathBuf {
    tokio::fs::canonicalize(path).await.unwrap_or_else(|_| path.to_path_buf())
}

/// Lets go of a volume that no guest of the instance has any more; absent is success.
///
/// # Errors
/// `Invalid` when the instance's domain has it still: it stays; the connector's.
pub fn disconnect<'a>(
    on: &'a Backends,
    connection: &'a ConnectionInfo,
    instance: Uuid,
) -> BoxFuture<'a, StepResult> {
    Box::pin(disconnect_here(on, connection, instance))
}

async fn disconnect_here(on: &Backends, connection: &ConnectionInfo, instance: Uuid) -> StepResult {
    let users = disk_users(on).await?;
    let path = connection.text("device_path").map(Path::new);
    if users.iter().any(|user| user.instance == instance && Some(&*user.path) == path) {
        let message = "the guest has it still".to_owned();
        return Err(VolumeError::Invalid(message).into());
    }
    if let Some(id) = connection.volume_id().filter(|_| connection.flag("encrypted")) {
        // Another guest of this host may have the volume, too.
        let is_other = |user: &DiskUser| user.instance != instance && Some(&*user.path) == path;
        if !users.iter().any(is_other) {
            on.hypervisor.forget_volume_secret(id).await?;
        }
    }
    Ok(on.host_volumes.disconnect(connection, instance, &users).await?)
}

/// The disks of every domain of this host, those of their next start too.
async fn disk_users(on: &Backends) -> Result<Vec<DiskUser>, HypervisorError> {
    let mut users = Vec::new();
    for domain in on.hypervisor.domains().await? {
        let instance = domain.instance_uuid;
        for disks in
            [on.hypervisor.disks(instance).await, on.hypervisor.defined_disks(instance).await]
        {
            let disks = match disks {
                Ok(disks) => disks,
                // It has gone meanwhile.
                Err(HypervisorError::NoDomain(_)) => continue,
                Err(error) => return Err(error),
            };
            let paths = disks.into_iter().filter_map(|disk| disk.source);
            users.extend(paths.map(|path| DiskUser { instance, path }));
        }
    }
    Ok(users)
}

/// Connects every volume of an instance that its record says how to reach, and says what its disks are,
/// by their places among `devices`. Where connecting finds out more, the record follows.
///
/// # Errors
/// Those of [`connect`]: a guest isn't started without a disk that it had.
pub fn connect_all<'a>(
    on: &'a Backends,
    context: &'a RequestContext,
    instance: Uuid,
    devices: &'a mut [BlockDeviceMapping],
) -> BoxFuture<'a, Result<BTreeMap<usize, DiskSpec>, StepError>> {
    Box::pin(connect_each(on, context, instance, devices))
}

async fn connect_each(
    on: &Backends,
    context: &RequestContext,
    instance: Uuid,
    devices: &mut [BlockDeviceMapping],
) -> Result<BTreeMap<usize, DiskSpec>, StepError> {
    let mut disks = BTreeMap::new();
    for (place, device) in devices.iter_mut().enumerate() {
        if !device.is_volume() {
            continue;
        }
        let Some(mut connection) = connection_of(device)? else { continue };
        disks.insert(place, connect(on, context, &mut connection, instance).await?);
        note_place(device);
        note(on, context, device, &connection).await?;
    }
    Ok(disks)
}

/// Puts where a domain that is defined has the disk into its record. One that came to a running guest
/// has only its name there until then. nova: virt/libvirt/blockinfo.py, `update_bdm`
fn note_place(device: &mut BlockDeviceMapping) {
    let name = device.device_name.text().unwrap_or_default();
    // A name that tells nothing is refused where the domain is made.
    let Ok((_, bus, _)) = guest::named_place(name, device.disk_bus.text(), None) else { return };
    if device.disk_bus.value().is_none() {
        device.disk_bus.set(Some(bus));
    }
    if device.device_type.value().is_none() {
        device.device_type.set(Some(DeviceType::Disk));
    }
}

/// Records how a disk is reached, if that has changed.
///
/// # Errors
/// The records'.
pub async fn note(
    on: &Backends,
    context: &RequestContext,
    device: &mut BlockDeviceMapping,
    connection: &ConnectionInfo,
) -> StepResult {
    let text = connection.to_secret();
    if device.connection_info.value() != Some(&text) {
        device.connection_info.set(Some(text));
    }
    Ok(on.records.save_block_device(context, device).await?)
}

/// Lets go of all volumes of an instance that has no guest any more. One that can't be let go of doesn't
/// keep the others.
///
/// # Errors
/// The first one's.
pub async fn disconnect_all(
    on: &Backends,
    instance: Uuid,
    devices: &[BlockDeviceMapping],
) -> StepResult {
    let mut failed = None;
    for device in devices.iter().filter(|device| device.is_volume()) {
        let connection = match connection_of(device) {
            Ok(Some(connection)) => connection,
            Ok(None) => continue,
            Err(error) => {
                warn!(error = %Chain(&error), "a volume's connection can't be read");
                continue;
            }
        };
        if let Err(error) = disconnect(on, &connection, instance).await {
            let volume_id = device.volume_id.text();
            warn!(volume_id, error = %Chain(&error), "a volume can't be let go of");
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}
