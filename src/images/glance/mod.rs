//! Nova mode's images: Glance. nova: image/glance.py.
//!
//! Everything is asked with the user's own token: whose image it is, is Glance's to say.

mod image;
mod sink;
mod update;
mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};

use super::{FoundImage, ImageError, ImageRequest, ImageSource, ImageStream};
use crate::config;
use crate::model::context::RequestContext;
use crate::openstack::endpoint::Endpoint;
use crate::openstack::streams::Download;
use crate::openstack::{
    Api, ApiError, ApiRequest, ApiResponse, Identity, Method, Service, Session, error_text,
};

pub use image::{GlanceImage, Visibility, checksums};
pub use update::ImageUpdate;

/// Ids are UUIDs, or what an operator chose for one.
const LONGEST_ID: usize = 255;

/// The image service.
pub struct Glance {
    endpoint: Arc<Endpoint>,
    /// Uploads that broke off are begun again so often.
    retries: u32,
    /// An image without a good signature must not be booted, and we can't verify one.
    wants_signatures: bool,
}

impl Glance {
    pub fn new(session: &Session, options: &config::glance::Glance) -> Self {
        Self {
            endpoint: session.endpoint(Service::Glance),
            retries: options.num_retries,
            wants_signatures: options.verify_glance_signatures,
        }
    }

    /// What Glance knows of an image. nova: image/glance.py, `show`.
    ///
    /// # Errors
    /// `NotFound`, also for an image that the user may not see; `NotAuthorized`, `Unreachable`;
    /// `Unacceptable` for a record that nova has no words for.
    pub async fn show(
        &self,
        context: &RequestContext,
        id: &str,
    ) -> Result<GlanceImage, ImageError> {
        let request = self.request(Method::Get, context, id, "")?;
        let answer = self.send(id, request).await?;
        GlanceImage::parse(id, &answer.body)
    }

    /// Changes what `update` names and leaves the rest. A repeat changes nothing more.
    /// nova: image/glance.py, `update` with `purge_props=False`.
    ///
    /// # Errors
    /// As [`Glance::show`]; `Rejected` for what Glance doesn't take.
    pub async fn update(
        &self,
        context: &RequestContext,
        id: &str,
        update: &ImageUpdate,
    ) -> Result<GlanceImage, ImageError> {
        let request = self.request(Method::Get, context, id, "")?;
        let before = self.send(id, request).await?;
        let Some(patch) = update.patch(&before.body) else {
            return GlanceImage::parse(id, &before.body);
        };
        let request = self
            .request(Method::Patch, context, id, "")?
            .header("content-type", "application/openstack-images-v2.1-json-patch")
            .body(patch)
            .repeatable();
        let answer = self.send(id, request).await?;
        GlanceImage::parse(id, &answer.body)
    }

    /// Removes an image; absent is success.
    ///
    /// # Errors
    /// `InUse` while something keeps it, `NotAuthorized`, `Unreachable`.
    pub async fn delete(&self, context: &RequestContext, id: &str) -> Result<(), ImageError> {
        let request = self.request(Method::Delete, context, id, "")?;
        match self.send(id, request).await {
            Ok(_) | Err(ImageError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn request<'a>(
        &self,
        method: Method,
        context: &'a RequestContext,
        id: &str,
        below: &str,
    ) -> Result<ApiRequest<'a>, ImageError> {
        // It becomes a part of a path.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(plain) {
            return Err(ImageError::NotFound(id.chars().take(LONGEST_ID).collect()));
        }
        let path = format!("/v2/images/{id}{below}");
        Ok(ApiRequest::new(method, path, Identity::User(context)))
    }

    async fn send(&self, id: &str, request: ApiRequest<'_>) -> Result<ApiResponse, ImageError> {
        let answer = self.endpoint.send(request).await.map_err(|error| failed(id, error))?;
        if (200..300).contains(&answer.status) { Ok(answer) } else { Err(refused(id, &answer)) }
    }
}

