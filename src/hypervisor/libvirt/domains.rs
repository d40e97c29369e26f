//! [`Hypervisor`] over libvirt. Each operation looks at the domain first and changes only what is
//! not yet as asked: that makes it safe to repeat, after a lost connection or by a resumed workflow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::broadcast;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt_sys as sys;

use super::errors::Fault;
use super::undefine::{has_managed_save, is_unknown_flag, undefine_wholly};
use super::xml::{self, NOVA_NAMESPACE, OLD_NOVA_NAMESPACE};
use super::{Libvirt, state, stats};
use crate::hypervisor::block::{
    BlockCopy, BlockJob, BlockJobEvent, DeviceEvent, DomainDisk, VolumeDisk,
};
use crate::hypervisor::host::{Capabilities, DiskSize, DomainCapabilities, HostCpu, HostState};
use crate::hypervisor::spec::{DiskSpec, DomainSpec, FirmwareFiles, InterfaceSpec, NovaMetadata};
use crate::hypervisor::{
    ConsoleEndpoints, DomainEvent, DomainInfo, DomainStats, HostInfo, Hypervisor, HypervisorError,
    InterfaceStats, StartOptions,
};
use crate::model::secret::Secret;
use crate::model::state::PowerState;

/// Between two looks at a domain that somebody else starts.
const STARTING_POLL: Duration = Duration::from_millis(100);

#[async_trait]
impl Hypervisor for Libvirt {
    async fn define(&self, spec: &DomainSpec) -> Result<(), HypervisorError> {
        let (uuid, name) = (spec.uuid, spec.name.clone());
        let xml = xml::domain_xml(spec);
        // A job: the first definition after an upgrade waits while libvirt asks each QEMU what it
        // can do, which takes a minute on a busy host.
        self.job("define", self.options.job_timeout, move |connect| {
            // libvirt itself refuses a name that another UUID has; what it would take is the
            // definition of a domain that isn't ours.
            for found in [find(connect, uuid)?, find_by_name(connect, &name)?].iter().flatten() {
                must_be_ours(found)?;
            }
            Domain::define_xml(connect, &xml)?;
            Ok(())
        })
        .await
    }

    async fn define_again(&self, uuid: Uuid, xml: &str) -> Result<(), HypervisorError> {
        let garbled = |message: String| HypervisorError::Garbled { operation: "define", message };
        let found = xml::read::domain_facts(xml).map_err(|error| garbled(error.to_string()))?;
        if found.uuid != Some(uuid) || found.nova.is_none() {
            return Err(garbled("the definition that was kept is of another domain".to_owned()));
        }
        let xml = xml.to_owned();
        self.job("define", self.options.job_timeout, move |connect| {
            if let Some(found) = find(connect, uuid)? {
                must_be_ours(&found)?;
            }
            Domain::define_xml(connect, &xml)?;
            Ok(())
        })
        .await
    }

    async fn start(&self, uuid: Uuid, options: StartOptions) -> Result<(), HypervisorError> {
        let found = self.domain(uuid).await?;
        let restores = !options.force_boot && found.is_some_and(|info| info.managed_save);
        let within = match restores {
            true => self.options.restore_timeout,
            false => self.options.job_timeout,
        };
        let start = move |connect: &Connect| {
            let domain = ours(connect, uuid)?;
            wait_while_starting(&domain, within)?;
            if domain.is_active()? {
                return Ok(());
            }
            let mut flags = 0;
            if options.paused {
                flags |= sys::VIR_DOMAIN_START_PAUSED;
            }
            if options.force_boot {
                flags |= sys::VIR_DOMAIN_START_FORCE_BOOT;
            }
            match domain.create_with_flags(flags) {
                // Drivers without managed save don't know the flag, and have nothing to drop.
                Err(error) if options.force_boot && is_unknown_flag(&error) => {
                    domain.create_with_flags(flags & !sys::VIR_DOMAIN_START_FORCE_BOOT)?
                }
                result => result?,
            };
            Ok(())
        };
        match restores {
            true => self.job_with(&self.memory_permits, "restore", within, start).await,
            false => self.job("start", within, start).await,
        }
    }

    async fn destroy(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.job("destroy", self.options.job_timeout, move |connect| {
            let domain = ours(connect, uuid)?;
            match domain.destroy() {
                // It stopped by itself, or was never on.
                Err(_) if !domain.is_active()? => Ok(()),
                result => Ok(result?),
            }
        })
        .await
    }

