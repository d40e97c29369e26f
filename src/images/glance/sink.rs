//! Snapshots in Glance. nova: virt/libvirt/driver.py, `snapshot`; compute/manager.py,
//! `_rotate_backups`.

use std::path::Path;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::{Glance, ImageUpdate, LONGEST_ID};
use crate::images::sink::{ImageSink, TargetImage};
use crate::images::{ImageError, Progress};
use crate::model::context::RequestContext;
use crate::openstack::{ApiRequest, Identity};

/// Images of one page; glanceclient's.
const PAGE: &str = "200";
/// A service that never ends its list must not keep us for ever.
const MOST_PAGES: usize = 100;

#[async_trait]
impl ImageSink for Glance {
    async fn reserve(
        &self,
        context: &RequestContext,
        image: &TargetImage,
    ) -> Result<Option<String>, ImageError> {
        let known = self.show(context, &image.id).await?;
        match known.status.as_str() {
            "active" | "deactivated" => {
                let message = "it has content already".to_owned();
                Err(ImageError::InUse { image: image.id.clone(), message })
            }
            _ => Ok(known.name),
        }
    }

    async fn fill(
        &self,
        context: &RequestContext,
        image: &TargetImage,
        known: &ImageUpdate,
        file: &Path,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        self.update(context, &image.id, known).await?;
        self.upload(context, &image.id, file, progress).await
    }

    async fn discard(
        &self,
        context: &RequestContext,
        image: &TargetImage,
    ) -> Result<(), ImageError> {
        self.delete(context, &image.id).await
    }

    async fn discard_empty(
        &self,
        context: &RequestContext,
        image: &TargetImage,
    ) -> Result<(), ImageError> {
        match self.show(context, &image.id).await {
            Ok(known) if ["active", "deactivated"].contains(&known.status.as_str()) => Ok(()),
            Ok(_) => self.delete(context, &image.id).await,
            Err(ImageError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn backups(
        &self,
        context: &RequestContext,
        instance: Uuid,
        backup_type: &str,
    ) -> Result<Vec<TargetImage>, ImageError> {
        let mut found = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut request = ApiRequest::get("/v2/images", Identity::User(context))
                .query("image_type", "backup")
                .query("backup_type", backup_type)
                .query("instance_uuid", instance.to_string())
                .query("limit", PAGE)
                .query("sort_key", "created_at")
                .query("sort_dir", "desc");
            if let Some(marker) = &marker {
                request = request.query("marker", marker.as_str());
            }
            let answer = self.send("-", request).await?;
            let ids = answer.body["images"].as_array().into_iter().flatten();
            let ids: Vec<String> = ids
                .filter_map(|image| image.get("id").and_then(Value::as_str))
                .filter(|id| id.len() <= LONGEST_ID)
                .map(str::to_owned)
                .collect();
            let is_last = answer.body["next"].is_null();
            marker = ids.last().cloned();
            found.extend(ids.into_iter().map(|id| TargetImage { id, any_file: false }));
            if is_last || marker.is_none() {
                break;
            }
        }
        Ok(found)
    }
}
