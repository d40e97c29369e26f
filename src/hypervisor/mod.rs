//! The hypervisor as workflows see it: define a domain, start it, watch it, take it away.
//!
//! [`Hypervisor`] is the trait, `libvirt/` the real one, `fake.rs` one that keeps its world in
//! memory. A domain is always named by its instance's UUID.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::model::class::Class;
use crate::model::secret::Secret;
use crate::model::state::PowerState;

pub mod block;
pub mod fake;
pub mod guest;
pub mod host;
pub mod libvirt;
pub mod spec;

use block::{BlockCopy, BlockJob, BlockJobEvent, DeviceEvent, DomainDisk, VolumeDisk};
use host::{Capabilities, DiskSize, DomainCapabilities, HostCpu, HostState};
use spec::{DiskSpec, DomainSpec, FirmwareFiles, InterfaceSpec, NovaMetadata};

/// How a domain is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// Leave the virtual CPUs stopped. libvirt: `VIR_DOMAIN_START_PAUSED`.
    pub paused: bool,
    /// Drop a managed-save image instead of restoring it. libvirt: `VIR_DOMAIN_START_FORCE_BOOT`.
    pub force_boot: bool,
}

/// A domain as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainInfo {
    pub instance_uuid: Uuid,
    /// The domain's name, `instance-0000000d`.
    pub name: String,
    /// libvirt's number of a running domain.
    pub id: Option<u32>,
    pub power_state: PowerState,
    /// Why, in libvirt's words: `booted`, `destroyed`, `saved`, …
    pub reason: String,
    /// Whether a managed-save image waits to be restored.
    pub managed_save: bool,
    /// Whether its XML carries nova's metadata: only such a domain is ours to destroy.
    pub nova_owned: bool,
}

/// A change of a domain's state, pushed by the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainEvent {
    pub instance_uuid: Uuid,
    pub power_state: PowerState,
    pub detail: String,
}

/// Where a guest's consoles listen, read back from the running domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsoleEndpoints {
    pub vnc: Option<(String, u16)>,
    pub spice: Option<SpicePorts>,
    /// A TCP serial port, one for each serial console.
    pub serial: Vec<(String, u16)>,
}

/// Where a guest's SPICE server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpicePorts {
    pub port: u16,
    /// For the channels that go over TLS.
    pub tls_port: Option<u16>,
}

/// Counters of a running domain. Times in nanoseconds, memory in KiB, I/O in bytes and requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainStats {
    pub instance_uuid: Uuid,
    pub name: String,
    pub power_state: Option<PowerState>,
    pub cpu_time_ns: u64,
    pub vcpu_times_ns: Vec<u64>,
    pub memory_max_kib: u64,
    pub memory_used_kib: u64,
    pub disks: Vec<DiskStats>,
    pub interfaces: Vec<InterfaceStats>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiskStats {
    /// `vda`
    pub target: String,
    pub read_requests: u64,
    pub read_bytes: u64,
    pub write_requests: u64,
    pub write_bytes: u64,
    pub errors: i64,
    pub allocation_bytes: u64,
    pub capacity_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct InterfaceStats {
    /// `tap…`; empty for one without a device on the host, whose counters are 0.
    pub device: String,
    pub mac_address: Option<String>,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_drop: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_drop: u64,
}

/// The host as its hypervisor knows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostInfo {
    /// nova's `hypervisor_hostname`: the node.
    pub node: String,
    pub uuid: Option<Uuid>,
    pub architecture: String,
    pub cpus: u32,
    pub memory_mib: u64,
    /// `QEMU`
    pub hypervisor_type: String,
    /// major × 1 000 000 + minor × 1 000 + micro
    pub hypervisor_version: u64,
    pub library_version: u64,
    /// What the host can run, from its capabilities: (architecture, domain type), `("x86_64", "kvm")`.
    pub guests: Vec<(String, String)>,
}

