//! What a domain is made of, in our words: the input of the XML writers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A domain to define. Element order and defaults are nova's (`LibvirtConfigGuest`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DomainSpec {
    pub uuid: Uuid,
    /// `instance-0000000d`
    pub name: String,
    /// `kvm`, `qemu`, …
    pub virt_type: String,
    pub memory_kib: u64,
    pub vcpus: u32,
    /// Host CPUs the guest may use, such as `0-3,6`.
    pub cpuset: Option<String>,
    pub metadata: NovaMetadata,
    pub sysinfo: SysInfo,
    pub os: OsSpec,
    pub features: Features,
    pub clock: Clock,
    pub cpu: CpuSpec,
    pub disks: Vec<DiskSpec>,
    pub interfaces: Vec<InterfaceSpec>,
    pub serials: Vec<SerialSpec>,
    pub graphics: Vec<GraphicsSpec>,
    /// `virtio`, `vga`, …; `None`: no video device.
    pub video: Option<VideoSpec>,
    /// (`tablet` or `keyboard`, bus)
    pub inputs: Vec<(String, String)>,
    pub rng: Option<RngSpec>,
    /// `reset`, `poweroff`, `pause`, `none`
    pub watchdog_action: Option<String>,
    /// Seconds between balloon statistics; 0: no balloon.
    pub balloon_stats_period_s: u32,
    /// Path of the guest agent's socket.
    pub guest_agent_socket: Option<PathBuf>,
    /// `hw_scsi_model`, when a disk is on the SCSI bus.
    pub scsi_model: Option<String>,
    pub pcie_root_ports: u32,
    /// cputune: shares, period, quota.
    pub cpu_shares: Option<u64>,
    pub cpu_period: Option<u64>,
    pub cpu_quota: Option<i64>,
    /// Whether `<iothreads>1</iothreads>` is written (nova ≥ 33 does).
    pub iothreads: bool,
    /// Model of the USB controller, `none` for no controller; `None` leaves it to libvirt.
    pub usb_model: Option<String>,
    /// Channel of the SPICE agent.
    pub spice_agent: bool,
    /// `hw_sound_model`
    pub sound_model: Option<String>,
    /// USB ports redirected over SPICE.
    pub redirected_usb_ports: u32,
}

