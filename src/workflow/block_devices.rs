//! An instance's disks on this host: which ones it is to have, by its block device mappings and its
//! flavor, and what its guest calls them.
//! nova: virt/driver.py, get_block_device_info; virt/libvirt/driver.py, _create_image

use std::collections::BTreeMap;

use super::domain::{self, GuestDisks, Parts};
use super::volume_connections::connection_of;
use super::{Settings, StepError, StepResult};
use crate::hypervisor::guest::{DiskRole, GuestDisk};
use crate::hypervisor::spec::DiskSpec;
use crate::images::blank::FILE_SYSTEMS;
use crate::images::{Blank, Disk};
use crate::model::object::{BlockDeviceMapping, DeviceType, ImageMeta, Instance, clip};
use crate::volumes::VolumeError;

/// A blank disk that an instance is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub role: DiskRole,
    /// `disk.eph0`, …: its name in the instance's directory.
    pub file: String,
    pub blank: Blank,
    /// The mapping that it comes from, by its place; `None`: from the flavor.
    mapping: Option<usize>,
}

/// The blank disks beside the root, in nova's order.
///
/// # Errors
/// `InvalidBlockDevice` for sizes and formats that no disk has; `NotSupported` for what isn't built.
pub fn wanted(
    instance: &Instance,
    devices: &[BlockDeviceMapping],
) -> Result<Vec<Wanted>, StepError> {
    let flavor = instance.flavor()?;
    let os_type = instance.os_type.value().cloned();
    let mut all = Vec::new();
    for (place, device) in mapped(devices, BlockDeviceMapping::is_ephemeral) {
        let index = all.len();
        let format = device.guest_format.text().filter(|format| !format.is_empty());
        if let Some(format) = format.filter(|format| !FILE_SYSTEMS.contains(format)) {
            return Err(invalid_format(format!("{} format is not supported", clip(format))));
        }
        // nova-api fills an open size in. nova: compute/api.py, _volume_size
        let size_gib = match device.volume_size.value() {
            Some(size) => size_of(*size)?,
            None => flavor.ephemeral_gib()?,
        };
        let (os_type, format) = (os_type.clone(), format.map(str::to_owned));
        all.push(Wanted {
            role: DiskRole::Ephemeral,
            file: format!("disk.eph{index}"),
            blank: Blank::Ephemeral { size_gib, index, os_type, format },
            mapping: Some(place),
        });
    }
    if all.is_empty() && flavor.ephemeral_gib()? > 0 {
        let size_gib = flavor.ephemeral_gib()?;
        all.push(Wanted {
            role: DiskRole::Local,
            file: "disk.local".to_owned(),
            blank: Blank::Ephemeral { size_gib, index: 0, os_type, format: None },
            mapping: None,
        });
    }
    let mut swaps = mapped(devices, BlockDeviceMapping::is_swap);
    let swap = swaps.next();
    if swaps.next().is_some() {
        return Err(invalid_format("More than one swap drive requested.".to_owned()));
    }
    let own = match swap {
        Some((_, device)) => size_of(device.volume_size.value().copied().unwrap_or(0))?,
        None => 0,
    };
    let (size_mib, mapping) = match own {
        0 => (flavor.swap_mib()?, None),
        own => (own, swap.map(|(place, _)| place)),
    };
    if size_mib > 0 {
        let blank = Blank::Swap { size_mib };
        all.push(Wanted { role: DiskRole::Swap, file: "disk.swap".to_owned(), blank, mapping });
    }
    for disk in &all {
        disk.blank.size_bytes().map_err(|_| {
            invalid_format(format!("{} can't be as large as it is asked for", disk.file))
        })?;
    }
    Ok(all)
}

