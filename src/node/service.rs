//! This host's nova-compute service on record: registered at start, then kept alive by a heartbeat.
//! The control plane sends work to a host whose service is up and not disabled; whether it is, the
//! operator says, and the agent never changes it back.
//! nova: service.py; servicegroup/drivers/db.py

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::level::{CellVersions, NEWEST};
use crate::config::Config;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::Service;
use crate::records::conductor::{Conductor, ConductorError};
use crate::telemetry::Chain;

const BINARY: &str = "nova-compute";
const TOPIC: &str = "compute";
/// A conductor that has just started may not be on record yet.
const CONDUCTOR_TRIES: u32 = 5;
const CONDUCTOR_PAUSE: Duration = Duration::from_secs(1);
/// How often the control plane is asked whether it has been upgraded.
const LEVEL_EVERY: Duration = Duration::from_secs(600);
/// What an automatic reason begins with: only what was disabled automatically is enabled so.
/// nova: virt/libvirt/driver.py, DISABLE_PREFIX
const AUTOMATIC: &str = "AUTO: ";

#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// `[DEFAULT] host`
    pub host: String,
    /// `[DEFAULT] report_interval`
    pub report_interval: Duration,
    /// `[workarounds] disable_compute_service_check_for_ffu`
    pub allow_old_computes: bool,
}

impl ServiceOptions {
    pub fn from_config(config: &Config) -> Self {
        Self {
            host: config.default_.host.clone(),
            report_interval: config.default_.report_interval,
            allow_old_computes: config.workarounds.disable_compute_service_check_for_ffu,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// nova: TooOldComputeService
    #[error(
        "this cell has nova-compute services of version {found}, and the control plane works with \
         {oldest} and newer only: upgrade them, or set [workarounds] \
         disable_compute_service_check_for_ffu"
    )]
    OldComputes { found: i64, oldest: i64 },
    /// nova: ServiceTooOld
    #[error(
        "all nova-compute services of this cell have version {found} or newer, and this agent \
         knows up to {NEWEST}: it needs an upgrade"
    )]
    NewComputes { found: i64 },
    #[error("nova-conductor has no record of host {0}'s service, after it was created")]
    Vanished(String),
    #[error(transparent)]
    Conductor(#[from] ConductorError),
}

impl ServiceError {
    pub fn class(&self) -> Class {
        match self {
            Self::OldComputes { .. } | Self::NewComputes { .. } => Class::Refused,
            Self::Vanished(_) => Class::Transient,
            Self::Conductor(error) => error.class(),
        }
    }
}

/// What was found of this host's service before the start. Nothing is written until
/// [`Found::register`]: the node's identity is looked at in between.
#[derive(Debug)]
pub struct Found {
    conductor: Conductor,
    context: RequestContext,
    options: ServiceOptions,
    service: Option<Service>,
    version: i64,
}

/// Looks for this host's service, and whether it may start beside the others.
///
/// # Errors
/// [`ServiceError::OldComputes`], [`ServiceError::NewComputes`]; the conductor's.
pub async fn find(conductor: &Conductor, options: ServiceOptions) -> Result<Found, ServiceError> {
    let (conductor, context) = (conductor.clone(), RequestContext::admin());
    let (service, cell) = tokio::try_join!(
        conductor.service(&context, &options.host, BINARY),
        cell_versions(&conductor, &context),
    )?;
    if let Some(oldest) = cell.too_old() {
        let refusal = ServiceError::OldComputes { found: cell.compute, oldest };
        match options.allow_old_computes {
            true => warn!("{refusal}"),
            false => return Err(refusal),
        }
    }
    let newer = || ServiceError::NewComputes { found: cell.compute };
    let version = cell.to_report().ok_or_else(newer)?;
    Ok(Found { conductor, context, options, service, version })
}

/// Waits a moment for conductors that aren't on record, as they will be.
async fn cell_versions(
    conductor: &Conductor,
    context: &RequestContext,
) -> Result<CellVersions, ConductorError> {
    for _ in 1..CONDUCTOR_TRIES {
        let cell = ask_versions(conductor, context).await?;
        if cell.conductor != 0 {
            return Ok(cell);
        }
        tokio::time::sleep(CONDUCTOR_PAUSE).await;
    }
    let cell = ask_versions(conductor, context).await?;
    if cell.conductor == 0 {
        warn!("no nova-conductor is on record as running: its release isn't known");
    }
    Ok(cell)
}

