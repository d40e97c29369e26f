//! From what nova asks for to a [`DomainSpec`]: flavor, image properties, configuration and host in,
//! the domain out. Pure; the golden files in `tests/golden/domain/` hold it to nova's own output.
//!
//! A feature that isn't here yet is refused by name, never left out: a guest that asked for pinned
//! CPUs and runs without them would be wrong in silence.
//!
//! nova: virt/libvirt/driver.py, `_get_guest_config`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::spec::*;
use crate::model::class::Class;
use asked::Asked;

mod asked;
mod cpu;
mod defaults;
mod devices;
mod disks;
mod firmware;
mod interfaces;
mod names;
mod refused;

pub use defaults::{Defaults, image_defaults, place_of, placed_disks};
pub use devices::serial_port_count;
pub use disks::{DiskRole, GuestDisk, named_place, set_cache};
pub use interfaces::{GuestVif, interface_specs, tap_has_queues};

/// All that a domain is made of.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GuestInput {
    pub uuid: Uuid,
    /// The domain's name, `instance-0000000d`.
    pub name: String,
    pub display_name: String,
    /// `2026-11-20 23:06:06`, UTC: when this definition is made.
    pub creation_time: String,
    /// The version in the metadata and the SMBIOS tables.
    pub package_version: String,
    pub flavor: FlavorMetadata,
    pub image: GuestImage,
    /// nova's `instance.os_type`: `linux`, `windows`, or nothing.
    pub os_type: Option<String>,
    /// (id, name)
    pub user: Option<(String, String)>,
    pub project: Option<(String, String)>,
    pub disks: Vec<GuestDisk>,
    /// What the instance's record calls its root disk, `/dev/vda`.
    pub root_device_name: Option<String>,
    /// Boot this kernel instead of the root disk's loader.
    pub kernel: Option<GuestKernel>,
    /// The guest is booted from another disk, to mend its own.
    #[serde(default)]
    pub rescue: Option<GuestRescue>,
    pub vifs: Vec<GuestVif>,
    /// `console.log` of the instance directory.
    pub console_log: Option<PathBuf>,
    /// TCP ports for the serial consoles when `[serial_console]` is enabled, as many as
    /// [`serial_port_count`] says.
    pub serial_ports: Vec<u16>,
    /// Firmware files of the domain that this definition replaces.
    pub firmware: Option<FirmwareFiles>,
    pub options: GuestOptions,
    pub host: GuestHost,
}

/// The image the guest was made from, or the volume's image metadata.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GuestImage {
    /// `None` for a guest that boots from a volume.
    pub id: Option<String>,
    pub container_format: Option<String>,
    pub disk_format: Option<String>,
    pub min_disk_gib: u64,
    pub min_ram_mib: u64,
    /// `hw_…`, `os_…`, `img_…`; booleans as `True` and `False` or any spelling oslo knows.
    pub properties: BTreeMap<String, String>,
    /// What the metadata tell instead of them: those of the instance's record, when it is another image
    /// that the guest is started from. nova: virt/driver.py, `get_instance_driver_metadata`
    #[serde(default)]
    pub recorded: Option<BTreeMap<String, String>>,
}

impl GuestInput {
    /// The image properties that shape the guest. The metadata tell of the instance's own image, also
    /// where it boots from another one.
    fn asked_of_image(&self) -> &BTreeMap<String, String> {
        match &self.rescue {
            Some(rescue) if !rescue.is_stable => &rescue.properties,
            _ => &self.image.properties,
        }
    }
}

/// How a guest is rescued. nova: virt/libvirt/driver.py, `rescue`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GuestRescue {
    /// Whether its own disks stay what and where they are, and the rescue disk comes last. Else that
    /// comes first, and only its own root disk beside it.
    pub is_stable: bool,
    /// Of the rescue image.
    pub properties: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GuestKernel {
    pub kernel: PathBuf,
    pub ramdisk: Option<PathBuf>,
}