#[async_trait]
impl ImageSource for Glance {
    /// nova-api sends what Glance knows of a server's image; a kernel or a ramdisk is only named.
    async fn complete(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
    ) -> Result<ImageRequest, ImageError> {
        if self.wants_signatures {
            let option = "[glance] verify_glance_signatures = true";
            return Err(ImageError::Unsupported(option.to_owned()));
        }
        if !image.checksums.is_empty() && image.size.is_some() {
            return Ok(image.clone());
        }
        let known = self.show(context, &image.id).await?;
        if known.status != "active" {
            let reason = format!("it is {}, not active", known.status);
            return Err(ImageError::Unacceptable { image: image.id.clone(), reason });
        }
        Ok(ImageRequest {
            checksums: known.checksums,
            size: known.size,
            disk_format: image.disk_format.clone().or(known.disk_format),
            ..image.clone()
        })
    }

    /// # Errors
    /// As [`Glance::show`]. An image that isn't active yet is found all the same.
    async fn look_up(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
    ) -> Result<FoundImage, ImageError> {
        let known = self.show(context, &image.id).await?;
        let property = |name: &str| known.properties.get(name).filter(|id| !id.is_empty());
        Ok(FoundImage {
            kernel_id: property("kernel_id").cloned(),
            ramdisk_id: property("ramdisk_id").cloned(),
            image: ImageRequest {
                checksums: known.checksums,
                size: known.size,
                disk_format: known.disk_format,
                ..image.clone()
            },
            meta: Some(known.meta),
        })
    }

    /// # Errors
    /// `NotFound`, `NotAuthorized`, `Unacceptable` for an image without data, `Unreachable` for
    /// what another try may get over.
    async fn open(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
        offset: u64,
    ) -> Result<ImageStream, ImageError> {
        let id = &image.id;
        // Without a checksum nothing tells that the halves belong together.
        let resumes = offset > 0 && !image.checksums.is_empty();
        let mut download = self.download(context, id, resumes.then_some(offset)).await?;
        if matches!(&download, Download::Refused(answer) if resumes && answer.status == 416) {
            // Its store can't start in the middle.
            download = self.download(context, id, None).await?;
        }
        let stream = match download {
            Download::Refused(answer) => return Err(refused(id, &answer)),
            Download::Stream(stream) => stream,
        };
        let (offset, total) = match (stream.status, stream.range) {
            (204, _) => {
                let reason = "Image has no associated data".to_owned();
                return Err(ImageError::Unacceptable { image: id.clone(), reason });
            }
            (206, Some((start, total))) if start == offset => (offset, total),
            (206, _) => {
                let message = "Glance sent another range than asked".to_owned();
                return Err(ImageError::Unreachable { image: id.clone(), message });
            }
            _ => (0, stream.length),
        };
        let name = id.clone();
        let bytes = stream.pieces.map_err(move |error| failed(&name, error)).boxed();
        Ok(ImageStream { offset, total, bytes })
    }
}

impl Glance {
    async fn download(
        &self,
        context: &RequestContext,
        id: &str,
        offset: Option<u64>,
    ) -> Result<Download, ImageError> {
        let mut request = self
            .request(Method::Get, context, id, "/file")?
            .header("accept", "application/octet-stream, application/json");
        if let Some(offset) = offset {
            request = request.header("range", format!("bytes={offset}-"));
        }
        self.endpoint.download(request).await.map_err(|error| failed(id, error))
    }
}

/// No answer, as nova has it. nova: image/glance.py, `_translate_image_exception`,
/// `GlanceClientWrapper.call`.
fn failed(id: &str, error: ApiError) -> ImageError {
    let image = id.to_owned();
    match error {
        ApiError::Unauthorized { message, .. } => ImageError::NotAuthorized { image, message },
        other => ImageError::Unreachable { image, message: other.to_string() },
    }
}

/// An answer that isn't a success.
fn refused(id: &str, answer: &ApiResponse) -> ImageError {
    let image = id.to_owned();
    let message = format!("status {}: {}", answer.status, error_text(&answer.body));
    match answer.status {
        404 | 410 => ImageError::NotFound(image),
        401 | 403 => ImageError::NotAuthorized { image, message },
        413 => ImageError::QuotaExceeded(image),
        409 => ImageError::InUse { image, message },
        429 | 500..=599 => ImageError::Unreachable { image, message },
        _ => ImageError::Rejected { image, message },
    }
}
