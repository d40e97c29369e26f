//! From an instance's record to its domain: what spawn, power on and hard reboot have in common.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Backends, StepError, StepResult};
use crate::hypervisor::guest::{self, GuestInput};
use crate::hypervisor::spec::DomainSpec;
use crate::images::Disk;
use crate::model::object::{ImageMeta, Instance, InstanceInfoCache};
use crate::network::{Vif, info_cache};

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

    /// What the instance's directory holds, by nova's names. Other files are nobody's disks.
    pub fn found(disks: Vec<Disk>) -> Self {
        let mut found = Self::default();
        for disk in disks {
            match disk.path.file_name().and_then(|name| name.to_str()) {
                Some("disk") => found.root = Some(disk),
                Some("disk.config") => found.config_drive = Some(disk),
                Some("kernel") => found.kernel = Some(disk.path),
                Some("ramdisk") => found.ramdisk = Some(disk.path),
                _ => {}
            }
        }
        found
    }
}

/// The interfaces that the instance's record holds.
pub fn vifs(instance: &Instance) -> Vec<Vif> {
    let cache = instance.info_cache.value();
    let text = cache.and_then(|cache| cache.network_info.value());
    text.map(|text| info_cache::read(text)).unwrap_or_default()
}

/// Writes the interfaces into the instance's record.
pub fn place_vifs(instance: &mut Instance, vifs: &[Vif]) {
    let mut cache = instance.info_cache.value().cloned().unwrap_or_else(|| {
        let mut cache = InstanceInfoCache::default();
        cache.instance_uuid.load(instance.uuid.get().copied());
        cache
    });
    cache.network_info.set(Some(info_cache::write(vifs)));
    instance.info_cache.set(Some(cache));
}

/// Makes every interface of the record ready on this host.
pub async fn plug_vifs(instance: &Instance, on: &Backends) -> StepResult {
    let uuid = instance.uuid()?;
    for vif in vifs(instance) {
        on.network.plug(uuid, &vif).await?;
    }
    Ok(())
}

/// Defines the domain anew from the record, as the configuration is now.
pub async fn define(instance: &Instance, on: &Backends) -> StepResult {
    let uuid = instance.uuid()?;
    let disks = GuestDisks::found(on.images.disks(uuid).await?);
    if disks.root.is_none() {
        return Err(StepError::NoDisk(uuid));
    }
    let image = ImageMeta::from_instance(instance)?;
    define_with(instance, &image, &disks, &vifs(instance), on).await
}

/// Defines the domain from its parts.
pub async fn define_with(
    instance: &Instance,
    image: &ImageMeta,
    disks: &GuestDisks,
    vifs: &[Vif],
    on: &Backends,
) -> StepResult {
    let spec = spec(instance, image, disks, vifs, on).await?;
    Ok(on.hypervisor.define(&spec).await?)
}

async fn spec(
    instance: &Instance,
    _image: &ImageMeta,
    disks: &GuestDisks,
    vifs: &[Vif],
    on: &Backends,
) -> Result<DomainSpec, StepError> {
    use crate::hypervisor::spec::*;
    let uuid = instance.uuid()?;
    let flavor = instance.flavor()?;
    let template = crate::model::object::NameTemplate::parse(&on.settings.instance_name_template)
        .expect("tmp");
    let mut all = Vec::new();
    for (i, d) in disks.root.iter().chain(&disks.config_drive).enumerate() {
        all.push(DiskSpec {
            path: d.path.clone(),
            device: if i == 0 { "disk".into() } else { "cdrom".into() },
            format: d.format.clone(),
            cache: "none".into(),
            io: None,
            discard: None,
            target: if i == 0 { "vda".into() } else { "hda".into() },
            bus: if i == 0 { "virtio".into() } else { "ide".into() },
            serial: None,
            iotune: vec![],
            scsi_unit: None,
            boot_order: None,
        });
    }
    Ok(DomainSpec {
        uuid,
        name: instance.name(&template).expect("tmp"),
        virt_type: "qemu".into(),
        memory_kib: flavor.memory_mib()? * 1024,
        vcpus: flavor.vcpus()? as u32,
        cpuset: None,
        metadata: NovaMetadata {
            package_version: "33.0.2".into(),
            name: "x".into(),
            creation_time: "2026-11-20 23:06:06".into(),
            ..Default::default()
        },
        sysinfo: SysInfo {
            manufacturer: "OpenStack Foundation".into(),
            product: "OpenStack Nova".into(),
            version: "33.0.2".into(),
            serial: Some(uuid.to_string()),
            uuid: uuid.to_string(),
            family: "Virtual Machine".into(),
        },
        os: OsSpec {
            architecture: "x86_64".into(),
            machine: Some("pc".into()),
            boot_devices: vec!["hd".into()],
            boot_menu: false,
            direct_kernel: None,
            firmware: None,
            smbios_from_sysinfo: true,
        },
        features: Features { acpi: true, apic: true, vmcoreinfo: true, ..Default::default() },
        clock: Clock { offset: "utc".into(), ..Default::default() },
        cpu: CpuSpec { sockets: 1, cores: 1, threads: 1, ..Default::default() },
        disks: all,
        interfaces: vifs
            .iter()
            .map(|v| InterfaceSpec {
                source: InterfaceSource::User,
                mac_address: v.mac_address.clone(),
                model: "virtio".into(),
                mtu: None,
                target: None,
                driver: None,
                queues: None,
                rx_queue_size: None,
                packed: false,
                unmanaged_target: false,
                bandwidth: None,
            })
            .collect(),
        serials: vec![SerialSpec::Pty { log: Some(on.images.console_log(uuid)) }],
        graphics: vec![GraphicsSpec::Vnc { listen: "127.0.0.1".into() }],
        video: None,
        inputs: vec![],
        rng: None,
        watchdog_action: None,
        balloon_stats_period_s: 10,
        guest_agent_socket: None,
        scsi_model: None,
        pcie_root_ports: 0,
        cpu_shares: None,
        cpu_period: None,
        cpu_quota: None,
        iothreads: true,
        usb_model: None,
        spice_agent: false,
        sound_model: None,
        redirected_usb_ports: 0,
    })
}
