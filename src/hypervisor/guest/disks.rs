//! Which disk becomes which device: bus, name, boot order, limits.
//!
//! nova: virt/libvirt/blockinfo.py, imagebackend.py

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::names::{BUSES, bus_for, bus_of_name, checked_name, free_name};
use super::{GuestError, GuestInput};
use crate::hypervisor::spec::{DiskSource, DiskSpec};

/// A disk, in the order of nova's devices: root, local, ephemeral ones, swap, config drive, volumes. What
/// its block device mapping says is only there when it says something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestDisk {
    pub role: DiskRole,
    pub path: PathBuf,
    /// `qcow2` or `raw`
    pub format: String,
    /// `native` when its space is preallocated.
    pub io: Option<String>,
    /// The name an existing guest knows it by, `vda`; `None`: the next free one.
    pub device_name: Option<String>,
    /// The bus the block device mapping asks for.
    pub bus: Option<String>,
    /// `disk`, `cdrom`, … as the block device mapping has it.
    pub device_type: Option<String>,
    /// 0: the guest boots from it first.
    #[serde(default)]
    pub boot_index: Option<i64>,
    /// Of a volume: all but its place in the guest. Path and format above say nothing then.
    #[serde(default)]
    pub volume: Option<Box<DiskSpec>>,
}

