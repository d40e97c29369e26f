//! The volumes that a build asks for: made where there is none yet, and opened to this host.
//! nova: compute/manager.py, `_prep_block_device`; virt/block_device.py, `DriverVol*BlockDevice.attach`

use std::time::Duration;

use futures_util::future::BoxFuture;
use tracing::{info, warn};
use uuid::Uuid;

use super::engine::Stage;
use super::{StepError, StepResult};
use crate::model::class::Class;
use crate::model::object::{BlockDeviceMapping, Instance, SourceType};
use crate::telemetry::Chain;
use crate::volumes::{NewVolume, Volume, VolumeError};

use super::volume_connections::{connection_of, note};

/// Makes and opens the build's volumes. What an earlier attempt has done is on record.
///
/// # Errors
/// The volume service's; `NotCreated`; [`StepError::Cancelled`].
pub fn prepare<'a>(
    stage: &'a Stage<'_>,
    instance: &'a Instance,
    devices: &'a mut [BlockDeviceMapping],
) -> BoxFuture<'a, StepResult> {
    Box::pin(prepare_each(stage, instance, devices))
}

async fn prepare_each(
    stage: &Stage<'_>,
    instance: &Instance,
    devices: &mut [BlockDeviceMapping],
) -> StepResult {
    if !devices.iter().any(BlockDeviceMapping::is_volume) {
        return Ok(());
    }
    let (on, uuid) = (stage.on, instance.uuid()?);
    let recorded = on.records.block_devices(stage.context, uuid).await?.into_items();
    for device in devices.iter_mut().filter(|device| device.is_volume()) {
        if let Some(known) = recorded.iter().find(|known| known.uuid.get() == device.uuid.get()) {
            device.volume_id = known.volume_id.clone();
            device.attachment_id = known.attachment_id.clone();
            device.volume_size = known.volume_size.clone();
        }
        if device.volume_id.text().is_none() {
            let id = create(stage, instance, device).await?;
            // On record at once: nothing else says whose volume it is.
            device.volume_id.set(Some(id));
            on.records.save_block_device(stage.context, device).await?;
        }
        open(stage, uuid, device).await?;
    }
    Ok(())
}

async fn open(stage: &Stage<'_>, instance: Uuid, device: &mut BlockDeviceMapping) -> StepResult {
    let (on, context) = (stage.on, stage.context);
    let volume_id = device.volume_id.text().unwrap_or_default().to_owned();
    let volume = match is_made_here(device) && device.attachment_id.value().is_none() {
        true => await_created(stage, &volume_id).await?,
        false => on.volumes.volume(context, &volume_id).await?,
    };
    if is_made_here(device) && device.attachment_id.value().is_none() {
        let attachment = on.volumes.reserve(context, &volume_id, instance).await?;
        device.attachment_id.set(Some(attachment));
        on.records.save_block_device(context, device).await?;
    }
    if device.volume_size.value().is_none() && volume.size_gib.is_some() {
        device.volume_size.set(volume.size_gib);
    }
    let connector = on.host_volumes.connector().await;
    let mut connection = on.volumes.open(context, device, &connector).await?;
    connection.default_serial(&volume_id);
    if volume.is_multiattach {
        connection.set_multiattach();
    }
    note(on, context, device, &connection).await?;
    Ok(on.volumes.complete(context, device).await?)
}

fn is_made_here(device: &BlockDeviceMapping) -> bool {
    device.source_type.value() != Some(&SourceType::Volume)
}

