//! The message held to the recorded one, and to the objects that a build is read into.

use std::collections::BTreeSet;
use std::fs;

use clap::Parser;

use super::*;
use crate::model::object::{
    BlockDeviceMappingList, Flavor, ImageMeta, Instance, NetworkRequestList, RequestSpec,
    VersionedObject,
};
use crate::model::state::{TaskState, VmState};

const RECORDED: &str = include_str!("../../../tests/fixtures/cli/build_and_run_instance.json");

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    guest: GuestArgs,
}

fn build(arguments: &[&str]) -> Map<String, Value> {
    let words = ["x", "--image", "https://example.org/debian.qcow2"];
    let line = Line::try_parse_from(words.iter().chain(arguments)).unwrap();
    Build::prepare("my web.1", &line.guest, "h1", "n1").unwrap().args()
}

fn instance(args: &Map<String, Value>) -> Instance {
    Instance::from_primitive(&args["instance"]).unwrap()
}

/// Every dict's keys, by the path that leads to it. Dicts whose keys are data aren't gone into.
fn keys(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                into.insert(format!("{path}.{key}"));
                if !["system_metadata", "extra_specs", "metadata", "properties"]
                    .contains(&key.as_str())
                {
                    keys(inner, &format!("{path}.{key}"), into);
                }
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| keys(item, &format!("{path}[]"), into));
        }
        _ => {}
    }
}

#[test]
fn a_build_has_what_novas_has() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let mut theirs = BTreeSet::new();
    keys(&recorded["args"], "", &mut theirs);
    let mut ours = BTreeSet::new();
    keys(&Value::Object(build(&["--network", "user"])), "", &mut ours);
    let without = |path: &&String| {
        // Given by a database, or changed since the database: neither is there.
        let known = ["nova_object.changes", ".ec2_ids", ".requested_destination.nova"];
        let id = [".instance.nova_object.data.id", ".request_spec.nova_object.data.id"];
        let id = id.contains(&path.as_str()) || path.ends_with("objects[].nova_object.data.id");
        !known.iter().any(|part| path.contains(part))
            && !id
            && !path.contains(".filter_properties.requested_destination")
            && !path.contains(".security_groups.nova_object.data.objects[]")
            // The image service's size, of a file only.
            && !path.ends_with(".image.nova_object.data.size")
            && !path.ends_with(".image.nova_object.data.checksum")
    };
    let theirs: BTreeSet<_> = theirs.iter().filter(without).collect();
    let ours: BTreeSet<_> = ours.iter().filter(without).collect();
    let missing: Vec<_> = theirs.difference(&ours).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let more: Vec<_> = ours.difference(&theirs).map(|path| path.as_str()).collect();
    let expected = [
        ".image.direct_url",
        ".request_spec.nova_object.data.pci_requests.nova_object.data.instance_uuid",
    ];
    assert_eq!(more, expected);
}

#[test]
fn a_build_is_made_of_our_objects() {
    let args = build(&["--memory", "256", "--vcpus", "2", "--disk", "3"]);
    let instance = instance(&args);
    assert!(instance.id.get().is_none(), "the records give it");
    assert_eq!(instance.vm_state.value(), Some(&VmState::Building));
    assert_eq!(instance.task_state.value(), Some(&TaskState::Scheduling));
    assert_eq!(instance.display_name.value().map(String::as_str), Some("my web.1"));
    assert_eq!(instance.hostname.value().map(String::as_str), Some("my-web-1"));
    assert_eq!(instance.config_drive.value().map(String::as_str), Some(""));
    let flavor = instance.flavor.get().unwrap();
    assert_eq!(
        (flavor.memory_mb.get(), flavor.vcpus.get(), flavor.root_gb.get()),
        (Some(&256), Some(&2), Some(&3))
    );
    let spec = &args["request_spec"]["nova_object.data"];
    Flavor::from_primitive(&spec["flavor"]).unwrap();
    let image = ImageMeta::from_primitive(&spec["image"]).unwrap();
    assert_eq!(image.id.get().unwrap().to_string(), args["image"]["id"]);
    RequestSpec::from_primitive(&args["request_spec"]).unwrap();
    ImageMeta::from_image_dict(&args["image"]).unwrap();
    let disks = BlockDeviceMappingList::from_primitive(&args["block_device_mapping"]).unwrap();
    assert_eq!(disks.objects.get().unwrap().len(), 1);
    let networks = NetworkRequestList::from_primitive(&args["requested_networks"]).unwrap();
    assert_eq!(networks.objects.get().unwrap().len(), 0);
}

#[test]
fn blank_disks_are_asked_for_in_their_order_and_counted_in_the_flavor() {
    let args = build(&["--ephemeral", "2:ext4", "--ephemeral", "1", "--swap", "64"]);
    let disks = BlockDeviceMappingList::from_primitive(&args["block_device_mapping"]).unwrap();
    let told: Vec<_> = disks
        .items()
        .iter()
        .map(|disk| {
            let size = disk.volume_size.value().copied();
            (disk.is_root(), disk.is_swap(), disk.guest_format.text(), size)
        })
        .collect();
    assert_eq!(
        told,
        [
            (true, false, None, None),
            (false, false, Some("ext4"), Some(2)),
            (false, false, None, Some(1)),
            (false, true, Some("swap"), Some(64)),
        ]
    );
    let instance = instance(&args);
    assert_eq!(instance.ephemeral_gb.value(), Some(&3));
    let flavor = instance.flavor.get().unwrap();
    assert_eq!((flavor.ephemeral_gb.get(), flavor.swap.get()), (Some(&3), Some(&64)));
}

