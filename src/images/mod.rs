//! Images and disks: what a guest boots from.
//!
//! [`ImageSource`] is where bytes come from: files and URLs in standalone mode, Glance in nova mode.
//! [`Images`] is the host's side: the cache under `_base` and the disks in the instance directories.
//! The other way round, [`snapshots`] makes images of disks, and [`sink`] is where they are kept.

pub mod ageing;
pub mod backend;
pub mod blank;
pub mod blank_disks;
pub mod cache;
pub mod checksum;
pub mod child;
pub mod config_disk;
pub mod config_drive;
pub mod disk_info;
pub mod fake;
pub mod fetch;
pub mod files;
pub mod glance;
pub mod inspect;
pub mod lock;
pub mod network_data;
mod provenance;
pub mod qemu_img;
mod references;
pub mod remake;
pub mod rescue;
pub mod sink;
pub mod snapshots;
pub mod source;
mod storage_users;
pub mod store;

use std::path::PathBuf;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::ImageMeta;

pub use ageing::{Aged, Ageing};
pub use blank::Blank;
pub use remake::Remake;
pub use rescue::RescueFiles;

/// An image that a build asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// Glance's id. The cache's file name is the SHA-1 of it, as nova has it.
    pub id: String,
    /// `file:///…`, `http(s)://…`; `None`: the image service knows.
    pub url: Option<String>,
    /// `qcow2`, `raw`, `ami`, `aki`, `ari`, `iso`, … as declared: checked against the content.
    pub disk_format: Option<String>,
    /// What the content must hash to, strongest first.
    pub checksums: Vec<Checksum>,
    /// Bytes, as declared.
    pub size: Option<u64>,
    /// Whether its `file://` URL may name any file of this host: who asks is root here.
    #[serde(default)]
    pub any_file: bool,
}

impl ImageRequest {
    /// One of which only the image service knows more.
    pub fn by_id(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            url: None,
            disk_format: None,
            checksums: Vec::new(),
            size: None,
            any_file: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// `md5`, `sha1`, `sha256`, `sha512`
    pub algorithm: String,
    /// Lower-case hexadecimal.
    pub value: String,
}

/// An image as its source knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundImage {
    /// `None`: the source knows images by their place alone.
    pub meta: Option<ImageMeta>,
    pub kernel_id: Option<String>,
    pub ramdisk_id: Option<String>,
    /// The request, with the source's checksums and size.
    pub image: ImageRequest,
}

/// Bytes from an image source, from the offset that was asked for.
pub struct ImageStream {
    /// The offset that `bytes` starts at: 0 when the source can't resume.
    pub offset: u64,
    /// Total size in bytes, when the source knows.
    pub total: Option<u64>,
    pub bytes: Pin<Box<dyn Stream<Item = Result<Bytes, ImageError>> + Send>>,
}

/// Where images come from.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// The request with what the source knows of the image, where the asker doesn't say: its
    /// checksums and size.
    async fn complete(
        &self,
        _context: &RequestContext,
        image: &ImageRequest,
    ) -> Result<ImageRequest, ImageError> {
        Ok(image.clone())
    }

    /// What the source knows of an image that is only named.
    async fn look_up(
        &self,
        _context: &RequestContext,
        image: &ImageRequest,
    ) -> Result<FoundImage, ImageError> {
        Ok(FoundImage { meta: None, kernel_id: None, ramdisk_id: None, image: image.clone() })
    }

    /// Opens `image` for reading from `offset` bytes on, as whoever `context` names.
    async fn open(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
        offset: u64,
    ) -> Result<ImageStream, ImageError>;
}

/// An image in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedImage {
    pub path: PathBuf,
    /// `raw` or `qcow2`, as inspected.
    pub format: String,
    pub virtual_size_bytes: u64,
}

/// A disk of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub path: PathBuf,
    /// `raw` or `qcow2`
    pub format: String,
}

/// A config drive's content: (path inside it, bytes), such as `openstack/latest/meta_data.json`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDriveFiles(pub Vec<(String, Vec<u8>)>);

impl std::fmt::Debug for ConfigDriveFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paths: Vec<_> = self.0.iter().map(|(path, _)| path).collect();
        write!(f, "ConfigDriveFiles({paths:?})")
    }
}

/// How far a long copy is: (bytes done, bytes in all when known).
pub type Progress<'a> = &'a (dyn Fn(u64, Option<u64>) + Send + Sync);

/// The image cache and the instance directories of this host.
#[async_trait]
pub trait Images: RescueFiles + Remake {
    /// What its source knows of an image that is only named, by `context`'s rights.
    async fn look_up(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
    ) -> Result<FoundImage, ImageError>;

    /// Puts `image` into the cache and says where it is. However many ask at the same time, also
    /// from other processes, it is fetched once, by `context`'s rights. Hostile content never
    /// reaches the cache. May be dropped half-way, and leaves nothing then.
    async fn cache(
        &self,
        context: &RequestContext,
        image: &ImageRequest,
        progress: Progress<'_>,
    ) -> Result<CachedImage, ImageError>;

