//! The agent: what is started in which order, and stopped in which.
//!
//! ```text
//! start: journal ─▶ hypervisor ─▶ records ─▶ take up workflows ─▶ socket, bus ─▶ ready
//! stop:  no more requests ─▶ workflows finish or park ─▶ answers go out ─▶ connections close
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::default::{self as configured, Preallocate};
use crate::config::hypernova::ControlPlane;
use crate::config::libvirt::VirtType;
use crate::config::{Config, ConfigError};
use crate::dispatch::Dispatcher;
use crate::health::{Component, Health, HealthError, HealthServer, Metrics, State};
use crate::hypervisor::fake::FakeHypervisor;
use crate::hypervisor::guest::{GuestHost, GuestOptions, SpiceServer};
use crate::hypervisor::libvirt::{Libvirt, LibvirtOptions, Observer};
use crate::hypervisor::spec::SpiceOptions;
use crate::hypervisor::{HostInfo, Hypervisor, HypervisorError};
use crate::images::config_disk::ConfigDriveFormat;
use crate::images::source::{FilePolicy, StandaloneSource};
use crate::images::store::{HostImages, StoreOptions};
use crate::images::{ImageError, Images};
use crate::model::object::{NameError, NameTemplate};
use crate::network::NetworkError;
use crate::network::standalone::StandaloneNetwork;
use crate::records::sqlite::{OpenError, SqliteRecords};
use crate::rpc::amqp::Consuming;
use crate::rpc::bus::{Bus, BusError, BusSettings};
use crate::rpc::counters::Counts;
use crate::rpc::incoming::Incoming;
use crate::rpc::local::{LocalError, LocalServer};
use crate::rpc::operator::Operator;
use crate::rpc::options::{Failover, LoginMethod, RabbitOptions};
use crate::rpc::server::Server;
use crate::rpc::transport_url::{TransportUrl, TransportUrlError};
use crate::rpc::watchdog::Watchdog;
use crate::service::{ServiceManager, Signals};
use crate::telemetry::{Chain, Telemetry};
use crate::workflow::journal::JournalError;
use crate::workflow::serial_ports::SerialPorts;
use crate::workflow::sqlite::SqliteJournal;
use crate::workflow::{Backends, ConsoleSettings, Settings};

/// What `transport_url` is when nobody has set it.
const NO_BUS: &str = "rabbit://";

/// What nova sends to a compute service. 2026.1 and later send some methods to the second.
const TOPICS: [&str; 2] = ["compute", "compute-alt"];

/// How often the neighbours are looked at for `/healthz`.
const HEALTH_EVERY: Duration = Duration::from_secs(10);

/// How often the journal forgets what ended long ago.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// How long replies and the fanout queues may take to go when the agent stops.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Requests from the socket that wait for the server.
const SOCKET_BACKLOG: usize = 64;

/// `max_concurrent_builds = 0`: as many as there are.
const UNLIMITED_BUILDS: usize = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(
        "control_plane = nova is not supported yet: set [hypernova] control_plane = standalone"
    )]
    NovaMode,
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

