//! The domain of a guest that is rescued: it boots another disk, beside its own.
//! nova: virt/libvirt/driver.py, `rescue`; virt/libvirt/blockinfo.py

use super::StepError;
use super::block_devices::{check_supported, guest_disks, unmapped};
use super::domain::{GuestDisks, complete, diskless, properties};
use super::engine::Stage;
use super::interfaces::vifs;
use super::volume_connections::connect_all;
use crate::hypervisor::guest::{self, DiskRole, GuestInput, GuestKernel, GuestRescue};
use crate::hypervisor::spec::DomainSpec;
use crate::images::Disk;
use crate::model::object::{ImageMeta, Instance};

/// What a rescue adds to its guest.
#[derive(Debug, Clone, Copy)]
pub struct RescueParts<'a> {
    /// Of the rescue image.
    pub image: &'a ImageMeta,
    /// The instance's own image, as its source knows it now; `None`: as its record does.
    pub own_image: Option<&'a ImageMeta>,
    pub disk: &'a Disk,
    pub kernel: Option<&'a GuestKernel>,
    /// The config drive with the rescue's password.
    pub drive: Option<&'a Disk>,
}

/// Whether the rescue image asks for the guest's disks to stay what and where they are.
/// nova: virt/hardware.py, `check_hw_rescue_props`
pub fn is_stable(image: &ImageMeta) -> bool {
    let properties = image.properties();
    properties.hw_rescue_device.is_set() || properties.hw_rescue_bus.is_set()
}

/// The domain to define.
///
/// # Errors
/// `NoDisk` for a disk that the instance has to have; `Guest` for what this host, or any, can't run.
pub async fn definition(
    instance: &Instance,
    rescue: RescueParts<'_>,
    stage: &Stage<'_>,
) -> Result<DomainSpec, StepError> {
    let (on, uuid) = (stage.on, instance.uuid()?);
    let (settings, log) = (&on.settings, on.images.console_log(uuid));
    let mut own = GuestDisks::found(on.images.disks(uuid).await?)?;
    let no_disk = |name: &str| StepError::NoDisk { path: log.with_file_name(name) };
    let vifs = vifs(instance)?;
    let is_stable = is_stable(rescue.image);
    let guest = diskless(instance, &ImageMeta::from_instance(instance)?, &vifs, settings)?;
    let mut input = if is_stable {
        let mut devices = on.records.block_devices(stage.context, uuid).await?.into_items();
        if let Some(name) = own.lacks(instance, &devices) {
            return Err(no_disk(name));
        }
        check_supported(&devices)?;
        own.volumes = connect_all(on, stage.context, uuid, &mut devices).await?;
        let mut disks = guest_disks(instance, &devices, &own, settings)?;
        disks.push(unmapped(DiskRole::Rescue, rescue.disk, settings));
        let image = match rescue.own_image {
            Some(image) => image.clone(),
            None => ImageMeta::from_instance(instance)?,
        };
        GuestInput { disks, ..diskless(instance, &image, &vifs, settings)? }
    } else {
        let root = own.root.as_ref().ok_or_else(|| no_disk("disk"))?;
        let pair = [(DiskRole::Rescue, rescue.disk), (DiskRole::Rescued, root)];
        let drive = rescue.drive.map(|drive| (DiskRole::ConfigDrive, drive));
        let disks = pair.into_iter().chain(drive);
        let disks = disks.map(|(role, disk)| unmapped(role, disk, settings)).collect();
        GuestInput { disks, root_device_name: None, ..guest }
    };
    input.kernel = rescue.kernel.cloned();
    input.rescue = Some(GuestRescue { is_stable, properties: properties(rescue.image) });
    let firmware = on.hypervisor.firmware(uuid).await?;
    let input = complete(input, settings, log, firmware)?;
    Ok(guest::domain_spec(&input)?)
}
