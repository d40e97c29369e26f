//! `disk.config`: a config drive's files as an ISO or a FAT disk, by the usual tools.
//!
//! ``nova: virt/configdrive.py``. FAT is filled with mtools instead of a mount, so that it needs
//! neither root nor a loop device.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::child::{Limits, Tool, path_arg};
use super::files::blocking;
use super::{ConfigDriveFiles, ImageError};

/// `config_drive_format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigDriveFormat {
    Iso9660,
    Vfat,
}

/// The volume's label: what cloud-init looks for.
const LABEL: &str = "config-2";
/// ``nova: CONFIGDRIVESIZE_BYTES``
const VFAT_BYTES: u64 = 64 << 20;
const LIMITS: Limits = Limits {
    deadline: Duration::from_secs(120),
    memory_bytes: Some(1 << 30),
    cpu_seconds: Some(60),
};

/// How config drives are made.
#[derive(Debug, Clone)]
pub struct ConfigDisk {
    /// `mkisofs_cmd`
    pub mkisofs: String,
    pub format: ConfigDriveFormat,
    /// The ISO's publisher: `OpenStack Nova <version>`.
    pub publisher: String,
}

impl ConfigDisk {
    /// Makes the new file `disk` of `files`, by way of a private directory inside `scratch`.
    ///
    /// # Errors
    /// `BadPath` for a path that isn't plainly inside the drive; nothing is written then.
    pub async fn create(
        &self,
        disk: &Path,
        scratch: &Path,
        files: &ConfigDriveFiles,
    ) -> Result<(), ImageError> {
        for (path, _) in &files.0 {
            check_path(path)?;
        }
        let tree = files.clone();
        let tree = blocking("fill", scratch, move |scratch| write_tree(scratch, &tree)).await?;
        match self.format {
            ConfigDriveFormat::Iso9660 => self.make_iso(disk, tree.path()).await,
            ConfigDriveFormat::Vfat => make_vfat(disk, tree.path(), files).await,
        }
    }

    async fn make_iso(&self, disk: &Path, tree: &Path) -> Result<(), ImageError> {
        // Only ours before there is anything to read in it; libvirt gives it to QEMU's user.
        blocking("create", disk, |disk| private_file(disk).map(drop)).await?;
        let mut args: Vec<OsString> = vec!["-o".into(), path_arg(disk)];
        args.extend(
            ["-ldots", "-allow-lowercase", "-allow-multidot", "-l", "-publisher", &self.publisher]
                .map(OsString::from),
        );
        args.extend(["-quiet", "-J", "-r", "-V", LABEL].map(OsString::from));
        args.push(path_arg(tree));
        run("mkisofs", &self.mkisofs, args, disk).await
    }
}

async fn make_vfat(disk: &Path, tree: &Path, files: &ConfigDriveFiles) -> Result<(), ImageError> {
    blocking("create", disk, |disk| private_file(disk)?.set_len(VFAT_BYTES)).await?;
    let label = vec!["-n".into(), LABEL.into(), path_arg(disk)];
    run("mkfs.vfat", "mkfs.vfat", label, disk).await?;
    let mut tops: Vec<&str> =
        files.0.iter().filter_map(|(path, _)| path.split('/').next()).collect();
    tops.sort_unstable();
    tops.dedup();
    if tops.is_empty() {
        return Ok(());
    }
    let mut args: Vec<OsString> = vec!["-s".into(), "-i".into(), path_arg(disk)];
    args.extend(tops.iter().map(|top| path_arg(&tree.join(top))));
    args.push("::/".into());
    run("mcopy", "mcopy", args, disk).await
}

async fn run(
    name: &'static str,
    program: &str,
    args: Vec<OsString>,
    disk: &Path,
) -> Result<(), ImageError> {
    let tool = Tool { name, program, args, limits: LIMITS, writes_to: Some(disk.to_owned()) };
    tool.run().await?;
    Ok(())
}

/// A path of plain names: nothing that leaves the drive, nothing that a tool reads as an option.
fn check_path(path: &str) -> Result<(), ImageError> {
    let plain = !path.is_empty()
        && !path.contains(['\0', '\\'])
        && path.split('/').all(|name| !name.is_empty() && !name.starts_with('-'))
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
        && !path.split('/').any(|name| name == ".");
    if plain { Ok(()) } else { Err(ImageError::BadPath(path.to_owned())) }
}

/// The files in a directory that only we can read: there are passwords among them.
fn write_tree(scratch: &Path, files: &ConfigDriveFiles) -> io::Result<tempfile::TempDir> {
    let tree = tempfile::Builder::new().prefix(".config-drive-").tempdir_in(scratch)?;
    for (path, content) in &files.0 {
        let path: PathBuf = tree.path().join(path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        private_file(&path)?.write_all(content)?;
    }
    Ok(tree)
}

fn private_file(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_taken() {
        for good in ["a", "openstack/latest/meta_data.json", "ec2/2009-04-04/user-data", "a..b/..c"]
        {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in
            ["", "/a", "../a", "a/../b", "a/..", "a//b", "a/", "./a", "a/./b", "-o", "a\0b", "a\\b"]
        {
            assert!(matches!(check_path(bad), Err(ImageError::BadPath(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_path_that_comes_twice_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let files = ConfigDriveFiles(vec![("a".into(), vec![1]), ("a".into(), vec![2])]);
        assert!(write_tree(dir.path(), &files).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
