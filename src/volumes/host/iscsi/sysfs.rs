//! SCSI disks as the kernel shows them below `/sys` and `/dev`. os-brick: initiator/linuxscsi.py

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::volumes::VolumeError;

/// How long a disk that is deleted may stay.
const REMOVAL_TIME: Duration = Duration::from_secs(10);

/// Where a logical unit is: host, channel, target, unit. The middle ones aren't known before the first scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub channel: Option<String>,
    pub target: Option<String>,
    pub lun: u32,
}

/// The host's file systems, below a root.
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn below(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Where a session's unit is, or will be.
    pub async fn address(&self, session: &str, lun: u32) -> Option<Address> {
        let name = format!("session{session}");
        for host in entries(&self.below("/sys/class/iscsi_host")).await {
            let directory = self.below(&format!("/sys/class/iscsi_host/{host}/device/{name}"));
            if !tokio::fs::try_exists(&directory).await.unwrap_or(false) {
                continue;
            }
            let number = host.strip_prefix("host")?.to_owned();
            let target = entries(&directory).await.into_iter().find(|e| e.starts_with("target"));
            let parts: Vec<String> = target
                .and_then(|target| {
                    let parts = target.strip_prefix("target")?.split(':').map(str::to_owned);
                    Some(parts.collect())
                })
                .unwrap_or_default();
            return Some(match parts.as_slice() {
                [host, channel, target] => Address {
                    host: host.clone(),
                    channel: Some(channel.clone()),
                    target: Some(target.clone()),
                    lun,
                },
                _ => Address { host: number, channel: None, target: None, lun },
            });
        }
        None
    }

    /// The disk's name: `sdb`.
    pub async fn device(&self, session: &str, address: &Address) -> Option<String> {
        let (channel, target) = (address.channel.as_ref()?, address.target.as_ref()?);
        let (host, lun) = (&address.host, address.lun);
        let path = format!(
            "/sys/class/scsi_host/host{host}/device/session{session}/\
             target{host}:{channel}:{target}/{host}:{channel}:{target}:{lun}/block"
        );
        entries(&self.below(&path)).await.into_iter().next()
    }

    /// The session's disk of that unit, and how many others it has.
    pub async fn disks(&self, session: &str, lun: u32) -> (Option<String>, usize) {
        let Some(address) = self.address(session, lun).await else { return (None, 0) };
        let own = self.device(session, &address).await;
        let (Some(channel), Some(target)) = (&address.channel, &address.target) else {
            return (own, 0);
        };
        let host = &address.host;
        let path = format!(
            "/sys/class/scsi_host/host{host}/device/session{session}/target{host}:{channel}:{target}"
        );
        let directory = self.below(&path);
        let mut others = 0;
        for unit in entries(&directory).await {
            let number = unit.rsplit(':').next().and_then(|number| number.parse::<u32>().ok());
            if unit.matches(':').count() == 3 && number != Some(lun) {
                others += entries(&directory.join(&unit).join("block")).await.len();
            }
        }
        (own, others)
    }

    /// The device-mapper device that has the disk: `dm-3`.
    pub async fn holder(&self, device: &str) -> Option<String> {
        let holders = entries(&self.below(&format!("/sys/block/{device}/holders"))).await;
        holders.into_iter().find(|holder| holder.starts_with("dm-"))
    }

    /// What multipathd calls it.
    pub async fn dm_name(&self, dm: &str) -> Option<String> {
        let path = self.below(&format!("/sys/block/{dm}/dm/name"));
        let text = tokio::fs::read_to_string(path).await.ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty())
    }

    /// The disk's world-wide name, as udev links it.
    pub async fn wwn(&self, device: &str) -> Option<String> {
        let directory = self.below("/dev/disk/by-id");
        for link in entries(&directory).await {
            let Some(wwn) = link.strip_prefix("scsi-") else { continue };
            let leads_to = tokio::fs::read_link(directory.join(&link)).await.ok();
            if leads_to.is_some_and(|to| to.file_name().is_some_and(|name| name == device)) {
                return Some(wwn.to_owned());
            }
        }
        None
    }

    /// # Errors
    /// `Host`.
    pub async fn scan(&self, address: &Address) -> Result<(), VolumeError> {
        let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
        let unit = format!("{} {} {}", part(&address.channel), part(&address.target), address.lun);
        self.tell(&format!("/sys/class/scsi_host/host{}/scan", address.host), &unit).await
    }

    /// # Errors
    /// `Host`.
    pub async fn rescan(&self, device: &str) -> Result<(), VolumeError> {
        self.tell(&format!("/sys/block/{device}/device/rescan"), "1").await
    }

    /// Takes the disk from this host, and waits until it is gone.
    ///
    /// # Errors
    /// `Host` when it stays.
    pub async fn delete(&self, device: &str) -> Result<(), VolumeError> {
        let disk = self.below(&format!("/sys/block/{device}"));
        self.tell(&format!("/sys/block/{device}/device/delete"), "1").await?;
        let deadline = tokio::time::Instant::now() + REMOVAL_TIME;
        while tokio::fs::try_exists(&disk).await.unwrap_or(false) {
            if tokio::time::Instant::now() >= deadline {
                return Err(VolumeError::Host {
                    operation: "remove",
                    what: device.to_owned(),
                    message: "the kernel keeps it".to_owned(),
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn tell(&self, path: &str, text: &str) -> Result<(), VolumeError> {
        tokio::fs::write(self.below(path), text).await.map_err(|error| VolumeError::Host {
            operation: "write to",
            what: path.to_owned(),
            message: error.to_string(),
        })
    }
}

/// The names in a directory, in order; none where there is none.
async fn entries(directory: &Path) -> Vec<String> {
    let Ok(mut found) = tokio::fs::read_dir(directory).await else { return Vec::new() };
    let mut names = Vec::new();
    while let Ok(Some(entry)) = found.next_entry().await {
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    names
}
