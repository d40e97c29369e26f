//! From an instance's record to its domain: what spawn, power on and hard reboot have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::interfaces::{guest_vif, vifs};
use super::{Backends, Settings, StepError, StepResult};
use crate::hypervisor::guest::{
    self, DiskRole, GuestDisk, GuestImage, GuestInput, GuestKernel, serial_port_count,
};
use crate::hypervisor::spec::{DomainSpec, FirmwareFiles, FlavorMetadata};
use crate::images::Disk;
use crate::model::object::{ImageMeta, Instance};
use crate::model::time::Timestamp;
use crate::network::Vif;

/// The nova release whose domain XML this is: in the metadata and the SMBIOS tables, where nova's
/// own tools and guests look for it.
pub const NOVA_VERSION: &str = "33.0.2";

/// Where nova keeps an instance's machine type, beside the image's properties.
const MACHINE_TYPE: &str = "image_hw_machine_type";

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
        return Err(StepError::NoDisk(uuid));
    }
    let image = ImageMeta::from_instance(instance)?;
    let log = on.images.console_log(uuid);
    let firmware = on.hypervisor.firmware(uuid).await?;
    let settings = &on.settings;
    spec(instance, &image, &disks, &vifs(instance)?, settings, log, firmware)
}

/// Defines a new instance's domain from its parts, and notes its machine type: it must not change
/// when the configured one does. nova: virt/libvirt/driver.py, `_register_all_undefined_instance_details`
pub async fn define_new(
    instance: &mut Instance,
    image: &ImageMeta,
    disks: &GuestDisks,
    vifs: &[Vif],
    on: &Backends,
) -> StepResult {
    let log = on.images.console_log(instance.uuid()?);
    let spec = spec(instance, image, disks, vifs, &on.settings, log, None)?;
    if let Some(machine) = spec.os.machine.clone() {
        instance.system_metadata.update(|metadata| {
            metadata.insert(MACHINE_TYPE.to_owned(), Some(machine));
        });
    }
    Ok(on.hypervisor.define(&spec).await?)
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
    let uuid = instance.uuid()?;
    let flavor = flavor(instance)?;
    let properties = properties(image);
    let serial_ports = match &settings.serial_ports {
        None => Vec::new(),
        Some(ports) => {
            let count = serial_port_count(&flavor.extra_specs, &properties)?;
            ports.take(uuid, count as usize).ok_or(StepError::NoSerialPort)?
        }
    };
    let input = GuestInput {
        uuid,
        name: instance.name(&settings.name_template)?,
        display_name: instance.display_name.value().cloned().unwrap_or_default(),
        creation_time: Timestamp::now().to_string().replace(['T', 'Z'], " ").trim_end().to_owned(),
        package_version: NOVA_VERSION.to_owned(),
        flavor,
        image: GuestImage {
            id: instance.image_ref().map(str::to_owned),
            container_format: image.container_format.get().cloned(),
            disk_format: image.disk_format.get().cloned(),
            min_disk_gib: count(image.min_disk.get()),
            min_ram_mib: count(image.min_ram.get()),
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
        console_log: Some(console_log),
        serial_ports,
        firmware,
        options: settings.guest.clone(),
        host: settings.guest_host.clone(),
    };
    Ok(guest::domain_spec(&input)?)
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
