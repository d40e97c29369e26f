//! Workflows: what the agent does to an instance, as steps that are written down before they start.
//!
//! ```text
//!            ┌──────────── every step done ───────────▶ Done ──┐
//! Queued ─▶ Forward ─ a step failed ─▶ Undoing ─────▶ Undone ──┼─▶ settled
//!              └─ past COMMITTED_FROM ─▶ Stuck ◀─ an undo failed ┘
//! ```
//!
//! `engine.rs` runs any workflow, `journal.rs` keeps it on disk, and each workflow has a file.

use std::sync::Arc;
use std::time::Duration;

use crate::hypervisor::guest::{GuestError, GuestHost, GuestOptions};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::images::sink::ImageSink;
use crate::images::snapshots::{SnapshotFormat, Snapshots};
use crate::images::{ImageError, Images};
use crate::model::class::Class;
use crate::model::object::{NameError, NameTemplate, ObjectError};
use crate::network::{Network, NetworkError};
use crate::node::scheduling::{Scheduling, SchedulingError};
use crate::node::{ClaimError, Claims};
use crate::notify::Notifier;
use crate::notify::audit::AuditPeriod;
use crate::records::{Records, RecordsError};
use crate::volumes::host::HostVolumes;
use crate::volumes::{VolumeError, Volumes};
use external_events::ExternalEvents;
use info_cache::InfoCaches;
use plug_events::PlugSettings;
use serial_ports::SerialPorts;
use vendor_data::VendorDataSettings;

pub mod any;
pub mod attach_interface;
pub mod attach_volume;
pub mod block_devices;
pub mod board;
pub mod build_volumes;
pub mod config_drive;
pub mod crash_dump;
pub mod detach_interface;
pub mod detach_volume;
pub mod disk_copy;
pub mod domain;
pub mod engine;
pub mod exception;
pub mod extend_volume;
pub mod external_events;
pub mod fixed_ip;
pub mod info_cache;
pub mod instance;
pub mod interface_device;
pub mod interfaces;
pub mod journal;
pub mod memory;
pub mod named_image;
mod network_exception;
pub mod part;
pub mod pause;
pub mod plug_events;
pub mod power_off;
pub mod power_on;
pub mod quiesce;
pub mod reboot;
pub mod rebuild;
pub mod release;
pub mod remove_connection;
pub mod report;
pub mod reschedule;
pub mod rescue;
mod rescue_domain;
pub mod reserve_device;
pub mod resume;
pub mod seal;
pub mod serial_ports;
pub mod set_password;
pub mod shelve;
pub mod shelve_offload;
pub mod shelved;
pub mod snapshot;
pub mod soft_delete;
pub mod spawn;
mod spawn_failure;
pub mod sqlite;
pub mod suspend;
pub mod swap_volume;
pub mod terminate;
pub mod unpause;
pub mod unquiesce;
pub mod unrescue;
pub mod unshelve;
pub mod vendor_data;
pub mod volume_connections;
pub mod volume_disk;
mod volume_exception;
mod volume_rights;
pub mod volume_usage;
mod was_on;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod interface_tests;
#[cfg(test)]
mod notify_tests;
#[cfg(test)]
mod plug_tests;
#[cfg(test)]
pub(crate) mod shelf_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
pub(crate) mod volume_tests;
#[cfg(test)]
pub(crate) mod world;

/// What steps act on.
#[derive(Clone)]
pub struct Backends {
    pub hypervisor: Arc<dyn Hypervisor>,
    pub images: Arc<dyn Images>,
    /// Where snapshots are made, and where they are kept.
    pub snapshots: Arc<dyn Snapshots>,
    pub sink: Arc<dyn ImageSink>,
    /// Who has the volumes, and this host's way to them.
    pub volumes: Arc<dyn Volumes>,
    pub host_volumes: Arc<dyn HostVolumes>,
    pub network: Arc<dyn Network>,
    pub records: Arc<dyn Records>,
    pub claims: Arc<dyn Claims>,
    pub scheduling: Arc<dyn Scheduling>,
    pub notifier: Arc<dyn Notifier>,
    /// What workflows wait for from outside.
    pub events: Arc<ExternalEvents>,
    pub info_caches: Arc<InfoCaches>,
    pub settings: Arc<Settings>,
}