/// `nova:instance`, by which nova and operators know whose domain it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NovaMetadata {
    pub package_version: String,
    pub name: String,
    /// `2026-11-20 23:06:06`, UTC
    pub creation_time: String,
    pub flavor: FlavorMetadata,
    pub image: Option<ImageMetadata>,
    /// (id, name)
    pub user: Option<(String, String)>,
    pub project: Option<(String, String)>,
    /// The image the root disk was made from; `None`: it is a volume.
    pub root_image: Option<String>,
    pub ports: Vec<PortMetadata>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FlavorMetadata {
    pub id: String,
    pub name: String,
    pub memory_mib: u64,
    pub disk_gib: u64,
    pub swap_mib: u64,
    pub ephemeral_gib: u64,
    pub vcpus: u64,
    pub extra_specs: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ImageMetadata {
    pub uuid: String,
    pub container_format: Option<String>,
    pub disk_format: Option<String>,
    pub min_disk_gib: u64,
    pub min_ram_mib: u64,
    pub properties: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PortMetadata {
    pub uuid: String,
    /// (`fixed`, address, IP version)
    pub ips: Vec<(String, String, u8)>,
}

/// SMBIOS system entries, in nova's order; an empty serial is left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SysInfo {
    pub manufacturer: String,
    pub product: String,
    pub version: String,
    pub serial: Option<String>,
    pub uuid: String,
    pub family: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OsSpec {
    pub architecture: String,
    /// `pc`, `q35`, `virt`, …
    pub machine: Option<String>,
    /// `hd`, `cdrom`, `fd`, in order.
    pub boot_devices: Vec<String>,
    pub boot_menu: bool,
    pub direct_kernel: Option<DirectKernel>,
    /// UEFI; `None`: BIOS.
    pub firmware: Option<UefiSpec>,
    pub smbios_from_sysinfo: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectKernel {
    pub kernel: PathBuf,
    pub ramdisk: Option<PathBuf>,
    pub command_line: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct UefiSpec {
    pub secure_boot: bool,
    pub stateless: bool,
    /// The firmware files an existing domain was given: a hard reboot keeps them, so that the
    /// guest finds its variables again. `None`: libvirt chooses.
    pub files: Option<FirmwareFiles>,
}

/// `os/loader` and `os/nvram` of a domain that libvirt has completed.
/// nova: virt/libvirt/driver.py, `_copy_guest_firmware_elements`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FirmwareFiles {
    pub loader: Option<String>,
    /// `pflash` or `rom`
    pub loader_type: Option<String>,
    pub loader_readonly: Option<bool>,
    pub nvram: Option<String>,
    pub nvram_template: Option<String>,
    /// What the loader was chosen for; another wish means another choice.
    pub secure: Option<bool>,
    /// Whether the firmware needs system management mode.
    pub smm: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Features {
    pub acpi: bool,
    pub apic: bool,
    pub vmcoreinfo: bool,
    /// Hyper-V enlightenments, for Windows guests.
    pub hyperv: bool,
    pub hide_hypervisor: bool,
    pub pmu: Option<bool>,
    /// Translation cache of software emulation.
    pub tb_cache_mib: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Clock {
    /// `utc` or `localtime`
    pub offset: String,
    /// pit and rtc as nova sets them for KVM.
    pub kvm_timers: bool,
    /// Whether the hpet timer is there; `None`: not written (other than x86).
    pub hpet: Option<bool>,
    pub hyperv_clock: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CpuSpec {
    /// `host-model`, `host-passthrough`, `custom`; `None`: topology only.
    pub mode: Option<String>,
    pub model: Option<String>,
    /// (name, `require` or `disable`)
    pub features: Vec<(String, String)>,
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
    /// (`emulate` or `passthrough`, bits)
    pub max_phys_addr: Option<(String, Option<u32>)>,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskSource {
    File(PathBuf),
    /// A block device of the host.
    Block(PathBuf),
    Network(NetworkDisk),
}

impl Default for DiskSource {
    fn default() -> Self {
        Self::File(PathBuf::new())
    }
}

impl DiskSource {
    /// The file or block device on this host.
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            Self::Network(_) => None,
        }
    }

    /// libvirt's name of its kind, which `[libvirt] disk_cachemodes` goes by as well.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Block(_) => "block",
            Self::Network(_) => "network",
        }
    }
}

/// A disk that QEMU reaches over the network by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkDisk {
    /// `rbd`
    pub protocol: String,
    /// `volumes/volume-…`
    pub name: String,
    /// (address, port)
    pub hosts: Vec<(String, Option<String>)>,
    pub auth: Option<DiskAuth>,
}

/// As whom QEMU speaks to a network disk's server; libvirt keeps the key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskAuth {
    pub username: String,
    /// `ceph`
    pub secret_type: String,
    pub secret_uuid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskSpec {
    pub source: DiskSource,
    /// `disk`, `cdrom`, `floppy`
    pub device: String,
    /// `qcow2`, `raw`
    pub format: String,
    /// `none`, `writeback`, …
    pub cache: String,
    /// `native`, when set.
    pub io: Option<String>,
    /// `unmap` or `ignore`
    pub discard: Option<String>,
    /// `vda`
    pub target: String,
    /// `virtio`, `sata`, `ide`, `scsi`, `usb`, `fdc`
    pub bus: String,
    pub serial: Option<String>,
    /// iotune: (libvirt's element, value), `("read_bytes_sec", 1024)`.
    pub iotune: Vec<(String, u64)>,
    /// Place on the virtio-scsi controller.
    pub scsi_unit: Option<u32>,
    /// Boot order of its own, for a rescue disk.
    pub boot_order: Option<u32>,
    /// libvirt's name of the device, one of the user's: `ua-…`
    #[serde(default)]
    pub alias: Option<String>,
    /// Block sizes that the guest is told: (logical, physical), bytes.
    #[serde(default)]
    pub block_sizes: (Option<u32>, Option<u32>),
    #[serde(default)]
    pub readonly: bool,
    /// Several guests use it at once.
    #[serde(default)]
    pub shareable: bool,
    /// It is encrypted with LUKS, and libvirt's secret of this UUID opens it.
    #[serde(default)]
    pub luks_secret: Option<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct InterfaceSpec {
    pub source: InterfaceSource,
    pub mac_address: String,
    /// `virtio`, `e1000`, …
    pub model: String,
    pub mtu: Option<u32>,
    /// `tapffb38c30-19`; user-mode networking has none.
    pub target: Option<String>,
    /// `qemu` or `vhost`
    pub driver: Option<String>,
    pub queues: Option<u32>,
    pub rx_queue_size: Option<u32>,
    /// Packed virtqueues.
    pub packed: bool,
    /// The tap device is made by someone else: libvirt neither makes nor removes it.
    pub unmanaged_target: bool,
    pub bandwidth: Option<Bandwidth>,
}

impl InterfaceSpec {
    /// Whether an interface with this address and device is this one. An address alone isn't enough:
    /// networks apart from each other may have it twice.
    /// nova: virt/libvirt/config.py, `LibvirtConfigGuestInterface.__eq__`
    pub fn is(&self, mac_address: &str, target: Option<&str>) -> bool {
        self.mac_address.eq_ignore_ascii_case(mac_address)
            && match (self.target.as_deref(), target) {
                (Some(own), Some(target)) => own == target,
                _ => true,
            }
    }
}

/// Limits of an interface: average and peak in KiB/s, burst in KiB.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bandwidth {
    pub inbound: Option<Rate>,
    pub outbound: Option<Rate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rate {
    pub average: u64,
    pub peak: Option<u64>,
    pub burst: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub enum InterfaceSource {
    /// A tap device that something else has connected, or will.
    #[default]
    Ethernet,
    /// A bridge of the host; `ovs_port` makes it an Open vSwitch port.
    Bridge { bridge: String, ovs_port: Option<String> },
    /// A network that libvirt manages.
    Network { network: String },
    /// QEMU's user-mode network: no host set-up, outgoing connections only.
    User,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SerialSpec {
    /// A pseudo-terminal, logged by virtlogd to `log`.
    Pty { log: Option<PathBuf> },
    /// A TCP listener for the serial proxy, logged on the first port.
    Tcp { address: String, port: u16, log: Option<PathBuf> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum GraphicsSpec {
    Vnc { listen: String },
    Spice { listen: String, options: SpiceOptions },
}

/// `[spice]`'s options, written when set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpiceOptions {
    pub image_compression: Option<String>,
    pub jpeg_compression: Option<String>,
    pub zlib_compression: Option<String>,
    pub playback_compression: Option<bool>,
    pub streaming_mode: Option<String>,
    /// Every channel over TLS only.
    pub require_secure: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoSpec {
    pub model: String,
    pub vram_kib: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RngSpec {
    pub device: PathBuf,
    /// (bytes, period in ms)
    pub rate: Option<(u64, u64)>,
}
