//! Rescues, rebuilds and unshelved disks over real images: what is added goes, and what was there stays.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hypernova::images::store::HostImages;
use hypernova::images::{Blank, CachedImage, Disk, Images, Remake, RescueFiles};
use hypernova::model::context::RequestContext;
use uuid::Uuid;

use crate::support::{host_images, image, info, leftovers, pattern, qemu_img, silent};

const ID: Uuid = Uuid::from_u128(0x4e5c);

struct Host {
    dir: tempfile::TempDir,
    images: HostImages,
}

impl Host {
    /// One whose instance has a root disk and two blank ones.
    async fn new() -> (Self, CachedImage, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let host = Self { images: host_images(&dir), dir };
        let base = host.cached("base", &pattern(1 << 20)).await;
        host.images.create_directory(ID).await.unwrap();
        let root = host.images.create_root(ID, &base, 1).await.unwrap();
        for (name, blank) in [("disk.swap", swap(1)), ("disk.local", swap(2))] {
            host.images.create_blank(ID, name, &blank).await.unwrap();
        }
        (host, base, root)
    }

    async fn cached(&self, name: &str, content: &[u8]) -> CachedImage {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let image = image(&path, "raw");
        self.images.cache(&RequestContext::admin(), &image, silent()).await.unwrap()
    }

    fn instance(&self) -> PathBuf {
        self.dir.path().join("instances").join(ID.to_string())
    }
}

/// What is quickest to make.
fn swap(size_mib: u64) -> Blank {
    Blank::Swap { size_mib }
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

/// What a guest would read.
fn content(disk: &Path, format: &str, at: &Path) -> Vec<u8> {
    qemu_img(&["convert", "-f", format, "-O", "raw"], &[disk, at]);
    std::fs::read(at).unwrap()
}

#[tokio::test]
async fn a_rescue_adds_files_and_takes_them_away_again() {
    let (host, base, root) = Host::new().await;
    let before = leftovers(&host.instance());
    let rescue = host.images.create_rescue_root(ID, &base).await.unwrap();
    assert_eq!(rescue.path, host.instance().join("disk.rescue"));
    assert_eq!(info(&rescue.path, "qcow2")["virtual-size"], 1u64 << 20, "as large as its image");
    let first = inode(&rescue.path);
    assert_eq!(host.images.create_rescue_root(ID, &base).await.unwrap(), rescue);
    assert_eq!(inode(&rescue.path), first);
    host.images.create_boot_file(ID, &base, "kernel.rescue").await.unwrap();
    let files = Default::default();
    let drive = host.images.create_rescue_drive(ID, &files).await.unwrap();
    assert_eq!(drive.path, host.instance().join("disk.config.rescue"));
    assert!(host.images.disks(ID).await.unwrap().contains(&rescue));

    for _ in 0..2 {
        host.images.remove_rescue(ID).await.unwrap();
        assert_eq!(leftovers(&host.instance()), before);
    }
    let left = host.images.disks(ID).await.unwrap();
    assert!(left.contains(&root) && !left.contains(&rescue));
    host.images.remove_rescue(Uuid::from_u128(1)).await.unwrap();
}

#[tokio::test]
async fn a_definition_is_kept_as_it_is() {
    let (host, ..) = Host::new().await;
    assert_eq!(host.images.kept_definition(ID).await.unwrap(), None);
    for xml in ["<domain>ü</domain>\n", "<domain/>"] {
        host.images.keep_definition(ID, xml).await.unwrap();
        assert_eq!(host.images.kept_definition(ID).await.unwrap().as_deref(), Some(xml));
    }
    let path = host.instance().join("unrescue.xml");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    for _ in 0..2 {
        host.images.forget_definition(ID).await.unwrap();
        assert!(!path.exists());
    }
    std::fs::write(&path, vec![b' '; 5 << 20]).unwrap();
    assert!(host.images.kept_definition(ID).await.is_err(), "no definition is as long as that");
}

#[tokio::test]
async fn a_rebuild_clears_all_but_what_is_to_be_kept() {
    let (host, ..) = Host::new().await;
    let kept = host.instance().join("disk.local");
    let before = inode(&kept);
    host.images.keep_definition(ID, "<domain/>").await.unwrap();
    std::fs::create_dir(host.instance().join("local")).unwrap();
    for _ in 0..2 {
        host.images.clear_directory(ID, &["disk.local".to_owned()]).await.unwrap();
        assert_eq!(leftovers(&host.instance()), ["disk.info", "disk.local"]);
        let disks = host.images.disks(ID).await.unwrap();
        assert_eq!(disks, [Disk { path: kept.clone(), format: "qcow2".to_owned() }]);
    }
    // What is made anew finds it.
    host.images.create_blank(ID, "disk.local", &swap(2)).await.unwrap();
    assert_eq!(inode(&kept), before);
    host.images.clear_directory(ID, &[]).await.unwrap();
    assert_eq!(host.images.disks(ID).await.unwrap(), []);
    host.images.clear_directory(Uuid::from_u128(1), &[]).await.unwrap();
}

#[tokio::test]
async fn an_unshelved_disk_stands_on_the_first_base_and_has_the_image_s_content() {
    let (host, base, root) = Host::new().await;
    let mut changed = pattern(1 << 20);
    changed[300_000..300_100].fill(7);
    let shelved = host.cached("shelved", &changed).await;
    let at = host.dir.path().join("content");
    for on in [Some(&base), None] {
        std::fs::remove_file(&root.path).unwrap();
        // What a make that was cut off has left.
        std::fs::write(host.instance().join("disk.part"), "half").unwrap();
        let made = host.images.create_root_on(ID, &shelved, on, 1).await.unwrap();
        assert_eq!(made, root);
        let told = info(&root.path, "qcow2");
        assert_eq!(told["virtual-size"], 1u64 << 30);
        let expected = on.map(|base| base.path.to_str().unwrap());
        assert_eq!(told["backing-filename"].as_str(), expected);
        let seen = content(&root.path, "qcow2", &at);
        assert!(seen[..changed.len()] == changed && seen[changed.len()..].iter().all(|b| *b == 0));
        let before = inode(&root.path);
        host.images.create_root_on(ID, &shelved, on, 1).await.unwrap();
        assert_eq!(inode(&root.path), before, "a repeat keeps it");
    }
    assert!(!host.instance().join("disk.part").exists());
}
