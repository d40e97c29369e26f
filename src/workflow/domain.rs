//! From an instance's record to its domain: what spawn, power on and hard reboot have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::engine::Stage;
use super::interfaces::{guest_vif, vifs};
use super::{Backends, Settings, StepError, StepResult, block_devices, volume_connections};
use crate::hypervisor::guest::{
    self, GuestDisk, GuestImage, GuestInput, GuestKernel, serial_port_count,
};
use crate::hypervisor::spec::{CpuSpec, DiskSpec, DomainSpec, FirmwareFiles, FlavorMetadata};
use crate::images::blank_disks::is_blank;
use crate::images::{Disk, rescue};
use crate::model::object::{
    BlockDeviceMapping, ImageMeta, Instance, VirtCPUFeature, VirtCPUModel, VirtCPUTopology,
};
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
    /// `disk.local`, `disk.eph0`, …, `disk.swap`
    #[serde(default)]
    pub blank: Vec<Disk>,
    pub config_drive: Option<Disk>,
    pub kernel: Option<PathBuf>,
    pub ramdisk: Option<PathBuf>,
    /// Volumes that are connected, by their mappings' places: all but their places in the guest.
    #[serde(default)]
    pub volumes: BTreeMap<usize, DiskSpec>,
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
                Some(name) if is_blank(name) => found.blank.push(disk),
                // A rescue that was not taken back has left it: the guest's own disks are complete.
                Some(name) if name.ends_with(rescue::SUFFIX) => {}
                _ => return Err(StepError::UnknownDisk(disk.path)),
            }
        }
        Ok(found)
    }

    /// The name of the first file that the instance has to have, and that isn't there.
    pub(super) fn lacks(
        &self,
        instance: &Instance,
        devices: &[BlockDeviceMapping],
    ) -> Option<&'static str> {
        let asked = |id: Option<&String>| id.is_some_and(|id| !id.is_empty());
        let has_kernel = self.kernel.is_some() || !asked(instance.kernel_id.value());
        [
            ("disk", self.root.is_some() || block_devices::boots_from_volume(devices)),
            ("disk.config", self.config_drive.is_some() || !instance.wants_config_drive()),
            ("kernel", has_kernel),
            ("ramdisk", self.ramdisk.is_some() || !asked(instance.ramdisk_id.value())),
        ]
        .into_iter()
        .find_map(|(name, is_there)| (!is_there).then_some(name))
    }
}

/// Defines the domain anew from the record, as the configuration is now.
pub async fn define(instance: &Instance, stage: &Stage<'_>) -> StepResult {
    let spec = definition(instance, stage).await?;
    Ok(stage.on.hypervisor.define(&spec).await?)
}

/// What [`define`] would define.
pub async fn definition(instance: &Instance, stage: &Stage<'_>) -> Result<DomainSpec, StepError> {
    let (on, uuid) = (stage.on, instance.uuid()?);
    let mut disks = GuestDisks::found(on.images.disks(uuid).await?)?;
    let log = on.images.console_log(uuid);
    let mut devices = on.records.block_devices(stage.context, uuid).await?.into_items();
    block_devices::check_supported(&devices)?;
    if let Some(name) = disks.lacks(instance, &devices) {
        return Err(StepError::NoDisk { path: log.with_file_name(name) });
    }
    disks.volumes = volume_connections::connect_all(on, stage.context, uuid, &mut devices).await?;
    let boots = |(place, device): (usize, &BlockDeviceMapping)| {
        device.is_root() && device.is_volume() && !disks.volumes.contains_key(&place)
    };
    if devices.iter().enumerate().any(boots) {
        return Err(StepError::NoDisk { path: "the volume to boot from".into() });
    }
    let image = ImageMeta::from_instance(instance)?;
    let firmware = on.hypervisor.firmware(uuid).await?;
    let parts = Parts { image: &image, devices: &devices, disks: &disks, vifs: &vifs(instance)? };
    spec(instance, parts, &on.settings, log, firmware)
}

/// What a domain is made of beside the instance's record.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub image: &'a ImageMeta,
    /// What is on record of its disks.
    pub devices: &'a [BlockDeviceMapping],
    pub disks: &'a GuestDisks,
    pub vifs: &'a [Vif],
}

/// Defines a new instance's domain from its parts. Gives what hardware its image left open, as
/// properties of the image: it must not change when the configuration does.
/// nova: virt/libvirt/driver.py, `_register_undefined_instance_details`
pub async fn define_new(
    instance: &mut Instance,
    parts: Parts<'_>,
    on: &Backends,
) -> Result<ImageDefaults, StepError> {
    let log = on.images.console_log(instance.uuid()?);
    let input = input(instance, parts, &on.settings, log, None)?;
    let spec = guest::domain_spec(&input)?;
    let defaults = guest::image_defaults(&input)?;
    block_devices::note_defaults(instance, &input.disks, &spec.disks);
    instance.vcpu_model.set(Some(vcpu_model(&spec.cpu)));
    let machine = |(property, _): &(&str, _)| *property == "hw_machine_type";
    let (machine, others) = defaults.into_iter().partition::<Vec<_>, _>(machine);
    // The machine type is on record before there is a domain.
    keep_defaults(instance, &named(machine));
    on.hypervisor.define(&spec).await?;
    Ok(named(others))
}

