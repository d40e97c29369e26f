//! Standalone mode: a volume is a file or a block device of this host, which its disk's record names.
//! It belongs to whoever named it: nothing is made here, and nothing deleted.

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::{ConnectionInfo, NewVolume, Volume, VolumeError, VolumeSnapshots, Volumes};
use crate::model::context::RequestContext;
use crate::model::object::BlockDeviceMapping;
use crate::model::secret::Secret;

pub struct LocalVolumes;

#[async_trait]
impl VolumeSnapshots for LocalVolumes {
    /// There are none.
    async fn is_being_made(&self, _: &RequestContext, _: &str) -> Result<bool, VolumeError> {
        Ok(false)
    }
}

#[async_trait]
impl Volumes for LocalVolumes {
    async fn volume(&self, _: &RequestContext, id: &str) -> Result<Volume, VolumeError> {
        Ok(Volume { id: id.to_owned(), status: "available".to_owned(), ..Volume::default() })
    }

    async fn open(
        &self,
        _: &RequestContext,
        device: &BlockDeviceMapping,
        _: &Value,
    ) -> Result<ConnectionInfo, VolumeError> {
        let recorded = device.connection_info.value().map(ConnectionInfo::parse).transpose()?;
        match recorded.flatten() {
            Some(connection) if connection.kind() == super::host::LOCAL => Ok(connection),
            Some(connection) => Err(VolumeError::Unsupported(connection.kind().to_owned())),
            None => Err(VolumeError::NotFound(device.volume_id.text().unwrap_or("-").to_owned())),
        }
    }

    async fn complete(
        &self,
        _: &RequestContext,
        _: &BlockDeviceMapping,
    ) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn close(&self, _: &RequestContext, _: &BlockDeviceMapping) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn keep_attached(&self, _: &RequestContext, _: &str) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn create(&self, _: &RequestContext, _: &NewVolume) -> Result<String, VolumeError> {
        Err(VolumeError::NotSupported("a volume service"))
    }

    async fn reserve(&self, _: &RequestContext, _: &str, _: Uuid) -> Result<Uuid, VolumeError> {
        Err(VolumeError::NotSupported("a volume service"))
    }

    async fn delete(&self, _: &RequestContext, _: &str) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn type_of_snapshot(
        &self,
        _: &RequestContext,
        _: &str,
    ) -> Result<Option<String>, VolumeError> {
        Err(VolumeError::NotSupported("a volume service"))
    }

    async fn passphrase(
        &self,
        _: &RequestContext,
        _: &str,
        _: &ConnectionInfo,
    ) -> Result<Option<Secret>, VolumeError> {
        Ok(None)
    }

    async fn moved(
        &self,
        _: &RequestContext,
        _: &str,
        _: &str,
        _: bool,
    ) -> Result<String, VolumeError> {
        Err(VolumeError::NotSupported("a volume service"))
    }
}
