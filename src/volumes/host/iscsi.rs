//! Volumes behind iSCSI targets, over one path or, with multipathd, over all: open-iscsi logs in, the kernel
//! finds the disk, and sysfs says which it is. os-brick: initiator/connectors/iscsi.py, linuxscsi.py
//!
//! Logins and logouts take turns: whoever logs out must see all that others use on the same target.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

use super::tool::{HostTools, Tools, args};
use super::{DiskUser, HostOptions};
use crate::volumes::{ConnectionInfo, VolumeError};
use sysfs::{Address, Sysfs};
use target::{Target, sessions, targets};

mod sysfs;
mod target;
#[cfg(test)]
mod tests;

/// Between two looks at what the kernel found.
const POLL: Duration = Duration::from_millis(500);

/// How long a disk may take to show after each scan.
const SCAN_TIME: Duration = Duration::from_secs(4);

/// How long multipathd may take to make one device of several paths.
const MULTIPATH_TIME: Duration = Duration::from_secs(10);

/// iscsiadm's answers that are no failures: 15, there is such a session; 21, there is no such record.
const SESSION_EXISTS: i32 = 15;
const NO_OBJECTS: i32 = 21;

/// iSCSI targets of this host.
pub struct Iscsi {
    tools: Arc<dyn Tools>,
    sysfs: Sysfs,
    interface: String,
    use_multipath: bool,
    enforce_multipath: bool,
    scan_tries: u32,
    turn: Mutex<()>,
}

impl Iscsi {
    pub fn new(options: &HostOptions) -> Self {
        let tools = Arc::new(HostTools { within: options.tool_timeout });
        Self::with(options, tools, Sysfs::new(PathBuf::from("/")))
    }

    fn with(options: &HostOptions, tools: Arc<dyn Tools>, sysfs: Sysfs) -> Self {
        Self {
            tools,
            sysfs,
            interface: options.iscsi_iface.clone().unwrap_or_else(|| "default".to_owned()),
            use_multipath: options.use_multipath,
            enforce_multipath: options.enforce_multipath,
            scan_tries: options.scan_tries,
            turn: Mutex::default(),
        }
    }

    /// Logs in and notes the volume's device.
    ///
    /// # Errors
    /// `Host` when no path leads to the volume: nothing of the attempt is left then.
    pub async fn connect(&self, connection: &mut ConnectionInfo) -> Result<(), VolumeError> {
        let all = targets(connection)?;
        let _turn = self.turn.lock().await;
        let multipath = self.use_multipath && self.has_multipathd().await?;
        let mut devices = Vec::new();
        let mut last = None;
        for target in &all {
            match self.find(target, connection).await {
                Ok(device) => devices.push(device),
                Err(error) => {
                    warn!(portal = target.portal, %error, "a path doesn't lead to the volume");
                    self.leave(target).await;
                    last = Some(error);
                }
            }
            if !multipath && !devices.is_empty() {
                break;
            }
        }
        let Some(first) = devices.first().cloned() else {
            return Err(
                last.unwrap_or(VolumeError::Connection { message: "it has no target".to_owned() })
            );
        };
        let mut device = first;
        if multipath {
            match self.multipath_of(&devices).await? {
                Some((dm, wwn)) => {
                    connection.note("multipath_id", wwn);
                    device = dm;
                }
                None => warn!(device, "multipathd made no device of its paths: one is used"),
            }
        }
        connection.note("device_path", format!("/dev/{device}"));
        info!(device, paths = devices.len(), "connected over iSCSI");
        Ok(())
    }

