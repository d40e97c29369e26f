//! A config drive's files, from plain facts of an instance. Pure: no clock, no random, no I/O.
//!
//! The layout is nova's, version by version: `openstack/<version>/…`, `openstack/content/…` and
//! `ec2/<version>/…` (``nova: api/metadata/base.py, metadata_for_config_drive``).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::ConfigDriveFiles;
use super::network_data::{VifData, network_data};

/// Of EC2's versions those that nova doesn't skip by default
/// (`[api] config_drive_skip_versions`).
const EC2_VERSIONS: [&str; 2] = ["2009-04-04", "latest"];

/// OpenStack's versions; each holds what came up to it. `latest` is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Folsom,
    Grizzly,
    Havana,
    Liberty,
    Newton1,
    Newton2,
    Ocata,
    Rocky,
    Victoria,
    Epoxy,
}

const OPENSTACK_VERSIONS: [(&str, Version); 11] = [
    ("2012-08-10", Version::Folsom),
    ("2013-04-04", Version::Grizzly),
    ("2013-10-17", Version::Havana),
    ("2015-10-15", Version::Liberty),
    ("2016-06-30", Version::Newton1),
    ("2016-10-06", Version::Newton2),
    ("2017-02-22", Version::Ocata),
    ("2018-08-27", Version::Rocky),
    ("2020-10-14", Version::Victoria),
    ("2025-04-04", Version::Epoxy),
    ("latest", Version::Epoxy),
];

/// What a config drive is made of. Holds secrets, so it can't be printed.
#[derive(Clone, Default)]
pub struct ConfigDriveFacts {
    pub uuid: String,
    /// With the domain, if it has one: nova joins `[api] dhcp_domain` (`novalocal`) to it.
    pub hostname: String,
    /// The name that the user gave.
    pub name: Option<String>,
    pub launch_index: i64,
    pub availability_zone: Option<String>,
    pub project_id: Option<String>,
    pub reservation_id: Option<String>,
    pub flavor_name: Option<String>,
    /// The user's metadata, in their order.
    pub meta: Vec<(String, String)>,
    pub keypair: Option<Keypair>,
    /// Decoded.
    pub user_data: Option<Vec<u8>>,
    pub admin_pass: Option<String>,
    /// Injected files: path in the guest, content.
    pub files: Vec<(String, Vec<u8>)>,
    /// 512 random bytes, made by the caller.
    pub random_seed: Vec<u8>,
    pub devices: Vec<Device>,
    pub dedicated_cpus: Vec<u32>,
    pub vifs: Vec<VifData>,
    /// What `vendor_data.json` holds, nova's default is an empty map; `None`: it isn't there.
    pub vendor_data: Option<Value>,
    pub ec2: Ec2Facts,
}

/// The user's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keypair {
    pub name: String,
    /// `ssh` or `x509`
    pub kind: String,
    pub public_key: String,
}

/// Facts that only the EC2 layout shows.
#[derive(Debug, Clone, Default)]
pub struct Ec2Facts {
    /// `ami-00000002`
    pub ami_id: Option<String>,
    /// `i-00000001`
    pub instance_id: Option<String>,
    pub kernel_id: Option<String>,
    pub ramdisk_id: Option<String>,
    pub security_groups: Vec<String>,
    /// `ami` → `vda`, `root` → `/dev/vda`, …
    pub block_device_mapping: Vec<(String, String)>,
}

/// A tagged device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub kind: DeviceKind,
    /// `pci`, `usb`, `scsi`, `ide`, `xen`; `None` when it isn't known.
    pub bus: Option<String>,
    pub address: Option<String>,
    /// `None`: no tags were ever set, which is not the same as none.
    pub tags: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    Nic { mac: String, vlan: Option<u32>, vf_trusted: bool },
    Disk { serial: Option<String>, path: Option<String> },
    Share { share_id: String, tag: String },
}

