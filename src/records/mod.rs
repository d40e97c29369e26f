//! Instance records: what is known of each instance, and what happened to it.
//!
//! In nova mode nova-conductor keeps them (`conductor/`); in standalone mode `sqlite.rs` does. The record is the
//! truth about `vm_state` and `task_state`; a message carries a copy that may be old.

mod changed;
pub mod conductor;
pub mod fake;
pub mod history;
mod parts;
mod rules;
pub mod sqlite;
pub mod upkeep;

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::{
    BlockDeviceMapping, BlockDeviceMappingList, ConsoleAuthToken, Instance, InstanceInfoCache,
    ObjectError, VolumeUsage,
};
use crate::model::state::TaskState;
pub use conductor::ConductorError;
pub use parts::InstancePart;

/// The task states in which a save may go through; anything else means that somebody else has
/// changed the instance meanwhile. nova: `expected_task_state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Any,
    OneOf(Vec<Option<TaskState>>),
}

/// What an instance's user is told went wrong. nova: objects/instance_fault.py
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFault {
    /// An HTTP status; 500 for what isn't the user's doing.
    pub code: u16,
    /// At most 255 characters reach the record.
    pub message: String,
    pub details: String,
}

#[async_trait]
pub trait Records: Send + Sync {
    /// Takes the instance that a request carries and returns it as the record has it.
    ///
    /// Standalone: an instance not on record is added; one on record keeps its own fields and
    /// takes the message's `task_state` when it has none of its own, as if nova-api had set it.
    /// Nova mode: conductor's record was written before the message was sent; it is returned as is.
    async fn receive(
        &self,
        context: &RequestContext,
        instance: Instance,
    ) -> Result<Instance, RecordsError>;

    /// The instance as it is on record, with all that starting its domain needs
    /// ([`InstancePart::FOR_GUEST`]); `None` when it isn't, or is deleted.
    async fn instance(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<Instance>, RecordsError>;

    /// Every instance of this host that isn't deleted, with these parts at least. Standalone: one
    /// whose build failed has no host, and is this one's all the same.
    async fn instances(
        &self,
        context: &RequestContext,
        parts: &[InstancePart],
    ) -> Result<Vec<Instance>, RecordsError>;

    /// Reads those of the parts that `instance` doesn't have; its own stay as they are. A message
    /// has what its sender happened to have read. Nothing is asked when nothing is missing.
    async fn load(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        parts: &[InstancePart],
    ) -> Result<(), RecordsError>;

    /// Writes the changed fields, if the record's task state is one of `expected`, and marks them
    /// as saved. A repeat with nothing changed is a success.
    async fn save(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        expected: Expected,
    ) -> Result<(), RecordsError>;

    /// Marks the instance as deleted; one that is deleted already stays so.
    async fn destroy(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError>;

    /// The instance's network as it was recorded last; `None` when there is none. Others may have
    /// recorded it since `instance` was read.
    async fn info_cache(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<InstanceInfoCache>, RecordsError>;

    /// Records the instance's network, and puts it into `instance`. `network_info` is JSON text.
    /// nova: network/neutron.py, update_instance_cache_with_nw_info
    async fn save_info_cache(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        network_info: String,
    ) -> Result<(), RecordsError>;

    /// The instance's disks; none for an instance without.
    async fn block_devices(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<BlockDeviceMappingList, RecordsError>;

    /// Writes what has changed of a disk, and marks it as saved. One without an id is recorded anew, and
    /// gets that and a uuid. Standalone: so is one that isn't on record.
    async fn save_block_device(
        &self,
        context: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError>;

    /// Takes a disk off the record; absent is success.
    async fn destroy_block_device(
        &self,
        context: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), RecordsError>;

    /// Writes the counters of a volume, and reads what they add up to. `ends`: the guest loses the volume;
    /// the next one's count from zero. Standalone: they are not kept.
    async fn save_volume_usage(
        &self,
        context: &RequestContext,
        usage: &mut VolumeUsage,
        ends: bool,
    ) -> Result<(), RecordsError>;

    /// Records the right to open a console, for `ttl`, and writes its token into it. Standalone mode
    /// has no proxy that would ask for one: the token stays unset.
    async fn authorize_console(
        &self,
        context: &RequestContext,
        token: &mut ConsoleAuthToken,
        ttl: Duration,
    ) -> Result<(), RecordsError>;

    /// Takes back the tokens of a deleted instance; none is success.
    async fn forget_consoles(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<(), RecordsError>;

    /// Records that an event of an instance's action began. `event` is `compute_<method>`. A repeat
    /// within one request is the same event.
    async fn event_started(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
    ) -> Result<(), RecordsError>;

    /// Records how it ended: `failure` holds the message and the details of an error.
    async fn event_finished(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
        failure: Option<(&str, &str)>,
    ) -> Result<(), RecordsError>;

    async fn record_fault(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        fault: InstanceFault,
    ) -> Result<(), RecordsError>;
}

#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("instance {0} is not on record")]
    NotFound(Uuid),
    /// Somebody else has changed the instance. nova: UnexpectedTaskStateError.
    #[error("instance {uuid} is in task state {found}, expected {expected}")]
    UnexpectedTaskState { uuid: Uuid, expected: String, found: String },
    /// It is being deleted. nova: UnexpectedDeletingTaskStateError.
    #[error("instance {0} is being deleted")]
    Deleting(Uuid),
    /// Another instance has this id or name.
    #[error("instance {uuid} clashes with another: {what}")]
    Clash { uuid: Uuid, what: String },
    #[error("the instance can't be recorded")]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Conductor(#[from] ConductorError),
    #[error("the instance records can't be {operation}: {message}")]
    Storage { operation: &'static str, message: String },
}

impl RecordsError {
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => Class::Absent,
            Self::UnexpectedTaskState { .. } | Self::Deleting(_) => Class::Refused,
            Self::Clash { .. } | Self::Object(_) => Class::Refused,
            Self::Conductor(error) => error.class(),
            Self::Storage { .. } => Class::Transient,
        }
    }
}
