//! Volumes: the service that has them, and the way from there to this host.
//!
//! ```text
//! workflow ─▶ Volumes       cinder.rs, local.rs      whose volume it is, and how it is reached
//!          └▶ HostVolumes   host/                    file systems mounted, targets logged in to
//! ```
//!
//! nova: volume/cinder.py; virt/libvirt/volume/

pub mod cinder;
pub mod connection;
pub mod fake;
pub mod host;
pub mod keys;
pub mod local;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::BlockDeviceMapping;
use crate::model::secret::Secret;
use crate::openstack::ApiError;
pub use connection::ConnectionInfo;

/// Snapshots of volumes, whoever makes them.
#[async_trait]
pub trait VolumeSnapshots: Send + Sync {
    /// Whether the snapshot is still being made. One that is absent isn't.
    async fn is_being_made(
        &self,
        context: &RequestContext,
        snapshot: &str,
    ) -> Result<bool, VolumeError>;
}

/// A volume as its service has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Volume {
    pub id: String,
    /// `available`, `reserved`, `in-use`, `creating`, …
    pub status: String,
    pub size_gib: Option<i64>,
    /// Several guests may have it at once.
    pub is_multiattach: bool,
    pub is_encrypted: bool,
    pub volume_type: Option<String>,
    /// `migrating` while its service moves it.
    pub migration_status: Option<String>,
    /// The instances that have it.
    pub servers: Vec<String>,
}

/// A volume to make. nova: volume/cinder.py, `create`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewVolume {
    pub size_gib: i64,
    pub name: String,
    pub image: Option<String>,
    pub snapshot: Option<String>,
    pub volume_type: Option<String>,
    pub availability_zone: Option<String>,
}

/// The volume service. An attachment is one guest's right to a volume; `device` is the disk's record,
/// which names its volume and its attachment.
#[async_trait]
pub trait Volumes: VolumeSnapshots {
    async fn volume(&self, context: &RequestContext, id: &str) -> Result<Volume, VolumeError>;

    /// Opens the volume to this host, `connector`, and says how it is reached. A repeat changes
    /// nothing.
    async fn open(
        &self,
        context: &RequestContext,
        device: &BlockDeviceMapping,
        connector: &Value,
    ) -> Result<ConnectionInfo, VolumeError>;

    /// The guest has the volume: it is in use. A repeat changes nothing.
    async fn complete(
        &self,
        context: &RequestContext,
        device: &BlockDeviceMapping,
    ) -> Result<(), VolumeError>;

    /// Gives the guest's right to the volume back; absent is success.
    async fn close(
        &self,
        context: &RequestContext,
        device: &BlockDeviceMapping,
    ) -> Result<(), VolumeError>;

    /// The guest keeps a volume that it was to lose.
    async fn keep_attached(
        &self,
        context: &RequestContext,
        volume_id: &str,
    ) -> Result<(), VolumeError>;

    /// Makes a volume and returns its id; it takes a while until it is `available`.
    async fn create(
        &self,
        context: &RequestContext,
        volume: &NewVolume,
    ) -> Result<String, VolumeError>;

    /// Gives an instance a right to the volume, and says its id.
    async fn reserve(
        &self,
        context: &RequestContext,
        volume_id: &str,
        instance: Uuid,
    ) -> Result<Uuid, VolumeError>;

    /// Deletes a volume; absent is success.
    async fn delete(&self, context: &RequestContext, volume_id: &str) -> Result<(), VolumeError>;

    /// The type of the volume that a snapshot was made of.
    async fn type_of_snapshot(
        &self,
        context: &RequestContext,
        snapshot: &str,
    ) -> Result<Option<String>, VolumeError>;

    /// What opens an encrypted volume; `None` for one that isn't.
    async fn passphrase(
        &self,
        context: &RequestContext,
        volume_id: &str,
        connection: &ConnectionInfo,
    ) -> Result<Option<Secret>, VolumeError>;

    /// Tells the service that a volume it moves is where it was to go, or that it isn't, and says
    /// which volume's id the guest's disk has from then on. nova: volume/cinder.py,
    /// `migrate_volume_completion`
    async fn moved(
        &self,
        context: &RequestContext,
        old: &str,
        new: &str,
        failed: bool,
    ) -> Result<String, VolumeError>;
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("the state of volume snapshot {snapshot} isn't known")]
    Snapshot {
        snapshot: String,
        #[source]
        source: ApiError,
    },
    /// The service doesn't do it.
    #[error("can't {operation} volume {volume_id}")]
    Service {
        operation: &'static str,
        volume_id: String,
        #[source]
        source: ApiError,
    },
    #[error("volume {0} could not be found")]
    NotFound(String),
    /// The instance has no such volume.
    #[error("volume {0} is no disk of the instance")]
    NotAttached(String),
    #[error("invalid volume: {0}")]
    Invalid(String),
    /// A volume that was made has become none. nova: VolumeNotCreated
    #[error("volume {volume_id} did not finish being created: its status is {status}")]
    NotCreated { volume_id: String, status: String, attempts: u32, seconds: u64 },
    /// Connections of that kind aren't done here. nova: VolumeDriverNotFound
    #[error("could not find a handler for {0} volume")]
    Unsupported(String),
    #[error("{0} is not supported")]
    NotSupported(&'static str),
    /// nova: ExtendVolumeNotSupported
    #[error("volume size extension is not supported by the hypervisor")]
    NotExtendable,
    /// What the service says of the way to a volume makes no sense.
    #[error("the connection can't be used: {message}")]
    Connection { message: String },
    /// The host can't get at it.
    #[error("can't {operation} {what}: {message}")]
    Host { operation: &'static str, what: String, message: String },
    /// The guest keeps the disk. nova: DeviceDetachFailed
    #[error("device detach failed for {device}: {reason}")]
    NotReleased { device: String, reason: String },
    /// The key manager has no such key, or isn't one that is asked.
    #[error("the key of volume {volume_id} can't be had: {message}")]
    NoKey { volume_id: String, message: String },
}

impl VolumeError {
    pub fn class(&self) -> Class {
        match self {
            Self::Snapshot { source, .. } => source.class(),
            // Cinder says 400 and 409 to what its volume's state doesn't allow.
            Self::Service { source: ApiError::Status { status: 400 | 409, .. }, .. } => {
                Class::Refused
            }
            Self::Service { source, .. } => source.class(),
            Self::NotFound(_) | Self::NotAttached(_) => Class::Absent,
            Self::Host { .. } => Class::Reschedule,
            Self::Invalid(_)
            | Self::NotCreated { .. }
            | Self::Unsupported(_)
            | Self::NotSupported(_)
            | Self::NotExtendable
            | Self::Connection { .. }
            | Self::NotReleased { .. }
            | Self::NoKey { .. } => Class::Refused,
        }
    }
}
