//! What a rescue adds to an instance's directory: a disk to boot from, with its kernel and its config
//! drive, and the definition that the guest gets back. The instance's own disks are not touched.
//! nova: virt/libvirt/driver.py, `rescue`, `unrescue`

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use async_trait::async_trait;
use uuid::Uuid;

use super::files::{Draft, blocking, remove_if_there, replace};
use super::store::{HostImages, Stands};
use super::{CachedImage, ConfigDriveFiles, Disk, ImageError};

/// What every file of a rescue ends with.
pub const SUFFIX: &str = ".rescue";

/// The definition from before.
const KEPT: &str = "unrescue.xml";

/// Far more than any definition has.
const MOST_BYTES: u64 = 4 << 20;

/// The files of rescues.
#[async_trait]
pub trait RescueFiles: Send + Sync {
    /// Makes the disk `disk.rescue` from `base`, as large as the image. A repeat keeps a finished disk.
    async fn create_rescue_root(
        &self,
        instance: Uuid,
        base: &CachedImage,
    ) -> Result<Disk, ImageError>;

    /// Makes the config drive `disk.config.rescue`; a repeat makes it anew.
    async fn create_rescue_drive(
        &self,
        instance: Uuid,
        files: &ConfigDriveFiles,
    ) -> Result<Disk, ImageError>;

    /// Keeps a definition as `unrescue.xml`, in place of one that was kept before.
    async fn keep_definition(&self, instance: Uuid, xml: &str) -> Result<(), ImageError>;

    /// The definition that is kept; `None` when there is none.
    async fn kept_definition(&self, instance: Uuid) -> Result<Option<String>, ImageError>;

    /// Removes the definition that is kept; absent is success.
    async fn forget_definition(&self, instance: Uuid) -> Result<(), ImageError>;

    /// Removes the disks and boot files of a rescue; absent is success. `disk.info` goes on to list the
    /// disk, as nova leaves it.
    async fn remove_rescue(&self, instance: Uuid) -> Result<(), ImageError>;
}

#[async_trait]
impl RescueFiles for HostImages {
    async fn create_rescue_root(
        &self,
        instance: Uuid,
        base: &CachedImage,
    ) -> Result<Disk, ImageError> {
        self.make_root(instance, "disk.rescue", base, 0, Stands::AsMade).await
    }

    async fn create_rescue_drive(
        &self,
        instance: Uuid,
        files: &ConfigDriveFiles,
    ) -> Result<Disk, ImageError> {
        self.make_config_drive(instance, "disk.config.rescue", files).await
    }

    async fn keep_definition(&self, instance: Uuid, xml: &str) -> Result<(), ImageError> {
        let _writer = self.writer(instance).await;
        let directory = self.existing_directory(instance).await?;
        let xml = xml.to_owned();
        let (draft, path) = (Draft(directory.join("unrescue.xml.part")), directory.join(KEPT));
        blocking("write", &draft.0, move |draft| {
            remove_if_there(draft)?;
            // A definition can hold what is nobody else's to read.
            let mut options = File::options();
            let mut file = options.write(true).create_new(true).mode(0o600).open(draft)?;
            file.write_all(xml.as_bytes())?;
            replace(draft, &path)
        })
        .await
    }

    async fn kept_definition(&self, instance: Uuid) -> Result<Option<String>, ImageError> {
        blocking("read", &self.directory(instance).join(KEPT), |path| match File::open(path) {
            Ok(file) => {
                let mut text = String::new();
                if file.take(MOST_BYTES).read_to_string(&mut text)? as u64 == MOST_BYTES {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                Ok(Some(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn forget_definition(&self, instance: Uuid) -> Result<(), ImageError> {
        blocking("remove", &self.directory(instance).join(KEPT), remove_if_there).await
    }

    async fn remove_rescue(&self, instance: Uuid) -> Result<(), ImageError> {
        let _writer = self.writer(instance).await;
        blocking("remove the rescue's files of", &self.directory(instance), remove_all).await
    }
}

fn remove_all(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // What a make that was cut off has left is its as well.
        if name.ends_with(SUFFIX) || name.ends_with(".rescue.part") {
            super::store::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}