/// What a build may ask for: refused before anything is made, and never left out. What the scheduler
/// counted is the flavor's: more than that isn't given.
///
/// # Errors
/// As for [`wanted`].
pub fn check(instance: &Instance, devices: &[BlockDeviceMapping]) -> StepResult {
    check_supported(devices)?;
    let (mut ephemeral_gib, mut swap_mib): (u64, u64) = (0, 0);
    for disk in wanted(instance, devices)? {
        match disk.blank {
            Blank::Ephemeral { size_gib, .. } => {
                ephemeral_gib = ephemeral_gib.saturating_add(size_gib);
            }
            Blank::Swap { size_mib } => swap_mib = size_mib,
        }
    }
    let flavor = instance.flavor()?;
    let refused = |exception, message: &str| {
        Err(StepError::InvalidBlockDevice { exception, message: message.to_owned() })
    };
    if ephemeral_gib > flavor.ephemeral_gib()? {
        let message = "Ephemeral disks requested are larger than the instance type allows. If no size \
                       is given in one block device mapping, flavor ephemeral size will be used.";
        return refused("InvalidBDMEphemeralSize", message);
    }
    if swap_mib > flavor.swap_mib()? {
        let message = "Swap drive requested is larger than instance type allows.";
        return refused("InvalidBDMSwapSize", message);
    }
    Ok(())
}

/// Whether all of an instance's disks are of kinds that this agent has.
///
/// # Errors
/// `NotSupported`.
pub fn check_supported(devices: &[BlockDeviceMapping]) -> StepResult {
    if devices.iter().any(|device| device.encrypted.get() == Some(&true)) {
        return Err(StepError::NotSupported("an encrypted local disk"));
    }
    Ok(())
}

/// The disks with what their mappings say of them, in nova's order. `found` are the files.
///
/// # Errors
/// `NoDisk` for a disk that the instance has to have and doesn't; `UnknownDisk` for one that it has
/// and nothing on record explains; `Volume` for one that was connected once and isn't in `found`: a guest isn't
/// started with less than its user had.
pub fn guest_disks(
    instance: &Instance,
    devices: &[BlockDeviceMapping],
    found: &GuestDisks,
    settings: &Settings,
) -> Result<Vec<GuestDisk>, StepError> {
    let disk = |role, disk: &Disk, device: Option<&BlockDeviceMapping>| GuestDisk {
        device_name: device.and_then(|device| device.device_name.value().cloned()),
        bus: device.and_then(|device| device.disk_bus.value().cloned()),
        device_type: device
            .and_then(|device| device.device_type.value())
            .map(|device_type| device_type.as_str().to_owned()),
        ..unmapped(role, disk, settings)
    };
    let mut disks = Vec::new();
    if let Some(root) = &found.root {
        let device = mapped(devices, is_root_image).next().map(|(_, device)| device);
        disks.push(disk(DiskRole::Root, root, device));
    }
    let mut left: BTreeMap<&str, &Disk> =
        found.blank.iter().map(|disk| (file_name(disk), disk)).collect();
    for wanted in wanted(instance, devices)? {
        let Some(there) = left.remove(wanted.file.as_str()) else {
            let root = found.root.as_ref().map(|root| root.path.clone()).unwrap_or_default();
            return Err(StepError::NoDisk { path: root.with_file_name(wanted.file) });
        };
        let device = wanted.mapping.and_then(|place| devices.get(place));
        disks.push(disk(wanted.role, there, device));
    }
    // Nobody misses a swap disk that the flavor doesn't have any more.
    left.remove("disk.swap");
    if let Some(unexplained) = left.into_values().next() {
        return Err(StepError::UnknownDisk(unexplained.path.clone()));
    }
    let drive = found.config_drive.iter();
    disks.extend(drive.map(|drive| disk(DiskRole::ConfigDrive, drive, None)));
    for (place, device) in mapped(devices, BlockDeviceMapping::is_volume) {
        match found.volumes.get(&place) {
            Some(spec) => disks.push(volume(device, spec.clone())),
            None if connection_of(device)?.is_some() => {
                let volume_id = device.volume_id.text().unwrap_or("-");
                let message =
                    format!("volume {volume_id} isn't connected to the host of its guest");
                return Err(VolumeError::Invalid(message).into());
            }
            // One that was never connected is nova-api's to attach.
            None => {}
        }
    }
    Ok(disks)
}

/// A disk of which no mapping says anything.
pub fn unmapped(role: DiskRole, disk: &Disk, settings: &Settings) -> GuestDisk {
    GuestDisk {
        role,
        path: disk.path.clone(),
        format: disk.format.clone(),
        // nova: virt/libvirt/imagebackend.py, `driver_io`: native once the space is there.
        io: settings.preallocate_space.then(|| "native".to_owned()),
        device_name: None,
        bus: None,
        device_type: None,
        boot_index: None,
        volume: None,
    }
}