    /// Whether the image with `id` is in the cache; it counts as used then.
    async fn is_cached(&self, id: &str) -> Result<bool, ImageError>;

    /// Makes the instance's directory; one that exists stays as it is.
    async fn create_directory(&self, instance: Uuid) -> Result<PathBuf, ImageError>;

    /// Whether the instance has a directory on this host.
    async fn has_directory(&self, instance: Uuid) -> Result<bool, ImageError>;

    /// Makes the root disk `disk` from `base`, `size_gib` large (0: as large as the image).
    /// A repeat keeps a finished disk and replaces a half-made one.
    async fn create_root(
        &self,
        instance: Uuid,
        base: &CachedImage,
        size_gib: u64,
    ) -> Result<Disk, ImageError>;

    /// Makes the blank disk `name`: `disk.local`, `disk.swap`, `disk.eph0`, … A repeat keeps a
    /// finished disk and replaces a half-made one.
    ///
    /// # Errors
    /// `Unsupported` for a file system that no request may name.
    async fn create_blank(
        &self,
        instance: Uuid,
        name: &str,
        blank: &Blank,
    ) -> Result<Disk, ImageError>;

    /// Copies a cached kernel or ramdisk to the instance directory as `name`.
    async fn create_boot_file(
        &self,
        instance: Uuid,
        base: &CachedImage,
        name: &str,
    ) -> Result<PathBuf, ImageError>;

    /// Makes the config drive `disk.config`; a repeat makes it anew.
    async fn create_config_drive(
        &self,
        instance: Uuid,
        files: &ConfigDriveFiles,
    ) -> Result<Disk, ImageError>;

    /// The disks of an instance, of those that are there: `disk.info`'s, its config drive and its boot files.
    async fn disks(&self, instance: Uuid) -> Result<Vec<Disk>, ImageError>;

    /// Looks through the cache: what is in use is marked so, and what has been unused for long
    /// enough is removed.
    ///
    /// # Errors
    /// What is in use can't be said: nothing was removed.
    async fn age_cache(&self, by: &Ageing) -> Result<Aged, ImageError>;

    /// Says that `host` uses these instance directories, and returns the hosts that have lately.
    async fn storage_users(&self, host: &str) -> Result<Vec<String>, ImageError>;

    /// Where the guest's console log is.
    fn console_log(&self, instance: Uuid) -> PathBuf;

    /// Removes the instance's directory and everything in it; absent is success. The directory is
    /// renamed first, so that a half-removed one is never taken for an instance.
    async fn remove_directory(&self, instance: Uuid) -> Result<(), ImageError>;
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {0} was not found")]
    NotFound(String),
    /// The image service doesn't take the token, or doesn't let its user have the image.
    #[error("not authorized for image {image}: {message}")]
    NotAuthorized { image: String, message: String },
    /// The image service has no room for it, or its owner may not have more.
    #[error("quota exceeded or out of space for image {0} in the image service")]
    QuotaExceeded(String),
    /// The image service doesn't take what was asked.
    #[error("the image service refuses the request on image {image}: {message}")]
    Rejected { image: String, message: String },
    /// Something keeps the image as it is.
    #[error("image {image} can't be changed now: {message}")]
    InUse { image: String, message: String },
    /// The source can't be reached, or broke off more often than it may.
    #[error("image {image} can't be read from its source: {message}")]
    Unreachable { image: String, message: String },
    #[error("image {image}: {algorithm} is {found}, expected {expected}")]
    WrongChecksum { image: String, algorithm: String, expected: String, found: String },
    /// The content isn't what it is declared to be, or holds what an image may not.
    #[error("image {image} is not acceptable: {reason}")]
    Unacceptable { image: String, reason: String },
    /// nova: FlavorDiskTooSmall and its kin.
    #[error("image {image} needs {needed} bytes, the flavor's root disk has {allowed}")]
    TooLarge { image: String, needed: u64, allowed: u64 },
    #[error("the disk of {path} is full")]
    NoSpace { path: PathBuf },
    #[error("base image {path} is missing")]
    BaseMissing { path: PathBuf },
    #[error("can't {operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{command} failed: {message}")]
    Command { command: &'static str, message: String },
    #[error("{command} gave no answer within {after:?}")]
    TimedOut { command: &'static str, after: std::time::Duration },
    /// An `images_type` and the like that this agent doesn't have.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A path that would leave the instances directory.
    #[error("refused the path {0}")]
    BadPath(String),
}

impl ImageError {
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound(_)
            | Self::NotAuthorized { .. }
            | Self::QuotaExceeded(_)
            | Self::Rejected { .. }
            | Self::InUse { .. }
            | Self::WrongChecksum { .. }
            | Self::Unacceptable { .. }
            | Self::TooLarge { .. }
            | Self::Unsupported(_)
            | Self::BadPath(_) => Class::Refused,
            Self::Unreachable { .. }
            | Self::NoSpace { .. }
            | Self::BaseMissing { .. }
            | Self::Io { .. }
            | Self::Command { .. }
            | Self::TimedOut { .. } => Class::Reschedule,
        }
    }
}
