//! Saving a guest's memory, and what may be left of a save that took too long: a call that runs on
//! here, or a job that runs on in libvirtd when nobody waits for it any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;
use uuid::Uuid;
use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt_sys as sys;

use super::Libvirt;
use super::domains::{find, ours};
use super::errors::Fault;
use crate::hypervisor::HypervisorError;

/// The domains whose save has a thread here, each as often as it has one.
#[derive(Debug, Clone, Default)]
pub(super) struct Saves(Arc<Mutex<Vec<Uuid>>>);

/// One of them, for as long as its thread may still ask libvirt.
struct Saving {
    saves: Saves,
    uuid: Uuid,
    /// Nobody waits for it: what hasn't begun must not begin.
    given_up: Arc<AtomicBool>,
}

impl Libvirt {
    /// See [`Hypervisor::managed_save`](crate::hypervisor::Hypervisor::managed_save).
    pub(super) async fn save(&self, uuid: Uuid, within: Duration) -> Result<(), HypervisorError> {
        let saving = self.saves.begin(uuid);
        let given_up = saving.given_up.clone();
        let after = within;
        let save = move |connect: &Connect| {
            let domain = ours(connect, uuid)?;
            if !domain.is_active()? && domain.has_managed_save(0)? {
                return Ok(());
            }
            if saving.given_up.load(Ordering::SeqCst) {
                return Err(HypervisorError::TimedOut { operation: "managed save", after }.into());
            }
            domain.managed_save(0)?;
            Ok(())
        };
        let saved = self.job_with(&self.memory_permits, "managed save", within, save).await;
        if matches!(saved, Err(HypervisorError::TimedOut { .. })) {
            given_up.store(true, Ordering::SeqCst);
            if let Err(error) = self.abort(uuid).await {
                warn!(instance_uuid = %uuid, %error, "a save that took too long goes on");
            }
        }
        saved
    }

    /// See [`Hypervisor::has_job`](crate::hypervisor::Hypervisor::has_job). libvirt: virDomainGetJobInfo
    pub(super) async fn is_at_work(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        if self.saves.lock().contains(&uuid) {
            return Ok(true);
        }
        self.call("look at jobs", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(false) };
            match domain.get_job_info() {
                Ok(job) => Ok(job.r#type == sys::VIR_DOMAIN_JOB_BOUNDED as i32
                    || job.r#type == sys::VIR_DOMAIN_JOB_UNBOUNDED as i32),
                // It doesn't run, or is gone, or its driver has no jobs.
                Err(error) if has_none(error.code()) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// See [`Hypervisor::abort_job`](crate::hypervisor::Hypervisor::abort_job).
    pub(super) async fn abort(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("abort job", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(()) };
            // SAFETY: the domain's handle is valid until the end of this closure.
            if unsafe { sys::virDomainAbortJob(domain.as_ptr()) } >= 0 {
                return Ok(());
            }
            match virt::error::Error::last_error() {
                error if has_none(error.code()) => Ok(()),
                error => Err(Fault::from(error)),
            }
        })
        .await
    }
}

fn has_none(code: ErrorNumber) -> bool {
    matches!(code, ErrorNumber::OperationInvalid | ErrorNumber::NoDomain | ErrorNumber::NoSupport)
}

impl Saves {
    fn begin(&self, uuid: Uuid) -> Saving {
        self.lock().push(uuid);
        Saving { saves: self.clone(), uuid, given_up: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        let mut all = self.saves.lock();
        if let Some(at) = all.iter().position(|uuid| *uuid == self.uuid) {
            all.swap_remove(at);
        }
    }
}
