//! Where snapshots are kept: images of Glance's, or files of this host. Whoever asks for a snapshot
//! names the image, and nova-api has made room for it.

pub mod fake;
pub mod file;

use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::glance::ImageUpdate;
use super::{ImageError, Progress};
use crate::model::context::RequestContext;

/// The image that a snapshot becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetImage {
    /// Glance's id; `file:///…` in standalone mode.
    pub id: String,
    /// Whether that may name any file of this host: who asks is root here.
    #[serde(default)]
    pub any_file: bool,
}

/// Keeps images.
#[async_trait]
pub trait ImageSink: Send + Sync {
    /// Takes an image's place, which nobody has filled yet, and says what it is called, if that is
    /// known. A repeat finds the place taken by itself.
    ///
    /// # Errors
    /// `NotFound`; `InUse` when it has content.
    async fn reserve(
        &self,
        context: &RequestContext,
        image: &TargetImage,
    ) -> Result<Option<String>, ImageError>;

    /// Gives a reserved image its content and what is known of it; `file` may be gone then. A repeat
    /// finds its own work. May be dropped half-way: [`ImageSink::discard`] takes away what is there
    /// then.
    ///
    /// # Errors
    /// `NotFound` when it was removed meanwhile, `QuotaExceeded`, `NoSpace`, `Unreachable`.
    async fn fill(
        &self,
        context: &RequestContext,
        image: &TargetImage,
        known: &ImageUpdate,
        file: &Path,
        progress: Progress<'_>,
    ) -> Result<(), ImageError>;

    /// Removes an image that was reserved, filled or not; absent is success.
    async fn discard(
        &self,
        context: &RequestContext,
        image: &TargetImage,
    ) -> Result<(), ImageError>;

    /// Removes an image unless it has content: of a snapshot that never came to reserve it.
    async fn discard_empty(
        &self,
        context: &RequestContext,
        image: &TargetImage,
    ) -> Result<(), ImageError>;

    /// An instance's backups of one kind, the newest first.
    ///
    /// # Errors
    /// `Unsupported` where no kinds are kept.
    async fn backups(
        &self,
        context: &RequestContext,
        instance: Uuid,
        backup_type: &str,
    ) -> Result<Vec<TargetImage>, ImageError>;
}
