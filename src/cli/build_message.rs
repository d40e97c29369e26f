//! A `build_and_run_instance` as nova-conductor sends it, for an operator who has neither API nor
//! conductor. nova: compute/rpcapi.py, build_and_run_instance; compute/api.py, _create_instance.
//!
//! What only a database can give is left out: the instance's `id` and what is derived from it.
//! Properties of our own: `hypernova_kernel_url` and `hypernova_ramdisk_url` say where the kernel
//! and the ramdisk come from that `kernel_id` and `ramdisk_id` name.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::guest_args::GuestArgs;
use super::image_source::ImageSource;
use super::output::Failure;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

/// Who owns an instance where there is no Keystone.
const OWNER: &str = "standalone";

/// nova: db/constants.py, MAX_USERDATA_SIZE: of the base64 text.
const USER_DATA_BYTES: usize = 65_535;

/// nova: utils.py, get_system_metadata_from_image: longer values are cut.
const SYSTEM_METADATA_BYTES: usize = 255;

/// All that a build needs to know, read from the command line and the files that it names.
#[derive(Debug, Clone)]
pub struct Build {
    pub uuid: Uuid,
    pub name: String,
    /// Where it is to run: the agent's own names.
    pub host: String,
    pub node: String,
    image: ImageSource,
    kernel: Option<ImageSource>,
    ramdisk: Option<ImageSource>,
    key: Option<PublicKey>,
    /// In base64; never printed.
    user_data: Option<Secret>,
    guest: GuestArgs,
    now: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PublicKey {
    name: String,
    /// The line of an `authorized_keys` file.
    text: String,
    fingerprint: String,
}

impl Build {
    /// Reads what `guest` names; the image itself is left to the agent.
    ///
    /// # Errors
    /// [`Failure`] for a file that isn't there or isn't what it should be.
    pub fn prepare(name: &str, guest: &GuestArgs, host: &str, node: &str) -> Result<Self, Failure> {
        let find = |place: &Option<String>| {
            place.as_deref().map(|place| ImageSource::find(place, None)).transpose()
        };
        Ok(Self {
            uuid: Uuid::new_v4(),
            name: name.to_owned(),
            host: host.to_owned(),
            node: node.to_owned(),
            image: ImageSource::find(&guest.image, guest.checksum.as_ref())?,
            kernel: find(&guest.kernel)?,
            ramdisk: find(&guest.ramdisk)?,
            key: guest.ssh_key.as_deref().map(read_key).transpose()?,
            user_data: guest.user_data.as_deref().map(read_user_data).transpose()?,
            guest: guest.clone(),
            now: Timestamp::now(),
        })
    }

    /// The request's arguments.
    pub fn args(&self) -> Map<String, Value> {
        let instance = self.instance();
        let networks = self.requested_networks();
        let args = json!({
            "instance": instance,
            "image": self.image(),
            "request_spec": self.request_spec(&networks),
            "filter_properties": {
                "limits": {},
                "retry": {"num_attempts": 1, "hosts": [[self.host, self.node]]},
            },
            "admin_password": "",
            "injected_files": [],
            "requested_networks": networks,
            "security_groups": [],
            "block_device_mapping": self.block_devices(),
            "node": self.node,
            "limits": {},
            "host_list": [],
            "accel_uuids": [],
        });
        match args {
            Value::Object(args) => args,
            _ => unreachable!("the literal above is an object"),
        }
    }

