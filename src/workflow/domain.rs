//! From an instance's record to its domain: what spawn, power on and hard reboot have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::interfaces::{guest_vif, vifs};
use super::{Backends, Settings, StepError, StepResult};
use crate::hypervisor::guest::{
    self, DiskRole, GuestDisk, GuestImage, GuestInput, GuestKernel, serial_port_count,
};
use crate::hypervisor::spec::{CpuSpec, DomainSpec, FirmwareFiles, FlavorMetadata};
use crate::images::Disk;
use crate::model::object::{ImageMeta, Instance, VirtCPUFeature, VirtCPUModel, VirtCPUTopology};
use crate::model::time::Timestamp;
use crate::network::Vif;

/// The nova release whose domain XML this is: in the metadata and the SMBIOS tables, where nova's
/// own tools and guests look for it.
pub const NOVA_VERSION: &str = "33.0.2";

/// Properties that an image left to the agent, and how it decided.
pub type ImageDefaults = BTreeMap<String, Option<String>>;

/// The disks and boot files of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDisks {
    pub root: Option<Disk>,
    pub config_drive: Option<Disk>,
    pub kernel: Option<PathBuf>,
    pub ramdisk: Option<PathBuf>,
}

impl GuestDisks {
    /// Notes a boot file by the name it has in the instance's directory.
    pub fn boot_file(&mut self, name: &str, path: PathBuf) {
        match name {
            "kernel" => self.kernel = Some(path),
            "ramdisk" => self.ramdisk = Some(path),
            _ => {}
        }
    }

    /// What the instance's directory holds, by nova's names.
    ///
    /// # Errors
    /// `UnknownDisk`: a guest must not be started without a disk that it had.
    pub fn found(disks: Vec<Disk>) -> Result<Self, StepError> {
        let mut found = Self::default();
        for disk in disks {
            match disk.path.file_name().and_then(|name| name.to_str()) {
                Some("disk") => found.root = Some(disk),
                Some("disk.config") => found.config_drive = Some(disk),
                Some("kernel") => found.kernel = Some(disk.path),
                Some("ramdisk") => found.ramdisk = Some(disk.path),
                _ => return Err(StepError::UnknownDisk(disk.path)),
            }
        }
        Ok(found)
    }
}

/// Defines the domain anew from the record, as the configuration is now.
pub async fn define(instance: &Instance, on: &Backends) -> StepResult {
    let spec = definition(instance, on).await?;
    Ok(on.hypervisor.define(&spec).await?)
}

/// What [`define`] would define.
pub async fn definition(instance: &Instance, on: &Backends) -> Result<DomainSpec, StepError> {
    let uuid = instance.uuid()?;
    let disks = GuestDisks::found(on.images.disks(uuid).await?)?;
    if disks.root.is_none() {
        return Err(StepError::NoDisk { path: on.images.console_log(uuid).with_file_name("disk") });
    }
    let image = ImageMeta::from_instance(instance)?;
    let log = on.images.console_log(uuid);
    let firmware = on.hypervisor.firmware(uuid).await?;
    let settings = &on.settings;
    spec(instance, &image, &disks, &vifs(instance)?, settings, log, firmware)
}

/// Defines a new instance's domain from its parts. Gives what hardware its image left open, as
/// properties of the image: it must not change when the configuration does.
/// nova: virt/libvirt/driver.py, `_register_undefined_instance_details`
pub async fn define_new(
    instance: &mut Instance,
    image: &ImageMeta,
    disks: &GuestDisks,
    vifs: &[Vif],
    on: &Backends,
) -> Result<ImageDefaults, StepError> {
    let log = on.images.console_log(instance.uuid()?);
    let input = input(instance, image, disks, vifs, &on.settings, log, None)?;
    let spec = guest::domain_spec(&input)?;
    let defaults = guest::image_defaults(&input)?;
    instance.vcpu_model.set(Some(vcpu_model(&spec.cpu)));
    on.hypervisor.define(&spec).await?;
    Ok(defaults.into_iter().map(|(property, value)| (property.to_owned(), value)).collect())
}

/// Notes them with the instance, where its image doesn't say otherwise.
pub fn keep_defaults(instance: &mut Instance, defaults: &ImageDefaults) {
    instance.system_metadata.update(|metadata| {
        for (property, value) in defaults {
            metadata.entry(format!("image_{property}")).or_insert_with(|| value.clone());
        }
    });
}

/// The virtual CPU as the instance's record has it.
/// nova: virt/libvirt/driver.py, `_cpu_config_to_vcpu_model`
fn vcpu_model(cpu: &CpuSpec) -> VirtCPUModel {
    let mut topology = VirtCPUTopology::default();
    topology.sockets.set(Some(cpu.sockets.into()));
    topology.cores.set(Some(cpu.cores.into()));
    topology.threads.set(Some(cpu.threads.into()));
    let features = cpu.features.iter().map(|(name, policy)| {
        let mut feature = VirtCPUFeature::default();
        feature.name.set(name.clone());
        feature.policy.set(Some(policy.clone()));
        feature
    });
    let mut model = VirtCPUModel::default();
    model.arch.set(None);
    model.vendor.set(None);
    model.model.set(cpu.model.clone());
    model.mode.set(cpu.mode.clone());
    model.matching.set(Some("exact".to_owned()));
    model.topology.set(Some(topology));
    model.features.set(features.collect());
    model
}