/// All files of the drive, in nova's order.
pub fn config_drive_files(facts: &ConfigDriveFacts) -> ConfigDriveFiles {
    let mut files = Vec::new();
    for version in EC2_VERSIONS {
        if let Some(user_data) = &facts.user_data {
            files.push((format!("ec2/{version}/user-data"), user_data.clone()));
        }
        files.push((format!("ec2/{version}/meta-data.json"), bytes(&ec2_metadata(facts))));
    }
    let network = network_data(&facts.vifs).unwrap_or_else(|| json!({}));
    for (name, version) in OPENSTACK_VERSIONS {
        let mut add =
            |file: &str, content| files.push((format!("openstack/{name}/{file}"), content));
        add("meta_data.json", bytes(&metadata(facts, version)));
        if let Some(user_data) = &facts.user_data {
            add("user_data", user_data.clone());
        }
        if let Some(vendor_data) = facts.vendor_data.as_ref().filter(|_| version >= Version::Havana)
        {
            add("vendor_data.json", bytes(vendor_data));
        }
        if version >= Version::Liberty {
            add("network_data.json", bytes(&network));
        }
        if version >= Version::Newton2 {
            let all = facts.vendor_data.as_ref().map(|data| json!({ "static": data }));
            add("vendor_data2.json", bytes(&all.unwrap_or_else(|| json!({}))));
        }
    }
    for (index, (_, content)) in facts.files.iter().enumerate() {
        files.push((format!("openstack/content/{index:04}"), content.clone()));
    }
    ConfigDriveFiles(files)
}

fn bytes(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with string keys always serialise")
}

/// ``nova: _metadata_as_json``
fn metadata(facts: &ConfigDriveFacts, version: Version) -> Value {
    let mut data = Map::new();
    let mut set = |key: &str, value: Value| data.insert(key.to_owned(), value);
    set("uuid", json!(facts.uuid));
    if !facts.meta.is_empty() {
        set("meta", Value::Object(facts.meta.iter().map(|(k, v)| (k.clone(), json!(v))).collect()));
    }
    if !facts.files.is_empty() {
        let file = |(index, (path, _)): (usize, &(String, _))| json!({ "path": path, "content_path": format!("/content/{index:04}") });
        set("files", facts.files.iter().enumerate().map(file).collect());
    }
    if let Some(password) = &facts.admin_pass {
        set("admin_pass", json!(password));
    }
    if let Some(key) = &facts.keypair {
        set("public_keys", json!({ key.name.clone(): key.public_key }));
        set("keys", json!([{ "name": key.name, "type": key.kind, "data": key.public_key }]));
    }
    set("hostname", json!(facts.hostname));
    set("name", json!(facts.name));
    set("launch_index", json!(facts.launch_index));
    set("availability_zone", json!(facts.availability_zone));
    if version >= Version::Grizzly {
        set("random_seed", json!(STANDARD.encode(&facts.random_seed)));
    }
    if version >= Version::Liberty {
        set("project_id", json!(facts.project_id));
    }
    if version >= Version::Newton1 {
        set("devices", facts.devices.iter().filter_map(|d| device(d, version)).collect());
    }
    if version >= Version::Victoria {
        let mut cpus = facts.dedicated_cpus.clone();
        cpus.sort_unstable();
        set("dedicated_cpus", json!(cpus));
    }
    Value::Object(data)
}