    /// Takes the volume's disks from this host, and logs out of targets that have no other. A volume that
    /// another guest has stays.
    ///
    /// # Errors
    /// `Host` when what was written can't be flushed: the disks stay then.
    pub async fn disconnect(
        &self,
        connection: &ConnectionInfo,
        instance: Uuid,
        in_use: &[DiskUser],
    ) -> Result<(), VolumeError> {
        let all = targets(connection)?;
        let _turn = self.turn.lock().await;
        let path = connection.text("device_path").map(PathBuf::from);
        let is_other =
            |user: &DiskUser| user.instance != instance && Some(&user.path) == path.as_ref();
        if in_use.iter().any(is_other) {
            return Ok(());
        }
        let open = self.sessions().await?;
        let mut found = Vec::new();
        for target in &all {
            let Some(session) = target.session(&open) else { continue };
            let (own, others) = self.sysfs.disks(session, target.lun).await;
            found.push((target, own, others));
        }
        let devices: Vec<&String> = found.iter().filter_map(|(_, own, _)| own.as_ref()).collect();
        if let Some(first) = devices.first()
            && let Some(dm) = self.sysfs.holder(first).await
        {
            let name = self.sysfs.dm_name(&dm).await.unwrap_or(dm);
            let ended = self.tools.run("multipath", &args(["-f", name.as_str()])).await?;
            ended.success("flush", &name)?;
        }
        for device in &devices {
            let path = format!("/dev/{device}");
            let ended = self.tools.run("blockdev", &args(["--flushbufs", path.as_str()])).await?;
            ended.success("flush", &path)?;
            self.sysfs.delete(device).await?;
        }
        for (target, _, others) in found {
            if others == 0 {
                self.leave(target).await;
            }
        }
        Ok(())
    }

    /// Has the kernel look at the volume's size again, and says it.
    ///
    /// # Errors
    /// `Host`.
    pub async fn grow(&self, connection: &ConnectionInfo) -> Result<u64, VolumeError> {
        let path = connection.required("device_path")?.to_owned();
        let open = self.sessions().await?;
        for target in targets(connection)? {
            let Some(session) = target.session(&open) else { continue };
            if let (Some(device), _) = self.sysfs.disks(session, target.lun).await {
                self.sysfs.rescan(&device).await?;
            }
        }
        let device = path.trim_start_matches("/dev/");
        if device.starts_with("dm-") {
            let name = self.sysfs.dm_name(device).await.unwrap_or_else(|| device.to_owned());
            let all = args(["resize", "map", name.as_str()]);
            let said = self.tools.run("multipathd", &all).await?.success("resize", &name)?;
            if !said.contains("ok") {
                let message = said.trim().to_owned();
                return Err(VolumeError::Host { operation: "resize", what: name, message });
            }
        }
        let said = self.tools.run("blockdev", &args(["--getsize64", path.as_str()])).await?;
        let size = said.success("measure", &path)?;
        size.trim().parse().map_err(|_| VolumeError::Host {
            operation: "measure",
            what: path,
            message: size.trim().to_owned(),
        })
    }

    async fn has_multipathd(&self) -> Result<bool, VolumeError> {
        let ended = self.tools.run("multipathd", &args(["show", "status"])).await;
        let runs = ended.as_ref().is_ok_and(|ended| {
            ended.is_success() && !ended.stdout.contains("error receiving packet")
        });
        match runs {
            false if self.enforce_multipath => Err(VolumeError::Host {
                operation: "reach",
                what: "multipathd".to_owned(),
                message: "[libvirt] volume_enforce_multipath asks for it".to_owned(),
            }),
            runs => Ok(runs),
        }
    }

    /// Logs in to a target and waits for the volume's disk.
    async fn find(
        &self,
        target: &Target,
        connection: &ConnectionInfo,
    ) -> Result<String, VolumeError> {
        let session = self.login(target, connection).await?;
        for _ in 0..=self.scan_tries {
            let address = self.sysfs.address(&session, target.lun).await;
            if let Some(address) = &address {
                if let Some(device) = self.sysfs.device(&session, address).await {
                    return Ok(device);
                }
                self.sysfs.scan(address).await?;
            }
            let mut waited = Duration::ZERO;
            while waited < SCAN_TIME {
                tokio::time::sleep(POLL).await;
                waited += POLL;
                if let Some(device) = self.look(&session, target.lun, address.as_ref()).await {
                    return Ok(device);
                }
            }
        }
        Err(target.failed("find", "the target has no such LUN".to_owned()))
    }

    async fn look(&self, session: &str, lun: u32, known: Option<&Address>) -> Option<String> {
        // The target may have got its number meanwhile.
        let address = match self.sysfs.address(session, lun).await {
            Some(address) => address,
            None => known?.clone(),
        };
        self.sysfs.device(session, &address).await
    }

