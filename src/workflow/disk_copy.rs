//! A disk copied beside its running guest, and the moment at which the copy is cut off.
//! nova: virt/libvirt/driver.py, `_live_snapshot`

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::engine::Stage;
use super::{Backends, StepError, StepResult};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::{BlockCopy, BlockJob};
use crate::images::Disk;
use crate::model::object::{FlexibleBoolean, ImageMetaProps, Instance};
use crate::telemetry::Chain;

/// How often a copy is looked at while an event is awaited: events can be lost, and tell no
/// progress.
const POLL: Duration = Duration::from_millis(500);

/// Whether the guest's file systems are frozen while the copy is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiesce {
    /// Its image doesn't say that there is a guest agent.
    Never,
    /// If the guest agent does it.
    IfPossible,
    /// There is no snapshot without.
    Required,
}

impl Quiesce {
    /// As the image's properties ask for it.
    ///
    /// # Errors
    /// `NoGuestAgent`, `QuiesceNotSupported` when it is required and can't be.
    pub fn of(
        instance: &Instance,
        image: &ImageMetaProps,
        on: &Backends,
    ) -> Result<Self, StepError> {
        let is_required = image.os_require_quiesce.get().is_some_and(FlexibleBoolean::is_true);
        match can_quiesce(instance, image, on) {
            Ok(()) if is_required => Ok(Self::Required),
            Ok(()) => Ok(Self::IfPossible),
            Err(error) if is_required => Err(error),
            Err(_) => Ok(Self::Never),
        }
    }
}

/// Whether the guest's file systems can be frozen. nova: virt/libvirt/driver.py, `_can_quiesce`
///
/// # Errors
/// `QuiesceNotSupported`, `NoGuestAgent`.
pub fn can_quiesce(instance: &Instance, image: &ImageMetaProps, on: &Backends) -> StepResult {
    if !["kvm", "qemu"].contains(&on.settings.virt_type.as_str()) {
        return Err(StepError::QuiesceNotSupported(instance.uuid()?));
    }
    match image.hw_qemu_guest_agent.get() {
        Some(flag) if flag.is_true() => Ok(()),
        _ => Err(StepError::NoGuestAgent),
    }
}

/// A copy to be made.
#[derive(Debug, Clone, Copy)]
pub struct DiskCopy<'a> {
    pub uuid: Uuid,
    /// The snapshot whose directory the copy is made in.
    pub snapshot: Uuid,
    /// The disk's name in the guest.
    pub target: &'a str,
    pub disk: &'a Disk,
    pub quiesce: Quiesce,
}

impl DiskCopy<'_> {
    /// Makes the copy: the disk as it was at one moment, with the disk's own backing file behind it.
    /// A repeat makes it anew.
    pub async fn make(&self, stage: &Stage<'_>) -> Result<Disk, StepError> {
        let on = stage.on;
        // What an attempt that was cut off has left.
        self.take_back(on).await?;
        let delta = on.snapshots.create_delta(self.snapshot, self.disk).await?;
        let copy = BlockCopy {
            target: self.target.to_owned(),
            file: delta.path.clone(),
            format: delta.format.clone(),
            shallow: true,
        };
        on.hypervisor.start_block_copy(self.uuid, &copy).await?;
        self.await_ready(stage).await?;
        let is_frozen = self.freeze(on).await?;
        let ended = self.cut_off(on).await;
        // Whatever came of it: the guest must write again.
        let thawed = match is_frozen {
            true => on.hypervisor.thaw(self.uuid).await,
            false => Ok(()),
        };
        ended?;
        thawed?;
        Ok(delta)
    }

    /// Ends the copy that this snapshot has begun, if it runs, and lets the guest write again.
    pub async fn take_back(&self, on: &Backends) -> StepResult {
        let file = on.snapshots.delta(self.snapshot);
        let job = on.hypervisor.block_job(self.uuid, self.target).await?;
        if job.is_some_and(|job| job.file.as_ref() == Some(&file)) {
            on.hypervisor.abort_block_job(self.uuid, self.target).await?;
        }
        if self.quiesce == Quiesce::Never {
            return Ok(());
        }
        match on.hypervisor.thaw(self.uuid).await {
            // Nobody there to have been frozen.
            Err(HypervisorError::NoAgent { .. } | HypervisorError::NoDomain(_)) => Ok(()),
            Err(HypervisorError::Refused { message, .. }) => {
                info!(message, "the guest isn't thawed");
                Ok(())
            }
            thawed => Ok(thawed?),
        }
    }

    /// Waits until the copy is whole: by events, with polling behind them.
    async fn await_ready(&self, stage: &Stage<'_>) -> StepResult {
        let (on, within) = (stage.on, stage.on.settings.snapshots.copy_timeout);
        let deadline = Instant::now() + within;
        // Subscribed before the first look, so that no change falls in between.
        let mut events = on.hypervisor.block_job_events();
        loop {
            let late = Instant::now() >= deadline;
            match on.hypervisor.block_job(self.uuid, self.target).await {
                Ok(Some(BlockJob { ready: true, total, .. })) => {
                    stage.running.progress(total, Some(total));
                    return Ok(());
                }
                Ok(None) => return Err(self.failed()),
                Ok(Some(job)) if late => {
                    let found = format!("{} of {} bytes", job.done, job.total);
                    return Err(StepError::NotThere { wanted: "copied", found, within });
                }
                Err(error) if late => return Err(error.into()),
                Ok(Some(job)) => {
                    stage.running.progress(job.done, Some(job.total).filter(|total| *total > 0));
                }
                // libvirtd may be restarting: the deadline decides.
                Err(_) => {}
            }
            let poll = tokio::time::sleep(POLL);
            tokio::pin!(poll);
            loop {
                tokio::select! {
                    () = &mut poll => break,
                    () = stage.give_up.cancelled() => return Err(StepError::Cancelled),
                    event = events.recv() => match event {
                        Ok(event) if event.instance_uuid == self.uuid => break,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => { (&mut poll).await; break; }
                    },
                }
            }
        }
    }

    /// Freezes the guest's file systems, if that is wanted; says whether they are.
    async fn freeze(&self, on: &Backends) -> Result<bool, StepError> {
        if self.quiesce == Quiesce::Never {
            return Ok(false);
        }
        match on.hypervisor.freeze(self.uuid).await {
            Ok(()) => Ok(true),
            Err(error) if self.quiesce == Quiesce::Required => {
                Err(StepError::QuiesceFailed(Chain(&error).to_string()))
            }
            Err(error) => {
                // It may have frozen some all the same.
                let thawed = on.hypervisor.thaw(self.uuid).await;
                let thawed = thawed.is_ok();
                warn!(error = %Chain(&error), thawed, "a snapshot without quiescing the guest");
                Ok(false)
            }
        }
    }

    /// Ends the copy's job at this moment. One that has failed since it was whole isn't a copy.
    async fn cut_off(&self, on: &Backends) -> StepResult {
        match on.hypervisor.abort_block_job(self.uuid, self.target).await? {
            true => Ok(()),
            false => Err(self.failed()),
        }
    }

    fn failed(&self) -> StepError {
        StepError::CopyFailed { target: self.target.to_owned() }
    }
}