/// ``nova: _get_device_metadata``; `None` for what `version` doesn't tell.
fn device(device: &Device, version: Version) -> Option<Value> {
    let mut data = Map::new();
    let mut set = |key: &str, value: Value| data.insert(key.to_owned(), value);
    match &device.kind {
        DeviceKind::Nic { mac, vlan, vf_trusted } => {
            let vlan = vlan.filter(|_| version >= Version::Ocata);
            let tells_trust = version >= Version::Rocky;
            if device.tags.is_none() && vlan.is_none() && !tells_trust {
                return None;
            }
            if let Some(vlan) = vlan {
                set("vlan", json!(vlan));
            }
            if tells_trust {
                set("vf_trusted", json!(vf_trusted));
            }
            set("type", json!("nic"));
            set("mac", json!(mac));
        }
        DeviceKind::Disk { serial, path } => {
            set("type", json!("disk"));
            if let Some(serial) = serial {
                set("serial", json!(serial));
            }
            if let Some(path) = path {
                set("path", json!(path));
            }
        }
        DeviceKind::Share { .. } if version < Version::Epoxy => return None,
        DeviceKind::Share { share_id, tag } => {
            set("type", json!("share"));
            set("share_id", json!(share_id));
            set("tag", json!(tag));
        }
    }
    set("bus", json!(device.bus.as_deref().unwrap_or("none")));
    set("address", json!(device.address.as_deref().unwrap_or("none")));
    if let Some(tags) = &device.tags {
        set("tags", json!(tags));
    }
    Some(Value::Object(data))
}

/// ``nova: get_ec2_metadata`` of 2009-04-04
fn ec2_metadata(facts: &ConfigDriveFacts) -> Value {
    let subnets = facts.vifs.iter().flat_map(|vif| &vif.subnets);
    let fixed = subnets.filter(|subnet| subnet.version == 4).flat_map(|subnet| &subnet.ips).next();
    let floating = facts.vifs.iter().flat_map(|vif| &vif.floating_ips).next();
    let ec2 = &facts.ec2;
    let mut data = Map::new();
    let mut set = |key: &str, value: Value| data.insert(key.to_owned(), value);
    set("ami-id", json!(ec2.ami_id));
    set("ami-launch-index", json!(facts.launch_index));
    // nova writes just this word, and a guest may compare (nova: api/metadata/base.py).
    set("ami-manifest-path", json!("FIXME"));
    set("instance-id", json!(ec2.instance_id));
    set("hostname", json!(facts.hostname));
    set("local-ipv4", json!(fixed));
    set("reservation-id", json!(facts.reservation_id));
    set("security-groups", json!(ec2.security_groups));
    if let Some(key) = &facts.keypair {
        let name = format!("0={}", key.name);
        set("public-keys", json!({ "0": { "_name": name, "openssh-key": key.public_key } }));
    }
    set("local-hostname", json!(facts.hostname));
    set("public-hostname", json!(facts.hostname));
    set("public-ipv4", json!(floating.map_or("", String::as_str)));
    set("instance-type", json!(facts.flavor_name));
    let mapping = ec2.block_device_mapping.iter().map(|(k, v)| (k.clone(), json!(v)));
    set("block-device-mapping", Value::Object(mapping.collect()));
    if let Some(id) = &ec2.kernel_id {
        set("kernel-id", json!(id));
    }
    if let Some(id) = &ec2.ramdisk_id {
        set("ramdisk-id", json!(id));
    }
    set("placement", json!({ "availability-zone": facts.availability_zone }));
    set("instance-action", json!("none"));
    Value::Object(data)
}

#[cfg(test)]
mod tests {
    use super::super::network_data::tests::static_vif;
    use super::*;

    /// Written by nova 33.0.2's own `InstanceMetadata.metadata_for_config_drive`.
    const FULL: &str = include_str!("../../tests/golden/config_drive/full.json");
    const BARE: &str = include_str!("../../tests/golden/config_drive/bare.json");

    fn bare() -> ConfigDriveFacts {
        ConfigDriveFacts {
            uuid: "a0000000-0000-0000-0000-000000000001".into(),
            hostname: "host-a.novalocal".into(),
            name: Some("Höst A".into()),
            availability_zone: Some("nova".into()),
            project_id: Some("p1".into()),
            reservation_id: Some("r-abc".into()),
            flavor_name: Some("m1.tiny".into()),
            random_seed: (0..=255).chain(0..=255).collect(),
            vifs: vec![static_vif()],
            vendor_data: Some(json!({})),
            ec2: Ec2Facts {
                ami_id: Some("ami-00000002".into()),
                instance_id: Some("i-00000001".into()),
                security_groups: vec!["default".into()],
                block_device_mapping: vec![
                    ("ami".into(), "vda".into()),
                    ("root".into(), "/dev/vda".into()),
                ],
                ..Ec2Facts::default()
            },
            ..ConfigDriveFacts::default()
        }
    }

