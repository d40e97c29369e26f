//! Jobs on the disks of running domains.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use super::Libvirt;
use super::domains::{find, found, ours};
use super::errors::Fault;
use super::xml;
use super::xml::read::{DiskFacts, DomainFacts};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::{BlockCopy, BlockJob, DomainDisk};
use crate::model::class::Class;

impl Libvirt {
    /// See [`Hypervisor::disks`](crate::hypervisor::Hypervisor::disks).
    pub(super) async fn disks_of(&self, uuid: Uuid) -> Result<Vec<DomainDisk>, HypervisorError> {
        self.call("read disks", move |connect| {
            let domain = found(connect, uuid)?;
            Ok(disk_facts(&domain)?.into_iter().map(disk).collect())
        })
        .await
    }

    /// See [`Hypervisor::start_block_copy`](crate::hypervisor::Hypervisor::start_block_copy).
    /// libvirt: virDomainBlockCopy. A transient job is one that may be lost with its domain; only
    /// that works beside a definition.
    pub(super) async fn begin_block_copy(
        &self,
        uuid: Uuid,
        copy: &BlockCopy,
    ) -> Result<(), HypervisorError> {
        let operation = "start block copy";
        let (target, destination) = (text(&copy.target)?, text(&xml::copy_xml(copy))?);
        let copy = copy.clone();
        self.job(operation, self.options.job_timeout, move |connect| {
            let domain = ours(connect, uuid)?;
            if let Some(job) = look(&domain, &target, &copy.target)? {
                // A call whose answer was lost has begun it.
                if job.file.as_ref() == Some(&copy.file) {
                    return Ok(());
                }
                let message = format!("disk {} has a job", copy.target);
                let class = Class::Refused;
                return Err(HypervisorError::Refused { operation, message, class }.into());
            }
            let mut flags =
                sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
            if copy.shallow {
                flags |= sys::VIR_DOMAIN_BLOCK_COPY_SHALLOW;
            }
            // SAFETY: the domain and both strings are valid during the call; no parameters.
            let begun = unsafe {
                sys::virDomainBlockCopy(
                    domain.as_ptr(),
                    target.as_ptr(),
                    destination.as_ptr(),
                    std::ptr::null_mut(),
                    0,
                    flags,
                )
            };
            checked(begun).map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }

    /// See [`Hypervisor::block_job`](crate::hypervisor::Hypervisor::block_job).
    pub(super) async fn look_at_block_job(
        &self,
        uuid: Uuid,
        name: &str,
    ) -> Result<Option<BlockJob>, HypervisorError> {
        let (target, name) = (text(name)?, name.to_owned());
        self.call("look at block job", move |connect| match find(connect, uuid)? {
            Some(domain) => look(&domain, &target, &name),
            None => Ok(None),
        })
        .await
    }

    /// See [`Hypervisor::abort_block_job`](crate::hypervisor::Hypervisor::abort_block_job).
    pub(super) async fn end_block_job(
        &self,
        uuid: Uuid,
        name: &str,
    ) -> Result<bool, HypervisorError> {
        let (target, name) = (text(name)?, name.to_owned());
        self.job("abort block job", self.options.job_timeout, move |connect: &Connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(false) };
            if look(&domain, &target, &name)?.is_none() {
                return Ok(false);
            }
            super::domains::must_be_ours(&domain)?;
            // SAFETY: the domain and the string are valid during the call.
            let ended = unsafe { sys::virDomainBlockJobAbort(domain.as_ptr(), target.as_ptr(), 0) };
            match checked(ended) {
                // It has ended by itself.
                Err(_) if look(&domain, &target, &name)?.is_none() => Ok(false),
                ended => Ok(ended.map(|()| true)?),
            }
        })
        .await
    }
}

/// The job on the disk `name`, as libvirt and the running definition have it.
pub(super) fn look(
    domain: &Domain,
    target: &CString,
    name: &str,
) -> Result<Option<BlockJob>, Fault> {
    let mut info = MaybeUninit::<sys::virDomainBlockJobInfo>::zeroed();
    // SAFETY: the domain and the string are valid, and there is a place for the answer.
    let found = unsafe {
        sys::virDomainGetBlockJobInfo(domain.as_ptr(), target.as_ptr(), info.as_mut_ptr(), 0)
    };
    if found < 0 {
        let error = Error::last_error();
        // It doesn't run, or is gone, or its driver has no jobs.
        return match error.code() {
            ErrorNumber::OperationInvalid | ErrorNumber::NoDomain | ErrorNumber::NoSupport => {
                Ok(None)
            }
            _ => Err(error.into()),
        };
    }
    let facts = disk_facts(domain)?.into_iter().find(|disk| disk.target == name);
    let mirror = facts.and_then(|disk| disk.mirror);
    if found == 0 && mirror.is_none() {
        return Ok(None);
    }
    // SAFETY: zeroed is a valid value of this struct of numbers, filled or not.
    let info = unsafe { info.assume_init() };
    // Before QEMU knows how much there is to do, both are 0.
    let is_whole = info.cur == info.end && info.end > 0;
    Ok(Some(BlockJob {
        done: info.cur,
        total: info.end,
        ready: mirror.as_ref().is_some_and(|mirror| mirror.ready) && (is_whole || found == 0),
        file: mirror.and_then(|mirror| mirror.file).map(PathBuf::from),
    }))
}

fn disk_facts(domain: &Domain) -> Result<Vec<DiskFacts>, Fault> {
    Ok(facts(domain, 0)?.disks)
}

/// What the domain is made of, by its XML with those flags.
pub(super) fn facts(domain: &Domain, flags: u32) -> Result<DomainFacts, Fault> {
    let xml = domain.get_xml_desc(flags)?;
    let facts = xml::read::domain_facts(&xml).map_err(|error| HypervisorError::Garbled {
        operation: "read disks",
        message: error.to_string(),
    })?;
    Ok(facts)
}

pub(super) fn disk(facts: DiskFacts) -> DomainDisk {
    DomainDisk {
        target: facts.target,
        device: facts.device,
        source: facts.source.map(PathBuf::from),
        format: facts.format,
        bus: facts.bus,
        serial: facts.serial,
        alias: facts.alias,
    }
}

/// Text for C.
pub(super) fn text(text: &str) -> Result<CString, HypervisorError> {
    CString::new(text).map_err(|_| HypervisorError::Garbled {
        operation: "name a disk",
        message: "a NUL in its name".to_owned(),
    })
}

pub(super) fn checked(result: i32) -> Result<(), Error> {
    if result < 0 { Err(Error::last_error()) } else { Ok(()) }
}