async fn ask_versions(
    conductor: &Conductor,
    context: &RequestContext,
) -> Result<CellVersions, ConductorError> {
    let (conductor, compute) = tokio::try_join!(
        conductor.minimum_version(context, "nova-conductor"),
        conductor.minimum_version(context, BINARY),
    )?;
    Ok(CellVersions { conductor, compute })
}

impl Found {
    /// The record as it is; `None` for a host that is new to the control plane.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_ref()
    }

    /// Writes the record: creates it, or updates its version.
    ///
    /// # Errors
    /// The conductor's.
    pub async fn register(self) -> Result<NovaService, ServiceError> {
        let Self { conductor, context, options, service, version } = self;
        let mut service = match service {
            Some(service) => service,
            None => create(&conductor, &context, &options.host, version).await?,
        };
        let recorded = service.version.get().copied();
        if recorded != Some(version) {
            info!(from = recorded, to = version, "the service's version changes");
            service.version.set(version);
            conductor.save_service(&context, &mut service).await?;
        }
        let found = Status { disabled: false, forced_down: false, ..Status::of(&service) };
        let registered = NovaService {
            conductor,
            context,
            options,
            status: Mutex::new(found),
            link: Mutex::new(Link::Up),
            record: tokio::sync::Mutex::new((service.clone(), Instant::now())),
        };
        registered.see(&service);
        Ok(registered)
    }
}

async fn create(
    conductor: &Conductor,
    context: &RequestContext,
    host: &str,
    version: i64,
) -> Result<Service, ServiceError> {
    let mut service = Service::default();
    service.host.set(Some(host.to_owned()));
    service.binary.set(Some(BINARY.to_owned()));
    service.topic.set(Some(TOPIC.to_owned()));
    service.report_count.set(0);
    service.version.set(version);
    let error = match conductor.create_service(context, &mut service).await {
        Ok(()) => {
            info!(version, "registered this host's service");
            return Ok(service);
        }
        Err(error) => error,
    };
    // Another start of ours has made it, or this one has and didn't hear of it.
    let exists = error.is("ServiceBinaryExists") || error.is("ServiceTopicExists");
    if !exists && !error.is_unanswered() {
        return Err(error.into());
    }
    match conductor.service(context, host, BINARY).await? {
        Some(service) => Ok(service),
        None if exists => Err(ServiceError::Vanished(host.to_owned())),
        None => {
            conductor.create_service(context, &mut service).await?;
            Ok(service)
        }
    }
}

/// The service's record, as it was last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub id: i64,
    /// The version that is reported: what the control plane believes that this host can do.
    pub version: i64,
    /// No new instances are sent here.
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    /// The operator has declared this host dead, whatever its heartbeats say.
    pub forced_down: bool,
}

impl Status {
    fn of(service: &Service) -> Self {
        Self {
            id: service.id.get().copied().unwrap_or_default(),
            version: service.version.get().copied().unwrap_or_default(),
            disabled: service.disabled.get().copied().unwrap_or_default(),
            disabled_reason: service.disabled_reason.value().cloned(),
            forced_down: service.forced_down.get().copied().unwrap_or_default(),
        }
    }
}

/// How the heartbeats fare. What changes is logged, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    /// The conductor doesn't answer.
    Silent,
    /// The record was deleted.
    Gone,
    /// The conductor refuses them.
    Refused,
}

/// This host's service, registered.
#[derive(Debug)]
pub struct NovaService {
    conductor: Conductor,
    context: RequestContext,
    options: ServiceOptions,
    status: Mutex<Status>,
    link: Mutex<Link>,
    /// The record, and when the control plane was asked for its release. Held while it is written,
    /// so that no two writes cross.
    record: tokio::sync::Mutex<(Service, Instant)>,
}