#[test]
fn an_image_says_where_it_is_and_what_it_must_be() {
    let sha256 = format!("sha256:{}", "ab".repeat(32));
    let args = build(&["--checksum", &sha256, "--property", "hw_disk_bus=scsi"]);
    let image = &args["image"];
    assert_eq!(image["direct_url"], "https://example.org/debian.qcow2");
    assert_eq!(
        (&image["os_hash_algo"], &image["disk_format"]),
        (&json!("sha256"), &json!("qcow2"))
    );
    assert_eq!(image["os_hash_value"], "ab".repeat(32));
    assert_eq!(image["properties"]["hw_disk_bus"], "scsi");
    let metadata = instance(&args).system_metadata.get().unwrap().clone();
    assert_eq!(metadata["image_hw_disk_bus"].as_deref(), Some("scsi"));
    assert_eq!(metadata["image_disk_format"].as_deref(), Some("qcow2"));
    assert_eq!(metadata["image_base_image_ref"].as_deref(), image["id"].as_str());

    let args = build(&["--image-format", "raw", "--checksum", &format!("md5:{}", "1".repeat(32))]);
    assert_eq!(args["image"]["disk_format"], "raw");
    assert_eq!(args["image"]["checksum"], "1".repeat(32));
    assert_eq!(args["image"]["os_hash_algo"], Value::Null);
}

#[test]
fn a_kernel_and_a_ramdisk_have_ids_and_places() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("vmlinuz");
    fs::write(&kernel, "kernel").unwrap();
    let ramdisk = "https://example.org/initrd";
    let args = build(&["--kernel", kernel.to_str().unwrap(), "--ramdisk", ramdisk]);
    let properties = &args["image"]["properties"];
    let instance = instance(&args);
    assert_eq!(instance.kernel_id.value().unwrap(), properties["kernel_id"].as_str().unwrap());
    assert_eq!(properties["hypernova_ramdisk_url"], ramdisk);
    assert!(properties["hypernova_kernel_url"].as_str().unwrap().starts_with("file:///"));
    let metadata = instance.system_metadata.get().unwrap();
    assert!(metadata.contains_key("image_kernel_id"));
    assert!(!metadata.keys().any(|key| key.contains("hypernova")));
}

#[test]
fn a_key_and_user_data_come_by_config_drive() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let blob = BASE64.encode("a key");
    fs::write(path("id_ed25519.pub"), format!("ssh-ed25519 {blob} me@here\n")).unwrap();
    fs::write(path("user-data"), "#!/bin/sh\n").unwrap();
    let args = build(&["--ssh-key", &path("id_ed25519.pub"), "--user-data", &path("user-data")]);
    let instance = instance(&args);
    assert_eq!(instance.config_drive.value().map(String::as_str), Some("True"));
    assert_eq!(instance.key_name.value().map(String::as_str), Some("id_ed25519"));
    assert_eq!(instance.user_data.value().map(Secret::expose), Some("IyEvYmluL3NoCg=="));
    let keypairs = &args["instance"]["nova_object.data"]["keypairs"]["nova_object.data"];
    let key = &keypairs["objects"][0]["nova_object.data"];
    assert_eq!(key["public_key"], format!("ssh-ed25519 {blob} me@here"));
    // Python: hashlib.md5(b'a key').hexdigest()
    assert_eq!(key["fingerprint"], "af:07:11:eb:7d:ab:2d:53:c1:a5:80:c4:70:5d:7c:b7");
    assert_eq!(instance_drive(&["--config-drive"]), "True");
}

fn instance_drive(arguments: &[&str]) -> String {
    instance(&build(arguments)).config_drive.value().unwrap().clone()
}

#[test]
fn a_private_key_and_a_novel_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for content in ["-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "ssh-rsa", "", "ssh-rsa A B\nx"]
    {
        fs::write(&path, content).unwrap();
        assert!(read_key(&path).is_err(), "{content}");
    }
    fs::write(&path, vec![0; USER_DATA_BYTES]).unwrap();
    assert!(read_user_data(&path).is_err());
}

#[test]
fn a_host_name_is_one_that_a_guest_can_have() {
    let uuid = Uuid::nil();
    for (name, expected) in [
        ("Web Server_1.example", "web-server-1-example"),
        ("--x--", "x"),
        ("数据库", "Server-00000000-0000-0000-0000-000000000000"),
        ("a/../b;rm", "a--brm"),
    ] {
        assert_eq!(hostname(name, uuid), expected);
    }
    assert_eq!(hostname(&"x".repeat(200), uuid).len(), 63);
}

#[test]
fn a_long_value_is_cut_between_characters() {
    assert_eq!(cut("short"), "short");
    assert_eq!(cut(&"é".repeat(200)).len(), 254);
}