fn named(defaults: guest::Defaults) -> ImageDefaults {
    defaults.into_iter().map(|(property, value)| (property.to_owned(), value)).collect()
}

/// Notes them with the instance, where its image doesn't say otherwise. Gives whether that is news: a
/// snapshot's image has what was noted with the instance that it was made of.
pub fn keep_defaults(instance: &mut Instance, defaults: &ImageDefaults) -> bool {
    let mut news = false;
    instance.system_metadata.update(|metadata| {
        for (property, value) in defaults {
            metadata.entry(format!("image_{property}")).or_insert_with(|| {
                news = true;
                value.clone()
            });
        }
    });
    news
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

/// Where the guest will see its disks, in nova's order.
///
/// # Errors
/// `Guest` for what no host could run.
pub fn placed(
    instance: &Instance,
    parts: Parts<'_>,
    settings: &Settings,
) -> Result<Vec<DiskSpec>, StepError> {
    Ok(guest::placed_disks(&facts(instance, parts, settings)?)?)
}

/// What the guest will call a disk that comes to it.
///
/// # Errors
/// `Guest` when there is no place for it.
pub fn place_of(
    instance: &Instance,
    parts: Parts<'_>,
    disk: &GuestDisk,
    settings: &Settings,
) -> Result<String, StepError> {
    let (_, _, target) = guest::place_of(&facts(instance, parts, settings)?, disk)?;
    Ok(target)
}

/// Decides what the domain is made of. Looks at nothing but its arguments and the settings, apart
/// from the ports of serial consoles, which are taken here.
///
/// # Errors
/// `Guest` for what this host, or any, can't run; `NoSerialPort`.
pub fn spec(
    instance: &Instance,
    parts: Parts<'_>,
    settings: &Settings,
    console_log: PathBuf,
    firmware: Option<FirmwareFiles>,
) -> Result<DomainSpec, StepError> {
    let input = input(instance, parts, settings, console_log, firmware)?;
    Ok(guest::domain_spec(&input)?)
}

fn input(
    instance: &Instance,
    parts: Parts<'_>,
    settings: &Settings,
    console_log: PathBuf,
    firmware: Option<FirmwareFiles>,
) -> Result<GuestInput, StepError> {
    complete(facts(instance, parts, settings)?, settings, console_log, firmware)
}

/// Adds what is the host's; the ports of serial consoles are taken.
pub(super) fn complete(
    mut input: GuestInput,
    settings: &Settings,
    console_log: PathBuf,
    firmware: Option<FirmwareFiles>,
) -> Result<GuestInput, StepError> {
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
    parts: Parts<'_>,
    settings: &Settings,
) -> Result<GuestInput, StepError> {
    let Parts { image, devices, disks, vifs } = parts;
    let kernel = disks.kernel.clone();
    Ok(GuestInput {
        disks: block_devices::guest_disks(instance, devices, disks, settings)?,
        kernel: kernel.map(|kernel| GuestKernel { kernel, ramdisk: disks.ramdisk.clone() }),
        ..diskless(instance, image, vifs, settings)?
    })
}

/// The image that all began with, where the instance is built of a snapshot or was shelved.
/// nova: virt/driver.py, `get_instance_driver_metadata`
fn original_image<'a>(instance: &'a Instance, image: &'a str) -> &'a str {
    let metadata = instance.system_metadata.get();
    metadata.and_then(|all| all.get("image_base_image_ref")?.as_deref()).unwrap_or(image)
}

/// The guest without its disks and its kernel.
pub(super) fn diskless(
    instance: &Instance,
    image: &ImageMeta,
    vifs: &[Vif],
    settings: &Settings,
) -> Result<GuestInput, StepError> {
    let uuid = instance.uuid()?;
    let flavor = flavor(instance)?;
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
            id: instance.image_ref().map(|image| original_image(instance, image).to_owned()),
            container_format: recorded.container_format.get().cloned(),
            disk_format: recorded.disk_format.get().cloned(),
            min_disk_gib: count(recorded.min_disk.get()),
            min_ram_mib: count(recorded.min_ram.get()),
            properties: properties(image),
            recorded: Some(properties(&recorded)),
        },
        os_type: instance.os_type.value().cloned(),
        user: owner(instance, instance.user_id.value(), "owner_user_name"),
        project: owner(instance, instance.project_id.value(), "owner_project_name"),
        disks: Vec::new(),
        root_device_name: instance.root_device_name.value().cloned(),
        kernel: None,
        rescue: None,
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

fn count(value: Option<&i64>) -> u64 {
    value.and_then(|value| u64::try_from(*value).ok()).unwrap_or(0)
}
