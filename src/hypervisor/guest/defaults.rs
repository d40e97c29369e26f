//! What an image leaves open, as this host fills it in: noted with the instance, so that a later
//! configuration or release doesn't change the guest's hardware.
//!
//! nova: virt/libvirt/driver.py, `REGISTER_IMAGE_PROPERTY_DEFAULTS`

use super::asked::Asked;
use super::{GuestDisk, GuestError, GuestInput, devices, disks, interfaces, machine_type, names};
use crate::hypervisor::spec::DiskSpec;

/// Image properties and their values; `None` where the guest has no such device.
pub type Defaults = Vec<(&'static str, Option<String>)>;

/// # Errors
/// `Invalid` for what no host could run.
pub fn image_defaults(input: &GuestInput) -> Result<Defaults, GuestError> {
    let asked = Asked::new(&input.flavor.extra_specs, &input.image.properties);
    let machine = machine_type(input, &asked)?;
    let arch = asked.property("hw_architecture").unwrap_or(&input.host.architecture);
    let bus = |device| names::bus_for(device, input, &asked, machine.as_deref());
    let (cdrom_bus, disk_bus) = (bus("cdrom")?, bus("disk")?);
    let pointer = devices::pointer_bus(&input.options, &asked);
    let pointer_model = pointer.is_some().then(|| "usbtablet".to_owned());
    let video = devices::video(&asked, arch)?.model;
    let vif = interfaces::model(&input.options, &asked)?.to_owned();
    Ok(vec![
        ("hw_machine_type", machine),
        ("hw_cdrom_bus", Some(cdrom_bus)),
        ("hw_disk_bus", Some(disk_bus)),
        ("hw_input_bus", pointer),
        ("hw_pointer_model", pointer_model),
        ("hw_video_model", Some(video)),
        ("hw_vif_model", Some(vif)),
    ])
}

/// Where the guest will see its disks, in the order of `input.disks`.
///
/// # Errors
/// As for the domain itself.
pub fn placed_disks(input: &GuestInput) -> Result<Vec<DiskSpec>, GuestError> {
    let asked = Asked::new(&input.flavor.extra_specs, &input.image.properties);
    disks::disks(input, &asked, &machine_type(input, &asked)?)
}

/// Where the guest will see a disk that comes to it: (`disk`, `cdrom`, …; bus; `vdb`).
///
/// # Errors
/// `Invalid` when there is no place for it.
pub fn place_of(
    input: &GuestInput,
    disk: &GuestDisk,
) -> Result<(String, String, String), GuestError> {
    let asked = Asked::new(&input.flavor.extra_specs, &input.image.properties);
    disks::next_place(input, &asked, machine_type(input, &asked)?.as_deref(), disk)
}
