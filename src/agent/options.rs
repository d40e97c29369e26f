//! From the configuration to what each room wants to know: pure, but for looking at the host where
//! the configuration leaves it to the host.

use std::sync::Arc;
use std::time::Duration;

use super::AgentError;
use super::connect::guest_host;
use crate::config::Config;
use crate::config::default::{self as configured, Preallocate};
use crate::config::libvirt::VirtType;
use crate::hypervisor::HostInfo;
use crate::hypervisor::guest::{GuestHost, GuestOptions, SpiceServer};
use crate::hypervisor::libvirt::LibvirtOptions;
use crate::hypervisor::spec::SpiceOptions;
use crate::images::blank::FileSystems;
use crate::images::config_disk::ConfigDriveFormat;
use crate::images::qemu_img::QemuImg;
use crate::images::sink::ImageSink;
use crate::images::sink::file::FileSink;
use crate::images::snapshots::host::HostSnapshots;
use crate::images::snapshots::{SnapshotFormat, Snapshots};
use crate::images::source::{FilePolicy, StandaloneSource};
use crate::images::store::{HostImages, StoreOptions};
use crate::images::{ImageSource, Images};
use crate::model::object::NameTemplate;
use crate::notify::audit::AuditPeriod;
use crate::rpc::bus::BusSettings;
use crate::rpc::compression::Compression;
use crate::rpc::options::{Failover, LoginMethod, RabbitOptions};
use crate::rpc::transport_url::TransportUrl;
use crate::rpc::watchdog::Watchdog;
use crate::volumes::host::{HostConnectors, HostOptions, HostVolumes};
use crate::workflow::plug_events::PlugSettings;
use crate::workflow::serial_ports::SerialPorts;
use crate::workflow::vendor_data::VendorDataSettings;
use crate::workflow::{
    ConsoleSettings, RescueSettings, Settings, SnapshotSettings, VolumeSettings,
};

/// What `transport_url` is when nobody has set it.
const NO_BUS: &str = "rabbit://";

/// For a mount or a login: a storage server that is away is waited for no longer.
const STORAGE_TOOL_TIMEOUT: Duration = Duration::from_secs(120);

/// What nova sends to a compute service. 2026.1 and later send some methods to the second.
const TOPICS: [&str; 2] = ["compute", "compute-alt"];

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

/// The host's images and disks, filled from `source`.
///
/// # Errors
/// [`AgentError::Images`] for a backend that isn't there.
pub(super) fn images_from(
    config: &Config,
    source: Arc<dyn ImageSource>,
) -> Result<Arc<dyn Images>, AgentError> {
    let mut options = StoreOptions::new(&config.default_.instances_path);
    options.qemu_img = qemu_img(config);
    options.cache_subdirectory = config.image_cache.subdirectory_name.clone();
    options.force_raw_images = config.default_.force_raw_images;
    options.images_type = config.libvirt.images_type.as_str().to_owned();
    options.use_cow_images = config.default_.use_cow_images;
    options.preallocate_space = preallocates(config);
    let (format, commands) =
        (&config.default_.default_ephemeral_format, &config.default_.virt_mkfs);
    options.file_systems = FileSystems::new(format.as_deref(), commands)?;
    options.mkisofs_cmd = config.default_.mkisofs_cmd.clone();
    options.vmdk_allowed_types = config.compute.vmdk_allowed_types.clone();
    options.config_drive_format = match config.default_.config_drive_format {
        configured::ConfigDriveFormat::Iso9660 => ConfigDriveFormat::Iso9660,
        configured::ConfigDriveFormat::Vfat => ConfigDriveFormat::Vfat,
    };
    Ok(Arc::new(HostImages::new(options, source)?))
}

fn qemu_img(config: &Config) -> QemuImg {
    QemuImg {
        long_deadline: config.hypernova.qemu_img_timeout,
        memory_bytes: config.hypernova.qemu_img_memory_mib.saturating_mul(1 << 20),
        ..QemuImg::default()
    }
}

/// Where snapshots are made.
///
/// # Errors
/// [`AgentError::Images`] for a directory that isn't absolute.
pub(super) fn snapshots(config: &Config) -> Result<Arc<dyn Snapshots>, AgentError> {
    let (libvirt, qemu_img) = (&config.libvirt, qemu_img(config));
    let (directory, compress) = (&libvirt.snapshots_directory, libvirt.snapshot_compression);
    Ok(Arc::new(HostSnapshots::new(directory.clone(), compress, qemu_img)?))
}

/// This host's way to volumes.
pub(super) fn host_volumes(config: &Config) -> Arc<dyn HostVolumes> {
    let libvirt = &config.libvirt;
    Arc::new(HostConnectors::new(HostOptions {
        host: config.default_.host.clone(),
        ip: config.default_.my_block_storage_ip.clone(),
        nfs_mount_point_base: libvirt.nfs_mount_point_base.clone(),
        nfs_mount_options: libvirt.nfs_mount_options.clone(),
        use_multipath: libvirt.volume_use_multipath,
        enforce_multipath: libvirt.volume_enforce_multipath,
        scan_tries: libvirt.num_volume_scan_tries,
        iscsi_iface: libvirt.iscsi_iface.clone(),
        tool_timeout: STORAGE_TOOL_TIMEOUT,
    }))
}

