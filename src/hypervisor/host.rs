//! The host as its hypervisor describes it: processors, NUMA cells, kinds of guests.

use std::collections::BTreeSet;

use uuid::Uuid;

/// What the host is made of and can run. It changes with the hardware and with the hypervisor's
/// packages, not while both stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    pub host_uuid: Option<Uuid>,
    pub cpu: HostCpu,
    /// Empty where the hypervisor doesn't say.
    pub cells: Vec<HostCell>,
    pub guests: Vec<GuestKind>,
}

/// The host's processors as the hypervisor models them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostCpu {
    /// `x86_64`, …
    pub architecture: String,
    pub model: Option<String>,
    pub vendor: Option<String>,
    /// Sockets, cores, threads, of one NUMA cell.
    pub topology: Option<[u32; 3]>,
    pub max_phys_addr: Option<MaxPhysAddr>,
    /// Beyond those of the model, too: `avx2`, `nx`, …
    pub features: BTreeSet<String>,
}

/// The width of a guest's physical addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MaxPhysAddr {
    /// `emulate`, `passthrough`
    pub mode: String,
    pub bits: Option<u32>,
}

/// A NUMA cell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostCell {
    pub id: u32,
    pub memory_kib: u64,
    pub pages: Vec<HostPages>,
    pub cpus: Vec<HostThread>,
}

/// Memory pages of one size in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostPages {
    pub size_kib: u64,
    pub total: u64,
}

/// What the kernel calls a CPU: a hardware thread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostThread {
    pub id: u32,
    pub socket: Option<u32>,
    /// The threads of the same core, this one included.
    pub siblings: BTreeSet<u32>,
}

/// One kind of guest the host can run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestKind {
    /// `hvm`, `exe`, …
    pub os_type: String,
    pub architecture: String,
    /// `pc`, `q35`, `pc-i440fx-10.0`, …
    pub machines: Vec<String>,
    /// Of those, the short names that stand for the newest of their kind: `pc`, `q35`.
    pub aliases: Vec<String>,
    /// `qemu`, `kvm`, …
    pub domain_types: Vec<String>,
}

impl Capabilities {
    /// Every machine type of an architecture.
    pub fn machines(&self, architecture: &str) -> Vec<String> {
        let of_architecture = self.guests.iter().filter(|g| g.architecture == architecture);
        of_architecture.flat_map(|guest| guest.machines.iter().cloned()).collect()
    }

    /// Whether any core runs more than one thread.
    /// nova: virt/libvirt/host.py, `has_hyperthreading`
    pub fn has_hyperthreading(&self) -> bool {
        self.cells.iter().flat_map(|cell| &cell.cpus).any(|thread| thread.siblings.len() > 1)
    }
}

/// What one machine type offers its guests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainCapabilities {
    pub machine: String,
    pub max_vcpus: Option<u32>,
    /// `efi` when the hypervisor can choose a UEFI firmware by itself.
    pub firmware: Vec<String>,
    pub loaders: Vec<String>,
    /// Whether a firmware with secure boot is there.
    pub secure_boot: bool,
    /// The CPU modes it supports: `host-model`, `custom`, …
    pub cpu_modes: Vec<String>,
    /// The model behind `host-model`, and what it needs added.
    pub host_model: Option<String>,
    pub host_model_features: Vec<String>,
    /// The named models that run here.
    pub usable_models: Vec<String>,
    pub disk_buses: Vec<String>,
    pub video_models: Vec<String>,
}

/// The host at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostState {
    /// nova's `hypervisor_hostname`.
    pub node: String,
    pub memory_mib: u64,
    /// CPUs that are there, counted from 0; those that can be switched on are among them.
    pub present_cpus: u32,
    pub online_cpus: BTreeSet<u32>,
    /// `QEMU`
    pub hypervisor_type: String,
    /// major × 1 000 000 + minor × 1 000 + micro
    pub hypervisor_version: u64,
    pub library_version: u64,
}

/// A disk that is a file or a block device of this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskSize {
    pub path: String,
    /// What the guest sees.
    pub capacity_bytes: u64,
}
