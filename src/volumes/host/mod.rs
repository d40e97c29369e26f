//! The way from a volume service to this host: one connector for each kind of connection.
//! nova: virt/libvirt/volume/; os-brick

pub mod facts;
pub mod fake;
pub mod iscsi;
pub mod local;
pub mod mounts;
pub mod nfs;
pub mod tool;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::{ConnectionInfo, VolumeError};
use iscsi::Iscsi;
use nfs::Nfs;

/// Kinds of connections, in `driver_volume_type`. `local` is nova's for a block device of the host, and
/// takes a file as well.
pub const LOCAL: &str = "local";
pub const NFS: &str = "nfs";
pub const ISCSI: &str = "iscsi";
pub const RBD: &str = "rbd";

/// This host's part in volumes.
#[async_trait]
pub trait HostVolumes: Send + Sync {
    /// What a volume service has to know of this host. os-brick: connector.py,
    /// `get_connector_properties`
    async fn connector(&self) -> Value;

    /// Makes the volume reachable and notes in `connection` where it is. A repeat changes nothing.
    async fn connect(
        &self,
        connection: &mut ConnectionInfo,
        instance: Uuid,
    ) -> Result<(), VolumeError>;

    /// Takes that back; absent is success. `in_use` are the disks that guests of this host have: what
    /// another one needs as well stays. The volume's data is not touched.
    async fn disconnect(
        &self,
        connection: &ConnectionInfo,
        instance: Uuid,
        in_use: &[DiskUser],
    ) -> Result<(), VolumeError>;

    /// The volume has grown to `bytes`: how large this host finds it.
    async fn grow(&self, connection: &ConnectionInfo, bytes: u64) -> Result<u64, VolumeError>;
}

/// A disk that a guest of this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUser {
    pub instance: Uuid,
    pub path: PathBuf,
}

/// How the host gets at its volumes.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// `[DEFAULT] host`
    pub host: String,
    /// `[DEFAULT] my_block_storage_ip`
    pub ip: String,
    pub nfs_mount_point_base: PathBuf,
    pub nfs_mount_options: Option<String>,
    pub use_multipath: bool,
    pub enforce_multipath: bool,
    pub scan_tries: u32,
    pub iscsi_iface: Option<String>,
    /// For a tool of the host: a mount of a server that is away, a login that isn't answered.
    pub tool_timeout: Duration,
}

/// The host's own tools.
pub struct HostConnectors {
    options: HostOptions,
    nfs: Nfs,
    iscsi: Iscsi,
}

impl HostConnectors {
    pub fn new(options: HostOptions) -> Self {
        Self { nfs: Nfs::new(&options), iscsi: Iscsi::new(&options), options }
    }
}

#[async_trait]
impl HostVolumes for HostConnectors {
    async fn connector(&self) -> Value {
        facts::connector(&self.options).await
    }

    async fn connect(
        &self,
        connection: &mut ConnectionInfo,
        instance: Uuid,
    ) -> Result<(), VolumeError> {
        match connection.kind() {
            LOCAL => local::connect(connection).await,
            NFS => self.nfs.connect(connection, instance).await,
            ISCSI => self.iscsi.connect(connection).await,
            // QEMU connects by itself.
            RBD => connection.required("name").map(drop),
            other => Err(VolumeError::Unsupported(other.to_owned())),
        }
    }

    async fn disconnect(
        &self,
        connection: &ConnectionInfo,
        instance: Uuid,
        in_use: &[DiskUser],
    ) -> Result<(), VolumeError> {
        match connection.kind() {
            LOCAL | RBD => Ok(()),
            NFS => self.nfs.disconnect(connection, instance, in_use).await,
            ISCSI => self.iscsi.disconnect(connection, instance, in_use).await,
            other => Err(VolumeError::Unsupported(other.to_owned())),
        }
    }

    async fn grow(&self, connection: &ConnectionInfo, bytes: u64) -> Result<u64, VolumeError> {
        match connection.kind() {
            // The guest's QEMU makes a file larger; RBD volumes are already.
            NFS | RBD => Ok(bytes),
            ISCSI => self.iscsi.grow(connection).await,
            LOCAL => local::size(connection).await,
            _ => Err(VolumeError::NotExtendable),
        }
    }
}
