//! A guest's memory, saved to disk and back: for a suspend, and while a snapshot is taken of a guest
//! that can't be copied as it runs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::engine::Stage;
use super::instance::{await_domain, await_no_job, is_active};
use super::{Backends, StepError, StepResult};
use crate::hypervisor::{HypervisorError, StartOptions};
use crate::model::state::PowerState;

/// Between two requests for a save's end.
const ABORT_AGAIN: Duration = Duration::from_secs(1);

/// Saves the guest's memory, and stops it. When a delete comes, libvirt is asked to abort that, and
/// the call is still waited for.
pub async fn save(stage: &Stage<'_>, uuid: Uuid) -> StepResult {
    let on = stage.on;
    // What an agent that died had begun may not be over yet.
    await_no_job(on, uuid, on.settings.save_timeout, stage.give_up).await?;
    begin_save(stage, uuid).await?;
    let is_saved = |found: Option<&_>| {
        found.is_some_and(|info: &crate::hypervisor::DomainInfo| {
            info.managed_save && !is_active(Some(info))
        })
    };
    let within = on.settings.state_timeout;
    await_domain(on, uuid, "saved", within, stage.give_up, is_saved).await?;
    Ok(())
}

async fn begin_save(stage: &Stage<'_>, uuid: Uuid) -> StepResult {
    let on = stage.on;
    let save = on.hypervisor.managed_save(uuid, on.settings.save_timeout);
    tokio::pin!(save);
    tokio::select! {
        saved = &mut save => return Ok(saved?),
        () = stage.give_up.cancelled() => {}
    }
    loop {
        // Asked too early, it finds no job yet.
        if let Err(error) = on.hypervisor.abort_job(uuid).await {
            tracing::debug!(%error, "the save could not be aborted");
        }
        tokio::select! {
            _ = &mut save => return Err(StepError::Cancelled),
            () = tokio::time::sleep(ABORT_AGAIN) => {}
        }
    }
}

/// Ends a save that is under way, and lets a guest that was saved go on as it was `before`.
pub async fn take_back(on: &Backends, uuid: Uuid, before: Option<PowerState>) -> StepResult {
    on.hypervisor.abort_job(uuid).await?;
    let never = CancellationToken::new();
    await_no_job(on, uuid, on.settings.state_timeout, &never).await?;
    match restore(on, uuid, before).await {
        Ok(()) | Err(HypervisorError::NoDomain(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Lets a guest that was saved go on as it was `before`. The image holds its memory: it is restored,
/// and never dropped.
pub async fn restore(
    on: &Backends,
    uuid: Uuid,
    before: Option<PowerState>,
) -> Result<(), HypervisorError> {
    let found = on.hypervisor.domain(uuid).await?;
    if found.is_some_and(|info| info.managed_save) {
        let paused = before == Some(PowerState::Paused);
        let options = StartOptions { paused, force_boot: false };
        on.hypervisor.start(uuid, options).await?;
    }
    Ok(())
}
