//! Jobs on the fake's disks, and its guests' agents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{FakeHypervisor, World, wrong_state};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::{BlockCopy, BlockJob, DomainDisk};
use crate::hypervisor::spec::{DiskSpec, DomainSpec};
use crate::model::secret::Secret;

/// How large every disk is to a copy.
const DISK_BYTES: u64 = 1 << 30;

#[derive(Debug, Default)]
pub(super) struct Disks {
    copies: BTreeMap<(Uuid, String), Copy>,
    /// How long a copy takes, and whether it fails in the end.
    copy_time: Duration,
    copies_fail: bool,
    /// Guests that have an agent.
    agents: BTreeSet<Uuid>,
    pub(super) frozen: BTreeSet<Uuid>,
    pub(super) passwords: BTreeMap<(Uuid, String), Secret>,
    pub(super) interrupts: BTreeMap<Uuid, u32>,
}

#[derive(Debug)]
struct Copy {
    file: PathBuf,
    begun: Instant,
    /// What takes the disk's place when it is ready.
    takes_over: Option<DiskSpec>,
}

impl FakeHypervisor {
    /// A copy of a disk takes that long from now on.
    pub fn set_copy_time(&self, copy_time: Duration) {
        self.lock().disks.copy_time = copy_time;
    }

    /// Copies are gone at their end from now on without having been ready, as when there is no space.
    pub fn fail_copies(&self) {
        self.lock().disks.copies_fail = true;
    }

    /// The guest runs an agent.
    pub fn add_guest_agent(&self, uuid: Uuid) {
        self.lock().disks.agents.insert(uuid);
    }

    /// Where the copies that are under way go to.
    pub fn copies(&self) -> Vec<PathBuf> {
        self.lock().disks.copies.values().map(|copy| copy.file.clone()).collect()
    }

    pub fn is_frozen(&self, uuid: Uuid) -> bool {
        self.lock().disks.frozen.contains(&uuid)
    }

    /// What a user's password was set to.
    pub fn password(&self, uuid: Uuid, user: &str) -> Option<Secret> {
        self.lock().disks.passwords.get(&(uuid, user.to_owned())).cloned()
    }

    /// How many non-maskable interrupts the guest was sent.
    pub fn interrupts(&self, uuid: Uuid) -> u32 {
        self.lock().disks.interrupts.get(&uuid).copied().unwrap_or(0)
    }
}

impl Disks {
    /// The guest has stopped.
    pub(super) fn forget(&mut self, uuid: Uuid) {
        self.copies.retain(|(of, _), _| *of != uuid);
        self.frozen.remove(&uuid);
    }

    pub(super) fn job(&mut self, uuid: Uuid, target: &str) -> Option<BlockJob> {
        let key = (uuid, target.to_owned());
        let copy = self.copies.get(&key)?;
        let (passed, whole) = (copy.begun.elapsed(), self.copy_time);
        let ready = passed >= whole;
        if ready && self.copies_fail {
            self.copies.remove(&key);
            return None;
        }
        let share = if ready { 1.0 } else { passed.as_secs_f64() / whole.as_secs_f64() };
        let done = (DISK_BYTES as f64 * share) as u64;
        Some(BlockJob { done, total: DISK_BYTES, ready, file: Some(copy.file.clone()) })
    }

    pub(super) fn abort(&mut self, uuid: Uuid, target: &str) -> bool {
        self.copies.remove(&(uuid, target.to_owned())).is_some()
    }
}

impl World {
    pub(super) fn start_copy(
        &mut self,
        uuid: Uuid,
        copy: &BlockCopy,
    ) -> Result<(), HypervisorError> {
        let domain = self.ours(uuid)?;
        if !domain.is_active() {
            return Err(wrong_state("start block copy", "domain is not running"));
        }
        if !of_spec(&domain.spec).iter().any(|disk| disk.target == copy.target) {
            return Err(wrong_state("start block copy", "there is no such disk"));
        }
        let key = (uuid, copy.target.clone());
        match self.disks.copies.get(&key) {
            Some(there) if there.file == copy.file => Ok(()),
            Some(_) => Err(wrong_state("start block copy", "the disk has a job")),
            None => {
                let begun = Instant::now();
                self.disks
                    .copies
                    .insert(key, Copy { file: copy.file.clone(), begun, takes_over: None });
                Ok(())
            }
        }
    }

    pub(super) fn start_swap(&mut self, uuid: Uuid, to: &DiskSpec) -> Result<(), HypervisorError> {
        let copy = BlockCopy {
            target: to.target.clone(),
            file: to.source.path().map(std::path::Path::to_path_buf).unwrap_or_default(),
            format: to.format.clone(),
            shallow: false,
        };
        self.start_copy(uuid, &copy)?;
        if let Some(copy) = self.disks.copies.get_mut(&(uuid, copy.target)) {
            copy.takes_over = Some(to.clone());
        }
        Ok(())
    }

    pub(super) fn pivot(&mut self, uuid: Uuid, target: &str) -> Result<(), HypervisorError> {
        let ready = self.disks.job(uuid, target).is_some_and(|job| job.ready);
        let copy = self.disks.copies.remove(&(uuid, target.to_owned())).filter(|_| ready);
        let Some(Copy { takes_over: Some(to), .. }) = copy else {
            return Err(wrong_state("pivot block job", "there is no copy to go on with"));
        };
        let domain = self.ours(uuid)?;
        let specs = std::iter::once(&mut domain.spec).chain(&mut domain.next_spec);
        for disk in specs.flat_map(|spec| &mut spec.disks).filter(|disk| disk.target == target) {
            *disk = to.clone();
        }
        Ok(())
    }

    pub(super) fn ask_agent(
        &mut self,
        operation: &'static str,
        uuid: Uuid,
    ) -> Result<(), HypervisorError> {
        if !self.ours(uuid)?.is_active() {
            return Err(wrong_state(operation, "domain is not running"));
        }
        match self.disks.agents.contains(&uuid) {
            true => Ok(()),
            false => {
                let message = "it is not connected".to_owned();
                Err(HypervisorError::NoAgent { operation, message })
            }
        }
    }
}

pub(super) fn of_spec(spec: &DomainSpec) -> Vec<DomainDisk> {
    let disk = |disk: &DiskSpec| DomainDisk {
        target: disk.target.clone(),
        device: disk.device.clone(),
        source: disk.source.path().map(std::path::Path::to_path_buf),
        format: Some(disk.format.clone()),
        bus: Some(disk.bus.clone()),
        serial: disk.serial.clone(),
        alias: disk.alias.clone(),
    };
    spec.disks.iter().map(disk).collect()
}
