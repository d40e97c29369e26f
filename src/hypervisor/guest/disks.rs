//! Which disk becomes which device: bus, name, boot order, limits.
//!
//! nova: virt/libvirt/blockinfo.py, imagebackend.py

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::{GuestError, GuestInput};
use crate::hypervisor::spec::DiskSpec;

/// A disk, in the order nova names them: root, local, ephemeral ones, swap, config drive. What its
/// block device mapping says is only there when it says something.
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
}

const BUSES: [&str; 6] = ["virtio", "scsi", "ide", "usb", "fdc", "sata"];

const TYPES: [&str; 4] = ["disk", "cdrom", "floppy", "lun"];

/// An IDE controller's disks.
const MAX_IDE_DISKS: usize = 4;

/// Longer than any name that a kernel gives.
const MAX_NAME_BYTES: usize = 32;

/// The disks with their places in the guest.
pub fn disks(
    input: &GuestInput,
    asked: &Asked<'_>,
    machine: &Option<String>,
) -> Result<Vec<DiskSpec>, GuestError> {
    let options = &input.options;
    let default_cache = if options.direct_io { "none" } else { "writeback" };
    let cache = options
        .disk_cachemodes
        .iter()
        .find_map(|mode| mode.strip_prefix("file="))
        .unwrap_or(default_cache);
    let iotune = iotune(asked)?;
    let virtio_scsi = asked.property("hw_scsi_model") == Some("virtio-scsi");
    let mut scsi_units = 0..;
    let stable = input.rescue.as_ref().is_some_and(|rescue| rescue.is_stable);
    let mut places = Places::new(input, asked, machine.as_deref())?;
    let mut disks: Vec<DiskSpec> = Vec::new();
    for disk in &input.disks {
        let Place { device, bus, target } = places.next(disk)?;
        // Native AIO needs O_DIRECT, which only these cache modes use.
        let threads =
            disk.io.as_deref() == Some("native") && !matches!(cache, "none" | "directsync");
        disks.push(DiskSpec {
            path: disk.path.clone(),
            device,
            format: disk.format.clone(),
            cache: cache.into(),
            io: if threads { Some("threads".into()) } else { disk.io.clone() },
            discard: options.hw_disk_discard.clone(),
            target,
            serial: None,
            iotune: iotune.clone(),
            scsi_unit: (virtio_scsi && bus == "scsi").then(|| scsi_units.next()).flatten(),
            boot_order: (stable && disk.role == DiskRole::Rescue).then_some(1),
            bus,
        });
    }
    Ok(disks)
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

fn device_type(disk: &GuestDisk) -> &str {
    disk.device_type.as_deref().filter(|device| TYPES.contains(device)).unwrap_or("disk")
}

/// A device's name without `/dev/`. It comes from a message, and goes into the domain and the kernel's
/// command line.
fn checked_name(name: &str) -> Result<&str, GuestError> {
    let short = name.strip_prefix("/dev/").unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !short.is_empty() && short.len() <= MAX_NAME_BYTES && short.bytes().all(plain) {
        return Ok(short);
    }
    let message = format!("{:?} is no device name", crate::model::object::clip(name));
    Err(GuestError::invalid("InvalidDevicePath", message))
}

/// nova: virt/libvirt/blockinfo.py, `get_disk_bus_for_disk_dev`
fn bus_of_name(name: &str) -> Result<String, GuestError> {
    let bus = match name.get(..2) {
        Some("hd") => "ide",
        Some("sd") => "scsi",
        Some("vd") => "virtio",
        Some("fd") => "fdc",
        _ => {
            let message = format!("no disk bus is known for {name}");
            return Err(GuestError::invalid("InternalError", message));
        }
    };
    Ok(bus.to_owned())
}

/// The root disk among the disks made of `input`, or the one in its place.
pub fn root<'a>(disks: &'a [DiskSpec], input: &[GuestDisk]) -> Option<&'a DiskSpec> {
    let of = |role| input.iter().position(|disk| disk.role == role);
    let index = of(DiskRole::Root).or_else(|| of(DiskRole::Rescue))?;
    disks.get(index)
}

/// What the firmware boots from: the kind of the root disk.
///
/// nova: virt/libvirt/blockinfo.py, `get_boot_order`
pub fn boot_devices(disks: &[DiskSpec], input: &[GuestDisk]) -> Vec<String> {
    let device = root(disks, input).map(|disk| match disk.device.as_str() {
        "cdrom" => "cdrom",
        "floppy" => "fd",
        _ => "hd",
    });
    device.map(str::to_owned).into_iter().collect()
}