    fn device(kind: DeviceKind, bus: &str, address: Option<&str>, tags: Option<&str>) -> Device {
        Device {
            kind,
            bus: Some(bus.into()),
            address: address.map(Into::into),
            tags: tags.map(|tag| vec![tag.into()]),
        }
    }

    fn full() -> ConfigDriveFacts {
        let nic =
            |mac: &str, vlan, vf_trusted| DeviceKind::Nic { mac: mac.into(), vlan, vf_trusted };
        let disk = |serial: Option<&str>, path: Option<&str>| DeviceKind::Disk {
            serial: serial.map(Into::into),
            path: path.map(Into::into),
        };
        ConfigDriveFacts {
            meta: vec![("role".into(), "web".into()), ("n".into(), "1".into())],
            keypair: Some(Keypair {
                name: "k".into(),
                kind: "ssh".into(),
                public_key: "ssh-ed25519 AAAA".into(),
            }),
            user_data: Some(b"#cloud-config\n".to_vec()),
            admin_pass: Some("sEcret".into()),
            files: vec![("/etc/motd".into(), b"hello".to_vec())],
            devices: vec![
                device(
                    nic("fa:16:3e:00:00:01", Some(100), true),
                    "pci",
                    Some("0000:00:03.0"),
                    Some("mgmt"),
                ),
                device(nic("fa:16:3e:00:00:09", None, false), "pci", Some("0000:00:04.0"), None),
                device(disk(Some("vol-1"), Some("/dev/vdb")), "scsi", Some("0:0:0:1"), Some("db")),
                device(disk(None, None), "ide", None, Some("x")),
            ],
            ..bare()
        }
    }

    fn assert_same(facts: &ConfigDriveFacts, golden: &str) {
        let golden: Map<String, Value> = serde_json::from_str(golden).unwrap();
        let ConfigDriveFiles(files) = config_drive_files(facts);
        let names: Vec<_> = files.iter().map(|(path, _)| path).collect();
        assert_eq!(names, golden.keys().collect::<Vec<_>>());
        for (path, content) in &files {
            let theirs = golden[path].as_str().unwrap();
            if path.ends_with(".json") {
                let ours: Value = serde_json::from_slice(content).unwrap();
                assert_eq!(ours, serde_json::from_str::<Value>(theirs).unwrap(), "{path}");
            } else {
                assert_eq!(content, theirs.as_bytes(), "{path}");
            }
        }
    }

    #[test]
    fn an_instance_with_everything_has_novas_files() {
        assert_same(&full(), FULL);
    }

    #[test]
    fn an_instance_with_nothing_has_novas_files() {
        assert_same(&bare(), BARE);
    }

    #[test]
    fn shares_are_told_from_2025_on() {
        let share = DeviceKind::Share { share_id: "s".into(), tag: "t".into() };
        let share = device(share, "none", None, None);
        assert_eq!(super::device(&share, Version::Victoria), None);
        assert_eq!(super::device(&share, Version::Epoxy).unwrap()["share_id"], "s");
    }

    #[test]
    fn without_a_network_its_file_is_an_empty_map() {
        let facts = ConfigDriveFacts { vifs: vec![], ..bare() };
        let ConfigDriveFiles(files) = config_drive_files(&facts);
        let (_, content) =
            files.iter().find(|(path, _)| path == "openstack/latest/network_data.json").unwrap();
        assert_eq!(content, b"{}");
    }
}