impl GuestDisk {
    /// Whether the guest's root file system is on it.
    fn is_root(&self) -> bool {
        self.role == DiskRole::Root || (self.role == DiskRole::Volume && self.boot_index == Some(0))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskRole {
    Root,
    /// `disk.local`: the flavor's ephemeral space in one disk.
    Local,
    /// `disk.eph0`, …
    Ephemeral,
    Swap,
    ConfigDrive,
    /// `disk.rescue`
    Rescue,
    /// The root disk while another one is in its place.
    Rescued,
    Volume,
}

const TYPES: [&str; 4] = ["disk", "cdrom", "floppy", "lun"];

/// The disks with their places in the guest.
pub fn disks(
    input: &GuestInput,
    asked: &Asked<'_>,
    machine: &Option<String>,
) -> Result<Vec<DiskSpec>, GuestError> {
    let options = &input.options;
    let iotune = iotune(asked)?;
    let boots_from_volume =
        input.disks.iter().any(|disk| disk.role == DiskRole::Volume && disk.is_root());
    let virtio_scsi = asked.property("hw_scsi_model") == Some("virtio-scsi");
    // The volume that the guest boots from is unit 0.
    let stable = input.rescue.as_ref().is_some_and(|rescue| rescue.is_stable);
    let mut scsi_units = u32::from(boots_from_volume)..;
    let mut disks: Vec<DiskSpec> = Vec::new();
    for (disk, place) in input.disks.iter().zip(places(input, asked, machine.as_deref())?) {
        let Place { device, bus, target } = place;
        let mut spec = match &disk.volume {
            Some(volume) => DiskSpec { device, target, ..volume.as_ref().clone() },
            None => DiskSpec {
                source: DiskSource::File(disk.path.clone()),
                device,
                format: disk.format.clone(),
                cache: if options.direct_io { "none" } else { "writeback" }.into(),
                io: disk.io.clone(),
                discard: options.hw_disk_discard.clone(),
                target,
                iotune: iotune.clone(),
                ..DiskSpec::default()
            },
        };
        set_cache(&mut spec, &options.disk_cachemodes);
        spec.scsi_unit = match virtio_scsi && bus == "scsi" {
            true if disk.role == DiskRole::Volume && disk.is_root() => Some(0),
            true => scsi_units.next(),
            false => None,
        };
        if stable && disk.role == DiskRole::Rescue {
            spec.boot_order = Some(1);
        }
        spec.bus = bus;
        disks.push(spec);
    }
    Ok(disks)
}

/// nova: virt/libvirt/driver.py, `_set_cache_mode`
pub fn set_cache(disk: &mut DiskSpec, modes: &[String]) {
    if disk.shareable {
        "none".clone_into(&mut disk.cache);
    } else {
        let of_kind = |mode: &&String| {
            mode.split_once('=').is_some_and(|(kind, _)| kind == disk.source.kind())
        };
        if let Some((_, mode)) = modes.iter().find(of_kind).and_then(|mode| mode.split_once('=')) {
            mode.clone_into(&mut disk.cache);
        }
    }
    // Native AIO needs O_DIRECT, which only these cache modes use.
    if disk.io.as_deref() == Some("native") && !matches!(&*disk.cache, "none" | "directsync") {
        disk.io = Some("threads".to_owned());
    }
}

/// The places of all disks, in their order. They are given out in nova's: a volume to boot from comes
/// first, and the config drive last.
fn places(
    input: &GuestInput,
    asked: &Asked<'_>,
    machine: Option<&str>,
) -> Result<Vec<Place>, GuestError> {
    let mut order: Vec<usize> = (0..input.disks.len()).collect();
    order.sort_by_key(|at| match &input.disks[*at] {
        disk if disk.is_root() => 0,
        disk if disk.role == DiskRole::ConfigDrive => 2,
        _ => 1,
    });
    let mut places = Places::new(input, asked, machine)?;
    let mut given: Vec<(usize, Place)> = Vec::new();
    for at in order {
        given.push((at, places.next(&input.disks[at])?));
    }
    given.sort_by_key(|(at, _)| *at);
    Ok(given.into_iter().map(|(_, place)| place).collect())
}

/// Where a disk goes that comes to a guest with the disks of `input`.
/// nova: virt/libvirt/driver.py, `get_device_name_for_instance`
pub fn next_place(
    input: &GuestInput,
    asked: &Asked<'_>,
    machine: Option<&str>,
    disk: &GuestDisk,
) -> Result<(String, String, String), GuestError> {
    let taken: Vec<String> =
        places(input, asked, machine)?.into_iter().map(|place| place.target).collect();
    let mut places = Places::new(input, asked, machine)?;
    places.taken = taken;
    let Place { device, bus, target } = places.next(disk)?;
    Ok((device, bus, target))
}

/// Where the guest sees a disk.
struct Place {
    /// `disk`, `cdrom`, …
    device: String,
    bus: String,
    /// `vda`
    target: String,
}

/// Gives out places, disk by disk. nova: virt/libvirt/blockinfo.py, `_get_disk_mapping`
struct Places<'a> {
    input: &'a GuestInput,
    asked: &'a Asked<'a>,
    machine: Option<&'a str>,
    disk_bus: String,
    cdrom_bus: String,
    /// Names that block device mappings have.
    assigned: Vec<String>,
    taken: Vec<String>,
}

impl<'a> Places<'a> {
    fn new(
        input: &'a GuestInput,
        asked: &'a Asked<'a>,
        machine: Option<&'a str>,
    ) -> Result<Self, GuestError> {
        let disk_bus = bus_for("disk", input, asked, machine)?;
        let cdrom_bus = bus_for("cdrom", input, asked, machine)?;
        let names = input.disks.iter().filter_map(|disk| disk.device_name.as_deref());
        let assigned =
            names.map(|name| checked_name(name).map(str::to_owned)).collect::<Result<_, _>>()?;
        Ok(Self { input, asked, machine, disk_bus, cdrom_bus, assigned, taken: Vec::new() })
    }

    fn next(&mut self, disk: &GuestDisk) -> Result<Place, GuestError> {
        let place = match disk.role {
            DiskRole::Root => self.root(disk)?,
            DiskRole::Volume if disk.is_root() => self.root(disk)?,
            DiskRole::Volume => self.volume(disk)?,
            // The flavor's own: only what is placed already is in its way.
            DiskRole::Local => self.plain("disk", self.disk_bus.clone(), &[])?,
            DiskRole::Ephemeral | DiskRole::Swap => self.mapped(disk)?,
            DiskRole::Rescue => self.rescue()?,
            DiskRole::Rescued => self.plain("disk", self.disk_bus.clone(), &[])?,
            DiskRole::ConfigDrive => {
                let iso = self.input.options.config_drive_format == "iso9660";
                let device = if iso { "cdrom" } else { "disk" };
                let bus = if iso { &self.cdrom_bus } else { &self.disk_bus };
                self.plain(device, bus.clone(), &[])?
            }
        };
        self.taken.push(place.target.clone());
        Ok(place)
    }