async fn create(
    stage: &Stage<'_>,
    instance: &Instance,
    device: &BlockDeviceMapping,
) -> Result<String, StepError> {
    let (on, context) = (stage.on, stage.context);
    let invalid = |what: &str| VolumeError::Invalid(what.to_owned());
    let mut asked = NewVolume {
        volume_type: device.volume_type.value().cloned(),
        availability_zone: match on.settings.volumes.cross_az_attach {
            true => None,
            false => instance.availability_zone.value().cloned(),
        },
        ..NewVolume::default()
    };
    match device.source_type.value() {
        Some(SourceType::Image) => asked.image = device.image_id.value().cloned(),
        Some(SourceType::Blank) => asked.name = format!("{}-blank-vol", instance.uuid()?),
        Some(SourceType::Snapshot) => {
            let snapshot = device.snapshot_id.value().cloned();
            let snapshot = snapshot.ok_or_else(|| invalid("there is no snapshot to make it of"))?;
            if asked.volume_type.is_none() {
                asked.volume_type = on.volumes.type_of_snapshot(context, &snapshot).await?;
            }
            asked.snapshot = Some(snapshot);
        }
        Some(SourceType::Volume) | None => return Err(invalid("it has no id").into()),
    }
    asked.size_gib = device.volume_size.value().copied().unwrap_or(0);
    if asked.size_gib <= 0 && asked.snapshot.is_none() {
        return Err(invalid("it has no size").into());
    }
    let id = on.volumes.create(context, &asked).await?;
    info!(volume_id = id, "a volume is being made");
    Ok(id)
}

/// nova: compute/manager.py, `_await_block_device_map_created`
async fn await_created(stage: &Stage<'_>, volume_id: &str) -> Result<Volume, StepError> {
    let (again, pause) = stage.on.settings.volumes.creation;
    let pause = pause.max(Duration::from_millis(100));
    let started = tokio::time::Instant::now();
    let mut attempts = 0;
    loop {
        let volume = stage.on.volumes.volume(stage.context, volume_id).await?;
        attempts += 1;
        let is_coming = ["creating", "downloading"].contains(&&*volume.status);
        if volume.status == "available" {
            return Ok(volume);
        }
        if !is_coming || attempts > again {
            return Err(VolumeError::NotCreated {
                volume_id: volume_id.to_owned(),
                status: volume.status,
                attempts,
                seconds: started.elapsed().as_secs(),
            }
            .into());
        }
        let sleep = stage.give_up.run_until_cancelled(tokio::time::sleep(pause)).await;
        sleep.ok_or(StepError::Cancelled)?;
    }
}

/// Gives the rights to the volumes back. They stay: another host may take the build up, and its conductor
/// asks for rights anew. nova: compute/manager.py, `_shutdown_instance`
///
/// # Errors
/// What asking again may help with.
pub async fn close(stage: &Stage<'_>, devices: &[BlockDeviceMapping]) -> StepResult {
    for device in devices.iter().filter(|device| device.is_volume()) {
        if device.volume_id.text().is_none() || !has_right(device)? {
            continue;
        }
        match stage.on.volumes.close(stage.context, device).await {
            Err(error) if error.class() == Class::Transient => return Err(error.into()),
            Err(error) => {
                let volume_id = device.volume_id.text();
                warn!(volume_id, error = %Chain(&error), "a volume's attachment is left");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Whether there is something to give back: standalone, a connection; else an attachment.
fn has_right(device: &BlockDeviceMapping) -> Result<bool, VolumeError> {
    Ok(device.attachment_id.value().is_some() || connection_of(device)?.is_some())
}

/// Deletes the volumes that are to go with their instance. One that can't be deleted is left to its
/// owner: the instance goes all the same. nova: compute/manager.py, `_cleanup_volumes`
pub async fn delete(stage: &Stage<'_>, devices: &[BlockDeviceMapping]) {
    let goes = |device: &&BlockDeviceMapping| {
        device.is_volume() && device.delete_on_termination.get() == Some(&true)
    };
    for volume_id in devices.iter().filter(goes).filter_map(|device| device.volume_id.text()) {
        match stage.on.volumes.delete(stage.context, volume_id).await {
            Ok(()) => info!(volume_id, "the volume goes with its instance"),
            Err(error) => {
                warn!(volume_id, error = %Chain(&error), "the volume could not be deleted");
            }
        }
    }
}
