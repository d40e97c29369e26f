//! Blank disks by the real tools: what is in them, what backs them, and what a failure leaves.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hypernova::images::blank::FileSystems;
use hypernova::images::fake::FakeImages;
use hypernova::images::source::{FilePolicy, StandaloneSource};
use hypernova::images::store::{HostImages, StoreOptions};
use hypernova::images::{Ageing, Blank, ImageError, Images};
use uuid::Uuid;

use crate::support::{host_images, info, leftovers, options};

const ID: Uuid = Uuid::from_u128(0xb1a);
const OTHER: Uuid = Uuid::from_u128(0xb1b);

fn images_with(dir: &tempfile::TempDir, change: impl FnOnce(&mut StoreOptions)) -> HostImages {
    let mut options = options(dir);
    change(&mut options);
    let source = StandaloneSource::new(FilePolicy::Any, Duration::from_secs(30));
    HostImages::new(options, Arc::new(source)).unwrap()
}

fn ephemeral(index: usize, os_type: Option<&str>, format: Option<&str>) -> Blank {
    let (os_type, format) = (os_type.map(str::to_owned), format.map(str::to_owned));
    Blank::Ephemeral { size_gib: 1, index, os_type, format }
}

/// (type, label) as `blkid` reads them.
fn content(path: &Path) -> (String, String) {
    let tag = |tag: &str| {
        let mut command = Command::new("blkid");
        let out = command.args(["-p", "-s", tag, "-o", "value"]).arg(path).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    (tag("TYPE"), tag("LABEL"))
}

fn pair(kind: &str, label: &str) -> (String, String) {
    (kind.to_owned(), label.to_owned())
}

fn base(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("instances/_base")
}

#[tokio::test]
async fn ephemerals_and_swap_lie_on_one_base_a_size_and_content() {
    let dir = tempfile::tempdir().unwrap();
    let images = host_images(&dir);
    let linux = |index| ephemeral(index, Some("linux"), None);
    let swap = Blank::Swap { size_mib: 64 };
    for instance in [ID, OTHER] {
        images.create_directory(instance).await.unwrap();
        images.create_blank(instance, "disk.eph0", &linux(0)).await.unwrap();
        images.create_blank(instance, "disk.eph1", &linux(1)).await.unwrap();
        images.create_blank(instance, "disk.swap", &swap).await.unwrap();
    }
    let bases = leftovers(&base(&dir));
    assert_eq!(bases.len(), 3, "{bases:?}");
    assert!(bases.contains(&"ephemeral_1_40d1d2c".to_owned()) && bases[2] == "swap_64");
    assert_eq!(content(&base(&dir).join("ephemeral_1_40d1d2c")), pair("ext4", "ephemeral0"));
    assert_eq!(content(&base(&dir).join("swap_64")), pair("swap", ""));

    let disks = images.disks(ID).await.unwrap();
    let instance = dir.path().join("instances").join(ID.to_string());
    let names = ["disk.eph0", "disk.eph1", "disk.swap"].map(|name| instance.join(name));
    assert_eq!(disks.iter().map(|disk| disk.path.clone()).collect::<Vec<_>>(), names);
    let labels: Vec<_> = disks
        .iter()
        .map(|disk| {
            assert_eq!(disk.format, "qcow2");
            let told = info(&disk.path, "qcow2");
            assert_eq!(told["backing-filename-format"], "raw");
            let behind = PathBuf::from(told["backing-filename"].as_str().unwrap());
            assert_eq!(told["virtual-size"], behind.metadata().unwrap().len());
            content(&behind)
        })
        .collect();
    let expected = [pair("ext4", "ephemeral0"), pair("ext4", "ephemeral1"), pair("swap", "")];
    assert_eq!(labels, expected);
    assert_eq!(disks[0].path.metadata().unwrap().mode() & 0o777, 0o644);

    // A repeat keeps what the guest has written since.
    let before = disks[0].path.metadata().unwrap().ino();
    images.create_blank(ID, "disk.eph0", &linux(0)).await.unwrap();
    assert_eq!(disks[0].path.metadata().unwrap().ino(), before);
    let listed = ["console.log", "disk.eph0", "disk.eph1", "disk.info", "disk.swap"];
    assert_eq!(leftovers(&instance), listed);
}

#[tokio::test]
async fn the_file_system_is_the_requests_the_operators_or_the_systems() {
    let commands = ["windows=mkfs.ext2 -q -F -L %(fs_label)s %(target)s".to_owned()];
    for (default, virt_mkfs, os_type, format, expected) in [
        (None, &[][..], None, None, "vfat"),
        (None, &[][..], Some("linux"), Some("ext3"), "ext3"),
        (Some("ext2"), &[][..], Some("linux"), None, "ext2"),
        (Some("ext4"), &commands[..], Some("windows"), None, "ext2"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let images = images_with(&dir, |options| {
            options.file_systems = FileSystems::new(default, virt_mkfs).unwrap();
        });
        images.create_directory(ID).await.unwrap();
        images.create_blank(ID, "disk.local", &ephemeral(0, os_type, format)).await.unwrap();
        let bases = leftovers(&base(&dir));
        assert_eq!(bases.len(), 1);
        let (kind, label) = content(&base(&dir).join(&bases[0]));
        assert_eq!((kind.as_str(), label.to_lowercase().as_str()), (expected, "ephemeral0"));
    }
}

#[tokio::test]
async fn flat_disks_are_formatted_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let images = images_with(&dir, |options| {
        options.images_type = "raw".into();
        options.preallocate_space = true;
    });
    images.create_directory(ID).await.unwrap();
    let swap = images.create_blank(ID, "disk.swap", &Blank::Swap { size_mib: 8 }).await.unwrap();
    assert_eq!((swap.format.as_str(), content(&swap.path)), ("raw", pair("swap", "")));
    let found = swap.path.metadata().unwrap();
    assert_eq!(found.len(), 8 << 20);
    assert!(found.blocks() * 512 >= 8 << 20, "its space is taken");

    let images = images_with(&dir, |options| options.use_cow_images = false);
    let blank = ephemeral(0, None, Some("ext4"));
    let disk = images.create_blank(ID, "disk.eph0", &blank).await.unwrap();
    assert_eq!((disk.format.as_str(), content(&disk.path)), ("raw", pair("ext4", "ephemeral0")));
    assert!(disk.path.metadata().unwrap().blocks() * 512 < 256 << 20, "sparse");
    assert!(!base(&dir).exists());
}

#[tokio::test]
async fn many_at_once_make_one_base() {
    let dir = tempfile::tempdir().unwrap();
    let images = host_images(&dir);
    let one = |number: u128| {
        let images = &images;
        async move {
            let id = Uuid::from_u128(number);
            images.create_directory(id).await.unwrap();
            images.create_blank(id, "disk.swap", &Blank::Swap { size_mib: 16 }).await.unwrap()
        }
    };
    futures_util::future::join_all((1..9).map(one)).await;
    assert_eq!(leftovers(&base(&dir)), ["swap_16"]);
}

#[tokio::test]
async fn a_base_of_another_content_is_neither_used_nor_touched() {
    let dir = tempfile::tempdir().unwrap();
    let images = host_images(&dir);
    images.create_directory(ID).await.unwrap();
    std::fs::create_dir_all(base(&dir)).unwrap();
    // nova-compute's, which may hold any file system; and one whose mkfs was cut off.
    let ext4 = base(&dir).join("ephemeral_1_0706d66");
    std::fs::File::create(&ext4).unwrap().set_len(1 << 30).unwrap();
    assert!(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&ext4).status().unwrap().success());
    let disk = images.create_blank(ID, "disk.eph0", &ephemeral(0, None, None)).await.unwrap();
    let told = info(&disk.path, "qcow2");
    let behind = Path::new(told["backing-filename"].as_str().unwrap());
    assert_ne!(behind, ext4);
    assert_eq!(content(behind).0, "vfat");
    assert_eq!(content(&ext4).0, "ext4");

    let cut_off = base(&dir).join("swap_32");
    std::fs::File::create(&cut_off).unwrap().set_len(32 << 20).unwrap();
    let error = images.create_blank(ID, "disk.swap", &Blank::Swap { size_mib: 32 }).await;
    assert!(matches!(error, Err(ImageError::Io { path, .. }) if path == cut_off));
    // A draft that was left is nobody's.
    std::fs::write(base(&dir).join("swap_16.part"), "half").unwrap();
    images.create_blank(ID, "disk.swap", &Blank::Swap { size_mib: 16 }).await.unwrap();
    assert!(!leftovers(&base(&dir)).contains(&"swap_16.part".to_owned()));
}