/// Where the guest will see its root disk: (bus, `/dev/vda`).
///
/// # Errors
/// `Guest` for what no host could run.
pub fn root_device(
    instance: &Instance,
    image: &ImageMeta,
    settings: &Settings,
) -> Result<(String, String), StepError> {
    let root = Disk { path: PathBuf::from("disk"), format: "qcow2".to_owned() };
    let disks = GuestDisks { root: Some(root), ..GuestDisks::default() };
    let input = facts(instance, image, &disks, &[], settings)?;
    let placed = guest::placed_disks(&input)?;
    let root = placed.first().map(|disk| (disk.bus.clone(), format!("/dev/{}", disk.target)));
    root.ok_or(StepError::NoDisk { path: PathBuf::from("disk") })
}

/// Decides what the domain is made of. Looks at nothing but its arguments and the settings, apart
/// from the ports of serial consoles, which are taken here.
///
/// # Errors
/// `Guest` for what this host, or any, can't run; `NoSerialPort`.
pub fn spec(
    instance: &Instance,
    image: &ImageMeta,
    disks: &GuestDisks,
    vifs: &[Vif],
    settings: &Settings,
    console_log: PathBuf,
    firmware: Option<FirmwareFiles>,
) -> Result<DomainSpec, StepError> {
    let input = input(instance, image, disks, vifs, settings, console_log, firmware)?;
    Ok(guest::domain_spec(&input)?)
}

fn input(
    instance: &Instance,
    image: &ImageMeta,
    disks: &GuestDisks,
    vifs: &[Vif],
    settings: &Settings,
    console_log: PathBuf,
    firmware: Option<FirmwareFiles>,
) -> Result<GuestInput, StepError> {
    let mut input = facts(instance, image, disks, vifs, settings)?;
    input.console_log = Some(console_log);
    input.firmware = firmware;
    if let Some(ports) = &settings.serial_ports {
        let count = serial_port_count(&input.flavor.extra_specs, &input.image.properties)?;
        let taken = ports.take(input.uuid, count as usize);
        input.serial_ports = taken.ok_or(StepError::NoSerialPort)?;
    }
    Ok(input)
}

/// What the instance, its image and the settings say of the guest; nothing is taken.
fn facts(
    instance: &Instance,
    image: &ImageMeta,
    disks: &GuestDisks,
    vifs: &[Vif],
    settings: &Settings,
) -> Result<GuestInput, StepError> {
    let uuid = instance.uuid()?;
    let flavor = flavor(instance)?;
    let properties = properties(image);
    // The metadata tell what the instance's record has of the image, where its disk is at least as
    // large as the flavor's. nova: objects/instance.py, `get_instance_driver_metadata`
    let recorded = ImageMeta::from_instance(instance)?;
    Ok(GuestInput {
        uuid,
        name: instance.name(&settings.name_template)?,
        display_name: instance.display_name.value().cloned().unwrap_or_default(),
        creation_time: Timestamp::now().to_string().replace(['T', 'Z'], " ").trim_end().to_owned(),
        package_version: NOVA_VERSION.to_owned(),
        flavor,
        image: GuestImage {
            id: instance.image_ref().map(str::to_owned),
            container_format: recorded.container_format.get().cloned(),
            disk_format: recorded.disk_format.get().cloned(),
            min_disk_gib: count(recorded.min_disk.get()),
            min_ram_mib: count(recorded.min_ram.get()),
            properties,
        },
        os_type: instance.os_type.value().cloned(),
        user: owner(instance, instance.user_id.value(), "owner_user_name"),
        project: owner(instance, instance.project_id.value(), "owner_project_name"),
        disks: guest_disks(disks, settings),
        kernel: disks
            .kernel
            .clone()
            .map(|kernel| GuestKernel { kernel, ramdisk: disks.ramdisk.clone() }),
        vifs: vifs.iter().map(guest_vif).collect::<Result<_, _>>()?,
        console_log: None,
        serial_ports: Vec::new(),
        firmware: None,
        options: settings.guest.clone(),
        host: settings.guest_host.clone(),
    })
}

/// The image's properties as text.
pub(super) fn properties(image: &ImageMeta) -> BTreeMap<String, String> {
    let texts = image.properties().field_texts();
    texts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

pub(super) fn flavor(instance: &Instance) -> Result<FlavorMetadata, StepError> {
    let flavor = instance.flavor()?;
    let specs = flavor.extra_specs.get().cloned().unwrap_or_default();
    Ok(FlavorMetadata {
        id: flavor.flavorid.get().cloned().unwrap_or_default(),
        name: flavor.name.value().cloned().unwrap_or_default(),
        memory_mib: flavor.memory_mib()?,
        disk_gib: flavor.root_gib()?,
        swap_mib: flavor.swap_mib()?,
        ephemeral_gib: flavor.ephemeral_gib()?,
        vcpus: flavor.vcpus()?,
        extra_specs: specs.into_iter().collect(),
    })
}

/// (id, name) of a user or project; the name is in the system metadata, if anywhere.
fn owner(instance: &Instance, id: Option<&String>, name: &str) -> Option<(String, String)> {
    let id = id?.clone();
    let name = instance.system_metadata(name).map(str::to_owned);
    Some((id.clone(), name.unwrap_or(id)))
}

fn guest_disks(disks: &GuestDisks, settings: &Settings) -> Vec<GuestDisk> {
    // nova: virt/libvirt/imagebackend.py, `driver_io`: native once the space is there.
    let io = settings.preallocate_space.then(|| "native".to_owned());
    let disk = |role, disk: &Disk, io| GuestDisk {
        role,
        path: disk.path.clone(),
        format: disk.format.clone(),
        io,
        device_name: None,
        bus: None,
    };
    let root = disks.root.iter().map(|root| disk(DiskRole::Root, root, io.clone()));
    let drive = disks.config_drive.iter().map(|drive| disk(DiskRole::ConfigDrive, drive, None));
    root.chain(drive).collect()
}

fn count(value: Option<&i64>) -> u64 {
    value.and_then(|value| u64::try_from(*value).ok()).unwrap_or(0)
}
