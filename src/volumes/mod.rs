//! Volumes: so far, whether their snapshots are still being made. A guest that was frozen for them may
//! write again when they are.

pub mod cinder;
pub mod fake;

use async_trait::async_trait;

use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::openstack::ApiError;

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

/// Standalone mode: there are none.
pub struct NoVolumes;

#[async_trait]
impl VolumeSnapshots for NoVolumes {
    async fn is_being_made(&self, _: &RequestContext, _: &str) -> Result<bool, VolumeError> {
        Ok(false)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("the state of volume snapshot {snapshot} isn't known")]
    Snapshot {
        snapshot: String,
        #[source]
        source: ApiError,
    },
}

impl VolumeError {
    pub fn class(&self) -> Class {
        match self {
            Self::Snapshot { source, .. } => source.class(),
        }
    }
}