    /// nova: blockinfo.py, `get_root_info`
    fn root(&self, disk: &GuestDisk) -> Result<Place, GuestError> {
        let own = disk.device_name.as_deref().or(self.input.root_device_name.as_deref());
        let own = own.map(checked_name).transpose()?;
        if self.input.image.disk_format.as_deref() == Some("iso") {
            return self.place("cdrom", self.cdrom_bus.clone(), own, &[]);
        }
        let device = device_type(disk);
        let bus = self.bus(disk, device, own)?;
        self.place(device, bus, own, &[])
    }

    /// nova: blockinfo.py, `get_info_from_bdm`
    fn mapped(&self, disk: &GuestDisk) -> Result<Place, GuestError> {
        let own = disk.device_name.as_deref().map(checked_name).transpose()?;
        // nova reads nothing of the kind for a swap disk.
        let device = if disk.role == DiskRole::Swap { "disk" } else { device_type(disk) };
        let bus = self.bus(disk, device, own)?;
        self.place(device, bus, own, &self.assigned)
    }

    /// nova: blockinfo.py, `_get_rescue_disk_mapping`, `_get_stable_device_rescue_mapping`
    fn rescue(&self) -> Result<Place, GuestError> {
        let stable = self.input.rescue.as_ref().filter(|rescue| rescue.is_stable);
        let Some(rescue) = stable else { return self.plain("disk", self.disk_bus.clone(), &[]) };
        let own = |name: &str| rescue.properties.get(name).map(String::as_str);
        let device = own("hw_rescue_device").unwrap_or("disk");
        if !TYPES.contains(&device) {
            let message = format!("Requested rescue device '{device}' is not supported");
            return Err(GuestError::invalid("UnsupportedRescueDevice", message));
        }
        let bus = match own("hw_rescue_bus") {
            Some(bus) if BUSES.contains(&bus) => bus.to_owned(),
            Some(bus) => {
                let virt = &self.input.options.virt_type;
                let message = format!(
                    "Requested rescue bus '{bus}' is not supported by the '{virt}' virt driver"
                );
                return Err(GuestError::invalid("UnsupportedRescueBus", message));
            }
            None => {
                let asked = Asked::new(&self.input.flavor.extra_specs, &rescue.properties);
                // nova has no bus of its own for a logical unit, either.
                let kind = if device == "lun" { "disk" } else { device };
                bus_for(kind, self.input, &asked, self.machine)?
            }
        };
        self.plain(device, bus, &[])
    }

    /// A volume's name tells its bus where its mapping doesn't.
    fn volume(&self, disk: &GuestDisk) -> Result<Place, GuestError> {
        let own = disk.device_name.as_deref().map(checked_name).transpose()?;
        let device = device_type(disk);
        let bus = match (disk.bus.as_deref().filter(|bus| BUSES.contains(bus)), own) {
            (Some(bus), _) => bus.to_owned(),
            (None, Some(name)) => bus_of_name(name)?,
            (None, None) => bus_for(device, self.input, self.asked, self.machine)?,
        };
        self.place(device, bus, own, &self.assigned)
    }

    fn plain(&self, device: &str, bus: String, assigned: &[String]) -> Result<Place, GuestError> {
        self.place(device, bus, None, assigned)
    }