/// The options of nova.conf that shape a domain, `[libvirt]`'s unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestOptions {
    /// `kvm` or `qemu`
    pub virt_type: String,
    pub cpu_mode: Option<String>,
    pub cpu_models: Vec<String>,
    pub cpu_model_extra_flags: Vec<String>,
    /// `x86_64=q35`, …
    pub hw_machine_type: Vec<String>,
    /// `file=writeback`, …
    pub disk_cachemodes: Vec<String>,
    pub hw_disk_discard: Option<String>,
    pub disk_prefix: Option<String>,
    /// `[compute] max_disk_devices_to_attach`; `None`: any number.
    pub max_disk_devices: Option<u32>,
    pub num_pcie_ports: u32,
    /// Seconds; 0: no balloon.
    pub mem_stats_period_seconds: u32,
    pub rng_dev_path: PathBuf,
    /// `unique`, `os`, `hardware`, `auto` or `none`
    pub sysinfo_serial: String,
    /// MiB of translation cache for software emulation.
    pub tb_cache_size: Option<u32>,
    pub rx_queue_size: Option<u32>,
    pub max_queues: Option<u32>,
    /// Whether the instances directory takes O_DIRECT; without it the cache mode is `writeback`.
    pub direct_io: bool,
    /// `[workarounds] libvirt_disable_apic`
    pub disable_apic: bool,
    /// `[compute] cpu_shared_set`, already a list such as `0-3`.
    pub cpu_shared_set: Option<String>,
    /// `[DEFAULT] config_drive_format`: `iso9660` or `vfat`
    pub config_drive_format: String,
    /// `[DEFAULT] pointer_model`
    pub pointer_model: Option<String>,
    /// `[vnc] server_listen` when enabled.
    pub vnc_listen: Option<String>,
    /// `[spice]` when enabled.
    pub spice: Option<SpiceServer>,
    /// `[serial_console] proxyclient_address` when enabled.
    pub serial_console_address: Option<String>,
}

/// `[spice]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SpiceServer {
    pub listen: String,
    pub agent_enabled: bool,
    pub options: SpiceOptions,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            virt_type: "kvm".into(),
            cpu_mode: None,
            cpu_models: Vec::new(),
            cpu_model_extra_flags: Vec::new(),
            hw_machine_type: Vec::new(),
            disk_cachemodes: Vec::new(),
            hw_disk_discard: None,
            disk_prefix: None,
            max_disk_devices: None,
            num_pcie_ports: 0,
            mem_stats_period_seconds: 10,
            rng_dev_path: "/dev/urandom".into(),
            sysinfo_serial: "unique".into(),
            tb_cache_size: None,
            rx_queue_size: None,
            max_queues: None,
            direct_io: true,
            disable_apic: false,
            cpu_shared_set: None,
            config_drive_format: "iso9660".into(),
            pointer_model: Some("usbtablet".into()),
            vnc_listen: Some("127.0.0.1".into()),
            spice: None,
            serial_console_address: None,
        }
    }
}

/// The host, as far as a domain depends on it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GuestHost {
    pub architecture: String,
    /// Every machine type it can run; empty: not checked.
    pub machines: Vec<String>,
    /// The CPU models libvirt knows; empty: not checked.
    pub cpu_models: Vec<String>,
    pub supports_uefi: bool,
    pub supports_secure_boot: bool,
    /// Whether the cgroup CPU controller is there, for shares and quotas.
    pub cpu_control: bool,
    /// The hardware's UUID, from libvirt's capabilities.
    pub hardware_uuid: Option<String>,
    /// `/etc/machine-id`, with dashes.
    pub machine_id: Option<String>,
}