#[cfg(test)]
impl Settings {
    /// nova's defaults.
    pub fn example() -> Self {
        Self {
            host: "host1".to_owned(),
            node: "node1".to_owned(),
            virt_type: "qemu".to_owned(),
            name_template: NameTemplate::parse("instance-%08x").unwrap(),
            force_config_drive: false,
            dhcp_domain: "novalocal".to_owned(),
            vendor_data: VendorDataSettings {
                providers: vec!["StaticJSON".to_owned()],
                file: None,
            },
            shutdown_timeout: Duration::from_secs(60),
            shutdown_retry_interval: Duration::from_secs(10),
            soft_reboot_timeout: Duration::from_secs(120),
            state_timeout: Duration::from_secs(60),
            save_timeout: Duration::from_secs(1800),
            guest: GuestOptions::default(),
            guest_host: GuestHost { architecture: "x86_64".to_owned(), ..GuestHost::default() },
            plugging: PlugSettings {
                timeout: Duration::from_secs(300),
                is_fatal: true,
                awaited_at_reboot: Vec::new(),
            },
            preallocate_space: false,
            snapshots: SnapshotSettings {
                format: None,
                live: true,
                copy_timeout: Duration::from_secs(3600),
            },
            rescue: RescueSettings::default(),
            offload_at_once: false,
            audit_period: AuditPeriod::parse("month").unwrap(),
            volumes: VolumeSettings {
                default_aio_mode: false,
                rbd_user: None,
                rbd_secret_uuid: None,
                detach: (8, Duration::from_secs(20)),
                creation: (60, Duration::from_secs(3)),
                cross_az_attach: true,
                counts_use: false,
            },
            serial_ports: None,
            console: ConsoleSettings {
                vnc_enabled: true,
                vnc_proxyclient_address: "127.0.0.1".to_owned(),
                spice_enabled: false,
                spice_proxyclient_address: "127.0.0.1".to_owned(),
                serial_enabled: false,
                novncproxy_base_url: "http://127.0.0.1:6080/vnc_auto.html".to_owned(),
                spice_html5_base_url: "http://127.0.0.1:6082/spice_auto.html".to_owned(),
                spice_direct_base_url: "http://127.0.0.1:13002/nova".to_owned(),
                serial_base_url: "ws://127.0.0.1:6083/".to_owned(),
                token_ttl: Duration::from_secs(600),
            },
        }
    }
}

/// The part of the configuration that workflows read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[DEFAULT] host`: the compute service's name on the bus.
    pub host: String,
    /// The compute node's name: the hypervisor's host name.
    pub node: String,
    /// `[libvirt] virt_type`
    pub virt_type: String,
    pub name_template: NameTemplate,
    pub force_config_drive: bool,
    /// `[api] dhcp_domain`
    pub dhcp_domain: String,
    pub vendor_data: VendorDataSettings,
    /// `[DEFAULT] shutdown_timeout`, unless the image says otherwise.
    pub shutdown_timeout: Duration,
    /// `[compute] shutdown_retry_interval`
    pub shutdown_retry_interval: Duration,
    /// `[libvirt] wait_soft_reboot_seconds`
    pub soft_reboot_timeout: Duration,
    /// How long libvirt may take to report a domain where it was sent.
    pub state_timeout: Duration,
    /// How long saving a guest's memory may take.
    pub save_timeout: Duration,
    pub guest: GuestOptions,
    pub guest_host: GuestHost,
    pub plugging: PlugSettings,
    /// `[DEFAULT] preallocate_images = space`
    pub preallocate_space: bool,
    pub snapshots: SnapshotSettings,
    pub rescue: RescueSettings,
    /// `[DEFAULT] shelved_offload_time = 0`: what is shelved leaves its host at once.
    pub offload_at_once: bool,
    /// `[DEFAULT] instance_usage_audit_period`
    pub audit_period: AuditPeriod,
    pub volumes: VolumeSettings,
    /// `None`: serial consoles are pseudo-terminals.
    pub serial_ports: Option<Arc<SerialPorts>>,
    pub console: ConsoleSettings,
}

