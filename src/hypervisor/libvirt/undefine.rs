//! Removing a definition, with what drivers can and flags they know.

use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt_sys as sys;

/// A driver that can't save has saved nothing.
pub(super) fn has_managed_save(domain: &Domain) -> Result<bool, virt::error::Error> {
    match domain.has_managed_save(0) {
        Err(error) if error.code() == ErrorNumber::NoSupport => Ok(false),
        result => result,
    }
}

/// Removes a definition with all that belongs to it, by the flags this libvirt knows.
///
/// nova: virt/libvirt/guest.py, `delete_configuration`
pub(super) fn undefine_wholly(domain: &Domain) -> Result<(), virt::error::Error> {
    let saved = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE;
    let snapshots = saved | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
    let nvram = snapshots | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    let all = nvram | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    for flags in [all, nvram, snapshots, saved] {
        match domain.undefine_flags(flags) {
            Err(error) if is_unknown_flag(&error) => {}
            result => return result,
        }
    }
    if has_managed_save(domain)? {
        domain.managed_save_remove(0)?;
    }
    domain.undefine()
}

pub(super) fn is_unknown_flag(error: &virt::error::Error) -> bool {
    matches!(
        error.code(),
        ErrorNumber::InvalidArg | ErrorNumber::NoSupport | ErrorNumber::ArgumentUnsupported
    )
}
