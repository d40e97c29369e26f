//! Notifications: what happens to instances, told to whoever listens, in nova's unversioned and
//! versioned payloads.
//!
//! ```text
//! workflow ─▶ Notifier ─▶ legacy.rs, versioned.rs ─▶ Outbox ─▶ rpc/notify.rs, or the log
//!              (Sender)       payloads, pure
//! ```
//!
//! nova-compute's own are here. `instance.update`, `service.*` and `compute_task.*` come from
//! nova-conductor, which writes the records that they tell of.
//!
//! nova: rpc.py, get_notifier, get_versioned_notifier; compute/utils.py, notify_about_*

use crate::model::context::RequestContext;
use crate::model::fault::Raised;
use crate::model::object::{BlockDeviceMapping, Instance, VolumeUsage};
use crate::model::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub mod audit;
pub mod fake;
pub mod legacy;
pub mod log;
pub mod message;
pub mod python;
pub mod sender;
pub mod versioned;

/// Tells of what happened. It never waits, and never fails the work that it tells of.
pub trait Notifier: Send + Sync {
    fn notify(&self, context: &RequestContext, event: &Event<'_>);

    /// Whether anybody is told: what only a notification needs is not gathered for nobody.
    fn is_on(&self) -> bool;
}

/// Tells nobody: `[oslo_messaging_notifications] driver` is empty or `noop`.
pub struct Silent;

impl Notifier for Silent {
    fn notify(&self, _: &RequestContext, _: &Event<'_>) {}

    fn is_on(&self) -> bool {
        false
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A phase of an action on an instance.
    Instance(InstanceEvent<'a>),
    /// The instance exists, for whoever counts its use: in a period that is over, or, until now, in
    /// the current one.
    Exists {
        instance: &'a Instance,
        /// As it was, where it has changed already: the unversioned format tells of that.
        before: Option<&'a Instance>,
        period: (Timestamp, Timestamp),
    },
    /// A method of the compute interface raised an exception. nova: exception_wrapper.py
    Exception { method: &'a str, args: &'a Map<String, Value>, raised: &'a Raised },
    /// How a guest has used a volume. nova: compute/utils.py, notify_about_volume_usage
    VolumeUsage(&'a VolumeUsage),
    /// The hypervisor can't be reached. nova: virt/libvirt/host.py, get_connection
    NoHypervisor { raised: &'a Raised },
}

#[derive(Debug, Clone)]
pub struct InstanceEvent<'a> {
    pub instance: &'a Instance,
    pub action: Action,
    pub phase: Phase,
    pub details: Details<'a>,
}

/// What some phases of some actions tell beside the instance's record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Details<'a> {
    /// Why it failed.
    pub raised: Option<&'a Raised>,
    /// Its disks, where the action knows them: nova tells of those that are volumes.
    pub block_devices: Option<&'a [BlockDeviceMapping]>,
    /// Of the image that a build starts from, which may have none.
    pub image_name: Option<Option<&'a str>>,
    /// Of the image that a snapshot becomes.
    pub snapshot_image_id: Option<&'a str>,
    /// Of the image that a rescue starts from.
    pub rescue_image_name: Option<&'a str>,
    /// The rescue image that was asked for.
    pub rescue_image_ref: Option<&'a str>,
    /// Of the volume that comes or goes.
    pub volume_id: Option<&'a str>,
    /// Of a volume and of the one that takes its place.
    pub swapped: Option<(&'a str, &'a str)>,
}

/// What is done to an instance, or to a volume of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Create,
    Delete,
    /// A delete, or a failed build, stops the guest and takes it away.
    Shutdown,
    PowerOff,
    PowerOn,
    Reboot,
    Pause,
    Unpause,
    Suspend,
    Resume,
    Snapshot,
    TriggerCrashDump,
    SoftDelete,
    Restore,
    Rescue,
    Unrescue,
    Rebuild,
    Shelve,
    ShelveOffload,
    Unshelve,
    VolumeAttach,
    VolumeDetach,
    InterfaceAttach,
    InterfaceDetach,
    /// A fixed IP comes to a port.
    CreateIp,
    DeleteIp,
    VolumeSwap,
}

impl Action {
    /// Its part of an event's type, in both formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Shutdown => "shutdown",
            Self::PowerOff => "power_off",
            Self::PowerOn => "power_on",
            Self::Reboot => "reboot",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Snapshot => "snapshot",
            Self::TriggerCrashDump => "trigger_crash_dump",
            Self::SoftDelete => "soft_delete",
            Self::Restore => "restore",
            Self::Rescue => "rescue",
            Self::Unrescue => "unrescue",
            Self::Rebuild => "rebuild",
            Self::Shelve => "shelve",
            Self::ShelveOffload => "shelve_offload",
            Self::Unshelve => "unshelve",
            Self::VolumeAttach => "volume_attach",
            Self::VolumeDetach => "volume_detach",
            Self::InterfaceAttach => "interface_attach",
            Self::InterfaceDetach => "interface_detach",
            Self::CreateIp => "create_ip",
            Self::DeleteIp => "delete_ip",
            Self::VolumeSwap => "volume_swap",
        }
    }

    /// Whether nova makes the request's context an administrator's for it.
    pub fn is_elevated(self) -> bool {
        !matches!(
            self,
            Self::Create
                | Self::Delete
                | Self::PowerOff
                | Self::PowerOn
                | Self::TriggerCrashDump
                | Self::SoftDelete
                | Self::Restore
                | Self::Shelve
                | Self::ShelveOffload
                | Self::Unshelve
                | Self::VolumeDetach
                | Self::InterfaceAttach
                | Self::InterfaceDetach
                | Self::CreateIp
                | Self::DeleteIp
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Start,
    End,
    Error,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
            Self::Error => "error",
        }
    }
}
