//! Which disk becomes which device: bus, name, boot order, limits.
//!
//! nova: virt/libvirt/blockinfo.py, imagebackend.py

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::{GuestError, GuestInput};
use crate::hypervisor::spec::DiskSpec;

/// A disk that exists, in the order nova names them: root, local, ephemeral ones, swap, config drive.
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
}

const BUSES: [&str; 6] = ["virtio", "scsi", "ide", "usb", "fdc", "sata"];

/// An IDE controller's disks.
const MAX_IDE_DISKS: usize = 4;

/// The disks with their places in the guest.
pub fn disks(
    input: &GuestInput,
    asked: &Asked<'_>,
    machine: &Option<String>,
) -> Result<Vec<DiskSpec>, GuestError> {
    let options = &input.options;
    let iso = input.image.disk_format.as_deref() == Some("iso");
    let default_cache = if options.direct_io { "none" } else { "writeback" };
    let cache = options
        .disk_cachemodes
        .iter()
        .find_map(|mode| mode.strip_prefix("file="))
        .unwrap_or(default_cache);
    let iotune = iotune(asked)?;
    let virtio_scsi = asked.property("hw_scsi_model") == Some("virtio-scsi");
    let mut scsi_units = 0..;
    let named: Vec<&str> =
        input.disks.iter().filter_map(|disk| disk.device_name.as_deref()).collect();
    let mut disks: Vec<DiskSpec> = Vec::new();
    for disk in &input.disks {
        let device = match disk.role {
            DiskRole::Root if iso => "cdrom",
            DiskRole::ConfigDrive if options.config_drive_format == "iso9660" => "cdrom",
            _ => "disk",
        };
        let bus = match &disk.bus {
            Some(bus) => checked_bus(bus, &options.virt_type)?,
            None => bus_for(device, input, asked, machine.as_deref())?,
        };
        let target = match &disk.device_name {
            Some(name) => name.strip_prefix("/dev/").unwrap_or(name).to_owned(),
            None => {
                let taken = |name: &str| {
                    named.contains(&name) || disks.iter().any(|disk| disk.target == name)
                };
                free_name(&bus, options.disk_prefix.as_deref(), taken)?
            }
        };
        // Native AIO needs O_DIRECT, which only these cache modes use.
        let threads =
            disk.io.as_deref() == Some("native") && !matches!(cache, "none" | "directsync");
        disks.push(DiskSpec {
            path: disk.path.clone(),
            device: device.into(),
            format: disk.format.clone(),
            cache: cache.into(),
            io: if threads { Some("threads".into()) } else { disk.io.clone() },
            discard: options.hw_disk_discard.clone(),
            target,
            serial: None,
            iotune: iotune.clone(),
            scsi_unit: (virtio_scsi && bus == "scsi").then(|| scsi_units.next()).flatten(),
            boot_order: None,
            bus,
        });
    }
    Ok(disks)
}

/// The root disk among the disks made of `input`.
pub fn root<'a>(disks: &'a [DiskSpec], input: &[GuestDisk]) -> Option<&'a DiskSpec> {
    let index = input.iter().position(|disk| disk.role == DiskRole::Root)?;
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
    if device != "cdrom" {
        return Ok("virtio".into());
    }
    let arch = asked.property("hw_architecture").unwrap_or(&input.host.architecture);
    let bus = match arch {
        "ppc" | "ppc64" | "ppcle" | "ppc64le" | "s390" | "s390x" | "aarch64" => "scsi",
        // Q35 has no IDE.
        _ if machine.is_some_and(|machine| machine.contains("q35")) => "sata",
        _ => "ide",
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

fn free_name(
    bus: &str,
    prefix: Option<&str>,
    taken: impl Fn(&str) -> bool,
) -> Result<String, GuestError> {
    let prefix = prefix.unwrap_or(match bus {
        "ide" => "hd",
        "virtio" => "vd",
        "fdc" => "fd",
        _ => "sd",
    });
    let most = if bus == "ide" { MAX_IDE_DISKS } else { usize::from(u16::MAX) };
    (0..most).map(|index| device_name(prefix, index)).find(|name| !taken(name)).ok_or_else(|| {
        GuestError::invalid("TooManyDiskDevices", format!("a guest has {most} {bus} disks at most"))
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
        let name = free_name("ide", None, |name| name < "hdd").unwrap();
        assert_eq!(name, "hdd");
        let error = free_name("ide", None, |_| true).unwrap_err();
        assert_eq!(error.exception(), "TooManyDiskDevices");
    }
}
