//! What libvirt is asked about the host itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use super::Libvirt;
use super::caps::resolved_features;
use super::errors::Fault;
use super::xml::{XmlError, cpu_xml};
use crate::hypervisor::host::{Capabilities, DomainCapabilities, HostCpu, HostState};
use crate::hypervisor::{HostInfo, HypervisorError};

fn garbled(operation: &'static str) -> impl Fn(XmlError) -> HypervisorError {
    move |error| HypervisorError::Garbled { operation, message: error.to_string() }
}

impl Libvirt {
    /// What the host is made of and can run: asked once, and kept. A job: after an upgrade libvirt
    /// asks each QEMU what it can do, which takes a minute on a busy host.
    /// nova: virt/libvirt/host.py, `get_capabilities`
    pub(super) async fn read_capabilities(&self) -> Result<Arc<Capabilities>, HypervisorError> {
        const OPERATION: &str = "read capabilities";
        let read = |connect: &Connect| {
            let xml = connect.get_capabilities()?;
            let mut host = Capabilities::parse(&xml).map_err(garbled(OPERATION))?;
            // On ARM libvirt resolves a model to nothing.
            if host.cpu.model.is_some()
                && host.cpu.architecture != "aarch64"
                && let Some(features) = resolve(connect, &host.cpu)?
            {
                host.cpu.features = features;
            }
            Ok(Arc::new(host))
        };
        let ask = async || self.job(OPERATION, self.options.job_timeout, read).await;
        self.capabilities.get_or_try_init(ask).await.cloned()
    }

    pub(super) async fn read_domain_capabilities(
        &self,
        architecture: &str,
        machine: Option<&str>,
        virt_type: &str,
    ) -> Result<DomainCapabilities, HypervisorError> {
        const OPERATION: &str = "read domain capabilities";
        let architecture = architecture.to_owned();
        let (machine, virt_type) = (machine.map(str::to_owned), virt_type.to_owned());
        let read = move |connect: &Connect| {
            let (arch, machine) = (Some(architecture.as_str()), machine.as_deref());
            Ok(connect.get_domain_capabilities(None, arch, machine, Some(&virt_type), 0)?)
        };
        let xml = self.job(OPERATION, self.options.job_timeout, read).await?;
        DomainCapabilities::parse(&xml).map_err(garbled(OPERATION))
    }

    /// nova: virt/libvirt/driver.py, `_get_guest_baseline_cpu_features`
    pub(super) async fn read_model_features(
        &self,
        cpu: &HostCpu,
        model: &str,
    ) -> Result<Option<BTreeSet<String>>, HypervisorError> {
        let model = Some(model.to_owned());
        let cpu = HostCpu { model, features: BTreeSet::new(), ..cpu.clone() };
        let read = move |connect: &Connect| resolve(connect, &cpu);
        self.job("resolve CPU model", self.options.job_timeout, read).await
    }

    /// The names libvirt knows for CPU models of an architecture.
    pub async fn cpu_models(&self, architecture: &str) -> Result<Vec<String>, HypervisorError> {
        let architecture = architecture.to_owned();
        let read = move |connect: &Connect| Ok(connect.get_cpu_models_names(&architecture, 0)?);
        self.call("list CPU models", read).await
    }

    /// nova: virt/libvirt/driver.py, `HostState`; host.py, `get_hostname`
    pub(super) async fn read_host_info(&self) -> Result<HostInfo, HypervisorError> {
        let capabilities = self.read_capabilities().await?;
        let state = self.read_host_state().await?;
        let guests = capabilities.guests.iter().flat_map(|guest| {
            guest.domain_types.iter().map(|kind| (guest.architecture.clone(), kind.clone()))
        });
        Ok(HostInfo {
            node: state.node,
            uuid: capabilities.host_uuid,
            guests: guests.collect(),
            architecture: capabilities.cpu.architecture.clone(),
            cpus: u32::try_from(state.online_cpus.len()).unwrap_or(u32::MAX),
            memory_mib: state.memory_mib,
            hypervisor_type: state.hypervisor_type,
            hypervisor_version: state.hypervisor_version,
            library_version: state.library_version,
        })
    }

    pub(super) async fn read_host_state(&self) -> Result<HostState, HypervisorError> {
        self.call("read host", host_state).await
    }
}

/// All features of a CPU, those of its model included; `None` where libvirt can't say.
fn resolve(connect: &Connect, cpu: &HostCpu) -> Result<Option<BTreeSet<String>>, Fault> {
    let flags = sys::VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES;
    match connect.baseline_cpu(&[&cpu_xml(cpu)], flags) {
        Ok(xml) => {
            let features = resolved_features(&xml).map_err(garbled("resolve CPU model"))?;
            Ok(Some(features))
        }
        Err(error) if error.code() == ErrorNumber::NoSupport => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn host_state(connect: &Connect) -> Result<HostState, Fault> {
    let info = connect.get_node_info()?;
    let online = match online_cpus(connect) {
        Ok(cpus) => cpus,
        // Drivers without a map of CPUs have all that they count.
        Err(error) if error.code() == ErrorNumber::NoSupport => vec![true; info.cpus as usize],
        Err(error) => return Err(error.into()),
    };
    let online_cpus = (0..).zip(&online).filter(|(_, online)| **online).map(|(cpu, _)| cpu);
    Ok(HostState {
        node: connect.get_hostname()?,
        memory_mib: info.memory / 1024,
        present_cpus: u32::try_from(online.len()).unwrap_or(u32::MAX),
        online_cpus: online_cpus.collect(),
        hypervisor_type: connect.get_type()?,
        hypervisor_version: connect.get_hyp_version()?.into(),
        library_version: connect.get_lib_version()?.into(),
    })
}

/// Whether each CPU that is there is online. nova: virt/libvirt/host.py, `get_online_cpus`
fn online_cpus(connect: &Connect) -> Result<Vec<bool>, Error> {
    let mut map: *mut u8 = std::ptr::null_mut();
    // SAFETY: the connection is open, `map` is a place for the array that libvirt allocates, and the
    // count of online CPUs isn't asked for.
    let count =
        unsafe { sys::virNodeGetCPUMap(connect.as_ptr(), &raw mut map, std::ptr::null_mut(), 0) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    if map.is_null() {
        return Ok(vec![true; count]);
    }
    // SAFETY: libvirt filled in one bit for each of `count` CPUs.
    let bytes = unsafe { std::slice::from_raw_parts(map, count.div_ceil(8)) };
    let online = (0..count).map(|cpu| bytes[cpu / 8] >> (cpu % 8) & 1 == 1).collect();
    // SAFETY: the array is ours, made by malloc, and not used any more.
    unsafe { libc::free(map.cast()) };
    Ok(online)
}
