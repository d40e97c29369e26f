//! Whether a build gets a config drive, and what is on it. The layout is the images room's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;

use super::block_devices::ec2_mapping;
use super::{Settings, StepError};
use crate::images::ConfigDriveFiles;
use crate::images::config_drive::{ConfigDriveFacts, Ec2Facts, Keypair, config_drive_files};
use crate::images::network_data::{RouteData, SubnetData, VifData};
use crate::model::image::ConfigDrivePolicy;
use crate::model::network::{Ip, Subnet};
use crate::model::object::{BlockDeviceMapping, ImageMeta, Instance};
use crate::model::secret::Secret;
use crate::network::Vif;

/// nova: api/metadata/base.py, `base64.b64encode(os.urandom(512))`
const SEED_BYTES: usize = 512;

/// Whether the configuration, the image or the user asks for one.
/// nova: virt/configdrive.py, required_by
pub fn is_wanted(instance: &Instance, image: &ImageMeta, settings: &Settings) -> bool {
    let image_wants = image.properties().config_drive().ok().flatten();
    (settings.force_config_drive && instance.launched_at.value().is_none())
        || image_wants == Some(ConfigDrivePolicy::Mandatory)
        || instance.wants_config_drive()
}

/// What is on the drive beside what the instance's record says.
#[derive(Debug, Default)]
pub struct Content<'a> {
    pub admin_password: Option<&'a Secret>,
    /// (path in the guest, content in base64)
    pub injected_files: &'a [(String, Secret)],
    pub block_devices: &'a [BlockDeviceMapping],
    pub vifs: &'a [Vif],
    pub vendor_data: Option<Value>,
    /// Names of those of its ports.
    pub security_groups: Vec<String>,
}

/// What is on the drive.
///
/// # Errors
/// [`StepError::BadUserData`] for user data or injected files that aren't base64.
pub fn files(
    instance: &Instance,
    content: Content<'_>,
    settings: &Settings,
) -> Result<ConfigDriveFiles, StepError> {
    let text = |value: Option<&String>| value.cloned();
    let user_data = instance.user_data.value().map(|data| decode(data.expose())).transpose()?;
    let mut files = Vec::new();
    for (path, bytes) in content.injected_files {
        files.push((path.clone(), decode(bytes.expose())?));
    }
    let mut random_seed = vec![0; SEED_BYTES];
    SystemRandom::new().fill(&mut random_seed).map_err(|_| StepError::NoRandom)?;
    let meta = instance.metadata.get().cloned().unwrap_or_default();
    let ids = instance.ec2_ids.get();
    Ok(config_drive_files(&ConfigDriveFacts {
        uuid: instance.uuid()?.to_string(),
        hostname: hostname(instance, &settings.dhcp_domain),
        name: text(instance.display_name.value()),
        launch_index: instance.launch_index.value().copied().unwrap_or(0),
        availability_zone: text(instance.availability_zone.value()),
        project_id: text(instance.project_id.value()),
        reservation_id: text(instance.reservation_id.value()),
        flavor_name: instance.flavor()?.name.value().cloned(),
        meta: meta.into_iter().collect(),
        keypair: keypair(instance),
        user_data,
        admin_pass: content.admin_password.map(|password| password.expose().to_owned()),
        files,
        random_seed,
        devices: Vec::new(),
        dedicated_cpus: Vec::new(),
        vifs: content.vifs.iter().map(vif_data).collect(),
        vendor_data: content.vendor_data,
        ec2: Ec2Facts {
            ami_id: ids.and_then(|ids| ids.ami_id.value().cloned()),
            instance_id: ids.and_then(|ids| ids.instance_id.get().cloned()),
            kernel_id: ids.and_then(|ids| ids.kernel_id.value().cloned()),
            ramdisk_id: ids.and_then(|ids| ids.ramdisk_id.value().cloned()),
            security_groups: content.security_groups,
            block_device_mapping: ec2_mapping(instance, content.block_devices),
        },
    }))
}

/// The host name with the domain. nova: api/metadata/base.py, _get_hostname
fn hostname(instance: &Instance, domain: &str) -> String {
    let name = instance.hostname.value().cloned().unwrap_or_default();
    if domain.is_empty() { name } else { format!("{name}.{domain}") }
}

fn keypair(instance: &Instance) -> Option<Keypair> {
    let name = instance.key_name.value()?;
    let listed = instance.keypairs.get().map(|list| list.items()).unwrap_or_default();
    let found = listed.iter().find(|pair| pair.name.get() == Some(name));
    let own = found.and_then(|pair| pair.public_key.value().cloned());
    Some(Keypair {
        name: name.clone(),
        kind: found.and_then(|pair| pair.kind.get().cloned()).unwrap_or_else(|| "ssh".to_owned()),
        public_key: own.or_else(|| instance.key_data.value().cloned())?,
    })
}

/// A VIF in plain words. nova: virt/netutils.py, get_network_metadata
fn vif_data(vif: &Vif) -> VifData {
    let network = vif.network.as_ref();
    let addresses = |ips: &[Ip]| ips.iter().filter_map(|ip| ip.address.clone()).collect();
    let subnet = |subnet: &Subnet| {
        let text = |key: &str| subnet.meta.get(key)?.as_str().map(str::to_owned);
        let gateway = |gateway: &Option<Ip>| gateway.as_ref()?.address.clone();
        SubnetData {
            version: subnet.version.unwrap_or(0),
            cidr: subnet.cidr.clone().unwrap_or_default(),
            ips: subnet.ips.iter().filter_map(|ip| ip.address.clone()).collect(),
            gateway: gateway(&subnet.gateway),
            dns: addresses(&subnet.dns),
            routes: subnet
                .routes
                .iter()
                .map(|route| RouteData {
                    cidr: route.cidr.clone().unwrap_or_default(),
                    gateway: gateway(&route.gateway),
                })
                .collect(),
            dhcp_server: text("dhcp_server"),
            enable_dhcp: subnet.meta.get("enable_dhcp").and_then(|on| on.as_bool()) == Some(true),
            ipv6_address_mode: text("ipv6_address_mode"),
        }
    };
    VifData {
        id: vif.id.to_string(),
        mac: vif.address.clone(),
        vif_type: vif.vif_type.clone(),
        devname: Some(vif.device_name()),
        network_id: network.and_then(|network| network.id.clone()).unwrap_or_default(),
        mtu: vif.mtu().map(u64::from),
        subnets: network
            .map(|network| network.subnets.iter().map(subnet).collect())
            .unwrap_or_default(),
        floating_ips: vif.fixed_ips().flat_map(|ip| addresses(&ip.floating_ips)).collect(),
    }
}

fn decode(text: &str) -> Result<Vec<u8>, StepError> {
    // Python's decoder passes over line breaks.
    let joined: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(joined).map_err(|_| StepError::BadUserData)
}
