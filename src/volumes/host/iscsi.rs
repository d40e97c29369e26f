//! Volumes behind iSCSI targets.
use super::{DiskUser, HostOptions};
use crate::volumes::{ConnectionInfo, VolumeError};
use uuid::Uuid;
pub struct Iscsi;
impl Iscsi {
    pub fn new(_: &HostOptions) -> Self {
        Self
    }
    pub async fn connect(&self, _: &mut ConnectionInfo) -> Result<(), VolumeError> {
        Err(VolumeError::Unsupported("iscsi".into()))
    }
    pub async fn disconnect(
        &self,
        _: &ConnectionInfo,
        _: Uuid,
        _: &[DiskUser],
    ) -> Result<(), VolumeError> {
        Err(VolumeError::Unsupported("iscsi".into()))
    }
    pub async fn grow(&self, _: &ConnectionInfo) -> Result<u64, VolumeError> {
        Err(VolumeError::Unsupported("iscsi".into()))
    }
}