/// What guests are rescued with, where the request and the instance don't say.
#[derive(Debug, Clone, Default)]
pub struct RescueSettings {
    /// `[libvirt] rescue_image_id`
    pub image_id: Option<String>,
    /// `[libvirt] rescue_kernel_id`
    pub kernel_id: Option<String>,
    /// `[libvirt] rescue_ramdisk_id`
    pub ramdisk_id: Option<String>,
}

/// How snapshots are made.
#[derive(Debug, Clone)]
pub struct SnapshotSettings {
    /// `[libvirt] snapshot_image_format`; `None`: the disk's own.
    pub format: Option<SnapshotFormat>,
    /// Whether a guest is copied as it runs. `[workarounds] disable_libvirt_livesnapshot`
    pub live: bool,
    /// How long such a copy may take.
    pub copy_timeout: Duration,
}

/// How guests are given volumes.
#[derive(Debug, Clone)]
pub struct VolumeSettings {
    /// `[libvirt] use_default_aio_mode_for_volumes`
    pub default_aio_mode: bool,
    /// `[libvirt] rbd_user` and `rbd_secret_uuid`: for connections that name none.
    pub rbd_user: Option<String>,
    pub rbd_secret_uuid: Option<String>,
    /// `[libvirt] device_detach_attempts`, and how long each waits for the guest.
    pub detach: (u32, Duration),
    /// How often a volume that is being made is looked at again, and how long after.
    pub creation: (u32, Duration),
    /// `[cinder] cross_az_attach`
    pub cross_az_attach: bool,
    /// Whether volumes' use is counted: `volume_usage_poll_interval` is positive.
    pub counts_use: bool,
}

/// Which consoles there are, and where their proxies find them.
#[derive(Debug, Clone)]
pub struct ConsoleSettings {
    pub vnc_enabled: bool,
    pub vnc_proxyclient_address: String,
    pub spice_enabled: bool,
    pub spice_proxyclient_address: String,
    pub serial_enabled: bool,
    /// Where users' browsers find the proxies.
    pub novncproxy_base_url: String,
    pub spice_html5_base_url: String,
    pub spice_direct_base_url: String,
    pub serial_base_url: String,
    /// How long a token is good for.
    pub token_ttl: Duration,
}

pub type StepResult = Result<(), StepError>;

