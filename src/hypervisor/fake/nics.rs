//! Interfaces that come to the fake's domains and go, and their metadata.

use tokio::sync::broadcast;
use uuid::Uuid;

use super::{FakeHypervisor, World};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::block::DeviceEvent;
use crate::hypervisor::spec::{DomainSpec, InterfaceSpec, NovaMetadata};

impl FakeHypervisor {
    /// MAC addresses of the interfaces that the guest has, and of those of its next start.
    pub fn interfaces(&self, uuid: Uuid) -> [Vec<String>; 2] {
        let Some(domain) = self.get(uuid) else { return Default::default() };
        let of = |spec: &DomainSpec| {
            spec.interfaces.iter().map(|there| there.mac_address.clone()).collect()
        };
        let live = if domain.id.is_some() { of(&domain.spec) } else { Vec::new() };
        [live, of(domain.next_spec.as_ref().unwrap_or(&domain.spec))]
    }

    /// Ids of the ports that the domain's metadata name.
    pub fn described_ports(&self, uuid: Uuid) -> Vec<String> {
        let ports = self.get(uuid).map(|domain| domain.spec.metadata.ports).unwrap_or_default();
        ports.into_iter().map(|port| port.uuid).collect()
    }
}

impl World {
    pub(super) fn attach_interface(
        &mut self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        let domain = self.ours(uuid)?;
        if domain.id.is_some() && domain.next_spec.is_none() {
            domain.next_spec = Some(domain.spec.clone());
        }
        for spec in std::iter::once(&mut domain.spec).chain(&mut domain.next_spec) {
            if !has(spec, interface) {
                spec.interfaces.push(interface.clone());
            }
        }
        Ok(())
    }

    pub(super) fn forget_interface(
        &mut self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        let domain = match self.ours(uuid) {
            Err(HypervisorError::NoDomain(_)) => return Ok(()),
            domain => domain?,
        };
        if domain.id.is_some() && domain.next_spec.is_none() {
            domain.next_spec = Some(domain.spec.clone());
        }
        take(domain.next_spec.as_mut().unwrap_or(&mut domain.spec), interface);
        Ok(())
    }

    pub(super) fn release_interface(
        &mut self,
        uuid: Uuid,
        interface: &InterfaceSpec,
        events: &broadcast::Sender<DeviceEvent>,
    ) -> Result<Option<String>, HypervisorError> {
        let domain = match self.domains.get_mut(&uuid) {
            Some(domain) if domain.id.is_some() && has(&domain.spec, interface) => domain,
            _ => return Ok(None),
        };
        let alias = format!("net-{}", interface.mac_address);
        let Some(removed) = self.hotplug.lets_go(uuid) else { return Ok(Some(alias)) };
        if removed {
            if domain.next_spec.is_none() {
                domain.next_spec = Some(domain.spec.clone());
            }
            take(&mut domain.spec, interface);
        }
        // Nobody listening is fine.
        events.send(DeviceEvent { instance_uuid: uuid, alias: alias.clone(), removed }).ok();
        Ok(Some(alias))
    }

    pub(super) fn has_interface(
        &mut self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<bool, HypervisorError> {
        Ok(self.domains.get(&uuid).is_some_and(|domain| has(&domain.spec, interface)))
    }

    pub(super) fn describe(
        &mut self,
        uuid: Uuid,
        metadata: &NovaMetadata,
    ) -> Result<(), HypervisorError> {
        let domain = self.ours(uuid)?;
        for spec in std::iter::once(&mut domain.spec).chain(&mut domain.next_spec) {
            spec.metadata = metadata.clone();
        }
        Ok(())
    }
}

fn has(spec: &DomainSpec, interface: &InterfaceSpec) -> bool {
    spec.interfaces.iter().any(|there| is(there, interface))
}

fn is(there: &InterfaceSpec, interface: &InterfaceSpec) -> bool {
    interface.is(&there.mac_address, there.target.as_deref())
}

fn take(spec: &mut DomainSpec, interface: &InterfaceSpec) {
    spec.interfaces.retain(|there| !is(there, interface));
}
