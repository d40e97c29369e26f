use serde_json::json;

use super::*;
use crate::model::class::Class;
use crate::model::object::{DestinationType, SourceType, VersionedObject};
use crate::workflow::world::instance;

fn device(source: SourceType, format: Option<&str>, size: Option<i64>) -> BlockDeviceMapping {
    let mut device = BlockDeviceMapping::default();
    device.source_type.load(Some(Some(source)));
    device.destination_type.load(Some(Some(DestinationType::Local)));
    device.guest_format.load(Some(format.map(str::to_owned)));
    device.volume_size.load(Some(size));
    device.device_type.load(Some(Some(DeviceType::Disk)));
    device.boot_index.load(Some(Some(if source == SourceType::Image { 0 } else { -1 })));
    device.no_device.load(Some(false));
    device.encrypted.load(Some(false));
    device
}

fn root() -> BlockDeviceMapping {
    device(SourceType::Image, None, None)
}

fn blank(format: Option<&str>, size: i64) -> BlockDeviceMapping {
    device(SourceType::Blank, format, Some(size))
}

fn sized(ephemeral_gb: i64, swap: i64) -> Instance {
    let mut instance = instance(None);
    instance.flavor.update(|flavor| {
        flavor.ephemeral_gb.load(Some(ephemeral_gb));
        flavor.swap.load(Some(swap));
    });
    instance
}

fn image(properties: serde_json::Value) -> ImageMeta {
    let id = "9ac5fd6a-073c-423e-8bb6-9593064b906d";
    ImageMeta::from_image_dict(&json!({"id": id, "properties": properties})).unwrap()
}

fn files(wanted: &[Wanted]) -> Vec<&str> {
    wanted.iter().map(|wanted| wanted.file.as_str()).collect()
}