/// Why a step failed. The rooms' own errors, and what only a workflow can say.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Scheduling(#[from] SchedulingError),
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("the request's instance is incomplete")]
    Object(#[from] ObjectError),
    #[error("the instance has no name for its domain")]
    Name(#[from] NameError),
    /// nova: SocketPortRangeExhaustedException
    #[error("no port is free in [serial_console] port_range")]
    NoSerialPort,
    /// A delete arrived: the workflow stops between two steps and is undone.
    #[error("given up, because the instance is being deleted")]
    Cancelled,
    #[error("the domain is {found}, and should have been {wanted} within {within:?}")]
    NotThere { wanted: &'static str, found: String, within: Duration },
    /// The build asks for something that this agent doesn't do.
    #[error("{0} is not supported")]
    NotSupported(&'static str),
    /// The disks that a build asks for contradict each other, its flavor, or what a disk can be.
    #[error("{message}")]
    InvalidBlockDevice { exception: &'static str, message: String },
    #[error("the vendor data {} can't be read", path.display())]
    VendorData {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// nova: QemuGuestAgentNotEnabled
    #[error("QEMU guest agent is not enabled")]
    NoGuestAgent,
    /// nova: InstanceQuiesceNotSupported
    #[error("quiescing is not supported in instance {0}")]
    QuiesceNotSupported(uuid::Uuid),
    /// nova: InstanceQuiesceFailed
    #[error("failed to quiesce instance: {0}")]
    QuiesceFailed(String),
    /// nova: InstancePasswordSetFailed
    #[error("failed to set admin password on {uuid} because {reason}")]
    PasswordNotSet { uuid: uuid::Uuid, reason: String },
    /// nova: NotImplementedError
    #[error("{0}")]
    NotImplemented(&'static str),
    /// nova: InstanceNotRunning
    #[error("instance {0} is not running")]
    NotRunning(uuid::Uuid),
    /// nova: TriggerCrashDumpNotSupported
    #[error("triggering crash dump is not supported")]
    CrashDumpNotSupported,
    /// Its job is gone, and the copy isn't whole: there may be no space for it.
    #[error("the copy of disk {target} failed")]
    CopyFailed { target: String },
    #[error("user data and injected files must be base64")]
    BadUserData,
    #[error("the system gives no random bytes")]
    NoRandom,
    /// A disk in the instance's directory that this agent can't give its guest.
    #[error("the disk {} is of a kind that is not supported", .0.display())]
    UnknownDisk(std::path::PathBuf),
    /// A bug: it is logged with its place, and the instance is left as it is.
    #[error("the agent failed in the middle of it: {0}")]
    Panicked(String),
    /// There is nothing to boot from: its build never got so far, or its directory is gone.
    #[error("no disk at {}", path.display())]
    NoDisk { path: std::path::PathBuf },
    /// nova: InstanceNotRescuable
    #[error("instance {uuid} cannot be rescued: {reason}")]
    NotRescuable { uuid: uuid::Uuid, reason: String },
    /// nova: InstanceEvacuateNotSupported
    #[error("evacuation is not supported")]
    EvacuateNotSupported,
    /// Nothing but its disk has what the instance holds.
    #[error("instance {0} has no image to come back from: its disk stays")]
    NothingShelved(uuid::Uuid),
    /// nova: InterfaceAttachFailed
    #[error("the interface could not be given to instance {uuid}")]
    InterfaceNotAttached {
        uuid: uuid::Uuid,
        #[source]
        source: Box<StepError>,
    },
    /// nova: InterfaceDetachFailed
    #[error("the interface could not be taken from instance {uuid}")]
    InterfaceNotDetached {
        uuid: uuid::Uuid,
        #[source]
        source: Box<StepError>,
    },
    /// A disk or a domain of this instance is there already, and isn't this build's.
    #[error("instance {uuid} already has {what} on this host")]
    AlreadyThere { uuid: uuid::Uuid, what: &'static str },
}

impl StepError {
    pub fn class(&self) -> Class {
        match self {
            Self::Hypervisor(e) => e.class(),
            Self::Image(e) => e.class(),
            Self::Network(e) => e.class(),
            Self::Volume(e) => e.class(),
            Self::Records(e) => e.class(),
            Self::Claim(e) => e.class(),
            Self::Scheduling(_) => Class::Transient,
            Self::Guest(e) => e.class(),
            Self::InterfaceNotAttached { source, .. }
            | Self::InterfaceNotDetached { source, .. } => source.class(),
            Self::Object(_)
            | Self::Name(_)
            | Self::Cancelled
            | Self::NotSupported(_)
            | Self::InvalidBlockDevice { .. }
            | Self::BadUserData
            | Self::NoGuestAgent
            | Self::PasswordNotSet { .. }
            | Self::NotImplemented(_)
            | Self::NotRunning(_)
            | Self::CrashDumpNotSupported
            | Self::QuiesceNotSupported(_)
            | Self::QuiesceFailed(_)
            | Self::NoDisk { .. }
            | Self::UnknownDisk(_)
            | Self::Panicked(_)
            | Self::NotRescuable { .. }
            | Self::EvacuateNotSupported
            | Self::NothingShelved(_)
            | Self::AlreadyThere { .. } => Class::Refused,
            Self::NotThere { .. }
            | Self::NoRandom
            | Self::NoSerialPort
            | Self::CopyFailed { .. }
            | Self::VendorData { .. } => Class::Reschedule,
        }
    }
}
