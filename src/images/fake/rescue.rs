//! Rescues and rebuilds of the fake.

use async_trait::async_trait;
use uuid::Uuid;

use super::{FakeImages, ImageCall, existing_base};
use crate::images::rescue::SUFFIX;
use crate::images::{CachedImage, ConfigDriveFiles, Disk, ImageError, Images, Remake, RescueFiles};

#[async_trait]
impl RescueFiles for FakeImages {
    async fn create_rescue_root(
        &self,
        instance: Uuid,
        base: &CachedImage,
    ) -> Result<Disk, ImageError> {
        self.act(ImageCall::CreateRescueRoot, |world| {
            existing_base(world, base)?;
            let path = self.path(instance).join("disk.rescue");
            let disk = Disk { path, format: "qcow2".into() };
            self.add(world, instance, &disk)?;
            Ok(disk)
        })
    }

    async fn create_rescue_drive(
        &self,
        instance: Uuid,
        _: &ConfigDriveFiles,
    ) -> Result<Disk, ImageError> {
        self.act(ImageCall::CreateRescueDrive, |world| {
            let path = self.path(instance).join("disk.config.rescue");
            let disk = Disk { path, format: "raw".into() };
            self.add(world, instance, &disk)?;
            Ok(disk)
        })
    }

    async fn keep_definition(&self, instance: Uuid, xml: &str) -> Result<(), ImageError> {
        self.act(ImageCall::KeepDefinition, |world| {
            self.directory_of(world, instance)?.kept = Some(xml.to_owned());
            Ok(())
        })
    }

    async fn kept_definition(&self, instance: Uuid) -> Result<Option<String>, ImageError> {
        self.act(ImageCall::KeptDefinition, |world| {
            Ok(world.directories.get(&instance).and_then(|directory| directory.kept.clone()))
        })
    }

    async fn forget_definition(&self, instance: Uuid) -> Result<(), ImageError> {
        self.act(ImageCall::ForgetDefinition, |world| {
            if let Some(directory) = world.directories.get_mut(&instance) {
                directory.kept = None;
            }
            Ok(())
        })
    }

    async fn remove_rescue(&self, instance: Uuid) -> Result<(), ImageError> {
        self.act(ImageCall::RemoveRescue, |world| {
            if let Some(directory) = world.directories.get_mut(&instance) {
                let is_rescue = |disk: &Disk| disk.path.to_string_lossy().ends_with(SUFFIX);
                directory.disks.retain(|disk| !is_rescue(disk));
            }
            Ok(())
        })
    }
}

#[async_trait]
impl Remake for FakeImages {
    async fn clear_directory(&self, instance: Uuid, keep: &[String]) -> Result<(), ImageError> {
        self.act(ImageCall::ClearDirectory, |world| {
            world.cleared.push(keep.to_vec());
            if let Some(directory) = world.directories.get_mut(&instance) {
                let stays = |disk: &Disk| {
                    let name = disk.path.file_name().and_then(|name| name.to_str());
                    name.is_some_and(|name| keep.iter().any(|kept| kept == name))
                };
                directory.disks.retain(stays);
                (directory.config_drive, directory.kept) = (None, None);
            }
            Ok(())
        })
    }

    async fn create_root_on(
        &self,
        instance: Uuid,
        image: &CachedImage,
        base: Option<&CachedImage>,
        size_gib: u64,
    ) -> Result<Disk, ImageError> {
        if let Some(base) = base {
            existing_base(&self.world(), base)?;
        }
        self.create_root(instance, image, size_gib).await
    }
}
