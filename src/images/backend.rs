//! How a root disk is made of its base: an overlay on it or a copy of it.
//!
//! ``nova: virt/libvirt/imagebackend.py``, classes Qcow2 and Flat.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use tracing::warn;

use super::child::{Limits, Tool, path_arg};
use super::files::blocking;
use super::inspect::Inspected;
use super::qemu_img::QemuImg;
use super::{CachedImage, ImageError};

/// `[libvirt] images_type`, of those that this agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A qcow2 overlay with the base behind it.
    Qcow2,
    /// A copy of the base, in the base's format.
    Flat,
}

impl Backend {
    /// # Errors
    /// `Unsupported` for `lvm`, `rbd`, `ploop` and what nova doesn't know either.
    pub fn named(images_type: &str, use_cow_images: bool) -> Result<Self, ImageError> {
        match images_type {
            "default" if use_cow_images => Ok(Self::Qcow2),
            "default" | "raw" | "flat" => Ok(Self::Flat),
            "qcow2" => Ok(Self::Qcow2),
            other => Err(ImageError::Unsupported(format!("[libvirt] images_type = {other}"))),
        }
    }

    /// Makes `disk` of `base`, `size_bytes` large (`None`: as large as the base); returns its
    /// format. The caller knows that it fits.
    pub async fn create(
        self,
        qemu_img: &QemuImg,
        disk: &Path,
        (base, inspected): (&CachedImage, &Inspected),
        size_bytes: Option<u64>,
    ) -> Result<&'static str, ImageError> {
        let base_format = inspected.format.qemu_name();
        match self {
            Self::Qcow2 => {
                let cluster = inspected.cluster_size;
                let base = (base.path.as_path(), base_format);
                qemu_img.create_overlay(disk, base, cluster, size_bytes).await?;
                Ok("qcow2")
            }
            Self::Flat if !["raw", "qcow2"].contains(&base_format) => {
                Err(ImageError::Unsupported(format!("a root disk copied from {base_format}")))
            }
            Self::Flat => {
                copy(qemu_img, &base.path, disk).await?;
                if let Some(size) = size_bytes.filter(|size| *size > inspected.virtual_size) {
                    qemu_img.resize(disk, base_format, size).await?;
                }
                Ok(base_format)
            }
        }
    }
}

/// Sparse, and shared where the file system can.
pub(super) async fn copy(qemu_img: &QemuImg, from: &Path, to: &Path) -> Result<(), ImageError> {
    let args: Vec<OsString> = vec![
        "--reflink=auto".into(),
        "--sparse=always".into(),
        "--".into(),
        path_arg(from),
        path_arg(to),
    ];
    let limits = Limits { deadline: qemu_img.long_deadline, memory_bytes: None, cpu_seconds: None };
    Tool { name: "cp", program: "cp", args, limits, writes_to: Some(to.to_owned()) }.run().await?;
    Ok(())
}

/// `preallocate_images = space`: takes the blocks now, so that the guest never meets a full disk.
/// A file system that can't is warned of, as nova does.
pub async fn preallocate(disk: &Path, size_bytes: u64) -> Result<(), ImageError> {
    blocking("preallocate", disk, move |disk| {
        let file = OpenOptions::new().write(true).open(disk)?;
        let length = libc::off_t::try_from(size_bytes).map_err(std::io::Error::other)?;
        match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
            Err(Errno::EOPNOTSUPP) => {
                warn!(path = %disk.display(), "the file system can't preallocate");
                Ok(())
            }
            other => other.map_err(Into::into),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_go_by_novas_names() {
        for (name, cow, expected) in [
            ("default", true, Backend::Qcow2),
            ("default", false, Backend::Flat),
            ("qcow2", false, Backend::Qcow2),
            ("raw", true, Backend::Flat),
            ("flat", true, Backend::Flat),
        ] {
            assert_eq!(Backend::named(name, cow).unwrap(), expected, "{name} {cow}");
        }
    }

    #[test]
    fn what_we_do_not_have_is_said_by_name() {
        for name in ["lvm", "rbd", "ploop", "floppy"] {
            let error = Backend::named(name, true).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
