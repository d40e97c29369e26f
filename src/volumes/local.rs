//! Standalone mode: a volume is a file or a block device of this host, which its disk's record names.
//! It belongs to whoever named it: nothing is made here, and nothing deleted.

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::{ConnectionInfo, NewVolume, Volume, VolumeError, VolumeSnapshots, Volumes};
use crate::model::context::RequestContext;
use crate::model::object::BlockDeviceMapping;
use crate::model::secret::Secret;

pub struct LocalVolumes;

/// In the connection of an encrypted volume: the file with its passphrase.
pub const KEY_FILE: &str = "key_file";

/// Bytes; cryptsetup takes no longer passphrase.
const LONGEST_KEY: usize = 512;

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

    /// The file that the connection names holds it, to its last byte.
    async fn passphrase(
        &self,
        _: &RequestContext,
        volume_id: &str,
        connection: &ConnectionInfo,
    ) -> Result<Option<Secret>, VolumeError> {
        if !connection.flag("encrypted") {
            return Ok(None);
        }
        let path = connection.required(KEY_FILE)?;
        let failed = |message: String| VolumeError::NoKey {
            volume_id: volume_id.to_owned(),
            message: format!("{path}: {message}"),
        };
        let file = tokio::fs::File::open(path).await.map_err(|error| failed(error.to_string()))?;
        let (mut text, limit) = (String::new(), LONGEST_KEY + 1);
        let read = file.take(limit as u64).read_to_string(&mut text).await;
        read.map_err(|error| failed(error.to_string()))?;
        match text.len() {
            1..=LONGEST_KEY => Ok(Some(Secret::new(text))),
            _ => Err(failed(format!("a passphrase has 1 to {LONGEST_KEY} bytes"))),
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encrypted(key_file: &str) -> ConnectionInfo {
        let info = json!({
            "driver_volume_type": "local",
            "data": {"device_path": "/v", "encrypted": true, "key_file": key_file},
        });
        ConnectionInfo::new(info.as_object().unwrap().clone())
    }

    #[tokio::test]
    async fn a_passphrase_is_what_its_file_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let asked = encrypted(path);
        let context = RequestContext::admin();
        let read = || LocalVolumes.passphrase(&context, "v", &asked);
        std::fs::write(path, "open sesame\n").unwrap();
        assert_eq!(read().await.unwrap().unwrap().expose(), "open sesame\n");
        for wrong in [&b""[..], &[b'x'; 513], b"\xff\xfe"] {
            std::fs::write(path, wrong).unwrap();
            let error = read().await.unwrap_err();
            assert!(matches!(error, VolumeError::NoKey { .. }), "{error}");
        }
        drop(file);
        read().await.unwrap_err();
        let plain = ConnectionInfo::default();
        assert!(LocalVolumes.passphrase(&context, "v", &plain).await.unwrap().is_none());
    }
}