    fn instance(&self) -> Value {
        let Self { uuid, name, guest, .. } = self;
        let now = self.now.to_string();
        let wants_drive = guest.config_drive || self.key.is_some() || self.user_data.is_some();
        let id_of = |image: &Option<ImageSource>| image.as_ref().map(|image| image.id.to_string());
        let keypairs: Vec<Value> = self.key.iter().map(|key| self.keypair(key)).collect();
        let info_cache = json!({
            "instance_uuid": uuid, "network_info": "[]",
            "created_at": now, "updated_at": null, "deleted_at": null, "deleted": false,
        });
        let asked = json!({
            "uuid": uuid, "display_name": name, "hostname": hostname(name, *uuid),
            "user_id": OWNER, "project_id": OWNER,
            "image_ref": self.image.id,
            "kernel_id": id_of(&self.kernel).unwrap_or_default(),
            "ramdisk_id": id_of(&self.ramdisk).unwrap_or_default(),
            "key_name": self.key.as_ref().map(|key| &key.name),
            "key_data": self.key.as_ref().map(|key| &key.text),
            "keypairs": list("KeyPairList", "1.3", keypairs),
            "user_data": self.user_data.as_ref().map(Secret::expose),
            // nova: a string column; the empty one means no.
            "config_drive": if wants_drive { "True" } else { "" },
            "memory_mb": guest.memory, "vcpus": guest.vcpus, "root_gb": guest.disk,
            "ephemeral_gb": self.ephemeral_gib(), "instance_type_id": 0, "flavor": self.flavor(),
            "os_type": self.property("os_type"),
            "metadata": {}, "system_metadata": self.system_metadata(),
            "info_cache": object("InstanceInfoCache", "1.5", info_cache),
            "security_groups": empty_list("SecurityGroupList", "1.1"),
            "tags": empty_list("TagList", "1.1"),
            "pci_requests": self.pci_requests(),
            "reservation_id": reservation_id(), "launch_index": 0,
        });
        let begin = json!({
            "vm_state": "building", "task_state": "scheduling", "power_state": 0, "progress": 0,
            "created_at": now, "deleted": false, "cleaned": false, "hidden": false,
            "locked": false, "auto_disk_config": false, "shutdown_terminate": false,
            "disable_terminate": false,
        });
        let to_come = [
            "ephemeral_key_uuid",
            "host",
            "node",
            "compute_id",
            "launched_at",
            "terminated_at",
            "availability_zone",
            "display_description",
            "launched_on",
            "locked_by",
            "architecture",
            "vm_mode",
            "root_device_name",
            "default_ephemeral_device",
            "default_swap_device",
            "access_ip_v4",
            "access_ip_v6",
            "cell_name",
            "numa_topology",
            "device_metadata",
            "old_flavor",
            "new_flavor",
            "vcpu_model",
            "migration_context",
            "trusted_certs",
            "resources",
            "updated_at",
            "deleted_at",
        ];
        let mut data = Map::new();
        for part in [asked, begin] {
            data.extend(part.as_object().cloned().unwrap_or_default());
        }
        data.extend(to_come.map(|name| (name.to_owned(), Value::Null)));
        object("Instance", "2.8", Value::Object(data))
    }

    fn flavor(&self) -> Value {
        let GuestArgs { memory, vcpus, disk, swap, extra_spec, .. } = &self.guest;
        let extra_specs: Map<String, Value> =
            extra_spec.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let name = format!("{OWNER}-{vcpus}-{memory}-{disk}");
        object(
            "Flavor",
            "1.2",
            json!({
                "id": 0, "name": name, "memory_mb": memory, "vcpus": vcpus, "root_gb": disk,
                "ephemeral_gb": self.ephemeral_gib(), "flavorid": name, "swap": swap, "rxtx_factor": 1.0, "vcpu_weight": 0,
                "disabled": false, "is_public": true, "extra_specs": extra_specs, "description": null,
                "created_at": self.now.to_string(), "updated_at": null, "deleted_at": null,
                "deleted": false,
            }),
        )
    }

    fn ephemeral_gib(&self) -> u64 {
        self.guest.ephemeral.iter().map(|disk| u64::from(disk.gib)).sum()
    }

    fn keypair(&self, key: &PublicKey) -> Value {
        object(
            "KeyPair",
            "1.4",
            json!({
                "id": 0, "name": key.name, "user_id": OWNER, "fingerprint": key.fingerprint,
                "public_key": key.text, "type": "ssh",
                "created_at": self.now.to_string(), "updated_at": null, "deleted_at": null,
                "deleted": false,
            }),
        )
    }

    /// The image as the API's image dict has it.
    fn image(&self) -> Value {
        let now = format!("{}.000000", self.now.to_string().trim_end_matches('Z'));
        let properties: Map<String, Value> =
            self.properties().into_iter().map(|(key, value)| (key, json!(value))).collect();
        let mut image = json!({
            "properties": properties, "deleted": false, "deleted_at": null,
            "container_format": "bare", "name": self.image.name, "checksum": null,
            "is_public": true, "size": self.image.size, "status": "active", "min_ram": 0,
            "min_disk": 0, "owner": OWNER, "os_hidden": false, "os_hash_algo": null,
            "os_hash_value": null, "id": self.image.id, "created_at": now, "updated_at": now,
            "stores": null, "direct_url": self.image.url.as_str(),
        });
        if let Some(checksum) = &self.guest.checksum {
            match checksum.algorithm.as_str() {
                "md5" => image["checksum"] = json!(checksum.value),
                algorithm => {
                    image["os_hash_algo"] = json!(algorithm);
                    image["os_hash_value"] = json!(checksum.value);
                }
            }
        }
        if let Some(format) = self.disk_format() {
            image["disk_format"] = json!(format);
        }
        image
    }

