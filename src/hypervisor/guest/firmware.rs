//! UEFI: when a guest has it, and what it needs of the host.

use super::asked::{Asked, truth};
use super::{GuestError, GuestInput};
use crate::hypervisor::spec::{FirmwareFiles, UefiSpec};

/// nova: virt/libvirt/driver.py, `_configure_guest_by_virt_type`, `_copy_guest_firmware_elements`;
/// whether the files of `input.firmware` still exist on the host is for the caller to look.
pub fn firmware(
    input: &GuestInput,
    asked: &Asked<'_>,
    arch: &str,
    machine: Option<&str>,
) -> Result<Option<UefiSpec>, GuestError> {
    let kind = asked.property("hw_firmware_type");
    let stateless = asked.property("hw_firmware_stateless").is_some_and(truth);
    if stateless && kind != Some("uefi") {
        return Err(GuestError::invalid("Invalid", "only UEFI firmware can be stateless"));
    }
    match kind {
        Some("uefi") => {}
        None if arch == "aarch64" => {}
        None | Some("bios") => return Ok(None),
        Some(other) => {
            let message = format!("{other:?} is no firmware type");
            return Err(GuestError::invalid("Invalid", message));
        }
    }
    if !input.host.supports_uefi || machine.is_none() {
        return Err(GuestError::host("UEFINotSupported", "this host has no UEFI firmware"));
    }
    let possible = input.host.supports_secure_boot;
    let secure_boot = match asked.agreed("os", "secure_boot")? {
        None | Some("disabled") => false,
        Some("optional") => possible,
        Some("required") if possible => true,
        Some("required") => {
            let message = "this host has no firmware with secure boot";
            return Err(GuestError::host("SecureBootNotSupported", message));
        }
        Some(other) => {
            let message = format!("{other:?} is no secure boot policy");
            return Err(GuestError::invalid("Invalid", message));
        }
    };
    // Files chosen for the other kind of boot don't fit any more.
    let fits = |files: &FirmwareFiles| {
        *files != FirmwareFiles::default() && files.secure.unwrap_or(false) == secure_boot
    };
    let files = input.firmware.clone().filter(fits);
    Ok(Some(UefiSpec { secure_boot, stateless, files }))
}