/// Why there is no domain for such an input. `exception` is nova's name for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The flavor or the image asks for what isn't done here.
    #[error("{what} is not supported here")]
    Unsupported { what: String, exception: &'static str },
    /// The flavor or the image contradicts itself, or the other.
    #[error("{message}")]
    Invalid { message: String, exception: &'static str },
    /// This host can't; another may.
    #[error("{message}")]
    Host { message: String, exception: &'static str },
}

impl GuestError {
    pub fn class(&self) -> Class {
        match self {
            // Another host may run an agent that can.
            Self::Unsupported { .. } | Self::Host { .. } => Class::Reschedule,
            Self::Invalid { .. } => Class::Refused,
        }
    }

    /// nova's exception class, for the reply.
    pub fn exception(&self) -> &'static str {
        match self {
            Self::Unsupported { exception, .. }
            | Self::Invalid { exception, .. }
            | Self::Host { exception, .. } => exception,
        }
    }

    fn invalid(exception: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { exception, message: message.into() }
    }

    fn host(exception: &'static str, message: impl Into<String>) -> Self {
        Self::Host { exception, message: message.into() }
    }
}

const KERNEL_CONSOLES: &str = "console=tty0 console=ttyS0 console=hvc0";

/// Builds the domain.
///
/// # Errors
/// `Unsupported` for features that aren't done here, `Invalid` for what no host could run, `Host`
/// for what this one can't.
pub fn domain_spec(input: &GuestInput) -> Result<DomainSpec, GuestError> {
    let (flavor, options, host) = (&input.flavor, &input.options, &input.host);
    let asked = Asked::new(&flavor.extra_specs, input.asked_of_image());
    let arch = refused::check(input, &asked)?;
    let x86 = matches!(arch.as_str(), "x86_64" | "i686");
    let machine = machine_type(input, &asked)?;
    // Another architecture than the host's is emulated, whatever is configured.
    let emulated = arch != host.architecture;
    let virt_type = if emulated { "qemu" } else { options.virt_type.as_str() };
    let windows = input.os_type.as_deref() == Some("windows");

    let disks = disks::disks(input, &asked, &machine)?;
    let interfaces = interfaces::interfaces(input, &asked)?;
    let (graphics, video, inputs) = devices::display(input, &asked, &arch)?;
    let hide_hypervisor = ["hide_hypervisor_id", "hw:hide_hypervisor_id"]
        .iter()
        .any(|key| asked.spec(key).is_some_and(asked::truth))
        || asked.property("img_hide_hypervisor_id").is_some_and(asked::truth);
    let quota = |name: &'static str| asked.spec_number::<i64>(name);
    let quotas =
        (quota("quota:cpu_shares")?, quota("quota:cpu_period")?, quota("quota:cpu_quota")?);
    if quotas != (None, None, None) && !host.cpu_control {
        return Err(GuestError::host(
            "UnsupportedHostCPUControlPolicy",
            "the flavor limits CPU time, and this host has no cgroup CPU controller",
        ));
    }
    let positive = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    let needs_usb =
        inputs.iter().any(|(_, bus)| bus == "usb") || disks.iter().any(|disk| disk.bus == "usb");

    Ok(DomainSpec {
        uuid: input.uuid,
        name: input.name.clone(),
        virt_type: virt_type.into(),
        memory_kib: flavor.memory_mib * 1024,
        vcpus: u32::try_from(flavor.vcpus).map_err(|_| {
            GuestError::invalid("InvalidRequest", "the flavor has too many virtual CPUs")
        })?,
        cpuset: options.cpu_shared_set.clone(),
        metadata: metadata(input),
        sysinfo: sysinfo(input)?,
        features: Features {
            acpi: true,
            apic: !options.disable_apic,
            vmcoreinfo: x86 || arch == "aarch64",
            hyperv: windows,
            hide_hypervisor,
            pmu: asked.agreed_truth("pmu")?,
            tb_cache_mib: options
                .tb_cache_size
                .filter(|size| *size > 0 && options.virt_type == "qemu"),
        },
        clock: clock(input, &asked, windows, x86),
        cpu: cpu::cpu(input, &asked, &arch)?,
        serials: devices::serials(input)?,
        graphics,
        video,
        usb_model: devices::usb_model(&asked, needs_usb, &arch)?,
        inputs,
        rng: devices::rng(&asked, options)?,
        watchdog_action: devices::watchdog(&asked)?,
        balloon_stats_period_s: options.mem_stats_period_seconds,
        guest_agent_socket: asked
            .property("hw_qemu_guest_agent")
            .is_some_and(asked::truth)
            .then(|| guest_agent_socket(&input.name)),
        scsi_model: asked.property("hw_scsi_model").map(str::to_owned),
        pcie_root_ports: devices::pcie_root_ports(options, &host.architecture, machine.as_deref()),
        cpu_shares: positive(quotas.0),
        cpu_period: positive(quotas.1),
        cpu_quota: quotas.2,
        iothreads: true,
        spice_agent: options.spice.as_ref().is_some_and(|spice| spice.agent_enabled),
        sound_model: devices::sound_model(&asked)?,
        redirected_usb_ports: devices::redirected_usb_ports(&asked)?,
        os: OsSpec {
            boot_devices: match (&input.kernel, &input.rescue) {
                (None, None) => disks::boot_devices(&disks, &input.disks),
                _ => Vec::new(),
            },
            boot_menu: boot_menu(&asked),
            direct_kernel: direct_kernel(input, &asked, &disks),
            firmware: firmware::firmware(input, &asked, &arch, machine.as_deref())?,
            smbios_from_sysinfo: x86,
            architecture: arch,
            machine,
        },
        disks,
        interfaces,
    })
}

/// nova: virt/libvirt/driver.py, `_add_qga_device`
fn guest_agent_socket(name: &str) -> PathBuf {
    format!("/var/lib/libvirt/qemu/org.qemu.guest_agent.0.{name}.sock").into()
}

/// The machine type: the image's, else the configured one of its architecture, else nova's default.
///
/// nova: virt/libvirt/utils.py, `get_machine_type`
fn machine_type(input: &GuestInput, asked: &Asked<'_>) -> Result<Option<String>, GuestError> {
    let arch = asked.property("hw_architecture").unwrap_or(&input.host.architecture);
    let configured = input.options.hw_machine_type.iter().find_map(|entry| {
        entry.split_once('=').filter(|(of, machine)| *of == arch && !machine.is_empty())
    });
    let default = match arch {
        "armv7l" | "armv7" | "aarch64" => Some("virt"),
        "ppc64le" => Some("pseries"),
        "s390" | "s390x" => Some("s390-ccw-virtio"),
        "i686" | "x86_64" => Some("pc"),
        _ => None,
    };
    let machine = asked
        .property("hw_machine_type")
        .or(configured.map(|(_, machine)| machine))
        .or(default)
        .map(str::to_owned);
    let machines = &input.host.machines;
    match &machine {
        Some(name) if !machines.is_empty() && !machines.contains(name) => Err(GuestError::host(
            "InvalidMachineType",
            format!("'{name}' is not a machine type of this host"),
        )),
        _ => Ok(machine),
    }
}

/// What the domain's metadata says of the guest.
pub fn metadata(input: &GuestInput) -> NovaMetadata {
    let image = &input.image;
    NovaMetadata {
        package_version: input.package_version.clone(),
        name: input.display_name.clone(),
        creation_time: input.creation_time.clone(),
        flavor: input.flavor.clone(),
        image: Some(ImageMetadata {
            uuid: image.id.clone().unwrap_or_default(),
            container_format: image.container_format.clone(),
            disk_format: image.disk_format.clone(),
            min_disk_gib: image.min_disk_gib,
            min_ram_mib: image.min_ram_mib,
            properties: image
                .recorded
                .clone()
                .unwrap_or_else(|| image.properties.clone())
                .into_iter()
                .collect(),
        }),
        user: input.user.clone(),
        project: input.project.clone(),
        root_image: image.id.clone(),
        ports: input.vifs.iter().map(|vif| vif.port.clone()).collect(),
    }
}

/// nova: virt/libvirt/driver.py, `_get_guest_config_sysinfo`
fn sysinfo(input: &GuestInput) -> Result<SysInfo, GuestError> {
    let host = &input.host;
    let known = |id: &Option<String>, what| {
        let missing = || GuestError::host("InternalError", format!("this host has no {what}"));
        id.clone().map(Some).ok_or_else(missing)
    };
    let serial = match input.options.sysinfo_serial.as_str() {
        "none" => None,
        "os" => known(&host.machine_id, "machine id")?,
        "hardware" => known(&host.hardware_uuid, "hardware UUID")?,
        "auto" => known(&host.machine_id.clone().or(host.hardware_uuid.clone()), "machine id")?,
        _ => Some(input.uuid.to_string()),
    };
    Ok(SysInfo {
        manufacturer: "OpenStack Foundation".into(),
        product: "OpenStack Nova".into(),
        version: input.package_version.clone(),
        serial,
        uuid: input.uuid.to_string(),
        family: "Virtual Machine".into(),
    })
}

/// nova: virt/libvirt/driver.py, `_set_clock`, `_set_kvm_timers`
fn clock(input: &GuestInput, asked: &Asked<'_>, windows: bool, x86: bool) -> Clock {
    let kvm = input.options.virt_type == "kvm";
    let hpet = asked.property("hw_time_hpet").is_some_and(asked::truth);
    Clock {
        offset: if windows { "localtime" } else { "utc" }.into(),
        kvm_timers: kvm,
        hpet: (kvm && x86).then_some(hpet),
        hyperv_clock: kvm && windows,
    }
}

fn boot_menu(asked: &Asked<'_>) -> bool {
    asked.property("hw_boot_menu").or(asked.spec("hw:boot_menu")).is_some_and(asked::truth)
}

/// nova: virt/libvirt/driver.py, `_set_guest_for_inst_kernel`, `_set_guest_for_rescue`
fn direct_kernel(
    input: &GuestInput,
    asked: &Asked<'_>,
    disks: &[DiskSpec],
) -> Option<DirectKernel> {
    let kernel = input.kernel.as_ref()?;
    let root = disks::root(disks, &input.disks).map_or("vda", |disk| disk.target.as_str());
    let mut usual = format!("root=/dev/{root} {KERNEL_CONSOLES}");
    if input.options.virt_type == "qemu" {
        usual.push_str(" no_timer_check");
    }
    let own = asked.property("os_command_line").filter(|line| !line.is_empty());
    let asked_for = own.filter(|_| input.rescue.is_none());
    Some(DirectKernel {
        kernel: kernel.kernel.clone(),
        ramdisk: kernel.ramdisk.clone(),
        command_line: asked_for.map_or(usual, str::to_owned),
    })
}