impl NovaService {
    /// As of the last heartbeat.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that this host is alive. What the operator has changed is taken over with the answer.
    /// A heartbeat that is due while the last one still waits is left out. Failures are logged,
    /// once, and the next heartbeat tells of them, too.
    pub async fn beat(&self) {
        let Ok(mut record) = self.record.try_lock() else {
            return debug!("the last heartbeat is not over yet");
        };
        let (service, asked) = &mut *record;
        if asked.elapsed() >= LEVEL_EVERY {
            *asked = Instant::now();
            self.follow_release(service).await;
        }
        service.report_count.set(service.report_count.get().copied().unwrap_or(0) + 1);
        // A heartbeat that comes later is as good as none: the next one is under way by then.
        let within = self.options.report_interval * 3;
        let beaten = self.conductor.save_service_once(&self.context, service, within).await;
        if beaten.is_ok() {
            self.see(service);
        }
        self.tell(beaten);
    }

    /// Raises the version when the whole control plane has been upgraded; it goes out with the
    /// heartbeat.
    async fn follow_release(&self, service: &mut Service) {
        let asked = ask_versions(&self.conductor, &self.context);
        // The heartbeat waits for it.
        let cell = match tokio::time::timeout(self.options.report_interval, asked).await {
            Ok(Ok(cell)) => cell,
            Ok(Err(error)) => return debug!(error = %Chain(&error), "the release is not known"),
            Err(_) => return debug!("the release is not known in time"),
        };
        let own = service.version.get().copied().unwrap_or_default();
        match cell.to_report() {
            Some(version) if version > own => {
                info!(from = own, to = version, "the control plane was upgraded");
                service.version.set(version);
            }
            _ => {}
        }
    }

    /// Takes this host out of service, and back into it, for a cause of the agent's own such as a
    /// libvirt that is away. `reason`: why not; `None`: all is well. What an operator has disabled
    /// stays so. Says whether anything was changed: placement is to be told then.
    /// nova: virt/libvirt/driver.py, `_set_host_enabled`
    ///
    /// # Errors
    /// The conductor's.
    pub async fn set_enabled(&self, reason: Option<&str>) -> Result<bool, ConductorError> {
        let mut record = self.record.lock().await;
        let found = self.conductor.service(&self.context, &self.options.host, BINARY).await?;
        let Some(found) = found else { return Ok(false) };
        let now = Status::of(&found);
        let automatic = now.disabled_reason.is_some_and(|reason| reason.starts_with(AUTOMATIC));
        if now.disabled == reason.is_some() || now.disabled && !automatic {
            return Ok(false);
        }
        let own = std::mem::replace(&mut record.0, found);
        // Ours may be ahead: a count that falls back is no sign of life.
        record.0.report_count = own.report_count;
        record.0.version = own.version;
        record.0.disabled.set(reason.is_some());
        record.0.disabled_reason.set(reason.map(|reason| format!("{AUTOMATIC}{reason}")));
        self.conductor.save_service(&self.context, &mut record.0).await?;
        self.see(&record.0);
        Ok(true)
    }

    /// Takes note of the record, and tells when an operator has changed it.
    fn see(&self, service: &Service) {
        let status = Status::of(service);
        let mut seen = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.disabled != status.disabled {
            let reason = status.disabled_reason.as_deref().unwrap_or("none given");
            match status.disabled {
                true => warn!(reason, "this host's service is disabled: it gets no new instances"),
                false => info!("this host's service is enabled"),
            }
        }
        if seen.forced_down != status.forced_down {
            match status.forced_down {
                true => warn!("this host is forced down: it counts as dead until that is undone"),
                false => info!("this host is no longer forced down"),
            }
        }
        *seen = status;
    }

    fn tell(&self, beaten: Result<(), ConductorError>) {
        let link = match &beaten {
            Ok(()) => Link::Up,
            Err(error) if error.class() == Class::Transient => Link::Silent,
            Err(error) if error.is("ServiceNotFound") => Link::Gone,
            Err(_) => Link::Refused,
        };
        let before = std::mem::replace(&mut *self.link(), link);
        if before == link {
            return;
        }
        let error = beaten.err();
        let error = error.as_ref().map(|error| Chain(error).to_string()).unwrap_or_default();
        match link {
            Link::Up => info!("heartbeats reach nova-conductor again"),
            Link::Silent => {
                warn!(error, "heartbeats don't reach nova-conductor: this host is down")
            }
            Link::Gone => error!(
                "this host's service was deleted: stop the agent if the host is to be removed, \
                 or restart it to register again"
            ),
            Link::Refused => error!(error, "nova-conductor refuses the heartbeats"),
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
