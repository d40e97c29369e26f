//! Network interfaces of the guest: where they are plugged is the caller's, what they look like from
//! inside is the flavor's and the image's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::{GuestError, GuestInput, GuestOptions};
use crate::hypervisor::spec::{
    Bandwidth, FlavorMetadata, InterfaceSource, InterfaceSpec, PortMetadata, Rate,
};

/// An interface that is plugged, or will be.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GuestVif {
    pub source: InterfaceSource,
    pub mac_address: String,
    pub mtu: Option<u32>,
    /// `tapffb38c30-19`
    pub target: Option<String>,
    /// The tap device exists already, and isn't libvirt's to make or remove.
    pub unmanaged_target: bool,
    /// Whether the flavor's bandwidth limits don't count: nova sets none on a bare tap.
    #[serde(default)]
    pub unlimited: bool,
    /// What the metadata says of it.
    pub port: PortMetadata,
}

const MODELS: [&str; 9] =
    ["virtio", "ne2k_pci", "pcnet", "rtl8139", "e1000", "e1000e", "spapr-vlan", "vmxnet3", "igb"];

/// nova: virt/libvirt/vif.py, `get_vif_model`
pub fn model<'a>(options: &GuestOptions, asked: &Asked<'a>) -> Result<&'a str, GuestError> {
    let model = asked.property("hw_vif_model").unwrap_or("virtio");
    let qemu_only = model == "lan9118" && options.virt_type == "qemu";
    if !MODELS.contains(&model) && !qemu_only {
        let message = format!("{} has no network card {model:?}", options.virt_type);
        return Err(GuestError::invalid("UnsupportedHardware", message));
    }
    Ok(model)
}

/// nova: virt/libvirt/vif.py, `get_base_config`
pub fn interfaces(input: &GuestInput, asked: &Asked<'_>) -> Result<Vec<InterfaceSpec>, GuestError> {
    let options = &input.options;
    let model = model(options, asked)?;
    let virtio = model == "virtio";
    let many = wants_queues(input.flavor.vcpus, asked)?;
    let vcpus = u32::try_from(input.flavor.vcpus).unwrap_or(u32::MAX);
    let (driver, queues) = match options.virt_type.as_str() {
        // libvirt would otherwise try vhost for guests without KVM.
        "qemu" => (Some("qemu"), None),
        _ if many => {
            let most = options.max_queues.filter(|most| *most > 0).unwrap_or(u32::MAX);
            (Some("vhost"), Some(vcpus.min(most)))
        }
        _ => (options.rx_queue_size.map(|_| "vhost"), None),
    };
    let packed = asked.agreed_truth("virtio_packed_ring")?.unwrap_or(false);
    let bandwidth = bandwidth(asked)?;
    let interface = |vif: &GuestVif| InterfaceSpec {
        source: vif.source.clone(),
        mac_address: vif.mac_address.clone(),
        model: model.to_owned(),
        mtu: vif.mtu,
        target: vif.target.clone(),
        driver: driver.filter(|_| virtio).map(str::to_owned),
        queues: queues.filter(|_| virtio),
        rx_queue_size: options.rx_queue_size,
        packed,
        unmanaged_target: vif.unmanaged_target,
        bandwidth: bandwidth.clone().filter(|_| !vif.unlimited),
    };
    Ok(input.vifs.iter().map(interface).collect())
}

/// What interfaces that come to a guest look like from inside, whatever its disks are.
///
/// # Errors
/// As for a domain's definition.
pub fn interface_specs(input: &GuestInput) -> Result<Vec<InterfaceSpec>, GuestError> {
    interfaces(input, &Asked::new(&input.flavor.extra_specs, &input.image.properties))
}

/// Whether interfaces get a queue for each virtual CPU.
/// nova: virt/hardware.py, `get_vif_multiqueue_constraint`
fn wants_queues(vcpus: u64, asked: &Asked<'_>) -> Result<bool, GuestError> {
    Ok(vcpus > 1 && asked.agreed_truth("vif_multiqueue_enabled")?.unwrap_or(false))
}

/// Whether a tap device that is made before the domain is to have several queues: nova gives them
/// to virtio only. nova: virt/libvirt/vif.py, `plug_tap`
///
/// # Errors
/// `FlavorImageConflict` when the flavor and the image contradict each other.
pub fn tap_has_queues(
    flavor: &FlavorMetadata,
    properties: &BTreeMap<String, String>,
) -> Result<bool, GuestError> {
    let asked = Asked::new(&flavor.extra_specs, properties);
    Ok(asked.property("hw_vif_model").is_none_or(|model| model == "virtio")
        && wants_queues(flavor.vcpus, &asked)?)
}

/// nova: virt/libvirt/designer.py, `set_vif_bandwidth_config`
fn bandwidth(asked: &Asked<'_>) -> Result<Option<Bandwidth>, GuestError> {
    let rate = |way: &str| -> Result<Option<Rate>, GuestError> {
        let value = |name: &str| asked.spec_number(&format!("quota:vif_{way}_{name}"));
        let (peak, burst) = (value("peak")?, value("burst")?);
        // Without an average the others mean nothing, to nova as to libvirt.
        Ok(value("average")?.map(|average| Rate { average, peak, burst }))
    };
    let limits = Bandwidth { inbound: rate("inbound")?, outbound: rate("outbound")? };
    Ok((limits != Bandwidth::default()).then_some(limits))
}