/// Runs the agent until it is told to stop. `reload` reads the configuration again, for SIGHUP.
///
/// # Errors
/// [`AgentError`] for what waiting wouldn't mend. A libvirtd or a broker that is away is waited for.
pub async fn serve(
    config: Config,
    telemetry: Telemetry,
    reload: impl Fn() -> Result<Config, ConfigError> + Send + 'static,
) -> Result<(), AgentError> {
    if config.hypernova.control_plane == ControlPlane::Nova {
        return Err(AgentError::NovaMode);
    }
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
    let records = SqliteRecords::open(&config.hypernova.records, &config.default_.host)?;
    let metrics = Arc::new(Metrics::new());
    let Some(connected) = await_hypervisor(&config, &metrics, &manager, &stop).await? else {
        return Ok(());
    };
    let hypervisor = connected.hypervisor.clone();
    let backends = Backends {
        hypervisor: hypervisor.clone(),
        images: images(&config)?,
        network: Arc::new(StandaloneNetwork::new(config.hypernova.default_network.as_str())?),
        records: Arc::new(records.clone()),
        settings: Arc::new(settings(&config, &connected.host, connected.guest_host.clone())?),
    };
    let builds = match config.default_.max_concurrent_builds {
        0 => UNLIMITED_BUILDS,
        builds => builds as usize,
    };
    let dispatcher = Dispatcher::new(backends, journal.clone(), metrics.clone(), builds);
    let socket = LocalServer::listen(&config.hypernova.socket).await?;
    dispatcher.prune().await?;
    let resumed = dispatcher.resume().await?;

    let operator = Operator::new(
        dispatcher.clone(),
        Some(Arc::new(records)),
        config.default_.instances_path.clone(),
    );
    let server = Arc::new(Server::new(
        dispatcher.clone(),
        operator,
        metrics.clone(),
        config.default_.rpc_ping_enabled,
    ));
    let (local, from_socket) = mpsc::channel::<Incoming>(SOCKET_BACKLOG);
    let socket = tokio::spawn(socket.serve(local, stop.clone()));
    let mut doors = vec![tokio::spawn(server.clone().serve(from_socket, stop.clone()))];
    let bus = match bus_settings(&config)? {
        Some(settings) => {
            let (bus, from_bus) = Bus::connect(settings)?;
            doors.push(tokio::spawn(server.clone().serve(from_bus, stop.clone())));
            Some(bus)
        }
        None => None,
    };

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
    let pruned = dispatcher.clone();
    let until = stop.clone();
    tokio::spawn(until.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(PRUNE_EVERY).await;
            if let Err(error) = pruned.prune().await {
                warn!(error = %Chain(&error), "the journal is not pruned");
            }
        }
    }));
    if let Some(bus) = &bus {
        let consuming = tokio::time::timeout(Duration::from_secs(10), bus.consuming());
        if consuming.await.is_err() {
            warn!("RabbitMQ is not there yet; the agent goes on trying");
        }
    }
    info!(resumed, "ready");
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
    let within = config.default_.manager_shutdown_timeout;
    let finished = async {
        tokio::select! {
            () = dispatcher.stop(within) => {}
            () = stop_now.cancelled() => dispatcher.stop(Duration::ZERO).await,
        }
        server.finish().await;
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

/// A hypervisor that has answered, and what it says of the host.
struct Connected {
    hypervisor: Arc<dyn Hypervisor>,
    host: HostInfo,
    guest_host: GuestHost,
}

/// Waits for libvirt, for as long as it takes: the node's name comes from there. `None`: told to
/// stop meanwhile.
async fn await_hypervisor(
    config: &Config,
    metrics: &Arc<Metrics>,
    manager: &ServiceManager,
    stop: &CancellationToken,
) -> Result<Option<Connected>, AgentError> {
    let mut pause = Duration::from_millis(200);
    loop {
        match connect(config, metrics).await {
            Ok(connected) => {
                let HostInfo { node, hypervisor_version, .. } = &connected.host;
                info!(node, version = hypervisor_version, "hypervisor connected");
                return Ok(Some(connected));
            }
            Err(AgentError::Hypervisor(error)) => {
                manager.status("waiting for libvirt");
                warn!(error = %Chain(&error), "waiting for the hypervisor");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

async fn connect(config: &Config, metrics: &Arc<Metrics>) -> Result<Connected, AgentError> {
    if config.default_.compute_driver.starts_with("fake") {
        let hypervisor = Arc::new(FakeHypervisor::new(&config.default_.host));
        let host = hypervisor.host_info().await?;
        let guest_host = guest_host(&host);
        return Ok(Connected { hypervisor, host, guest_host });
    }
    let mut options = libvirt_options(config)?;
    options.observer = Some(metrics.clone());
    let libvirt = Libvirt::open(options).await?;
    let host = libvirt.host_info().await?;
    let virt_type = config.libvirt.virt_type.as_str();
    let mut guest_host = guest_host(&host);
    guest_host.machines = libvirt.capabilities().await?.machines(&host.architecture);
    // A host that can't say what its machines offer runs BIOS guests all the same.
    match libvirt.domain_capabilities(&host.architecture, None, virt_type).await {
        Ok(offers) => {
            guest_host.supports_uefi = offers.firmware.iter().any(|kind| kind == "efi");
            guest_host.supports_secure_boot = offers.secure_boot;
        }
        Err(error) => warn!(error = %Chain(&error), "no domain capabilities: BIOS guests only"),
    }
    Ok(Connected { hypervisor: Arc::new(libvirt), host, guest_host })
}

fn guest_host(host: &HostInfo) -> GuestHost {
    let machine_id = std::fs::read_to_string("/etc/machine-id").ok();
    let machine_id = machine_id.and_then(|text| uuid::Uuid::parse_str(text.trim()).ok());
    GuestHost {
        architecture: host.architecture.clone(),
        hardware_uuid: host.uuid.map(|uuid| uuid.to_string()),
        machine_id: machine_id.map(|id| id.to_string()),
        cpu_control: has_cpu_controller(),
        ..GuestHost::default()
    }
}

/// Whether guests' CPU time can be limited: cgroup 2's controller, or cgroup 1's mount.
/// nova: virt/libvirt/host.py, is_cpu_control_policy_capable
fn has_cpu_controller() -> bool {
    let words = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let unified = words("/sys/fs/cgroup/cgroup.controllers");
    let mounts = words("/proc/self/mounts");
    let mounted = mounts.lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        matches!(fields.as_slice(), [_, _, "cgroup", options, ..]
            if options.split(',').any(|option| option == "cpu"))
    });
    unified.split_whitespace().any(|controller| controller == "cpu") || mounted
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

/// # Errors
/// [`AgentError::VirtType`] for what the agent has no driver for.
pub fn libvirt_options(config: &Config) -> Result<LibvirtOptions, AgentError> {
    let libvirt = &config.libvirt;
    if libvirt.virt_type == VirtType::Parallels {
        return Err(AgentError::VirtType("parallels"));
    }
    let uri = libvirt.connection_uri.as_deref();
    let mut options = LibvirtOptions::from_config(libvirt.virt_type.as_str(), uri);
    options.call_timeout = config.hypernova.libvirt_call_timeout;
    options.restore_timeout = config.hypernova.managed_save_timeout;
    options.concurrent_calls = config.hypernova.libvirt_concurrent_calls;
    Ok(options)
}

fn images(config: &Config) -> Result<Arc<dyn Images>, AgentError> {
    let mut options = StoreOptions::new(&config.default_.instances_path);
    options.cache_subdirectory = config.image_cache.subdirectory_name.clone();
    options.force_raw_images = config.default_.force_raw_images;
    options.images_type = config.libvirt.images_type.as_str().to_owned();
    options.use_cow_images = config.default_.use_cow_images;
    options.preallocate_space = preallocates(config);
    options.mkisofs_cmd = config.default_.mkisofs_cmd.clone();
    options.vmdk_allowed_types = config.compute.vmdk_allowed_types.clone();
    options.config_drive_format = match config.default_.config_drive_format {
        configured::ConfigDriveFormat::Iso9660 => ConfigDriveFormat::Iso9660,
        configured::ConfigDriveFormat::Vfat => ConfigDriveFormat::Vfat,
    };
    options.qemu_img.long_deadline = config.hypernova.qemu_img_timeout;
    options.qemu_img.memory_bytes = config.hypernova.qemu_img_memory_mib.saturating_mul(1 << 20);
    let policy = FilePolicy::Under(config.hypernova.image_directories.clone());
    let source = StandaloneSource::new(policy, options.patience.idle);
    Ok(Arc::new(HostImages::new(options, Arc::new(source))?))
}

/// The settings of an agent on a host like this one, without asking its hypervisor.
///
/// # Errors
/// [`AgentError::NameTemplate`].
pub fn preview_settings(config: &Config) -> Result<Settings, AgentError> {
    let architecture = std::env::consts::ARCH.to_owned();
    let host = HostInfo { architecture, ..HostInfo::default() };
    settings(config, &host, guest_host(&host))
}

fn settings(
    config: &Config,
    host: &HostInfo,
    guest_host: GuestHost,
) -> Result<Settings, AgentError> {
    let serial = &config.serial_console;
    Ok(Settings {
        host: config.default_.host.clone(),
        node: host.node.clone(),
        virt_type: config.libvirt.virt_type.as_str().to_owned(),
        name_template: NameTemplate::parse(&config.default_.instance_name_template)?,
        force_config_drive: config.default_.force_config_drive,
        dhcp_domain: config.api.dhcp_domain.clone(),
        shutdown_timeout: config.default_.shutdown_timeout,
        shutdown_retry_interval: config.compute.shutdown_retry_interval,
        soft_reboot_timeout: config.libvirt.wait_soft_reboot_seconds,
        state_timeout: config.hypernova.domain_state_timeout,
        save_timeout: config.hypernova.managed_save_timeout,
        guest: guest_options(config),
        guest_host,
        preallocate_space: preallocates(config),
        serial_ports: serial.enabled.then(|| {
            let range = serial.port_range.0.clone();
            Arc::new(SerialPorts::new(&serial.proxyclient_address, range))
        }),
        console: ConsoleSettings {
            vnc_enabled: config.vnc.enabled,
            vnc_proxyclient_address: config.vnc.server_proxyclient_address.clone(),
            serial_enabled: config.serial_console.enabled,
        },
    })
}

fn preallocates(config: &Config) -> bool {
    config.default_.preallocate_images == Preallocate::Space
}

/// What of the configuration shapes a domain.
pub fn guest_options(config: &Config) -> GuestOptions {
    let (libvirt, spice) = (&config.libvirt, &config.spice);
    GuestOptions {
        virt_type: libvirt.virt_type.as_str().to_owned(),
        cpu_mode: libvirt.cpu_mode.map(|mode| mode.as_str().to_owned()),
        cpu_models: libvirt.cpu_models.clone(),
        cpu_model_extra_flags: libvirt.cpu_model_extra_flags.clone(),
        hw_machine_type: libvirt.hw_machine_type.clone().unwrap_or_default(),
        disk_cachemodes: libvirt.disk_cachemodes.clone(),
        hw_disk_discard: libvirt.hw_disk_discard.map(|discard| discard.as_str().to_owned()),
        disk_prefix: libvirt.disk_prefix.clone(),
        num_pcie_ports: libvirt.num_pcie_ports,
        mem_stats_period_seconds: u32::try_from(libvirt.mem_stats_period_seconds).unwrap_or(0),
        rng_dev_path: libvirt.rng_dev_path.clone(),
        sysinfo_serial: libvirt.sysinfo_serial.as_str().to_owned(),
        tb_cache_size: libvirt.tb_cache_size,
        rx_queue_size: libvirt.rx_queue_size,
        max_queues: libvirt.max_queues,
        direct_io: takes_direct_io(&config.default_.instances_path),
        disable_apic: config.workarounds.libvirt_disable_apic,
        cpu_shared_set: config.compute.cpu_shared_set.clone(),
        config_drive_format: config.default_.config_drive_format.as_str().to_owned(),
        pointer_model: Some(config.default_.pointer_model.as_str().to_owned()),
        vnc_listen: config.vnc.enabled.then(|| config.vnc.server_listen.clone()),
        spice: spice.enabled.then(|| SpiceServer {
            listen: spice.server_listen.clone(),
            agent_enabled: spice.agent_enabled,
            options: SpiceOptions {
                image_compression: spice.image_compression.map(|c| c.as_str().to_owned()),
                jpeg_compression: spice.jpeg_compression.map(|c| c.as_str().to_owned()),
                zlib_compression: spice.zlib_compression.map(|c| c.as_str().to_owned()),
                playback_compression: spice.playback_compression,
                streaming_mode: spice.streaming_mode.map(|mode| mode.as_str().to_owned()),
                require_secure: spice.require_secure,
            },
        }),
        serial_console_address: config
            .serial_console
            .enabled
            .then(|| config.serial_console.proxyclient_address.clone()),
    }
}

/// Whether files below `directory` can be opened past the page cache; disks are cached by the host
/// where they can't. nova: privsep/utils.py, supports_direct_io
fn takes_direct_io(directory: &std::path::Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let Ok(probe) = tempfile::NamedTempFile::new_in(directory) else { return true };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).custom_flags(libc::O_DIRECT);
    options.open(probe.path()).is_ok()
}

/// The bus as configured; `None` when `transport_url` isn't set, and only the socket is served.
///
/// # Errors
/// [`AgentError::TransportUrl`].
pub fn bus_settings(config: &Config) -> Result<Option<BusSettings>, AgentError> {
    let url = config.default_.transport_url.expose();
    if url == NO_BUS {
        return Ok(None);
    }
    Ok(Some(BusSettings {
        url: TransportUrl::parse(url)?,
        options: rabbit_options(config),
        host: config.default_.host.clone(),
        control_exchange: config.default_.control_exchange.clone(),
        topics: TOPICS.iter().map(|topic| (*topic).to_owned()).collect(),
        watchdog: Some(Watchdog::default()),
    }))
}

fn rabbit_options(config: &Config) -> RabbitOptions {
    use crate::config::oslo_messaging_rabbit::{FailoverStrategy, LoginMethod as Configured};
    let section = &config.oslo_messaging_rabbit;
    RabbitOptions {
        amqp_durable_queues: section.amqp_durable_queues,
        amqp_auto_delete: section.amqp_auto_delete,
        rabbit_ha_queues: section.rabbit_ha_queues,
        rabbit_quorum_queue: section.rabbit_quorum_queue,
        rabbit_transient_quorum_queue: section.rabbit_transient_quorum_queue,
        rabbit_quorum_delivery_limit: section.rabbit_quorum_delivery_limit,
        rabbit_quorum_max_memory_length: section.rabbit_quorum_max_memory_length,
        // RabbitMQ's limit is far below the option's.
        rabbit_quorum_max_memory_bytes: u32::try_from(section.rabbit_quorum_max_memory_bytes)
            .unwrap_or(u32::MAX),
        rabbit_transient_queues_ttl: section.rabbit_transient_queues_ttl,
        rabbit_stream_fanout: section.rabbit_stream_fanout,
        rabbit_qos_prefetch_count: section.rabbit_qos_prefetch_count,
        heartbeat_timeout_threshold: section.heartbeat_timeout_threshold,
        rabbit_retry_interval: section.rabbit_retry_interval,
        rabbit_retry_backoff: section.rabbit_retry_backoff,
        rabbit_interval_max: section.rabbit_interval_max,
        kombu_reconnect_delay: section.kombu_reconnect_delay,
        kombu_reconnect_splay: section.kombu_reconnect_splay,
        kombu_failover_strategy: match section.kombu_failover_strategy {
            FailoverStrategy::RoundRobin => Failover::RoundRobin,
            FailoverStrategy::Shuffle => Failover::Shuffle,
        },
        rabbit_login_method: match section.rabbit_login_method {
            Configured::Plain => LoginMethod::Plain,
            Configured::AmqPlain => LoginMethod::AmqPlain,
            Configured::External => LoginMethod::External,
            Configured::RabbitCrDemo => LoginMethod::RabbitCrDemo,
        },
        kombu_missing_consumer_retry_timeout: section.kombu_missing_consumer_retry_timeout,
        direct_mandatory_flag: section.direct_mandatory_flag,
        enable_cancel_on_failover: section.enable_cancel_on_failover,
        ssl: section.ssl,
        ssl_key_file: section.ssl_key_file.clone(),
        ssl_cert_file: section.ssl_cert_file.clone(),
        ssl_ca_file: section.ssl_ca_file.clone(),
        ssl_enforce_hostname_verification: section.ssl_enforce_hostname_verification,
    }
}

impl Observer for Metrics {
    fn answered(&self, operation: &'static str, took: Duration) {
        self.libvirt_call(operation, took);
    }

    fn timed_out(&self, operation: &'static str) {
        self.libvirt_timed_out(operation);
    }

    fn connection_lost(&self) {
        self.connections_lost(Component::Libvirt, 1);
    }
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
