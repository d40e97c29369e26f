//! The agent: what is started in which order, and stopped in which.
//!
//! ```text
//! start: journal ─▶ hypervisor ─▶ records ─▶ take up workflows ─▶ socket, bus ─▶ ready
//!                                                  └─▶ recovery ─▶ periodic tasks
//! stop:  no more requests ─▶ periodic tasks end ─▶ workflows finish or park ─▶ answers go out
//!        ─▶ connections close
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::hypernova::ControlPlane;
use crate::config::{Config, ConfigError, Source};
use crate::dispatch::own::OwnRequests;
use crate::dispatch::{Dispatcher, Limits};
use crate::health::{Component, Health, HealthError, HealthServer, Metrics, State};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::images::ImageError;
use crate::model::object::NameError;
use crate::network::NetworkError;
use crate::node::NodeError;
use crate::node::identity::IdentityError;
use crate::node::service::ServiceError;
use crate::openstack::session::SessionError;
use crate::records::conductor::UnknownLevel;
use crate::records::history::History;
use crate::records::sqlite::OpenError;
use crate::records::upkeep::Upkeep;
use crate::rpc::amqp::Consuming;
use crate::rpc::bus::{Bus, BusError};
use crate::rpc::counters::Counts;
use crate::rpc::incoming::Incoming;
use crate::rpc::local::{LocalError, LocalServer};
use crate::rpc::operator::Operator;
use crate::rpc::server::Server;
use crate::rpc::transport_url::TransportUrlError;
use crate::service::{ServiceManager, Signals};
use crate::telemetry::{Chain, Telemetry};
use crate::workflow::Backends;
use crate::workflow::journal::JournalError;
use crate::workflow::serial_ports::relearn;
use crate::workflow::sqlite::SqliteJournal;
use connect::await_hypervisor;
use notifications::Notifications;

mod connect;
pub mod network;
mod notifications;
mod nova;
mod options;
mod periodics;
mod standalone;

pub use options::{bus_settings, libvirt_options, preview_settings};

/// How often the neighbours are looked at for `/healthz`.
const HEALTH_EVERY: Duration = Duration::from_secs(10);

/// When the first inventory and recovery are over as a rule: what they needed is given back then.
const FIRST_ROUNDS: Duration = Duration::from_secs(10);

/// How long replies and the fanout queues may take to go when the agent stops.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Requests from the socket that wait for the server.
const SOCKET_BACKLOG: usize = 64;

