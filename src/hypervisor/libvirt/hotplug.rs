//! Disks that come to a domain, and go: its definition at once, its guest when that has let go.

use tracing::debug;
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use super::Libvirt;
use super::blocks::{self, disk, facts};
use super::domains::{find, found, must_be_ours, ours};
use super::errors::Fault;
use super::xml;
use super::xml::read::{DiskFacts, DomainFacts};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::{DomainDisk, VolumeDisk};
use crate::hypervisor::spec::DiskSpec;
use crate::model::class::Class;

impl Libvirt {
    /// See [`Hypervisor::defined_disks`](crate::hypervisor::Hypervisor::defined_disks).
    pub(super) async fn disks_of_definition(
        &self,
        uuid: Uuid,
    ) -> Result<Vec<DomainDisk>, HypervisorError> {
        self.call("read defined disks", move |connect| {
            let domain = found(connect, uuid)?;
            let facts = facts(&domain, sys::VIR_DOMAIN_XML_INACTIVE)?;
            Ok(facts.disks.into_iter().map(disk).collect())
        })
        .await
    }

    /// See [`Hypervisor::attach_disk`](crate::hypervisor::Hypervisor::attach_disk). Both at once,
    /// as nova does: libvirt then writes the definition only when the guest has the disk.
    pub(super) async fn add_disk(
        &self,
        uuid: Uuid,
        spec: &DiskSpec,
    ) -> Result<(), HypervisorError> {
        let spec = spec.clone();
        self.job("attach disk", self.options.job_timeout, move |connect| {
            let domain = ours(connect, uuid)?;
            let defined = facts(&domain, sys::VIR_DOMAIN_XML_INACTIVE)?;
            let mut flags = 0;
            if !has(&defined, &spec)? {
                flags |= sys::VIR_DOMAIN_AFFECT_CONFIG;
            }
            let mut spec = spec.clone();
            let mut around = defined;
            if domain.is_active()? {
                around = facts(&domain, 0)?;
                if !has(&around, &spec)? {
                    flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
                }
            }
            if flags == 0 {
                return Ok(());
            }
            if spec.bus == "scsi" {
                spec.scsi_unit = Some(next_unit(&around.disks));
            }
            let xml = xml::disk_xml(&spec, &around.virt_type);
            domain
                .attach_device_flags(&xml, flags)
                .map(drop)
                .map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }

    /// See [`Hypervisor::forget_disk`](crate::hypervisor::Hypervisor::forget_disk).
    pub(super) async fn take_disk_from_definition(
        &self,
        uuid: Uuid,
        volume: &VolumeDisk,
    ) -> Result<(), HypervisorError> {
        let volume = volume.clone();
        self.call("take disk from definition", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(()) };
            must_be_ours(&domain)?;
            let Some(there) = look_for(&domain, &volume, sys::VIR_DOMAIN_XML_INACTIVE)? else {
                return Ok(());
            };
            match detach(&domain, &there, sys::VIR_DOMAIN_AFFECT_CONFIG) {
                Err(error) if is_missing(&error) => Ok(()),
                detached => Ok(detached?),
            }
        })
        .await
    }

    /// See [`Hypervisor::release_disk`](crate::hypervisor::Hypervisor::release_disk).
    pub(super) async fn ask_for_disk(
        &self,
        uuid: Uuid,
        volume: &VolumeDisk,
    ) -> Result<Option<String>, HypervisorError> {
        let volume = volume.clone();
        self.call("release disk", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(None) };
            must_be_ours(&domain)?;
            if !domain.is_active()? {
                return Ok(None);
            }
            let Some(there) = look_for(&domain, &volume, 0)? else { return Ok(None) };
            let alias = there.alias.clone().unwrap_or_default();
            match detach(&domain, &there, sys::VIR_DOMAIN_AFFECT_LIVE) {
                Ok(()) => Ok(Some(alias)),
                Err(error) if is_missing(&error) => Ok(None),
                // nova: `_detach_sync`; the event of the first request tells.
                Err(error) if error.message().contains("already in the process of unplug") => {
                    debug!(alias, "it is being let go of already");
                    Ok(Some(alias))
                }
                Err(error) => Err(Fault::for_domain(error, uuid)),
            }
        })
        .await
    }

    /// See [`Hypervisor::resize_disk`](crate::hypervisor::Hypervisor::resize_disk).
    pub(super) async fn grow_disk(
        &self,
        uuid: Uuid,
        target: &str,
        bytes: u64,
    ) -> Result<(), HypervisorError> {
        let target = target.to_owned();
        self.job("resize disk", self.options.job_timeout, move |connect| {
            let domain = ours(connect, uuid)?;
            let name = blocks::text(&target)?;
            // SAFETY: the domain and the string are valid during the call.
            let resized = unsafe {
                sys::virDomainBlockResize(
                    domain.as_ptr(),
                    name.as_ptr(),
                    bytes,
                    sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES,
                )
            };
            blocks::checked(resized).map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }
}

/// Whether the disk is there already.
///
/// # Errors
/// `Refused` when its name is another disk's.
fn has(facts: &DomainFacts, spec: &DiskSpec) -> Result<bool, Fault> {
    let same = |disk: &DiskFacts| {
        let by_alias = spec.alias.is_some() && disk.alias == spec.alias;
        let by_serial = spec.serial.is_some() && disk.serial == spec.serial;
        by_alias || by_serial
    };
    if facts.disks.iter().any(same) {
        return Ok(true);
    }
    let path = spec.source.path().map(|path| path.to_string_lossy());
    let Some(other) = facts.disks.iter().find(|disk| disk.target == spec.target) else {
        return Ok(false);
    };
    // One that took another one's place keeps that one's serial.
    if path.is_some() && other.source.as_deref() == path.as_deref() {
        return Ok(true);
    }
    let message = format!("{} is another disk", spec.target);
    let (operation, class) = ("attach disk", Class::Refused);
    Err(HypervisorError::Refused { operation, message, class }.into())
}

/// nova: virt/libvirt/driver.py, `_get_scsi_controller_next_unit`
fn next_unit(disks: &[DiskFacts]) -> u32 {
    let scsi = disks.iter().filter(|disk| disk.bus.as_deref() == Some("scsi"));
    scsi.filter_map(|disk| disk.unit).max().map_or(0, |last| last.saturating_add(1))
}

fn look_for(domain: &Domain, volume: &VolumeDisk, flags: u32) -> Result<Option<DomainDisk>, Fault> {
    let disks = facts(domain, flags)?.disks.into_iter().map(disk);
    Ok(disks.into_iter().find(|disk| volume.is(disk)))
}

fn detach(domain: &Domain, disk: &DomainDisk, flags: u32) -> Result<(), Error> {
    let bus = disk.bus.as_deref().unwrap_or("virtio");
    let xml = xml::named_disk_xml(&disk.target, bus);
    domain.detach_device_flags(&xml, flags).map(drop)
}

/// nova: virt/libvirt/driver.py, `_detach_sync`
pub(super) fn is_missing(error: &Error) -> bool {
    match error.code() {
        ErrorNumber::DeviceMissing | ErrorNumber::NoDomain => true,
        ErrorNumber::OperationFailed => error.message().contains("not found"),
        // The guest has stopped meanwhile.
        ErrorNumber::OperationInvalid => error.message().contains("not running"),
        _ => false,
    }
}