fn refused(result: Result<Vec<Wanted>, StepError>) -> &'static str {
    match result.unwrap_err() {
        error @ StepError::InvalidBlockDevice { exception, .. } => {
            assert_eq!(error.class(), Class::Refused);
            exception
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mappings_say_which_disks_there_are_and_the_flavor_where_they_are_silent() {
    let devices = [root(), blank(None, 1), blank(Some("ext3"), 2), blank(Some("swap"), 32)];
    let all = wanted(&sized(3, 64), &devices).unwrap();
    assert_eq!(files(&all), ["disk.eph0", "disk.eph1", "disk.swap"]);
    let second =
        Blank::Ephemeral { size_gib: 2, index: 1, os_type: None, format: Some("ext3".to_owned()) };
    assert_eq!(all[1].blank, second);
    assert_eq!(all[2].blank, Blank::Swap { size_mib: 32 });

    let all = wanted(&sized(3, 64), &[root()]).unwrap();
    assert_eq!(files(&all), ["disk.local", "disk.swap"]);
    assert_eq!(all[1].blank, Blank::Swap { size_mib: 64 });
    assert!(wanted(&sized(0, 0), &[root()]).unwrap().is_empty());

    // nova: a swap disk of no size leaves it to the flavor; one without a device is none.
    let mut none = blank(None, 1);
    none.no_device.load(Some(true));
    let all = wanted(&sized(0, 64), &[none, blank(Some("swap"), 0)]).unwrap();
    assert_eq!(files(&all), ["disk.swap"]);
    let all = wanted(&sized(4, 0), &[device(SourceType::Blank, None, None)]).unwrap();
    assert!(matches!(all[0].blank, Blank::Ephemeral { size_gib: 4, .. }));
}

#[test]
fn hostile_mappings_are_refused_in_novas_words() {
    for format in ["ntfs", "--help", "ext4 -d /etc", "EXT4"] {
        let found = wanted(&sized(1, 0), &[blank(Some(format), 1)]);
        assert_eq!(refused(found), "InvalidBDMFormat", "{format}");
    }
    for size in [0, -1, i64::MAX] {
        let found = wanted(&sized(1, 0), &[blank(None, size)]);
        assert_eq!(refused(found), "InvalidBDMFormat", "{size}");
    }
    let swap = || blank(Some("swap"), 1);
    assert_eq!(refused(wanted(&sized(0, 2), &[swap(), swap()])), "InvalidBDMFormat");
    let too_much = [
        (sized(1, 0), vec![blank(None, 1), blank(None, 1)], "InvalidBDMEphemeralSize"),
        (sized(0, 1), vec![blank(Some("swap"), 2)], "InvalidBDMSwapSize"),
    ];
    for (instance, devices, exception) in too_much {
        match check(&instance, &devices) {
            Err(StepError::InvalidBlockDevice { exception: found, .. }) => {
                assert_eq!(found, exception);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut encrypted = root();
    encrypted.encrypted.load(Some(true));
    assert!(matches!(check(&sized(1, 0), &[encrypted]), Err(StepError::NotSupported(_))));
}

fn named(properties: serde_json::Value, devices: &mut [BlockDeviceMapping]) -> Instance {
    let mut instance = sized(9, 64);
    name_devices(&mut instance, &image(properties), devices, &Settings::example()).unwrap();
    instance
}

fn names(devices: &[BlockDeviceMapping]) -> Vec<(&str, &str)> {
    let name = |device: &BlockDeviceMapping| device.device_name.text().is_some();
    assert!(devices.iter().all(name), "{devices:?}");
    devices
        .iter()
        .filter_map(|device| Some((device.device_name.text()?, device.disk_bus.text()?)))
        .collect()
}

#[test]
fn names_are_written_back_as_nova_gives_them() {
    let mut devices = [root(), blank(None, 1), blank(Some("swap"), 64)];
    let instance = named(json!({}), &mut devices);
    let expected = [("/dev/vda", "virtio"), ("/dev/vdb", "virtio"), ("/dev/vdc", "virtio")];
    assert_eq!(names(&devices), expected);
    assert_eq!(instance.root_device_name.value().unwrap(), "/dev/vda");
    // A second time finds the same, and there is nothing to save.
    for device in &mut devices {
        device.reset_changes();
    }
    named(json!({}), &mut devices);
    assert_eq!(names(&devices), expected);
    for device in &devices {
        assert!(device.what_changed().is_empty());
    }
}

#[test]
fn a_mapping_s_bus_is_kept_and_a_user_s_name_is_only_the_root_s() {
    let mut devices = [root(), blank(None, 1), blank(None, 1), blank(Some("swap"), 64)];
    devices[0].device_name.load(Some(Some("/dev/sda".to_owned())));
    devices[1].device_name.load(Some(Some("/dev/vdq".to_owned())));
    devices[2].disk_bus.load(Some(Some("sata".to_owned())));
    let instance = named(json!({"hw_disk_bus": "scsi"}), &mut devices);
    let expected =
        [("/dev/sda", "scsi"), ("/dev/sdb", "scsi"), ("/dev/sdc", "sata"), ("/dev/sdd", "scsi")];
    assert_eq!(names(&devices), expected);
    assert_eq!(instance.root_device_name.value().unwrap(), "/dev/sda");
}

#[test]
fn what_the_guest_had_is_all_there_or_it_isn_t_started() {
    let (instance, settings) = (sized(2, 64), Settings::example());
    let devices = [root(), blank(None, 1), blank(None, 1)];
    let disk = |name: &str| Disk { path: format!("/i/u/{name}").into(), format: "qcow2".into() };
    let found = |names: &[&str]| {
        let disks = names.iter().map(|name| disk(name)).collect();
        let found = GuestDisks::found(disks).unwrap();
        guest_disks(&instance, &devices, &found, &settings)
    };
    // However disk.info lists them.
    let disks = found(&["disk.config", "disk.swap", "disk.eph1", "disk", "disk.eph0"]).unwrap();
    let paths: Vec<_> = disks.iter().map(|disk| disk.path.to_str().unwrap()).collect();
    let order = ["disk", "disk.eph0", "disk.eph1", "disk.swap", "disk.config"];
    assert_eq!(paths, order.map(|name| format!("/i/u/{name}")));
    for (names, lacking) in [
        (&["disk", "disk.eph0", "disk.swap"][..], "/i/u/disk.eph1"),
        (&["disk", "disk.eph0", "disk.eph1"][..], "/i/u/disk.swap"),
    ] {
        match found(names) {
            Err(StepError::NoDisk { path }) => assert_eq!(path.to_str(), Some(lacking)),
            other => panic!("{other:?}"),
        }
    }
    let more = ["disk", "disk.eph0", "disk.eph1", "disk.eph2", "disk.swap"];
    assert!(matches!(found(&more), Err(StepError::UnknownDisk(_))));
    assert!(matches!(GuestDisks::found(vec![disk("disk.other")]), Err(StepError::UnknownDisk(_))));
    // What a rescue has left isn't the guest's.
    assert_eq!(GuestDisks::found(vec![disk("disk.rescue")]).unwrap(), GuestDisks::default());
}

#[test]
fn the_metadata_names_disks_as_nova_does() {
    let mut devices = [root(), blank(None, 1), blank(Some("swap"), 64)];
    let instance = named(json!({}), &mut devices);
    let pair = |key: &str, name: &str| (key.to_owned(), name.to_owned());
    let expected = [
        pair("ami", "vda"),
        pair("ephemeral0", "/dev/vdb"),
        pair("root", "/dev/vda"),
        pair("swap", "/dev/vdc"),
    ];
    assert_eq!(ec2_mapping(&instance, &devices), expected);
    assert_eq!(ec2_mapping(&sized(0, 0), &[])[0], pair("ami", "sda1"));
}