/// The hypervisor. Every method answers within a deadline of its own, or with
/// [`HypervisorError::TimedOut`].
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Defines the domain; one of this UUID that is already defined takes the new definition.
    async fn define(&self, spec: &DomainSpec) -> Result<(), HypervisorError>;

    /// Defines the domain as [`Hypervisor::domain_xml`] gave it, before another definition took its
    /// place. `Garbled` for what isn't this domain's, with nova's metadata.
    async fn define_again(&self, uuid: Uuid, xml: &str) -> Result<(), HypervisorError>;

    /// Starts a defined domain; one that is already running stays as it is.
    async fn start(&self, uuid: Uuid, options: StartOptions) -> Result<(), HypervisorError>;

    /// Stops the domain at once, as if its power were cut; one that doesn't run stays as it is.
    /// `NoDomain` when there is none.
    async fn destroy(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Removes the definition with its NVRAM and its managed-save image; absent is success.
    async fn undefine(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Presses the ACPI power button. The guest may take its time, or never react.
    async fn press_power_button(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Stops the virtual CPUs; a paused domain stays as it is.
    async fn pause(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Lets the virtual CPUs run again; a running domain stays as it is.
    async fn unpause(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Saves the guest's memory to disk and stops it, to be restored by the next start. Long: it
    /// has a deadline of `within` and a connection of its own. One that is saved stays as it is.
    /// After the deadline it is aborted; [`Hypervisor::has_job`] says when that is over.
    async fn managed_save(&self, uuid: Uuid, within: Duration) -> Result<(), HypervisorError>;

    /// Whether a long job works on the domain: a save that outlived its deadline, or the agent that
    /// asked for it. Until it is over, the domain's state says nothing of how it ends. None works on
    /// an absent domain.
    async fn has_job(&self, uuid: Uuid) -> Result<bool, HypervisorError>;

    /// Asks for the end of such a job, and doesn't wait for it; it may still end well. None is
    /// success.
    async fn abort_job(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Drops a managed-save image; absent is success.
    async fn drop_managed_save(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// The domain as it is now; `None` when there is none.
    async fn domain(&self, uuid: Uuid) -> Result<Option<DomainInfo>, HypervisorError>;

    /// Every domain of the host, running or not.
    async fn domains(&self) -> Result<Vec<DomainInfo>, HypervisorError>;

    /// The power state of every domain, running or not, in one call to the hypervisor: those of
    /// domains that aren't ours, too.
    async fn power_states(&self) -> Result<BTreeMap<Uuid, PowerState>, HypervisorError>;

    /// The definition as XML: the next boot's (`inactive`), or the running one's.
    async fn domain_xml(&self, uuid: Uuid, inactive: bool) -> Result<String, HypervisorError>;

    /// The firmware files that libvirt gave a UEFI domain; `None` for BIOS, and for no domain. A new
    /// definition must name them again, or the guest loses its boot variables.
    async fn firmware(&self, uuid: Uuid) -> Result<Option<FirmwareFiles>, HypervisorError>;

    /// Where the domain's consoles listen; for one that is off, where its serial ports will.
    async fn console_endpoints(&self, uuid: Uuid) -> Result<ConsoleEndpoints, HypervisorError>;

    /// Counters of one domain.
    async fn stats(&self, uuid: Uuid) -> Result<DomainStats, HypervisorError>;

    /// Counters of every domain, in one call to the hypervisor.
    async fn all_stats(&self) -> Result<Vec<DomainStats>, HypervisorError>;

    async fn host_info(&self) -> Result<HostInfo, HypervisorError>;

    /// What the host is made of and can run, as it was when it was asked first.
    async fn capabilities(&self) -> Result<Arc<Capabilities>, HypervisorError>;

    /// The host now.
    async fn host_state(&self) -> Result<HostState, HypervisorError>;

    /// What a machine type offers; `None` asks for the architecture's default. It may take long when
    /// nobody has asked before.
    async fn domain_capabilities(
        &self,
        architecture: &str,
        machine: Option<&str>,
        virt_type: &str,
    ) -> Result<DomainCapabilities, HypervisorError>;

    /// The features that a guest with the named CPU model gets on a host with this CPU; `None` where
    /// the hypervisor can't say.
    async fn model_features(
        &self,
        cpu: &HostCpu,
        model: &str,
    ) -> Result<Option<BTreeSet<String>>, HypervisorError>;

    /// Every disk of every domain that is a file or a block device of this host, in one call to the
    /// hypervisor.
    async fn disk_sizes(&self) -> Result<Vec<DiskSize>, HypervisorError>;

    /// The disks of the domain as it runs, or as it will: in the definition's order.
    async fn disks(&self, uuid: Uuid) -> Result<Vec<DomainDisk>, HypervisorError>;

    /// The disks that the domain's next start will have.
    async fn defined_disks(&self, uuid: Uuid) -> Result<Vec<DomainDisk>, HypervisorError>;

    /// Gives the domain a disk: its definition, and, while it runs, its guest. What has the disk
    /// already is left as it is; another disk of that name is in the way: `Refused`.
    async fn attach_disk(&self, uuid: Uuid, disk: &DiskSpec) -> Result<(), HypervisorError>;

    /// Takes a volume out of the definition; absent is success.
    async fn forget_disk(&self, uuid: Uuid, disk: &VolumeDisk) -> Result<(), HypervisorError>;

    /// Asks a running guest to let go of a volume, and doesn't wait for it:
    /// [`Hypervisor::device_events`] tells. `None`: it doesn't have it, or doesn't run; else the
    /// device's alias. One that is being let go of already is asked no second time.
    async fn release_disk(
        &self,
        uuid: Uuid,
        disk: &VolumeDisk,
    ) -> Result<Option<String>, HypervisorError>;

    /// Gives the domain an interface: its definition, and, while it runs, its guest. What has it already
    /// is left as it is.
    async fn attach_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError>;

    /// Takes an interface out of the definition; absent is success.
    async fn forget_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError>;

    /// As [`Hypervisor::release_disk`], of an interface.
    async fn release_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<Option<String>, HypervisorError>;

    /// Whether the domain has the interface as it runs, or as it will.
    async fn has_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<bool, HypervisorError>;

    /// Has the domain's metadata say this: its definition's, and those of the running one.
    async fn describe(&self, uuid: Uuid, metadata: &NovaMetadata) -> Result<(), HypervisorError>;

    /// Tells a running guest that a disk of it has grown to `bytes`.
    async fn resize_disk(
        &self,
        uuid: Uuid,
        target: &str,
        bytes: u64,
    ) -> Result<(), HypervisorError>;

    /// Begins to copy a disk of a running domain to the one that is to take its place; a job that does
    /// so already goes on.
    async fn start_disk_swap(&self, uuid: Uuid, to: &DiskSpec) -> Result<(), HypervisorError>;

    /// Ends a copy that is ready: the guest goes on with the copy instead of the disk.
    async fn pivot_block_job(&self, uuid: Uuid, target: &str) -> Result<(), HypervisorError>;

    /// Keeps the passphrase that opens a volume, and says what the secret is called; there is one for
    /// each volume.
    async fn keep_volume_secret(
        &self,
        volume_id: &str,
        passphrase: &Secret,
    ) -> Result<Uuid, HypervisorError>;

    /// What the secret that opens a volume is called; `None`: there is none.
    async fn volume_secret(&self, volume_id: &str) -> Result<Option<Uuid>, HypervisorError>;

    /// Forgets it; absent is success.
    async fn forget_volume_secret(&self, volume_id: &str) -> Result<(), HypervisorError>;

    /// What became of devices that guests were asked to let go of, from now on.
    fn device_events(&self) -> broadcast::Receiver<DeviceEvent>;

    /// Begins to copy a disk of a running domain. A job that is there already is in the way of
    /// another one: `Refused`. The definition stays as it is, and the job doesn't outlive the run.
    async fn start_block_copy(&self, uuid: Uuid, copy: &BlockCopy) -> Result<(), HypervisorError>;

    /// The job on a disk; `None` when there is none, or no such domain runs. A copy that fails, for
    /// want of space say, is gone without having been ready.
    async fn block_job(
        &self,
        uuid: Uuid,
        target: &str,
    ) -> Result<Option<BlockJob>, HypervisorError>;

    /// Ends the job on a disk, and waits for that; says whether there was one. A copy that was ready
    /// is the disk as it was then, and nobody writes to it any more.
    async fn abort_block_job(&self, uuid: Uuid, target: &str) -> Result<bool, HypervisorError>;

    /// Has the guest write out its file systems and hold back what it writes from then on. Through
    /// the guest agent: `NoAgent` when that doesn't answer. One that is frozen stays so.
    async fn freeze(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Lets the guest write again; one that isn't frozen goes on.
    async fn thaw(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Sets the password of a user of the guest, through the guest agent.
    async fn set_user_password(
        &self,
        uuid: Uuid,
        user: &str,
        password: &Secret,
    ) -> Result<(), HypervisorError>;

    /// Sends the guest a non-maskable interrupt: what it does then is the guest's own matter.
    async fn inject_nmi(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Changes of jobs on disks from now on; the same goes for who falls behind.
    fn block_job_events(&self) -> broadcast::Receiver<BlockJobEvent>;

    /// State changes from now on. A receiver that falls behind must ask [`Hypervisor::domain`].
    fn events(&self) -> broadcast::Receiver<DomainEvent>;
}

#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    #[error("no domain for instance {0}")]
    NoDomain(Uuid),
    /// A domain of that UUID or name exists, and nova's metadata isn't in it.
    #[error("domain {name} is not an instance of this agent")]
    NotOurs { name: String },
    /// libvirt's own words go in `message`: its code decides the class.
    #[error("libvirt refused {operation}: {message}")]
    Refused { operation: &'static str, message: String, class: Class },
    #[error("{operation} gave no answer within {after:?}")]
    TimedOut { operation: &'static str, after: Duration },
    /// No connection to the hypervisor.
    #[error("no connection to the hypervisor at {uri}: {message}")]
    Unreachable { uri: String, message: String },
    #[error("{operation} is not supported by this hypervisor")]
    NotSupported { operation: &'static str },
    /// The agent in the guest doesn't answer, or isn't there. libvirt: `VIR_ERR_AGENT_UNRESPONSIVE`
    #[error("the guest agent doesn't answer to {operation}: {message}")]
    NoAgent { operation: &'static str, message: String },
    /// The hypervisor's answer made no sense.
    #[error("unexpected answer to {operation}: {message}")]
    Garbled { operation: &'static str, message: String },
}

impl HypervisorError {
    pub fn class(&self) -> Class {
        match self {
            Self::NoDomain(_) => Class::Absent,
            Self::NotOurs { .. } => Class::Refused,
            Self::Refused { class, .. } => *class,
            Self::TimedOut { .. } | Self::Unreachable { .. } => Class::Reschedule,
            Self::NotSupported { .. } | Self::NoAgent { .. } => Class::Refused,
            Self::Garbled { .. } => Class::Reschedule,
        }
    }
}