    /// As declared, or as the name's ending has it; else the agent's inspection says.
    fn disk_format(&self) -> Option<&str> {
        self.guest.image_format.as_deref().or(self.image.format)
    }

    fn properties(&self) -> Vec<(String, String)> {
        let mut properties = Vec::new();
        for (kind, image) in [("kernel", &self.kernel), ("ramdisk", &self.ramdisk)] {
            if let Some(image) = image {
                properties.push((format!("{kind}_id"), image.id.to_string()));
                properties.push((format!("hypernova_{kind}_url"), image.url.to_string()));
            }
        }
        properties.extend(self.guest.property.iter().cloned());
        properties
    }

    fn property(&self, key: &str) -> Option<&str> {
        let found = self.guest.property.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// What the instance remembers of its image.
    fn system_metadata(&self) -> Map<String, Value> {
        let mut remembered = Map::new();
        // A URL that is cut is none: those are for the build alone.
        for (key, value) in self.properties().iter().filter(|(k, _)| !k.starts_with("hypernova_")) {
            remembered.insert(format!("image_{key}"), json!(cut(value)));
        }
        let mut add = |key: &str, value: &str| remembered.insert(key.to_owned(), json!(value));
        add("image_min_ram", "0");
        add("image_min_disk", &self.guest.disk.to_string());
        if let Some(format) = self.disk_format() {
            add("image_disk_format", format);
        }
        add("image_container_format", "bare");
        add("image_base_image_ref", &self.image.id.to_string());
        add("owner_user_name", OWNER);
        add("owner_project_name", OWNER);
        remembered
    }

    fn request_spec(&self, networks: &Value) -> Value {
        let now = self.now.to_string();
        let mut image = json!({
            "id": self.image.id, "name": self.image.name, "status": "active", "owner": OWNER,
            "container_format": "bare", "created_at": now, "updated_at": now, "min_ram": 0,
            "min_disk": 0, "properties": object("ImageMetaProps", "1.39", json!({})),
        });
        // Unset, not null: nova has these as numbers and words only.
        if let Some(size) = self.image.size {
            image["size"] = json!(size);
        }
        if let Some(format) = self.disk_format() {
            image["disk_format"] = json!(format);
        }
        let destination = json!({"host": self.host, "node": self.node});
        let limits = json!({
            "numa_topology": null, "vcpu": null, "disk_gb": null, "memory_mb": null,
        });
        let metadata = json!({"physnets": [], "tunneled": false});
        object(
            "RequestSpec",
            "1.15",
            json!({
                "image": object("ImageMeta", "1.8", image),
                "numa_topology": null, "pci_requests": self.pci_requests(),
                "project_id": OWNER, "user_id": OWNER, "availability_zone": null,
                "flavor": self.flavor(), "num_instances": 1, "ignore_hosts": null,
                "force_hosts": null, "force_nodes": null,
                "requested_destination": object("Destination", "1.4", destination),
                "retry": null, "limits": object("SchedulerLimits", "1.0", limits),
                "instance_group": null, "scheduler_hints": {}, "instance_uuid": self.uuid,
                "security_groups": empty_list("SecurityGroupList", "1.1"),
                "network_metadata": object("NetworkMetadata", "1.0", metadata),
                "is_bfv": false, "requested_resources": [],
                "request_level_params": object("RequestLevelParams", "1.1", json!({})),
                "requested_networks": networks,
            }),
        )
    }

    fn requested_networks(&self) -> Value {
        let request = |network: &String| {
            object(
                "NetworkRequest",
                "1.3",
                json!({
                    "network_id": network, "address": null, "port_id": null, "pci_request_id": null,
                    "tag": null, "arq_uuid": null, "device_profile": null,
                }),
            )
        };
        let requests = self.guest.network.iter().map(request).collect();
        list("NetworkRequestList", "1.1", requests)
    }

    /// The disks, as nova-api describes them: the root from the image, the others blank.
    fn block_devices(&self) -> Value {
        let device = |source: &str, format: Option<&str>, size: Option<u32>| {
            let is_root = source == "image";
            object(
                "BlockDeviceMapping",
                "1.21",
                json!({
                    "uuid": Uuid::new_v4(), "instance_uuid": self.uuid, "source_type": source,
                    "destination_type": "local", "guest_format": format, "device_type": "disk",
                    "disk_bus": null, "boot_index": if is_root { 0 } else { -1 },
                    "device_name": null, "delete_on_termination": true, "snapshot_id": null,
                    "volume_id": null, "volume_size": size,
                    "image_id": is_root.then_some(self.image.id), "no_device": false,
                    "connection_info": null, "tag": null, "attachment_id": null,
                    "volume_type": null, "encrypted": false, "encryption_secret_uuid": null,
                    "encryption_format": null, "encryption_options": null,
                    "created_at": self.now.to_string(), "updated_at": null, "deleted_at": null,
                    "deleted": false,
                }),
            )
        };
        let GuestArgs { ephemeral, swap, .. } = &self.guest;
        let mut devices = vec![device("image", None, None)];
        let blank = ephemeral.iter().map(|disk| (disk.format.as_deref(), disk.gib));
        devices.extend(blank.map(|(format, gib)| device("blank", format, Some(gib))));
        if *swap > 0 {
            devices.push(device("blank", Some("swap"), Some(*swap)));
        }
        list("BlockDeviceMappingList", "1.18", devices)
    }

    fn pci_requests(&self) -> Value {
        let requests = json!({"instance_uuid": self.uuid, "requests": []});
        object("InstancePCIRequests", "1.1", requests)
    }
}

fn object(name: &str, version: &str, data: Value) -> Value {
    json!({
        "nova_object.name": name, "nova_object.namespace": "nova",
        "nova_object.version": version, "nova_object.data": data,
    })
}

fn list(name: &str, version: &str, objects: Vec<Value>) -> Value {
    object(name, version, json!({"objects": objects}))
}

/// A list object without objects, such as the `bdms` of a `terminate_instance`.
pub fn empty_list(name: &str, version: &str) -> Value {
    list(name, version, Vec::new())
}

/// nova: utils.py, sanitize_hostname.
fn hostname(name: &str, uuid: Uuid) -> String {
    let latin = name.chars().filter(|c| u32::from(*c) < 0x100).take(63);
    let dashed = latin.map(|c| if matches!(c, ' ' | '_' | '.') { '-' } else { c });
    let word: String = dashed.filter(|c| c.is_alphanumeric() || *c == '-').collect();
    match word.to_lowercase().trim_matches(['.', '-']) {
        "" => format!("Server-{uuid}"),
        word => word.to_owned(),
    }
}

/// At most [`SYSTEM_METADATA_BYTES`], not cut inside a character.
fn cut(value: &str) -> &str {
    let fits = |end: &usize| *end <= SYSTEM_METADATA_BYTES;
    let ends = value.char_indices().map(|(start, c)| start + c.len_utf8());
    &value[..ends.take_while(fits).last().unwrap_or(0)]
}

/// nova: utils.py, generate_uid('r')
fn reservation_id() -> String {
    let letters = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let letter = |_| char::from(letters[fastrand::usize(..letters.len())]);
    format!("r-{}", (0..8).map(letter).collect::<String>())
}

fn read_key(path: &Path) -> Result<PublicKey, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::told(format!("can't read ssh key {shown}: {error}")))?;
    let text = text.trim().to_owned();
    let public = Failure::told(format!("{shown} holds no ssh public key"))
        .with_advice("give the .pub file: the private key never belongs on a guest");
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else { return Err(public) };
    let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start));
    let Ok(blob) = BASE64.decode(blob) else { return Err(public) };
    if !known || text.lines().count() != 1 {
        return Err(public);
    }
    let fingerprint: Vec<_> = Md5::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(PublicKey { name, text, fingerprint: fingerprint.join(":") })
}

fn read_user_data(path: &Path) -> Result<Secret, Failure> {
    let shown = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::told(format!("can't read user data {shown}: {error}")))?;
    let text = BASE64.encode(bytes);
    if text.len() > USER_DATA_BYTES {
        return Err(Failure::told(format!(
            "user data {shown} is too long: {} bytes in base64, {USER_DATA_BYTES} may be",
            text.len()
        )));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests;
