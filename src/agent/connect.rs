//! The way to the hypervisor: waited for at start, and asked what its host can do.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::AgentError;
use super::options::libvirt_options;
use crate::config::Config;
use crate::health::{Component, Metrics};
use crate::hypervisor::fake::FakeHypervisor;
use crate::hypervisor::guest::GuestHost;
use crate::hypervisor::libvirt::{Libvirt, Observer};
use crate::hypervisor::{HostInfo, Hypervisor};
use crate::openstack;
use crate::service::ServiceManager;
use crate::telemetry::Chain;

/// A hypervisor that has answered, and what it says of the host.
pub(super) struct Connected {
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) host: HostInfo,
    pub(super) guest_host: GuestHost,
}

/// Waits for libvirt, for as long as it takes: the node's name comes from there. `None`: told to
/// stop meanwhile.
pub(super) async fn await_hypervisor(
    config: &Config,
    metrics: &Arc<Metrics>,
    manager: &ServiceManager,
    stop: &CancellationToken,
) -> Result<Option<Connected>, AgentError> {
    let mut pause = Duration::from_millis(200);
    loop {
        match connect(config, metrics).await {
            Ok(connected) => {
                let HostInfo { node, hypervisor_version, .. } = &connected.host;
                info!(node, version = hypervisor_version, "hypervisor connected");
                return Ok(Some(connected));
            }
            Err(AgentError::Hypervisor(error)) => {
                manager.status("waiting for libvirt");
                warn!(error = %Chain(&error), "waiting for the hypervisor");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

async fn connect(config: &Config, metrics: &Arc<Metrics>) -> Result<Connected, AgentError> {
    if config.default_.compute_driver.starts_with("fake") {
        let hypervisor = Arc::new(FakeHypervisor::new(&config.default_.host));
        let host = hypervisor.host_info().await?;
        let guest_host = guest_host(&host);
        return Ok(Connected { hypervisor, host, guest_host });
    }
    let mut options = libvirt_options(config)?;
    options.observer = Some(metrics.clone());
    let libvirt = Libvirt::open(options).await?;
    let host = libvirt.host_info().await?;
    let virt_type = config.libvirt.virt_type.as_str();
    let mut guest_host = guest_host(&host);
    guest_host.machines = libvirt.capabilities().await?.machines(&host.architecture);
    // A host that can't say what its machines offer runs BIOS guests all the same.
    match libvirt.domain_capabilities(&host.architecture, None, virt_type).await {
        Ok(offers) => {
            guest_host.supports_uefi = offers.firmware.iter().any(|kind| kind == "efi");
            guest_host.supports_secure_boot = offers.secure_boot;
        }
        Err(error) => warn!(error = %Chain(&error), "no domain capabilities: BIOS guests only"),
    }
    Ok(Connected { hypervisor: Arc::new(libvirt), host, guest_host })
}

pub(super) fn guest_host(host: &HostInfo) -> GuestHost {
    let machine_id = std::fs::read_to_string("/etc/machine-id").ok();
    let machine_id = machine_id.and_then(|text| uuid::Uuid::parse_str(text.trim()).ok());
    GuestHost {
        architecture: host.architecture.clone(),
        hardware_uuid: host.uuid.map(|uuid| uuid.to_string()),
        machine_id: machine_id.map(|id| id.to_string()),
        cpu_control: has_cpu_controller(),
        ..GuestHost::default()
    }
}

/// Whether guests' CPU time can be limited: cgroup 2's controller, or cgroup 1's mount.
/// nova: virt/libvirt/host.py, is_cpu_control_policy_capable
fn has_cpu_controller() -> bool {
    let words = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let unified = words("/sys/fs/cgroup/cgroup.controllers");
    let mounts = words("/proc/self/mounts");
    let mounted = mounts.lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        matches!(fields.as_slice(), [_, _, "cgroup", options, ..]
            if options.split(',').any(|option| option == "cpu"))
    });
    unified.split_whitespace().any(|controller| controller == "cpu") || mounted
}

impl openstack::Observer for Metrics {
    fn answered(&self, service: &'static str, status: Option<u16>, took: Duration) {
        self.http_request(service, status, took);
    }
}

impl Observer for Metrics {
    fn answered(&self, operation: &'static str, took: Duration) {
        self.libvirt_call(operation, took);
    }

    fn timed_out(&self, operation: &'static str) {
        self.libvirt_timed_out(operation);
    }

    fn connection_lost(&self) {
        self.connections_lost(Component::Libvirt, 1);
    }
}
