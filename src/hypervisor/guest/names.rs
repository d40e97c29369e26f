//! Names and buses of disks in the guest. nova: virt/libvirt/blockinfo.py

use super::asked::Asked;
use super::{GuestError, GuestInput};

pub(super) const BUSES: [&str; 6] = ["virtio", "scsi", "ide", "usb", "fdc", "sata"];

/// An IDE controller's disks.
const MAX_IDE_DISKS: usize = 4;

/// Longer than any name that a kernel gives.
const MAX_NAME_BYTES: usize = 32;

/// A device's name without `/dev/`. It comes from a message, and goes into the domain and the kernel's
/// command line.
pub(super) fn checked_name(name: &str) -> Result<&str, GuestError> {
    let short = name.strip_prefix("/dev/").unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !short.is_empty() && short.len() <= MAX_NAME_BYTES && short.bytes().all(plain) {
        return Ok(short);
    }
    let message = format!("{:?} is no device name", crate::model::object::clip(name));
    Err(GuestError::invalid("InvalidDevicePath", message))
}

/// nova: virt/libvirt/blockinfo.py, `get_disk_bus_for_disk_dev`
pub(super) fn bus_of_name(name: &str) -> Result<String, GuestError> {
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
pub(super) fn free_name(
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