    async fn undefine(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("undefine", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(()) };
            must_be_ours(&domain)?;
            match undefine_wholly(&domain) {
                Err(error) if error.code() == ErrorNumber::NoDomain => Ok(()),
                result => Ok(result?),
            }
        })
        .await
    }

    async fn press_power_button(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.change("press power button", uuid, |domain| match domain.shutdown() {
            Err(_) if !domain.is_active()? => Ok(()),
            result => result.map(drop),
        })
        .await
    }

    async fn pause(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.change("pause", uuid, |domain| match domain.get_state()?.0 {
            sys::VIR_DOMAIN_PAUSED => Ok(()),
            _ => domain.suspend().map(drop),
        })
        .await
    }

    async fn unpause(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.change("unpause", uuid, |domain| match domain.get_state()?.0 {
            sys::VIR_DOMAIN_RUNNING => Ok(()),
            _ => domain.resume().map(drop),
        })
        .await
    }

    async fn managed_save(&self, uuid: Uuid, within: Duration) -> Result<(), HypervisorError> {
        self.save(uuid, within).await
    }

    async fn has_job(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        self.is_at_work(uuid).await
    }

    async fn abort_job(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.abort(uuid).await
    }

    async fn drop_managed_save(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.change("drop managed save", uuid, |domain| match domain.has_managed_save(0)? {
            true => domain.managed_save_remove(0).map(drop),
            false => Ok(()),
        })
        .await
    }

    async fn domain(&self, uuid: Uuid) -> Result<Option<DomainInfo>, HypervisorError> {
        self.call("look up domain", move |connect| {
            let Some(domain) = find(connect, uuid)? else { return Ok(None) };
            Ok(info(&domain)?)
        })
        .await
    }

    async fn domains(&self) -> Result<Vec<DomainInfo>, HypervisorError> {
        self.call("list domains", |connect| {
            let domains = connect.list_all_domains(0)?;
            // One that vanished between the list and the question is left out.
            let infos = domains.iter().filter_map(|domain| info(domain).transpose());
            Ok(infos.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn power_states(&self) -> Result<BTreeMap<Uuid, PowerState>, HypervisorError> {
        self.call("read power states", |connect| Ok(stats::power_states(connect)?)).await
    }

    async fn domain_xml(&self, uuid: Uuid, inactive: bool) -> Result<String, HypervisorError> {
        let flags = if inactive { sys::VIR_DOMAIN_XML_INACTIVE } else { 0 };
        self.call("read XML", move |connect| {
            let domain = found(connect, uuid)?;
            domain.get_xml_desc(flags).map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }

    async fn console_endpoints(&self, uuid: Uuid) -> Result<ConsoleEndpoints, HypervisorError> {
        let xml = self.domain_xml(uuid, false).await?;
        xml::read::consoles(&xml).map_err(|error| HypervisorError::Garbled {
            operation: "read consoles",
            message: error.to_string(),
        })
    }

    async fn firmware(&self, uuid: Uuid) -> Result<Option<FirmwareFiles>, HypervisorError> {
        let xml = match self.domain_xml(uuid, true).await {
            Ok(xml) => xml,
            Err(HypervisorError::NoDomain(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let facts = xml::read::domain_facts(&xml).map_err(|error| HypervisorError::Garbled {
            operation: "read firmware",
            message: error.to_string(),
        })?;
        Ok(Some(facts.firmware).filter(|files| *files != FirmwareFiles::default()))
    }

    async fn stats(&self, uuid: Uuid) -> Result<DomainStats, HypervisorError> {
        self.call("read counters", move |connect| {
            let domain = found(connect, uuid)?;
            let mut stats = stats::of_domain(&domain)
                .map_err(|error| Fault::for_domain(error, uuid))?
                .ok_or(HypervisorError::NoDomain(uuid))?;
            let facts = domain.get_xml_desc(0).map(|xml| xml::read::domain_facts(&xml));
            if let Ok(Ok(facts)) = facts {
                for interface in &mut stats.interfaces {
                    interface.mac_address = facts
                        .interfaces
                        .iter()
                        .find(|fact| fact.target.as_deref() == Some(&interface.device))
                        .map(|fact| fact.mac_address.clone());
                }
                // One in user mode has no device on the host, and no counters.
                let without_device = facts.interfaces.into_iter().filter(|f| f.target.is_none());
                stats.interfaces.extend(without_device.map(|fact| InterfaceStats {
                    mac_address: Some(fact.mac_address),
                    ..InterfaceStats::default()
                }));
            }
            Ok(stats)
        })
        .await
    }

    async fn all_stats(&self) -> Result<Vec<DomainStats>, HypervisorError> {
        self.call("read all counters", |connect| Ok(stats::of_all(connect)?)).await
    }

    async fn host_info(&self) -> Result<HostInfo, HypervisorError> {
        self.read_host_info().await
    }

    async fn capabilities(&self) -> Result<Arc<Capabilities>, HypervisorError> {
        self.read_capabilities().await
    }

    async fn host_state(&self) -> Result<HostState, HypervisorError> {
        self.read_host_state().await
    }

    async fn domain_capabilities(
        &self,
        architecture: &str,
        machine: Option<&str>,
        virt_type: &str,
    ) -> Result<DomainCapabilities, HypervisorError> {
        self.read_domain_capabilities(architecture, machine, virt_type).await
    }

    async fn model_features(
        &self,
        cpu: &HostCpu,
        model: &str,
    ) -> Result<Option<BTreeSet<String>>, HypervisorError> {
        self.read_model_features(cpu, model).await
    }

    async fn disk_sizes(&self) -> Result<Vec<DiskSize>, HypervisorError> {
        self.call("read disks", |connect| Ok(stats::disks_of_all(connect)?)).await
    }

    async fn disks(&self, uuid: Uuid) -> Result<Vec<DomainDisk>, HypervisorError> {
        self.disks_of(uuid).await
    }

    async fn start_block_copy(&self, uuid: Uuid, copy: &BlockCopy) -> Result<(), HypervisorError> {
        self.begin_block_copy(uuid, copy).await
    }

    async fn block_job(
        &self,
        uuid: Uuid,
        target: &str,
    ) -> Result<Option<BlockJob>, HypervisorError> {
        self.look_at_block_job(uuid, target).await
    }

    async fn abort_block_job(&self, uuid: Uuid, target: &str) -> Result<bool, HypervisorError> {
        self.end_block_job(uuid, target).await
    }

    async fn freeze(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.freeze_file_systems(uuid).await
    }

    async fn thaw(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.thaw_file_systems(uuid).await
    }

    async fn set_user_password(
        &self,
        uuid: Uuid,
        user: &str,
        password: &Secret,
    ) -> Result<(), HypervisorError> {
        self.change_user_password(uuid, user, password).await
    }

    async fn inject_nmi(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.change("inject NMI", uuid, |domain| {
            // SAFETY: the domain's handle is valid until the end of this closure.
            match unsafe { sys::virDomainInjectNMI(domain.as_ptr(), 0) } {
                0 => Ok(()),
                _ => Err(virt::error::Error::last_error()),
            }
        })
        .await
    }

    async fn defined_disks(&self, uuid: Uuid) -> Result<Vec<DomainDisk>, HypervisorError> {
        self.disks_of_definition(uuid).await
    }

    async fn attach_disk(&self, uuid: Uuid, disk: &DiskSpec) -> Result<(), HypervisorError> {
        self.add_disk(uuid, disk).await
    }

    async fn forget_disk(&self, uuid: Uuid, disk: &VolumeDisk) -> Result<(), HypervisorError> {
        self.take_disk_from_definition(uuid, disk).await
    }

    async fn release_disk(
        &self,
        uuid: Uuid,
        disk: &VolumeDisk,
    ) -> Result<Option<String>, HypervisorError> {
        self.ask_for_disk(uuid, disk).await
    }

    async fn attach_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        self.add_interface(uuid, interface).await
    }

    async fn forget_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        self.take_interface_from_definition(uuid, interface).await
    }

    async fn release_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<Option<String>, HypervisorError> {
        self.ask_for_interface(uuid, interface).await
    }

    async fn has_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<bool, HypervisorError> {
        self.looks_for_interface(uuid, interface).await
    }

    async fn describe(&self, uuid: Uuid, metadata: &NovaMetadata) -> Result<(), HypervisorError> {
        self.set_metadata(uuid, metadata).await
    }

    async fn resize_disk(
        &self,
        uuid: Uuid,
        target: &str,
        bytes: u64,
    ) -> Result<(), HypervisorError> {
        self.grow_disk(uuid, target, bytes).await
    }

    async fn start_disk_swap(&self, uuid: Uuid, to: &DiskSpec) -> Result<(), HypervisorError> {
        self.begin_disk_swap(uuid, to).await
    }

    async fn pivot_block_job(&self, uuid: Uuid, target: &str) -> Result<(), HypervisorError> {
        self.pivot(uuid, target).await
    }

    async fn keep_volume_secret(
        &self,
        volume_id: &str,
        passphrase: &Secret,
    ) -> Result<Uuid, HypervisorError> {
        self.keep_secret(volume_id, passphrase).await
    }

    async fn volume_secret(&self, volume_id: &str) -> Result<Option<Uuid>, HypervisorError> {
        self.find_secret(volume_id).await
    }

    async fn forget_volume_secret(&self, volume_id: &str) -> Result<(), HypervisorError> {
        self.drop_secret(volume_id).await
    }

    fn device_events(&self) -> broadcast::Receiver<DeviceEvent> {
        self.sinks.devices.subscribe()
    }

    fn block_job_events(&self) -> broadcast::Receiver<BlockJobEvent> {
        self.sinks.block_jobs.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<DomainEvent> {
        self.sinks.states.subscribe()
    }
}

impl Libvirt {
    /// One short change of a domain that must be ours.
    async fn change(
        &self,
        operation: &'static str,
        uuid: Uuid,
        f: impl Fn(&Domain) -> Result<(), virt::error::Error> + Send + Sync + 'static,
    ) -> Result<(), HypervisorError> {
        self.call(operation, move |connect| {
            let domain = ours(connect, uuid)?;
            f(&domain).map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }
}

fn absent_is_none(
    result: Result<Domain, virt::error::Error>,
) -> Result<Option<Domain>, virt::error::Error> {
    match result {
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(None),
        result => result.map(Some),
    }
}

pub(super) fn find(connect: &Connect, uuid: Uuid) -> Result<Option<Domain>, virt::error::Error> {
    absent_is_none(Domain::lookup_by_uuid(connect, uuid))
}

fn find_by_name(connect: &Connect, name: &str) -> Result<Option<Domain>, virt::error::Error> {
    // No domain has such a name, and C can't be asked for it.
    if name.contains('\0') {
        return Ok(None);
    }
    absent_is_none(Domain::lookup_by_name(connect, name))
}

pub(super) fn found(connect: &Connect, uuid: Uuid) -> Result<Domain, Fault> {
    find(connect, uuid)?.ok_or(Fault::Ours(HypervisorError::NoDomain(uuid)))
}

pub(super) fn ours(connect: &Connect, uuid: Uuid) -> Result<Domain, Fault> {
    let domain = found(connect, uuid)?;
    must_be_ours(&domain)?;
    Ok(domain)
}

pub(super) fn must_be_ours(domain: &Domain) -> Result<(), Fault> {
    match is_ours(domain)? {
        true => Ok(()),
        false => Err(HypervisorError::NotOurs { name: domain.get_name()? }.into()),
    }
}

/// Whether nova's metadata is in the domain. Without it the domain is an operator's own.
fn is_ours(domain: &Domain) -> Result<bool, virt::error::Error> {
    for namespace in [NOVA_NAMESPACE, OLD_NOVA_NAMESPACE] {
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
        match domain.get_metadata(kind, Some(namespace), 0) {
            Ok(_) => return Ok(true),
            Err(error) if error.code() == ErrorNumber::NoDomainMetadata => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Waits for the end of a start that is under way already, from a call that timed out or whose
/// connection broke: until then the domain counts as active, and may yet fail to start.
fn wait_while_starting(domain: &Domain, within: Duration) -> Result<(), virt::error::Error> {
    let deadline = Instant::now() + within;
    let starting = |(state, reason): (u32, i32)| {
        state == sys::VIR_DOMAIN_PAUSED && reason == sys::VIR_DOMAIN_PAUSED_STARTING_UP as i32
    };
    while starting(domain.get_state()?) && Instant::now() < deadline {
        #[expect(clippy::disallowed_methods, reason = "a start runs on a thread of its own")]
        std::thread::sleep(STARTING_POLL);
    }
    Ok(())
}

/// `None` when it vanished meanwhile.
fn info(domain: &Domain) -> Result<Option<DomainInfo>, virt::error::Error> {
    let read = || {
        let (number, reason) = domain.get_state()?;
        Ok(DomainInfo {
            instance_uuid: domain.get_uuid()?,
            name: domain.get_name()?,
            id: domain.get_id(),
            power_state: state::power_state(number),
            reason: state::reason(number, reason).to_owned(),
            managed_save: has_managed_save(domain)?,
            nova_owned: is_ours(domain)?,
        })
    };
    match read() {
        Err(error) if is_gone(&error) => Ok(None),
        result => result.map(Some),
    }
}

fn is_gone(error: &virt::error::Error) -> bool {
    error.code() == ErrorNumber::NoDomain
}