/// nova: virt/libvirt/blockinfo.py, `get_disk_bus_for_device_type`
pub fn bus_for(
    device: &str,
    input: &GuestInput,
    asked: &Asked<'_>,
    machine: Option<&str>,
) -> Result<String, GuestError> {
    if let Some(bus) = asked.property(&format!("hw_{device}_bus")) {
        return checked_bus(bus, &input.options.virt_type);
    }
    let arch = asked.property("hw_architecture").unwrap_or(&input.host.architecture);
    let bus = match (device, arch) {
        ("disk", _) => "virtio",
        ("floppy", _) => "fdc",
        ("cdrom", "ppc" | "ppc64" | "ppcle" | "ppc64le" | "s390" | "s390x" | "aarch64") => "scsi",
        // Q35 has no IDE.
        ("cdrom", _) if machine.is_some_and(|machine| machine.contains("q35")) => "sata",
        ("cdrom", _) => "ide",
        (other, _) => {
            let message = format!("no disk bus is known for a {other}");
            return Err(GuestError::invalid("InternalError", message));
        }
    };
    Ok(bus.into())
}

fn checked_bus(bus: &str, virt_type: &str) -> Result<String, GuestError> {
    match BUSES.contains(&bus) {
        true => Ok(bus.to_owned()),
        false => Err(GuestError::invalid(
            "UnsupportedHardware",
            format!("{virt_type} has no disk bus {bus:?}"),
        )),
    }
}

/// nova: virt/libvirt/blockinfo.py, `find_disk_dev_for_disk_bus`
fn free_name(
    bus: &str,
    input: &GuestInput,
    taken: impl Fn(&str) -> bool,
) -> Result<String, GuestError> {
    let prefix = input.options.disk_prefix.as_deref().unwrap_or(match bus {
        "ide" => "hd",
        "virtio" => "vd",
        "fdc" => "fd",
        _ => "sd",
    });
    let most = match input.options.max_disk_devices {
        _ if bus == "ide" => MAX_IDE_DISKS,
        Some(most) => most as usize,
        None => usize::from(u16::MAX),
    };
    (0..most).map(|index| device_name(prefix, index)).find(|name| !taken(name)).ok_or_else(|| {
        let message = format!("The maximum allowed number of disk devices ({most}) to attach to a single instance has been exceeded.");
        GuestError::invalid("TooManyDiskDevices", message)
    })
}

/// `vda`, …, `vdz`, `vdaa`, …
///
/// nova: block_device.py, `generate_device_name`
fn device_name(prefix: &str, mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(b'a' + u8::try_from(index % 26).expect("below 26"));
        if index < 26 {
            break;
        }
        index = index / 26 - 1;
    }
    letters.reverse();
    format!("{prefix}{}", String::from_utf8(letters).expect("ASCII letters"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_on_after_z() {
        assert_eq!(device_name("vd", 0), "vda");
        assert_eq!(device_name("vd", 25), "vdz");
        assert_eq!(device_name("sd", 26), "sdaa");
        assert_eq!(device_name("sd", 26 + 26 * 26), "sdaaa");
    }

    #[test]
    fn an_ide_bus_is_full_with_four_disks() {
        let mut input = GuestInput::default();
        let name = free_name("ide", &input, |name| name < "hdd").unwrap();
        assert_eq!(name, "hdd");
        let error = free_name("ide", &input, |_| true).unwrap_err();
        assert_eq!(error.exception(), "TooManyDiskDevices");
        input.options.max_disk_devices = Some(1);
        assert_eq!(free_name("virtio", &input, |_| false).unwrap(), "vda");
        assert!(free_name("virtio", &input, |name| name == "vda").is_err());
    }

    #[test]
    fn a_device_name_is_letters_and_digits() {
        for (name, short) in [("/dev/vda", "vda"), ("sda1", "sda1")] {
            assert_eq!(checked_name(name).unwrap(), short);
        }
        for bad in ["", "/dev/", "../vda", "vda init=/bin/sh", "vda\n", "Vda", &"a".repeat(33)] {
            assert_eq!(checked_name(bad).unwrap_err().exception(), "InvalidDevicePath", "{bad}");
        }
    }
}