fn volume(device: &BlockDeviceMapping, spec: DiskSpec) -> GuestDisk {
    GuestDisk {
        role: DiskRole::Volume,
        path: Default::default(),
        format: spec.format.clone(),
        io: None,
        device_name: device.device_name.value().cloned(),
        bus: device.disk_bus.value().cloned(),
        device_type: device.device_type.value().map(|kind| kind.as_str().to_owned()),
        boot_index: device.boot_index.value().copied(),
        volume: Some(Box::new(spec)),
    }
}

/// Whether the guest's root disk is a volume.
pub fn boots_from_volume(devices: &[BlockDeviceMapping]) -> bool {
    mapped(devices, |device| device.is_root() && device.is_volume()).next().is_some()
}

/// The disks that an instance is to have, as if they were there: to find out what they are called.
fn as_if_there(
    instance: &Instance,
    devices: &[BlockDeviceMapping],
    wanted: &[Wanted],
) -> GuestDisks {
    let disk = |file: &str| Disk { path: file.into(), format: "qcow2".to_owned() };
    let volumes = mapped(devices, BlockDeviceMapping::is_volume);
    GuestDisks {
        root: (!boots_from_volume(devices)).then(|| disk("disk")),
        blank: wanted.iter().map(|wanted| disk(&wanted.file)).collect(),
        config_drive: instance.wants_config_drive().then(|| disk("disk.config")),
        volumes: volumes.map(|(place, _)| (place, DiskSpec::default())).collect(),
        ..GuestDisks::default()
    }
}

/// What the guest is to call a volume that comes to it; a name that was asked for is passed over, as the
/// guest decides. nova: virt/libvirt/driver.py, `get_device_name_for_instance`
///
/// # Errors
/// `Guest` when there is no place for it.
pub fn next_name(
    instance: &Instance,
    devices: &[BlockDeviceMapping],
    device: &BlockDeviceMapping,
    settings: &Settings,
) -> Result<String, StepError> {
    let image = ImageMeta::from_instance(instance)?;
    let disks = as_if_there(instance, devices, &wanted(instance, devices)?);
    let parts = Parts { image: &image, devices, disks: &disks, vifs: &[] };
    let mut new = volume(device, DiskSpec::default());
    new.device_name = None;
    Ok(format!("/dev/{}", domain::place_of(instance, parts, &new, settings)?))
}

/// Gives every disk of a build its bus and its name, in its mapping and in the instance. Names that a
/// user asked for are passed over, as the guest decides: only the root disk keeps its own.
/// nova: compute/manager.py, `_default_block_device_names`;
/// virt/libvirt/driver.py, `default_device_names_for_instance`
///
/// # Errors
/// `Guest` for what no host could run.
pub fn name_devices(
    instance: &mut Instance,
    image: &ImageMeta,
    devices: &mut [BlockDeviceMapping],
    settings: &Settings,
) -> StepResult {
    let asked = devices.iter().find(|device| device.is_root());
    if let Some(name) = asked.and_then(|root| root.device_name.value()).cloned() {
        instance.root_device_name.set(Some(name));
    }
    let mut unnamed = devices.to_vec();
    for device in &mut unnamed {
        device.device_name.load(Some(None));
    }
    let wanted = wanted(instance, &unnamed)?;
    // The config drive is named last.
    let files = GuestDisks { config_drive: None, ..as_if_there(instance, &unnamed, &wanted) };
    let parts = Parts { image, devices: &unnamed, disks: &files, vifs: &[] };
    let placed = domain::placed(instance, parts, settings)?;
    let mut placed = placed.iter();
    let mut root_name = None;
    if files.root.is_some()
        && let Some(root) = placed.next()
    {
        let place = mapped(&unnamed, is_root_image).next().map(|(place, _)| place);
        if let Some(device) = place.and_then(|place| devices.get_mut(place)) {
            name(device, root, true);
        }
        root_name = Some(format!("/dev/{}", root.target));
    }
    for (wanted, spec) in wanted.iter().zip(placed.by_ref().take(wanted.len())) {
        if let Some(device) = wanted.mapping.and_then(|place| devices.get_mut(place)) {
            name(device, spec, wanted.role != DiskRole::Swap);
        }
    }
    for ((place, _), spec) in mapped(&unnamed, BlockDeviceMapping::is_volume).zip(placed) {
        let Some(device) = devices.get_mut(place) else { continue };
        name(device, spec, true);
        if device.is_root() {
            root_name = Some(format!("/dev/{}", spec.target));
        }
    }
    if root_name.is_some() && instance.root_device_name.value() != root_name.as_ref() {
        instance.root_device_name.set(root_name);
    }
    Ok(())
}

