//! Questions: requests that change nothing. They don't wait for the instance's queue.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uuid::Uuid;

use crate::hypervisor::{DiskStats, HypervisorError, InterfaceStats};
use crate::model::class::Class;
use crate::model::diagnostics::{DeviceCounters, DiskCounters, GuestCounters, NicCounters};
use crate::model::state::PowerState;
use crate::model::time::Timestamp;
use crate::records::RecordsError;
use crate::workflow::Backends;

/// What of a console log is read at most. nova: virt/libvirt/driver.py, MAX_CONSOLE_BYTES
const MAX_CONSOLE_BYTES: u64 = 100 * 1024;

/// How much of the console log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    All,
    /// The last lines; negative: all but the first. nova: compute/manager.py, _tail_log
    Lines(i64),
}

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// nova: InstanceNotFound
    #[error("instance {0} has no domain on this host")]
    NoDomain(Uuid),
    /// nova: InstanceNotReady
    #[error("instance {0} is being built")]
    NotReady(Uuid),
    /// nova: InstanceInvalidState
    #[error("instance {uuid} is {power_state}: it must be running")]
    NotRunning { uuid: Uuid, power_state: &'static str },
    /// nova: ConsoleTypeUnavailable
    #[error("console type {0} is not enabled")]
    ConsoleUnavailable(String),
    /// nova: ConsoleTypeInvalid
    #[error("console type {0} is not valid here")]
    ConsoleInvalid(String),
    /// nova: ConsoleNotAvailable
    #[error("the console log can't be read")]
    Log(#[source] std::io::Error),
    #[error("the host's uptime can't be read")]
    Uptime(#[source] std::io::Error),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
}

impl QueryError {
    pub fn class(&self) -> Class {
        match self {
            Self::NoDomain(_) => Class::Absent,
            Self::NotRunning { .. } | Self::ConsoleUnavailable(_) | Self::ConsoleInvalid(_) => {
                Class::Refused
            }
            Self::NotReady(_) => Class::Transient,
            Self::Log(_) | Self::Uptime(_) => Class::Transient,
            Self::Records(error) => error.class(),
            Self::Hypervisor(error) => error.class(),
        }
    }

    /// A domain that isn't there is still to come when the instance is being built.
    pub fn while_building(self, building: bool) -> Self {
        match self {
            Self::NoDomain(uuid) | Self::Hypervisor(HypervisorError::NoDomain(uuid))
                if building =>
            {
                Self::NotReady(uuid)
            }
            other => other,
        }
    }
}

/// The end of the guest's console log, as ASCII with U+FFFD for every other byte.
/// nova: compute/manager.py, get_console_output
pub async fn console_output(on: &Backends, uuid: Uuid, tail: Tail) -> Result<String, QueryError> {
    on.hypervisor.domain(uuid).await?.ok_or(QueryError::NoDomain(uuid))?;
    let path = on.images.console_log(uuid);
    let read = tokio::task::spawn_blocking(move || read_end(&path, MAX_CONSOLE_BYTES));
    let bytes = read.await.map_err(|error| QueryError::Log(std::io::Error::other(error)))?;
    Ok(ascii(&cut(&bytes.map_err(QueryError::Log)?, tail)))
}

/// Reads the last `limit` bytes of a file; one that isn't there yet is empty.
fn read_end(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    // The log lies in the instance's directory: a link there could lead anywhere.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn cut(bytes: &[u8], tail: Tail) -> Vec<u8> {
    let Tail::Lines(lines) = tail else { return bytes.to_vec() };
    let all: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let count = usize::try_from(lines.unsigned_abs()).unwrap_or(usize::MAX);
    let kept = match lines {
        0 => &[][..],
        1.. => &all[all.len().saturating_sub(count)..],
        _ => &all[count.min(all.len())..],
    };
    kept.join(&b'\n')
}

fn ascii(bytes: &[u8]) -> String {
    let show = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { '\u{fffd}' };
    bytes.iter().map(show).collect()
}

/// What the record says of a guest whose counters are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestFacts {
    pub config_drive: bool,
    pub launched_at: Option<Timestamp>,
}

/// The counters of a running guest.
pub async fn diagnostics(
    on: &Backends,
    uuid: Uuid,
    guest: GuestFacts,
) -> Result<GuestCounters, QueryError> {
    let found = on.hypervisor.domain(uuid).await?.ok_or(QueryError::NoDomain(uuid))?;
    if found.power_state != PowerState::Running {
        let power_state = found.power_state.name();
        return Err(QueryError::NotRunning { uuid, power_state });
    }
    let stats = on.hypervisor.stats(uuid).await?;
    Ok(GuestCounters {
        power_state: found.power_state,
        virt_type: on.settings.virt_type.clone(),
        config_drive: guest.config_drive,
        launched_at: guest.launched_at,
        now: Timestamp::now(),
        memory_max_kib: stats.memory_max_kib,
        memory_used_kib: stats.memory_used_kib,
        memory_stats: BTreeMap::new(),
        vcpu_times_ns: stats.vcpu_times_ns.clone(),
        disks: stats.disks.iter().map(disk_counters).collect(),
        nics: stats.interfaces.iter().map(nic_counters).collect(),
    })
}

fn disk_counters(disk: &DiskStats) -> DiskCounters {
    DiskCounters {
        target: disk.target.clone(),
        read_requests: disk.read_requests,
        read_bytes: disk.read_bytes,
        write_requests: disk.write_requests,
        write_bytes: disk.write_bytes,
        errors: disk.errors,
    }
}

fn nic_counters(nic: &InterfaceStats) -> NicCounters {
    NicCounters {
        mac_address: nic.mac_address.clone(),
        device: (!nic.device.is_empty()).then(|| DeviceCounters {
            name: nic.device.clone(),
            rx_bytes: nic.rx_bytes,
            rx_packets: nic.rx_packets,
            rx_errors: nic.rx_errors,
            rx_drop: nic.rx_drop,
            tx_bytes: nic.tx_bytes,
            tx_packets: nic.tx_packets,
            tx_errors: nic.tx_errors,
            tx_drop: nic.tx_drop,
        }),
    }
}

/// What `uptime` prints. nova: virt/libvirt/host.py, get_uptime
pub async fn host_uptime() -> Result<String, QueryError> {
    let mut command = tokio::process::Command::new("uptime");
    command.env("LANG", "C").env("LC_ALL", "C").kill_on_drop(true);
    let output = command.output().await.map_err(QueryError::Uptime)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_cut_as_nova_cuts_it() {
        let log = b"one\ntwo\nthree\n";
        for (tail, expected) in [
            (Tail::All, "one\ntwo\nthree\n"),
            (Tail::Lines(0), ""),
            (Tail::Lines(1), ""),
            (Tail::Lines(2), "three\n"),
            (Tail::Lines(99), "one\ntwo\nthree\n"),
            (Tail::Lines(-1), "two\nthree\n"),
            (Tail::Lines(i64::MIN), ""),
        ] {
            assert_eq!(ascii(&cut(log, tail)), expected, "{tail:?}");
        }
    }

    #[test]
    fn only_the_end_of_a_long_log_is_read_and_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        assert!(read_end(&path, 4).unwrap().is_empty());
        std::fs::write(&path, b"abcdefgh").unwrap();
        assert_eq!(read_end(&path, 4).unwrap(), b"efgh");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read_end(&link, 4).is_err());
    }

    #[test]
    fn what_is_not_ascii_is_replaced_byte_by_byte() {
        assert_eq!(ascii("ü!".as_bytes()), "\u{fffd}\u{fffd}!");
    }
}
