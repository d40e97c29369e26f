//! Interfaces that come to a domain, and go, as its disks do; and what its metadata says of them.

use tracing::debug;
use uuid::Uuid;
use virt::domain::Domain;
use virt_sys as sys;

use super::Libvirt;
use super::blocks::facts;
use super::domains::{find, must_be_ours, ours};
use super::errors::Fault;
use super::hotplug::is_missing;
use super::xml;
use super::xml::read::{DomainFacts, InterfaceFacts};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::spec::{InterfaceSpec, NovaMetadata};

impl Libvirt {
    /// See [`Hypervisor::attach_interface`](crate::hypervisor::Hypervisor::attach_interface).
    pub(super) async fn add_interface(
        &self,
        uuid: Uuid,
        spec: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        let spec = spec.clone();
        self.job("attach interface", self.options.job_timeout, move |connect| {
            let domain = ours(connect, uuid)?;
            let mut flags = 0;
            if find_in(&facts(&domain, sys::VIR_DOMAIN_XML_INACTIVE)?, &spec).is_none() {
                flags |= sys::VIR_DOMAIN_AFFECT_CONFIG;
            }
            if domain.is_active()? && find_in(&facts(&domain, 0)?, &spec).is_none() {
                flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
            }
            if flags == 0 {
                return Ok(());
            }
            domain
                .attach_device_flags(&xml::interface_xml(&spec), flags)
                .map(drop)
                .map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }

    /// See [`Hypervisor::forget_interface`](crate::hypervisor::Hypervisor::forget_interface).
    pub(super) async fn take_interface_from_definition(
        &self,
        uuid: Uuid,
        spec: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        let spec = spec.clone();
        self.call("take interface from definition", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(()) };
            must_be_ours(&domain)?;
            let defined = facts(&domain, sys::VIR_DOMAIN_XML_INACTIVE)?;
            let Some(there) = find_in(&defined, &spec) else { return Ok(()) };
            match detach(&domain, there, sys::VIR_DOMAIN_AFFECT_CONFIG) {
                Err(error) if is_missing(&error) => Ok(()),
                detached => Ok(detached?),
            }
        })
        .await
    }

    /// See [`Hypervisor::release_interface`](crate::hypervisor::Hypervisor::release_interface).
    pub(super) async fn ask_for_interface(
        &self,
        uuid: Uuid,
        spec: &InterfaceSpec,
    ) -> Result<Option<String>, HypervisorError> {
        let spec = spec.clone();
        self.call("release interface", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(None) };
            must_be_ours(&domain)?;
            if !domain.is_active()? {
                return Ok(None);
            }
            let running = facts(&domain, 0)?;
            let Some(there) = find_in(&running, &spec) else { return Ok(None) };
            let alias = there.alias.clone().unwrap_or_default();
            match detach(&domain, there, sys::VIR_DOMAIN_AFFECT_LIVE) {
                Ok(()) => Ok(Some(alias)),
                Err(error) if is_missing(&error) => Ok(None),
                // nova: `_detach_sync`; the event of the first request tells.
                Err(error) if error.message().contains("already in the process of unplug") => {
                    debug!(alias, "it is being let go of already");
                    Ok(Some(alias))
                }
                Err(error) => Err(Fault::for_domain(error, uuid)),
            }
        })
        .await
    }

    /// See [`Hypervisor::has_interface`](crate::hypervisor::Hypervisor::has_interface).
    pub(super) async fn looks_for_interface(
        &self,
        uuid: Uuid,
        spec: &InterfaceSpec,
    ) -> Result<bool, HypervisorError> {
        let spec = spec.clone();
        self.call("look for interface", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(false) };
            Ok(find_in(&facts(&domain, 0)?, &spec).is_some())
        })
        .await
    }

    /// See [`Hypervisor::describe`](crate::hypervisor::Hypervisor::describe).
    pub(super) async fn set_metadata(
        &self,
        uuid: Uuid,
        metadata: &NovaMetadata,
    ) -> Result<(), HypervisorError> {
        let text = xml::metadata_xml(metadata);
        self.call("set metadata", move |connect| {
            let domain = ours(connect, uuid)?;
            let mut flags = sys::VIR_DOMAIN_AFFECT_CONFIG;
            if domain.is_active()? {
                flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
            }
            let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or_default();
            // nova: virt/libvirt/guest.py, `set_metadata`
            let uri = Some(xml::NOVA_NAMESPACE);
            domain
                .set_metadata(kind, Some(&text), Some("instance"), uri, flags)
                .map(drop)
                .map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }
}

fn find_in<'a>(facts: &'a DomainFacts, spec: &InterfaceSpec) -> Option<&'a InterfaceFacts> {
    facts.interfaces.iter().find(|there| spec.is(&there.mac_address, there.target.as_deref()))
}

fn detach(domain: &Domain, there: &InterfaceFacts, flags: u32) -> Result<(), virt::error::Error> {
    domain.detach_device_flags(&xml::found_interface_xml(there), flags).map(drop)
}