    async fn login(
        &self,
        target: &Target,
        connection: &ConnectionInfo,
    ) -> Result<String, VolumeError> {
        let failed = |message: String| target.failed("log in to", message);
        let known = self.node(target, &[]).await?;
        match known.code {
            Some(0) => {}
            Some(NO_OBJECTS | 255) => {
                let new = ["--interface", self.interface.as_str(), "--op", "new"];
                self.node(target, &new).await?.success("record", &target.portal)?;
            }
            _ => return Err(failed(known.stderr.trim().to_owned())),
        }
        // Other volumes of the target are nobody's here. Old releases don't know the setting.
        self.set(target, "node.session.scan", "manual").await?;
        if let Some(method) = connection.text("auth_method") {
            for (name, value) in [
                ("node.session.auth.authmethod", method),
                ("node.session.auth.username", connection.required("auth_username")?),
                ("node.session.auth.password", connection.required("auth_password")?),
            ] {
                self.set(target, name, value).await?.success("record", &target.portal)?;
            }
        }
        if target.session(&self.sessions().await?).is_none() {
            let ended = self.node(target, &["--login"]).await?;
            if !matches!(ended.code, Some(0 | SESSION_EXISTS)) {
                return Err(failed(ended.stderr.trim().to_owned()));
            }
            self.set(target, "node.startup", "automatic").await?;
        }
        let open = self.sessions().await?;
        target.session(&open).map(str::to_owned).ok_or_else(|| failed("no session".to_owned()))
    }

    /// Logs out of a target and forgets it, as far as that goes.
    async fn leave(&self, target: &Target) {
        let open = self.sessions().await.unwrap_or_default();
        if let Some(session) = target.session(&open)
            && self.sysfs.disks(session, target.lun).await.1 > 0
        {
            return;
        }
        for command in [
            &["--op", "update", "-n", "node.startup", "-v", "manual"][..],
            &["--logout"],
            &["--op", "delete"],
        ] {
            if let Err(error) = self.node(target, command).await {
                warn!(portal = target.portal, %error, "the target isn't left");
            }
        }
    }

    /// multipathd's device of the volume, and the volume's WWN.
    async fn multipath_of(
        &self,
        devices: &[String],
    ) -> Result<Option<(String, String)>, VolumeError> {
        let Some(first) = devices.first() else { return Ok(None) };
        let wwn = self.sysfs.wwn(first).await.unwrap_or_default();
        if self.sysfs.holder(first).await.is_none() && !wwn.is_empty() {
            // Otherwise it waits for a second path.
            self.tools.run("multipath", &args(["-a", wwn.as_str()])).await?;
            for device in devices {
                let path = format!("/dev/{device}");
                self.tools.run("multipathd", &args(["add", "path", path.as_str()])).await?;
            }
        }
        let mut waited = Duration::ZERO;
        loop {
            if let Some(dm) = self.sysfs.holder(first).await {
                return Ok(Some((dm, wwn)));
            }
            if waited >= MULTIPATH_TIME {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
            waited += POLL;
        }
    }

    async fn sessions(&self) -> Result<Vec<target::Session>, VolumeError> {
        let ended = self.tools.run("iscsiadm", &args(["-m", "session"])).await?;
        match ended.code {
            Some(0) => Ok(sessions(&ended.stdout)),
            Some(NO_OBJECTS) => Ok(Vec::new()),
            _ => ended.success("list", "iSCSI sessions").map(|text| sessions(&text)),
        }
    }

    async fn set(
        &self,
        target: &Target,
        name: &str,
        value: &str,
    ) -> Result<super::tool::Ended, VolumeError> {
        self.node(target, &["--op", "update", "-n", name, "-v", value]).await
    }

    async fn node(
        &self,
        target: &Target,
        command: &[&str],
    ) -> Result<super::tool::Ended, VolumeError> {
        let mut all = args(["-m", "node", "-T", target.iqn.as_str(), "-p", target.portal.as_str()]);
        all.extend(command.iter().map(|&arg| arg.to_owned()));
        self.tools.run("iscsiadm", &all).await
    }
}