    fn place(
        &self,
        device: &str,
        bus: String,
        own: Option<&str>,
        assigned: &[String],
    ) -> Result<Place, GuestError> {
        let target = match own {
            Some(name) => name.to_owned(),
            None => {
                let taken =
                    |name: &str| self.taken.iter().chain(assigned).any(|taken| taken == name);
                free_name(&bus, self.input, taken)?
            }
        };
        Ok(Place { device: device.to_owned(), bus, target })
    }

    /// The bus a mapping asks for; one that isn't there is passed over for what its name or its kind
    /// tells.
    fn bus(
        &self,
        disk: &GuestDisk,
        device: &str,
        name: Option<&str>,
    ) -> Result<String, GuestError> {
        match (disk.bus.as_deref(), name) {
            (None, _) => Ok(self.disk_bus.clone()),
            (Some(bus), _) if BUSES.contains(&bus) => Ok(bus.to_owned()),
            (Some(_), Some(name)) => bus_of_name(name),
            (Some(_), None) => bus_for(device, self.input, self.asked, self.machine),
        }
    }
}

/// Where a disk with a name goes, by its mapping alone: (`disk`, `cdrom`, …; bus; `vdb`).
/// nova: virt/libvirt/blockinfo.py, `get_info_from_bdm`
///
/// # Errors
/// `Invalid` for a name that isn't one, or tells no bus.
pub fn named_place(
    name: &str,
    bus: Option<&str>,
    device_type: Option<&str>,
) -> Result<(String, String, String), GuestError> {
    let name = checked_name(name)?;
    let bus = match bus.filter(|bus| BUSES.contains(bus)) {
        Some(bus) => bus.to_owned(),
        None => bus_of_name(name)?,
    };
    let device = device_type.filter(|device| TYPES.contains(device)).unwrap_or("disk");
    Ok((device.to_owned(), bus, name.to_owned()))
}

fn device_type(disk: &GuestDisk) -> &str {
    disk.device_type.as_deref().filter(|device| TYPES.contains(device)).unwrap_or("disk")
}

/// The root disk among the disks made of `input`, or the one in its place.
pub fn root<'a>(disks: &'a [DiskSpec], input: &[GuestDisk]) -> Option<&'a DiskSpec> {
    let of_rescue = || input.iter().position(|disk| disk.role == DiskRole::Rescue);
    disks.get(input.iter().position(GuestDisk::is_root).or_else(of_rescue)?)
}

/// What the firmware boots from: the kinds of the disks to boot from, in nova's order, which is that of
/// the indices as text.
///
/// nova: virt/libvirt/blockinfo.py, `get_boot_order`
pub fn boot_devices(disks: &[DiskSpec], input: &[GuestDisk]) -> Vec<String> {
    let index = |disk: &GuestDisk| match disk.role {
        DiskRole::Root => Some(0),
        DiskRole::Volume => disk.boot_index.filter(|index| *index >= 0),
        _ => None,
    };
    let mut bootable: Vec<(String, &DiskSpec)> = disks
        .iter()
        .zip(input)
        .filter_map(|(spec, disk)| Some((index(disk)?.saturating_add(1).to_string(), spec)))
        .collect();
    bootable.sort_by(|one, other| one.0.cmp(&other.0));
    let mut kinds = Vec::new();
    for (_, disk) in bootable {
        let kind = match disk.device.as_str() {
            "cdrom" => "cdrom",
            "floppy" => "fd",
            _ => "hd",
        };
        if !kinds.iter().any(|other| other == kind) {
            kinds.push(kind.to_owned());
        }
    }
    kinds
}

/// nova: virt/libvirt/imagebackend.py, `disk_qos`
fn iotune(asked: &Asked<'_>) -> Result<Vec<(String, u64)>, GuestError> {
    let mut limits = Vec::new();
    for kind in ["read", "write", "total"] {
        for unit in ["bytes_sec", "iops_sec"] {
            let name = format!("{kind}_{unit}");
            if let Some(limit) = asked.spec_number(&format!("quota:disk_{name}"))? {
                limits.push((name, limit));
            }
        }
    }
    Ok(limits)
}
