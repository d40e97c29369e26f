//! An image that a request names by its id, or describes as a build does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::StepError;
use super::engine::Stage;
use crate::images::ImageRequest;
use crate::model::image::system_metadata_of;
use crate::model::object::{ImageMeta, Instance};

/// What a request says of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NamedImage {
    Id {
        id: String,
        /// Whether it may be any file of this host.
        any_file: bool,
    },
    /// Standalone mode has no image service to ask.
    Described(Box<Image>),
}

/// An image, and what is booted with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub meta: ImageMeta,
    pub request: ImageRequest,
    pub kernel: Option<ImageRequest>,
    pub ramdisk: Option<ImageRequest>,
}

impl NamedImage {
    pub fn id(&self) -> &str {
        match self {
            Self::Id { id, .. } => id,
            Self::Described(image) => &image.request.id,
        }
    }

    /// The image, by what its source knows of it. nova: objects/image_meta.py, `from_image_ref`
    ///
    /// # Errors
    /// `Image`: there is no such image, or its user may not have it.
    pub async fn find(&self, instance: &Instance, stage: &Stage<'_>) -> Result<Image, StepError> {
        let (id, any_file) = match self {
            Self::Described(image) => return Ok(Image::clone(image)),
            Self::Id { id, any_file } => (id, *any_file),
        };
        let found = stage.on.images.look_up(stage.context, &by_id(id, any_file)).await?;
        let meta = match found.meta {
            Some(meta) => meta,
            // Nobody knows more of its own image than its record.
            None if instance.system_metadata("image_base_image_ref") == Some(id) => {
                ImageMeta::from_instance(instance)?
            }
            None => {
                let mut meta = ImageMeta::default();
                meta.properties.set(Default::default());
                meta
            }
        };
        let part = |id: Option<String>| id.map(|id| by_id(&id, any_file));
        Ok(Image {
            meta,
            request: found.image,
            kernel: part(found.kernel_id),
            ramdisk: part(found.ramdisk_id),
        })
    }
}

/// An image that is only named; in standalone mode the name may be its URL.
pub fn by_id(id: &str, any_file: bool) -> ImageRequest {
    ImageRequest {
        id: id.to_owned(),
        url: Some(id.to_owned()).filter(|id| id.contains("://")),
        disk_format: None,
        checksums: Vec::new(),
        size: None,
        any_file,
    }
}

impl Image {
    /// Writes into the instance that it is made of this image, as nova-api does before a rebuild; one
    /// whose record says so already stays as it is.
    /// nova: compute/api.py, `rebuild`
    pub fn place(&self, instance: &mut Instance) {
        let id = &self.request.id;
        if instance.image_ref() == Some(id) {
            return;
        }
        instance.image_ref.set(Some(id.clone()));
        let part =
            |part: &Option<ImageRequest>| part.as_ref().map_or("", |part| &part.id).to_owned();
        instance.kernel_id.set(Some(part(&self.kernel)));
        instance.ramdisk_id.set(Some(part(&self.ramdisk)));
        let meta = &self.meta;
        let properties: BTreeMap<_, _> = meta.properties().field_texts().into_iter().collect();
        let dict = json!({
            "properties": properties,
            "min_ram": meta.min_ram.get(),
            "min_disk": meta.min_disk.get(),
            "disk_format": meta.disk_format.get(),
            "container_format": meta.container_format.get(),
        });
        let mut known = system_metadata_of(&dict, instance.flavor.get());
        known.insert("image_base_image_ref".to_owned(), Some(id.clone()));
        instance.system_metadata.update(|metadata| {
            metadata.retain(|key, _| !key.starts_with("image_"));
            metadata.extend(known);
        });
    }
}