#[tokio::test]
async fn a_tool_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (images_type, command) in
        [("qcow2", "false"), ("raw", "false"), ("raw", "truncate -s 0 %(target)s")]
    {
        let images = images_with(&dir, |options| {
            options.images_type = images_type.into();
            let command = format!("default={command}");
            options.file_systems = FileSystems::new(None, &[command]).unwrap();
        });
        images.create_directory(ID).await.unwrap();
        let made = images.create_blank(ID, "disk.eph0", &ephemeral(0, None, None)).await;
        assert!(made.is_err(), "{images_type} {command}");
    }
    assert_eq!(leftovers(&base(&dir)), Vec::<String>::new());
    let instance = dir.path().join("instances").join(ID.to_string());
    assert_eq!(leftovers(&instance), ["console.log"]);
}

#[tokio::test]
async fn hostile_requests_are_refused_by_the_store_and_its_fake() {
    let dir = tempfile::tempdir().unwrap();
    let (real, fake) = (host_images(&dir), FakeImages::default());
    for images in [&real as &dyn Images, &fake] {
        images.create_directory(ID).await.unwrap();
        for name in ["disk", "disk.config", "../disk.swap", "disk.eph0/../../x", "disk.eph"] {
            let made = images.create_blank(ID, name, &Blank::Swap { size_mib: 1 }).await;
            assert!(matches!(made, Err(ImageError::BadPath(_))), "{name}");
        }
        for format in ["ext4 -d /etc", "--help", "minix"] {
            let made =
                images.create_blank(ID, "disk.eph0", &ephemeral(0, None, Some(format))).await;
            assert!(matches!(made, Err(ImageError::Unsupported(_))), "{format}");
        }
        for size_mib in [0, u64::MAX] {
            assert!(images.create_blank(ID, "disk.swap", &Blank::Swap { size_mib }).await.is_err());
        }
        assert_eq!(images.disks(ID).await.unwrap(), []);
        let elsewhere = images.create_blank(OTHER, "disk.swap", &Blank::Swap { size_mib: 1 }).await;
        assert!(elsewhere.is_err(), "without a directory");
    }
}

#[tokio::test]
async fn a_base_that_backs_a_disk_stays_and_one_that_backs_none_goes() {
    let dir = tempfile::tempdir().unwrap();
    let images = host_images(&dir);
    for (id, size_mib) in [(ID, 16), (OTHER, 32)] {
        images.create_directory(id).await.unwrap();
        images.create_blank(id, "disk.swap", &Blank::Swap { size_mib }).await.unwrap();
    }
    images.remove_directory(OTHER).await.unwrap();
    std::fs::write(base(&dir).join("swap_8.part"), "left by a crash").unwrap();
    for name in leftovers(&base(&dir)) {
        let file = std::fs::File::options().write(true).open(base(&dir).join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(9 * 24 * 3600)).unwrap();
    }
    let by = Ageing {
        in_use: Default::default(),
        asked_at: SystemTime::now(),
        remove: true,
        original_age: Duration::from_secs(24 * 3600),
        resized_age: Duration::from_secs(3600),
    };
    let aged = images.age_cache(&by).await.unwrap();
    assert_eq!(aged.removed, ["swap_32", "swap_8.part"].map(|name| base(&dir).join(name)));
    assert_eq!(leftovers(&base(&dir)), ["swap_16"]);
}
