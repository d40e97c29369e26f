//! Disks that come to the fake's domains and go, and secrets of volumes.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::broadcast;
use uuid::Uuid;

use super::{FakeHypervisor, World, wrong_state};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::{DeviceEvent, VolumeDisk};
use crate::hypervisor::spec::{DiskSpec, DomainSpec};
use crate::model::secret::Secret;

#[derive(Debug, Default)]
pub(super) struct Hotplug {
    /// Guests that keep what they are asked to let go of, and how often they do so; `None`: always.
    keeping: BTreeMap<Uuid, Option<u32>>,
    /// Guests that refuse at once.
    refusing: BTreeSet<Uuid>,
    pub(super) secrets: BTreeMap<String, (Uuid, Secret)>,
    sizes: BTreeMap<(Uuid, String), u64>,
}

impl Hotplug {
    pub(super) fn keep(&mut self, volume_id: &str, passphrase: &Secret) -> Uuid {
        let name = self.secret(volume_id).unwrap_or_else(Uuid::new_v4);
        self.secrets.insert(volume_id.to_owned(), (name, passphrase.clone()));
        name
    }

    /// What a guest that is asked for a device answers; `None`: nothing.
    pub(super) fn lets_go(&mut self, uuid: Uuid) -> Option<bool> {
        match self.keeping.get_mut(&uuid) {
            Some(None) => None,
            Some(Some(times)) if *times > 0 => {
                *times -= 1;
                None
            }
            _ => Some(!self.refusing.contains(&uuid)),
        }
    }

    pub(super) fn secret(&self, volume_id: &str) -> Option<Uuid> {
        self.secrets.get(volume_id).map(|(name, _)| *name)
    }
}

impl FakeHypervisor {
    /// The guest keeps its disks the next `times` that it is asked for one; `None`: always.
    pub fn keep_disks(&self, uuid: Uuid, times: Option<u32>) {
        self.lock().hotplug.keeping.insert(uuid, times);
    }

    /// The guest says no when it is asked for a disk.
    pub fn refuse_releases(&self, uuid: Uuid) {
        self.lock().hotplug.refusing.insert(uuid);
    }

    /// The passphrase that is kept for a volume.
    pub fn kept_secret(&self, volume_id: &str) -> Option<Secret> {
        self.lock().hotplug.secrets.get(volume_id).map(|(_, kept)| kept.clone())
    }

    /// What the guest was told of a disk's size.
    pub fn told_size(&self, uuid: Uuid, target: &str) -> Option<u64> {
        self.lock().hotplug.sizes.get(&(uuid, target.to_owned())).copied()
    }

    /// (target, serial) of the disks that the guest has, and of those of its next start.
    pub fn volumes(&self, uuid: Uuid) -> [Vec<(String, String)>; 2] {
        let Some(domain) = self.get(uuid) else { return Default::default() };
        let of = |spec: &DomainSpec| {
            let serials = spec
                .disks
                .iter()
                .filter_map(|disk| disk.serial.clone().map(|serial| (disk.target.clone(), serial)));
            serials.collect()
        };
        let live = if domain.id.is_some() { of(&domain.spec) } else { Vec::new() };
        [live, of(domain.next_spec.as_ref().unwrap_or(&domain.spec))]
    }
}

impl World {
    pub(super) fn attach_disk(
        &mut self,
        uuid: Uuid,
        disk: &DiskSpec,
    ) -> Result<(), HypervisorError> {
        let domain = self.ours(uuid)?;
        if domain.id.is_some() && domain.next_spec.is_none() {
            domain.next_spec = Some(domain.spec.clone());
        }
        let specs = std::iter::once(&mut domain.spec).chain(&mut domain.next_spec);
        for spec in specs {
            if spec.disks.iter().any(|there| there.serial.is_some() && there.serial == disk.serial)
            {
                continue;
            }
            if spec.disks.iter().any(|there| there.target == disk.target) {
                return Err(wrong_state("attach disk", "another disk has that name"));
            }
            spec.disks.push(disk.clone());
        }
        Ok(())
    }

    pub(super) fn forget_disk(
        &mut self,
        uuid: Uuid,
        volume: &VolumeDisk,
    ) -> Result<(), HypervisorError> {
        let domain = match self.ours(uuid) {
            Err(HypervisorError::NoDomain(_)) => return Ok(()),
            domain => domain?,
        };
        if domain.id.is_some() && domain.next_spec.is_none() {
            domain.next_spec = Some(domain.spec.clone());
        }
        take(domain.next_spec.as_mut().unwrap_or(&mut domain.spec), volume);
        Ok(())
    }

    pub(super) fn release_disk(
        &mut self,
        uuid: Uuid,
        volume: &VolumeDisk,
        events: &broadcast::Sender<DeviceEvent>,
    ) -> Result<Option<String>, HypervisorError> {
        let domain = match self.domains.get_mut(&uuid) {
            Some(domain) if domain.id.is_some() => domain,
            _ => return Ok(None),
        };
        if !super::disks::of_spec(&domain.spec).iter().any(|disk| volume.is(disk)) {
            return Ok(None);
        }
        let alias = volume.alias();
        let Some(removed) = self.hotplug.lets_go(uuid) else { return Ok(Some(alias)) };
        if removed {
            if domain.next_spec.is_none() {
                domain.next_spec = Some(domain.spec.clone());
            }
            take(&mut domain.spec, volume);
        }
        // Nobody listening is fine.
        events.send(DeviceEvent { instance_uuid: uuid, alias: alias.clone(), removed }).ok();
        Ok(Some(alias))
    }

    pub(super) fn resize_disk(
        &mut self,
        uuid: Uuid,
        target: &str,
        bytes: u64,
    ) -> Result<(), HypervisorError> {
        if !self.ours(uuid)?.is_active() {
            return Err(wrong_state("resize disk", "domain is not running"));
        }
        self.hotplug.sizes.insert((uuid, target.to_owned()), bytes);
        Ok(())
    }
}

fn take(spec: &mut DomainSpec, volume: &VolumeDisk) {
    let mut all = super::disks::of_spec(spec).into_iter();
    spec.disks.retain(|_| all.next().is_none_or(|disk| !volume.is(&disk)));
}
