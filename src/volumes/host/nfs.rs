//! Volumes that are files on an NFS export. An export is mounted once, and stays for as long as a guest of
//! this host has a file on it. nova: virt/libvirt/volume/{nfs,fs,mount}.py
//!
//! Who uses a mount is what libvirt says of its domains, with what was connected since the agent began and is
//! no guest's yet: nothing of it needs to outlive the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use md5::{Digest, Md5};
use tokio::sync::Mutex;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::tool::{HostTools, Tools, args};
use super::{DiskUser, HostOptions, mounts};
use crate::volumes::{ConnectionInfo, VolumeError};

type Users = BTreeSet<(String, Uuid)>;

/// NFS exports of this host.
pub struct Nfs {
    base: PathBuf,
    options: Option<String>,
    tools: Arc<dyn Tools>,
    /// One lock a mount point: what is connected there.
    points: std::sync::Mutex<BTreeMap<PathBuf, Arc<Mutex<Users>>>>,
}

/// A volume's place on this host.
struct Place<'a> {
    export: &'a str,
    name: &'a str,
    point: PathBuf,
}

impl Nfs {
    pub fn new(options: &HostOptions) -> Self {
        Self {
            base: options.nfs_mount_point_base.clone(),
            options: options.nfs_mount_options.clone(),
            tools: Arc::new(HostTools { within: options.tool_timeout }),
            points: std::sync::Mutex::default(),
        }
    }

    /// Mounts the export, unless it is, and notes where the volume's file is.
    ///
    /// # Errors
    /// `Connection` for names that lead elsewhere; `Host` when the export can't be mounted, and when the
    /// file isn't there.
    pub async fn connect(
        &self,
        connection: &mut ConnectionInfo,
        instance: Uuid,
    ) -> Result<(), VolumeError> {
        let place = self.place(connection)?;
        let point = self.lock(&place.point);
        let mut users = point.lock().await;
        self.mount(&place, connection.text("options")).await?;
        let file = place.point.join(place.name);
        let user = (place.name.to_owned(), instance);
        if let Err(error) = tokio::fs::metadata(&file).await {
            let what = file.display().to_string();
            return Err(VolumeError::Host {
                operation: "look at",
                what,
                message: error.to_string(),
            });
        }
        users.insert(user);
        connection.note("device_path", file.to_string_lossy().into_owned());
        Ok(())
    }

    /// Unmounts the export when nobody needs it any more. One that is busy stays, for the next one who
    /// goes.
    ///
    /// # Errors
    /// `Connection`; `Host` when it isn't known what is mounted.
    pub async fn disconnect(
        &self,
        connection: &ConnectionInfo,
        instance: Uuid,
        in_use: &[DiskUser],
    ) -> Result<(), VolumeError> {
        let place = self.place(connection)?;
        let point = self.lock(&place.point);
        let mut users = point.lock().await;
        users.remove(&(place.name.to_owned(), instance));
        let own = place.point.join(place.name);
        let is_other = |user: &&DiskUser| {
            user.path.starts_with(&place.point) && (user.instance != instance || user.path != own)
        };
        if !users.is_empty() || in_use.iter().any(|user| is_other(&user)) {
            return Ok(());
        }
        let Some(mounted) = mounts::at(&place.point).await? else { return Ok(()) };
        debug!(point = %place.point.display(), source = mounted.source, "nobody needs it any more");
        let path = place.point.to_string_lossy().into_owned();
        let ended = self.tools.run("umount", std::slice::from_ref(&path)).await;
        match ended.and_then(|ended| ended.success("unmount", &path)) {
            Ok(_) => {
                info!(point = path, "unmounted");
                // Only an empty directory goes, and one that doesn't is in nobody's way.
                tokio::fs::remove_dir(&place.point).await.ok();
            }
            Err(error) => warn!(%error, "the export stays mounted"),
        }
        Ok(())
    }

    async fn mount(&self, place: &Place<'_>, options: Option<&str>) -> Result<(), VolumeError> {
        let failed = |operation, message: String| VolumeError::Host {
            operation,
            what: place.export.to_owned(),
            message,
        };
        // Only what is mounted for this export is mounted there: the directory is named for it.
        if mounts::at(&place.point).await?.is_some() {
            return Ok(());
        }
        let made = tokio::fs::create_dir_all(&place.point).await;
        made.map_err(|error| failed("make a directory for", error.to_string()))?;
        let mut all = args(["-t", "nfs"]);
        if let Some(options) = &self.options {
            all.extend(["-o".to_owned(), options.clone()]);
        }
        all.extend(options.unwrap_or_default().split_whitespace().map(str::to_owned));
        all.extend([place.export.to_owned(), place.point.to_string_lossy().into_owned()]);
        let ended = self.tools.run("mount", &all).await;
        match ended.and_then(|ended| ended.success("mount", place.export)) {
            Ok(_) => info!(export = place.export, point = %place.point.display(), "mounted"),
            // It may be there in spite of what the tool says.
            Err(error) => match mounts::at(&place.point).await? {
                Some(_) => warn!(%error, "mounted all the same"),
                None => return Err(error),
            },
        }
        Ok(())
    }

    /// nova: virt/libvirt/volume/fs.py, `_get_mount_path`
    fn place<'a>(&self, connection: &'a ConnectionInfo) -> Result<Place<'a>, VolumeError> {
        let (export, name) = (connection.required("export")?, connection.required("name")?);
        let bad = |what: &str| Err(VolumeError::Connection { message: what.to_owned() });
        // A tool would take it for an option.
        if export.is_empty() || export.starts_with('-') {
            return bad("its export is none");
        }
        let is_plain = !name.contains(['/', '\0']) && ![".", "..", ""].contains(&name);
        if !is_plain || Path::new(name).file_name().is_none() {
            return bad("its name is no file's");
        }
        let hash = format!("{:x}", Md5::digest(export.as_bytes()));
        Ok(Place { export, name, point: self.base.join(hash) })
    }

    fn lock(&self, point: &Path) -> Arc<Mutex<Users>> {
        let mut points = self.points.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        points.entry(point.to_path_buf()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn nfs() -> Nfs {
        Nfs::new(&HostOptions {
            host: "h".into(),
            ip: "10.0.0.1".into(),
            nfs_mount_point_base: "/var/lib/nova/mnt".into(),
            nfs_mount_options: None,
            use_multipath: false,
            enforce_multipath: false,
            scan_tries: 1,
            iscsi_iface: None,
            tool_timeout: Duration::from_secs(1),
        })
    }

    fn info(export: &str, name: &str) -> ConnectionInfo {
        let info = json!({"driver_volume_type": "nfs", "data": {"export": export, "name": name}});
        ConnectionInfo::new(info.as_object().unwrap().clone())
    }

    #[test]
    fn an_export_s_place_is_novas() {
        let info = info("10.66.0.1:/vol", "volume-1");
        let place = nfs().place(&info).map(|place| place.point).unwrap();
        // As recorded.
        assert_eq!(place, Path::new("/var/lib/nova/mnt/36537cc96f74c8104991ab382b5a8996"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (export, name) in [
            ("h:/v", "../passwd"),
            ("h:/v", "a/b"),
            ("h:/v", ".."),
            ("h:/v", ""),
            ("h:/v", "/etc/passwd"),
            ("-o", "v"),
            ("", "v"),
        ] {
            assert!(nfs().place(&info(export, name)).is_err(), "{export} {name}");
        }
    }
}