/// `max_concurrent_builds = 0` and the like: as many as there are.
const UNLIMITED: usize = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("[DEFAULT] transport_url is not set: nova's control plane is reached over RabbitMQ")]
    NoTransportUrl,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    UpgradeLevel(#[from] UnknownLevel),
    #[error("this host's service can't be registered")]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("[libvirt] virt_type = {0} is not supported")]
    VirtType(&'static str),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("[DEFAULT] transport_url")]
    TransportUrl(#[from] TransportUrlError),
    #[error("the message bus can't be set up")]
    Bus(#[from] BusError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Records(#[from] OpenError),
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Images(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("[DEFAULT] instance_usage_audit_period has no period {0:?}")]
    AuditPeriod(String),
    #[error("[DEFAULT] instance_name_template")]
    NameTemplate(#[from] NameError),
    #[error(transparent)]
    Socket(#[from] LocalError),
    #[error(transparent)]
    Health(#[from] HealthError),
    #[error("can't {operation} {}", path.display())]
    Directory {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("signals can't be received")]
    Signals(#[source] std::io::Error),
}

/// What the rest of the agent gets from its mode.
struct Plane {
    backends: Backends,
    /// What periodic tasks and recovery ask of the records.
    upkeep: Arc<dyn Upkeep>,
    /// What happened to each instance, for the commands.
    history: Option<Arc<dyn History>>,
    nova: Option<nova::Nova>,
}

/// Runs the agent until it is told to stop. `sources` is where `config` was read; `reload` reads the configuration again, for SIGHUP.
///
/// # Errors
/// [`AgentError`] for what waiting wouldn't mend. A libvirtd or a broker that is away is waited for.
pub async fn serve(
    config: Config,
    sources: Vec<Source>,
    telemetry: Telemetry,
    reload: impl Fn() -> Result<Config, ConfigError> + Send + 'static,
) -> Result<(), AgentError> {
    let (stop, stop_now) = (CancellationToken::new(), CancellationToken::new());
    let manager = Arc::new(ServiceManager::from_environment());
    let signals = Signals::listen().map_err(AgentError::Signals)?;
    let notifier = manager.clone();
    tokio::spawn(signals.handle(stop.clone(), stop_now.clone(), move || {
        notifier.reloading();
        match reload() {
            Ok(fresh) => {
                let settings = crate::telemetry::Settings::from_config(&fresh);
                if let Err(error) = telemetry.reload(&settings) {
                    error!(error = %Chain(&error), "the log goes on as it was");
                }
            }
            Err(error) => error!(error = %Chain(&error), "the configuration is not reloaded"),
        }
        notifier.ready("running");
    }));

    info!(version = env!("CARGO_PKG_VERSION"), host = config.default_.host, "starting");
    make_directories(&config)?;
    let journal = Arc::new(SqliteJournal::open(&config.hypernova.journal)?);
    let metrics = Arc::new(Metrics::new());
    let Some(connected) = await_hypervisor(&config, &metrics, &manager, &stop).await? else {
        return Ok(());
    };
    let hypervisor = connected.hypervisor.clone();
    let (bus, from_bus) = match bus_settings(&config)? {
        Some(settings) => {
            // What arrives from now on waits until the server serves.
            let (bus, from_bus) = Bus::connect(settings)?;
            (Some(bus), Some(from_bus))
        }
        None => (None, None),
    };
    let notifications = Notifications::connect(&config, bus.as_ref())?;
    let notifier = notifications.notifier.clone();
    let plane = match config.hypernova.control_plane {
        ControlPlane::Standalone => Some(standalone::plane(&config, &connected, notifier)?),
        ControlPlane::Nova => {
            manager.status("registering");
            let (config, sources, stop) = (&config, &sources, &stop);
            let (connected, bus, metrics) = (&connected, bus.as_ref(), &metrics);
            nova::plane(nova::Start { config, sources, connected, bus, notifier, metrics, stop })
                .await?
        }
    };
    let Some(plane) = plane else { return Ok(()) };
    let limit = |option: u32| if option == 0 { UNLIMITED } else { option as usize };
    let limits = Limits {
        builds: limit(config.default_.max_concurrent_builds),
        snapshots: limit(config.default_.max_concurrent_snapshots),
    };
    let dispatcher = Dispatcher::new(plane.backends, journal.clone(), metrics.clone(), limits);
    let socket =
        LocalServer::listen(&config.hypernova.socket, config.hypernova.socket_group.as_deref())
            .await?;
    dispatcher.prune().await?;
    relearn(dispatcher.backends()).await;
    let resumed = dispatcher.resume().await?;
    let own = OwnRequests::new(dispatcher.clone(), plane.upkeep);
    let periodics = Arc::new(periodics::start(&config, metrics.clone(), &own));
    if let Some(nova) = plane.nova {
        nova.report(&config, &periodics, &stop);
    }
    let keeping = periodics::keep_instances(config.clone(), periodics.clone(), own);
    tokio::spawn(stop.clone().run_until_cancelled_owned(keeping));

    let operator =
        Operator::new(dispatcher.clone(), plane.history, config.default_.instances_path.clone());
    let server = Arc::new(Server::new(
        dispatcher.clone(),
        operator,
        metrics.clone(),
        config.default_.rpc_ping_enabled,
    ));
    let (local, from_socket) = mpsc::channel::<Incoming>(SOCKET_BACKLOG);
    let socket = tokio::spawn(socket.serve(local, stop.clone()));
    let mut doors = vec![tokio::spawn(server.clone().serve(from_socket, stop.clone()))];
    if let Some(from_bus) = from_bus {
        doors.push(tokio::spawn(server.clone().serve(from_bus, stop.clone())));
    }

    let mut components = vec![Component::Libvirt, Component::Journal];
    components.extend(bus.is_some().then_some(Component::RabbitMq));
    let health = Health::new(&components);
    if let Some(address) = config.hypernova.metrics_listen {
        let listener = HealthServer::bind(address, metrics.clone(), health.clone()).await?;
        tokio::spawn(listener.run(stop_now.clone()));
    }
    let watched = bus.as_ref().map(|bus| (bus.watch(), bus.counts()));
    let looking = tokio::spawn(look_after(health, metrics, hypervisor, journal, watched));
    let keeper = manager.clone();
    let until = stop_now.clone();
    tokio::spawn(async move {
        // The runtime itself answers here: a stuck one gives no sign of life.
        keeper.keep_alive(|| async { tokio::spawn(async {}).await.is_ok() }, until).await;
    });
    if let Some(bus) = &bus {
        let consuming = tokio::time::timeout(Duration::from_secs(10), bus.consuming());
        if consuming.await.is_err() {
            warn!("RabbitMQ is not there yet; the agent goes on trying");
        }
    }
    info!(resumed, "ready");
    crate::memory::release_startup_pages();
    tokio::spawn(async {
        tokio::time::sleep(FIRST_ROUNDS).await;
        crate::memory::release_startup_pages();
    });
    manager.ready("running");

    stop.cancelled().await;
    manager.stopping("finishing what runs");
    info!(active = dispatcher.active(), "stopping: no more requests are taken");
    if let Some(bus) = &bus {
        bus.stop_consuming();
    }
    for door in doors {
        // It gives back what waits; a panic in it was logged.
        door.await.ok();
    }
    periodics.stop().await;
    let within = config.default_.manager_shutdown_timeout;
    let finished = async {
        tokio::select! {
            () = dispatcher.stop(within) => {}
            () = stop_now.cancelled() => dispatcher.stop(Duration::ZERO).await,
        }
        server.finish().await;
        notifications.close(CLOSE_WITHIN).await;
        if let Some(bus) = bus {
            bus.close(CLOSE_WITHIN).await;
        }
    };
    let limit = config.default_.graceful_shutdown_timeout;
    if tokio::time::timeout(limit, finished).await.is_err() {
        warn!(?limit, "a step did not end in time: the next start goes on with it");
    }
    looking.abort();
    // It ends with the stop signal, and takes its socket away; an answer that is still owed, or a
    // client that doesn't read, must not hold up the end.
    tokio::time::timeout(CLOSE_WITHIN, socket).await.ok();
    stop_now.cancel();
    info!("stopped");
    Ok(())
}

fn make_directories(config: &Config) -> Result<(), AgentError> {
    let instances = &config.default_.instances_path;
    let fail = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| AgentError::Directory { operation: "create", path, source }
    };
    std::fs::create_dir_all(instances).map_err(fail(instances))?;
    if let Some(directory) = config.hypernova.socket.parent() {
        std::fs::create_dir_all(directory).map_err(fail(directory))?;
    }
    Ok(())
}

/// Looks at the neighbours now and then, and tells `/healthz` and the metrics.
async fn look_after(
    health: Health,
    metrics: Arc<Metrics>,
    hypervisor: Arc<dyn Hypervisor>,
    journal: Arc<SqliteJournal>,
    bus: Option<(watch::Receiver<Consuming>, impl Fn() -> Counts)>,
) {
    let mut lost = 0;
    let mut ticks = tokio::time::interval(HEALTH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        health.set(Component::Libvirt, state(hypervisor.domain(uuid::Uuid::nil()).await.map(drop)));
        health.set(Component::Journal, state(journal.check().await));
        if let Some((consuming, counts)) = &bus {
            let before = std::mem::replace(&mut lost, counts().disconnects);
            metrics.connections_lost(Component::RabbitMq, lost.saturating_sub(before));
            let consuming = consuming.borrow().since.is_some();
            let down = || State::Down("not consuming".to_owned());
            health.set(Component::RabbitMq, if consuming { State::Up } else { down() });
        }
    }
}

fn state<E: std::error::Error + 'static>(result: Result<(), E>) -> State {
    match result {
        Ok(()) => State::Up,
        Err(error) => State::Down(Chain(&error).to_string()),
    }
}