/// nova: virt/block_device.py, `_update_on_save`: a swap disk's type isn't written.
fn name(device: &mut BlockDeviceMapping, spec: &DiskSpec, with_type: bool) {
    let name = format!("/dev/{}", spec.target);
    if device.device_name.value() != Some(&name) {
        device.device_name.set(Some(name));
    }
    if device.disk_bus.value() != Some(&spec.bus) {
        device.disk_bus.set(Some(spec.bus.clone()));
    }
    let device_type = DeviceType::parse(&spec.device);
    if with_type && device_type.is_some() && device.device_type.value() != device_type.as_ref() {
        device.device_type.set(device_type);
    }
}

/// Notes which names the flavor's own disks have.
/// nova: virt/libvirt/driver.py, `_get_guest_storage_config`
pub fn note_defaults(instance: &mut Instance, disks: &[GuestDisk], placed: &[DiskSpec]) {
    for (disk, spec) in disks.iter().zip(placed) {
        let name = Some(format!("/dev/{}", spec.target));
        match disk.role {
            DiskRole::Local => instance.default_ephemeral_device.set(name),
            DiskRole::Swap => instance.default_swap_device.set(name),
            _ => {}
        }
    }
}

/// What the EC2 layout of the metadata calls each disk. nova: block_device.py, instance_block_mapping
pub fn ec2_mapping(instance: &Instance, devices: &[BlockDeviceMapping]) -> Vec<(String, String)> {
    let Some(root) = instance.root_device_name.value() else {
        let usual =
            [("ami", "sda1"), ("ephemeral0", "sda2"), ("root", "/dev/sda1"), ("swap", "sda3")];
        return usual.map(|(key, name)| (key.to_owned(), name.to_owned())).to_vec();
    };
    let short = root.strip_prefix("/dev/").unwrap_or(root);
    let mut all =
        BTreeMap::from([("ami".to_owned(), short.to_owned()), ("root".to_owned(), root.clone())]);
    let mut add =
        |key: String, name: Option<&String>| name.map(|name| all.insert(key, name.clone()));
    add("ephemeral0".to_owned(), instance.default_ephemeral_device.value());
    add("swap".to_owned(), instance.default_swap_device.value());
    for (_, device) in mapped(devices, BlockDeviceMapping::is_swap) {
        add("swap".to_owned(), device.device_name.value());
    }
    for (number, (_, device)) in mapped(devices, BlockDeviceMapping::is_ephemeral).enumerate() {
        add(format!("ephemeral{number}"), device.device_name.value());
    }
    all.into_iter().collect()
}

/// The mappings of a kind, with their places in the list. One without a device is none.
fn mapped<'a>(
    devices: &'a [BlockDeviceMapping],
    is: impl Fn(&BlockDeviceMapping) -> bool + 'a,
) -> impl Iterator<Item = (usize, &'a BlockDeviceMapping)> {
    let all = devices.iter().enumerate();
    all.filter(move |(_, device)| device.no_device.get() != Some(&true) && is(device))
}

/// nova: virt/block_device.py, DriverImageBlockDevice
fn is_root_image(device: &BlockDeviceMapping) -> bool {
    device.is_image() && !device.is_volume()
}

fn file_name(disk: &Disk) -> &str {
    disk.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn size_of(size: i64) -> Result<u64, StepError> {
    u64::try_from(size).map_err(|_| invalid_format(format!("a disk can't have the size {size}")))
}

fn invalid_format(details: String) -> StepError {
    let message = format!("Block Device Mapping is Invalid: {details}");
    StepError::InvalidBlockDevice { exception: "InvalidBDMFormat", message }
}

#[cfg(test)]
mod tests;