/// Snapshots as files.
pub(super) fn standalone_sink(config: &Config) -> Arc<dyn ImageSink> {
    let policy = FilePolicy::Under(config.hypernova.image_directories.clone());
    Arc::new(FileSink::new(policy, qemu_img(config)))
}

/// Images by file and URL.
pub(super) fn standalone_source(config: &Config) -> Arc<dyn ImageSource> {
    let policy = FilePolicy::Under(config.hypernova.image_directories.clone());
    let idle = StoreOptions::new(&config.default_.instances_path).patience.idle;
    Arc::new(StandaloneSource::new(policy, idle))
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

pub(super) fn settings(
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
        plugging: PlugSettings {
            timeout: config.default_.vif_plugging_timeout,
            is_fatal: config.default_.vif_plugging_is_fatal,
            awaited_at_reboot: config
                .workarounds
                .wait_for_vif_plugged_event_during_hard_reboot
                .clone(),
        },
        dhcp_domain: config.api.dhcp_domain.clone(),
        vendor_data: VendorDataSettings {
            providers: config.api.vendordata_providers.clone(),
            file: config.api.vendordata_jsonfile_path.clone(),
        },
        shutdown_timeout: config.default_.shutdown_timeout,
        shutdown_retry_interval: config.compute.shutdown_retry_interval,
        soft_reboot_timeout: config.libvirt.wait_soft_reboot_seconds,
        state_timeout: config.hypernova.domain_state_timeout,
        save_timeout: config.hypernova.managed_save_timeout,
        guest: guest_options(config),
        guest_host,
        preallocate_space: preallocates(config),
        snapshots: SnapshotSettings {
            format: config
                .libvirt
                .snapshot_image_format
                .and_then(|format| SnapshotFormat::parse(format.as_str())),
            live: !config.workarounds.disable_libvirt_livesnapshot,
            copy_timeout: config.hypernova.qemu_img_timeout,
        },
        rescue: RescueSettings {
            image_id: config.libvirt.rescue_image_id.clone(),
            kernel_id: config.libvirt.rescue_kernel_id.clone(),
            ramdisk_id: config.libvirt.rescue_ramdisk_id.clone(),
        },
        offload_at_once: config.default_.shelved_offload_time == 0,
        audit_period: audit_period(config)?,
        volumes: VolumeSettings {
            default_aio_mode: config.libvirt.use_default_aio_mode_for_volumes,
            rbd_user: config.libvirt.rbd_user.clone(),
            rbd_secret_uuid: config.libvirt.rbd_secret_uuid.clone(),
            detach: (config.libvirt.device_detach_attempts, config.libvirt.device_detach_timeout),
            creation: (
                config.default_.block_device_allocate_retries,
                config.default_.block_device_allocate_retries_interval,
            ),
            cross_az_attach: config.cinder.cross_az_attach,
            counts_use: config.default_.volume_usage_poll_interval > 0,
        },
        serial_ports: serial.enabled.then(|| {
            let range = serial.port_range.0.clone();
            Arc::new(SerialPorts::new(&serial.proxyclient_address, range))
        }),
        console: ConsoleSettings {
            vnc_enabled: config.vnc.enabled,
            vnc_proxyclient_address: config.vnc.server_proxyclient_address.clone(),
            spice_enabled: config.spice.enabled,
            spice_proxyclient_address: config.spice.server_proxyclient_address.clone(),
            serial_enabled: config.serial_console.enabled,
            novncproxy_base_url: config.vnc.novncproxy_base_url.clone(),
            spice_html5_base_url: config.spice.html5proxy_base_url.clone(),
            spice_direct_base_url: config.spice.spice_direct_proxy_base_url.clone(),
            serial_base_url: config.serial_console.base_url.clone(),
            token_ttl: config.consoleauth.token_ttl,
        },
    })
}

fn audit_period(config: &Config) -> Result<AuditPeriod, AgentError> {
    let text = &config.default_.instance_usage_audit_period;
    AuditPeriod::parse(text).ok_or_else(|| AgentError::AuditPeriod(text.clone()))
}

fn preallocates(config: &Config) -> bool {
    config.default_.preallocate_images == Preallocate::Space
}

/// What of the configuration shapes a domain.
fn guest_options(config: &Config) -> GuestOptions {
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
        max_disk_devices: u32::try_from(config.compute.max_disk_devices_to_attach).ok(),
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

pub(super) fn rabbit_options(config: &Config) -> RabbitOptions {
    use crate::config::oslo_messaging_rabbit::{
        FailoverStrategy, KombuCompression, LoginMethod as Configured,
    };
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
        kombu_compression: section.kombu_compression.map(|method| match method {
            KombuCompression::Gzip => Compression::Gzip,
            KombuCompression::Bz2 | KombuCompression::Bzip2 => Compression::Bzip2,
        }),
        enable_cancel_on_failover: section.enable_cancel_on_failover,
        use_queue_manager: section.use_queue_manager,
        hostname: section.hostname.clone(),
        processname: section.processname.clone(),
        ssl: section.ssl,
        ssl_key_file: section.ssl_key_file.clone(),
        ssl_cert_file: section.ssl_cert_file.clone(),
        ssl_ca_file: section.ssl_ca_file.clone(),
        ssl_enforce_hostname_verification: section.ssl_enforce_hostname_verification,
    }
}
