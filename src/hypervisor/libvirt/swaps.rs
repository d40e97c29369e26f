//! One disk for another under a running guest. nova: virt/libvirt/driver.py, `_swap_volume`

use uuid::Uuid;
use virt_sys as sys;

use super::Libvirt;
use super::blocks::{checked, facts, look, text};
use super::domains::ours;
use super::errors::Fault;
use super::xml;
use crate::hypervisor::HypervisorError;
use crate::hypervisor::spec::DiskSpec;
use crate::model::class::Class;

impl Libvirt {
    /// See [`Hypervisor::start_disk_swap`](crate::hypervisor::Hypervisor::start_disk_swap). A
    /// transient job works beside the definition, which stays with the old disk until the pivot.
    pub(super) async fn begin_disk_swap(
        &self,
        uuid: Uuid,
        to: &DiskSpec,
    ) -> Result<(), HypervisorError> {
        let operation = "start disk swap";
        let (target, to) = (text(&to.target)?, to.clone());
        self.job(operation, self.options.job_timeout, move |connect| {
            let domain = ours(connect, uuid)?;
            if let Some(job) = look(&domain, &target, &to.target)? {
                // A call whose answer was lost has begun it.
                if job.file.as_deref() == to.source.path() {
                    return Ok(());
                }
                let message = format!("disk {} has a job", to.target);
                let class = Class::Refused;
                return Err(HypervisorError::Refused { operation, message, class }.into());
            }
            let virt_type = facts(&domain, 0)?.virt_type;
            let destination = text(&xml::swap_xml(&to, &virt_type))?;
            let flags =
                sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
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

    /// See [`Hypervisor::pivot_block_job`](crate::hypervisor::Hypervisor::pivot_block_job).
    pub(super) async fn pivot(&self, uuid: Uuid, name: &str) -> Result<(), HypervisorError> {
        let target = text(name)?;
        self.job("pivot block job", self.options.job_timeout, move |connect| {
            let domain = ours(connect, uuid)?;
            let flags = sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT;
            // SAFETY: the domain and the string are valid during the call.
            let ended =
                unsafe { sys::virDomainBlockJobAbort(domain.as_ptr(), target.as_ptr(), flags) };
            checked(ended).map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }
}
