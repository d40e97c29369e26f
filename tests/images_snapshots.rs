//! Images of real disks, by `qemu-img`: every format, with and without a copy between.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use hypernova::images::qemu_img::QemuImg;
use hypernova::images::snapshots::host::HostSnapshots;
use hypernova::images::snapshots::{SnapshotFormat, Snapshots};
use hypernova::images::{Disk, ImageError};
use serde_json::Value;
use uuid::Uuid;

const SNAPSHOT: Uuid = Uuid::from_u128(0x5a);
const MIB: u64 = 1 << 20;

fn qemu_img(args: &[&str]) -> String {
    let done = Command::new("qemu-img").args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn info(path: &Path, format: &str) -> Value {
    serde_json::from_str(&qemu_img(&["info", "-f", format, "--output=json", text(path)])).unwrap()
}

struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn snapshots(&self, compress: bool) -> HostSnapshots {
        let directory = self.path("instances/snapshots");
        HostSnapshots::new(directory, compress, QemuImg::default()).unwrap()
    }

    /// A guest's disk: an overlay with something of its own. `named`: its base's format is.
    fn overlay(&self, named: bool) -> Disk {
        let (base, disk) = (self.path("base"), self.path("disk"));
        let content: Vec<u8> = (0..4 * MIB).map(|n| (n / 512 % 250) as u8 + 1).collect();
        std::fs::write(&base, content).unwrap();
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            text(&base),
            "-F",
            "raw",
            text(&disk),
            "16M",
        ]);
        if !named {
            // Made before disks said it: the header's extension becomes one that nobody knows.
            let mut content = std::fs::read(&disk).unwrap();
            let backing_format = [0xe2, 0x79, 0x2a, 0xca];
            let at = content.windows(4).position(|four| four == backing_format).unwrap();
            content[at..at + 4].fill(0x11);
            std::fs::write(&disk, content).unwrap();
        }
        qemu_io(&disk, "qcow2", "write -P 7 1M 2M");
        Disk { path: disk, format: "qcow2".into() }
    }

    fn raw(&self) -> Disk {
        let path = self.path("disk");
        // A guest may write whatever it likes to its disk: here, the header of another format.
        let mut content = b"QFI\xfb\0\0\0\x03".to_vec();
        content.resize(8 * MIB as usize, 9);
        std::fs::write(&path, content).unwrap();
        Disk { path, format: "raw".into() }
    }

    fn left(&self) -> usize {
        let directory = self.path("instances/snapshots");
        directory.read_dir().map_or(0, Iterator::count)
    }
}

fn qemu_io(path: &Path, format: &str, command: &str) {
    let done = Command::new("qemu-io").args(["-f", format, "-c", command, text(path)]).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

fn same(one: (&Path, &str), two: (&Path, &str)) {
    qemu_img(&["compare", "-f", one.1, "-F", two.1, text(one.0), text(two.0)]);
}

#[tokio::test]
async fn an_image_is_the_whole_disk_in_every_format() {
    use SnapshotFormat::{Qcow2, Raw, Vdi, Vmdk};
    for make in [|world: &World| world.overlay(true), World::raw] {
        let world = World::new();
        let (disk, snapshots) = (make(&world), world.snapshots(false));
        for format in [Raw, Qcow2, Vmdk, Vdi] {
            snapshots.begin(SNAPSHOT, &disk, false).await.unwrap();
            let furthest = AtomicU64::new(0);
            let progress = |done, _| furthest.store(done, Ordering::Relaxed);
            let image = snapshots.extract(SNAPSHOT, &disk, format, &progress).await.unwrap();
            let found = info(&image, format.as_str());
            assert!(found["backing-filename"].is_null());
            assert!(furthest.load(Ordering::Relaxed) > 0);
            same((&image, format.as_str()), (&disk.path, &disk.format));
            // A repeat finds it.
            let again = snapshots.extract(SNAPSHOT, &disk, format, &progress).await.unwrap();
            assert_eq!(again, image);
            for _ in 0..2 {
                snapshots.remove(SNAPSHOT).await.unwrap();
            }
            assert_eq!(world.left(), 0);
        }
    }
}

#[tokio::test]
async fn a_delta_is_as_large_as_the_disk_with_the_same_base_behind_it() {
    for named in [true, false] {
        let world = World::new();
        let (disk, snapshots) = (world.overlay(named), world.snapshots(false));
        snapshots.begin(SNAPSHOT, &disk, true).await.unwrap();
        let delta = snapshots.create_delta(SNAPSHOT, &disk).await.unwrap();
        assert_eq!(delta.path, snapshots.delta(SNAPSHOT));
        let found = info(&delta.path, "qcow2");
        assert_eq!(found["virtual-size"], 16 * MIB);
        assert_eq!(found["backing-filename"], text(&world.path("base")));
        assert_eq!(found["backing-filename-format"], "raw");
        // QEMU's user gets through, and nobody else sees what is there.
        let directory = delta.path.parent().unwrap();
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o701);
        // What the hypervisor would copy.
        qemu_io(&delta.path, "qcow2", "write -P 7 1M 2M");
        let format = SnapshotFormat::Qcow2;
        let image = snapshots.extract(SNAPSHOT, &delta, format, &|_, _| ()).await.unwrap();
        same((&image, "qcow2"), (&disk.path, "qcow2"));
        assert!(!delta.path.exists(), "its space may be needed");
        // Another attempt begins with nothing.
        snapshots.begin(SNAPSHOT, &disk, true).await.unwrap();
        assert_eq!(directory.read_dir().unwrap().count(), 0);
        snapshots.remove(SNAPSHOT).await.unwrap();
    }
}

#[tokio::test]
async fn a_raw_disk_has_no_base_whatever_it_looks_like() {
    let world = World::new();
    let (disk, snapshots) = (world.raw(), world.snapshots(false));
    snapshots.begin(SNAPSHOT, &disk, true).await.unwrap();
    let delta = snapshots.create_delta(SNAPSHOT, &disk).await.unwrap();
    let found = info(&delta.path, "qcow2");
    assert_eq!(found["virtual-size"], 8 * MIB);
    assert!(found["backing-filename"].is_null());
}

#[tokio::test]
async fn compression_makes_it_smaller_and_the_same() {
    let world = World::new();
    let disk = world.overlay(true);
    let mut sizes = Vec::new();
    for compress in [false, true] {
        let snapshots = world.snapshots(compress);
        snapshots.begin(SNAPSHOT, &disk, false).await.unwrap();
        let format = SnapshotFormat::Qcow2;
        let image = snapshots.extract(SNAPSHOT, &disk, format, &|_, _| ()).await.unwrap();
        same((&image, "qcow2"), (&disk.path, "qcow2"));
        sizes.push(image.metadata().unwrap().len());
    }
    assert!(sizes[1] < sizes[0] / 4, "{sizes:?}");
}

#[tokio::test]
async fn a_disk_that_is_not_there_is_said_to_be_missing_and_leaves_nothing() {
    let world = World::new();
    let snapshots = world.snapshots(false);
    let disk = Disk { path: world.path("gone"), format: "qcow2".into() };
    let error = snapshots.begin(SNAPSHOT, &disk, true).await.unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error}");
    snapshots.remove(SNAPSHOT).await.unwrap();
    assert_eq!(world.left(), 0);
}
