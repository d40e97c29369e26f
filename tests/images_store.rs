//! The image store against the real tools: `qemu-img`, `genisoimage`, mtools, a web server of our
//! own, and (as root) a small tmpfs for the full disk.

#![allow(clippy::unwrap_used)]

mod images_ageing;
mod images_blank;
mod images_remake;
#[path = "images_support/mod.rs"]
mod support;

use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hypernova::images::config_disk::ConfigDriveFormat;
use hypernova::images::fake::FakeImages;
use hypernova::images::source::{FilePolicy, StandaloneSource};
use hypernova::images::store::{HostImages, StoreOptions};
use hypernova::images::{CachedImage, ConfigDriveFiles, ImageError, ImageRequest, Images};
use hypernova::model::class::Class;
use hypernova::model::context::RequestContext;
use support::{
    Behaviour, Server, Tmpfs, host_images, image, info, leftovers, options, pattern, qemu_img,
    sha256, silent, with_sha256,
};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0xa000_0000_0000_0000_0000_0000_0000_0001);

#[tokio::test]
async fn a_qcow2_image_becomes_raw_and_backs_an_overlay_of_the_flavors_size() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (dir.path().join("raw"), dir.path().join("qcow2"));
    std::fs::write(&raw, pattern(3 << 20)).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&raw, &qcow2]);
    let images = host_images(&dir);
    let base =
        images.cache(&RequestContext::admin(), &image(&qcow2, "qcow2"), silent()).await.unwrap();
    assert_eq!((base.format.as_str(), base.virtual_size_bytes), ("raw", 3 << 20));
    assert_eq!(std::fs::read(&base.path).unwrap(), pattern(3 << 20));
    assert!(base.path.starts_with(dir.path().join("instances/_base")));

    images.create_directory(ID).await.unwrap();
    let disk = images.create_root(ID, &base, 1).await.unwrap();
    let told = info(&disk.path, "qcow2");
    assert_eq!(told["virtual-size"], 1u64 << 30);
    assert_eq!(told["backing-filename"], base.path.to_str().unwrap());
    assert_eq!(told["backing-filename-format"], "raw");
    let instance = dir.path().join("instances").join(ID.to_string());
    assert_eq!(
        std::fs::read_to_string(instance.join("disk.info")).unwrap(),
        format!("{{\"{}\": \"qcow2\"}}\n", disk.path.display())
    );
    assert_eq!(images.disks(ID).await.unwrap(), std::slice::from_ref(&disk));
    assert_eq!(images.console_log(ID), instance.join("console.log"));
    let names = ["console.log", "disk", "disk.info"];
    assert_eq!(leftovers(&instance), names);

    // A repeat keeps what the guest has written since.
    let before = std::fs::metadata(&disk.path).unwrap().ino();
    assert_eq!(images.create_root(ID, &base, 1).await.unwrap(), disk);
    assert_eq!(std::fs::metadata(&disk.path).unwrap().ino(), before);
}

#[tokio::test]
async fn a_long_conversion_tells_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, source) = (dir.path().join("raw"), dir.path().join("image"));
    std::fs::write(&raw, pattern(64 << 20)).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&raw, &source]);
    let length = std::fs::metadata(&source).unwrap().len();
    let told = std::sync::Mutex::new(Vec::new());
    let progress =
        |done: u64, total: Option<u64>| told.lock().unwrap().push((done, total.unwrap()));
    host_images(&dir)
        .cache(&RequestContext::admin(), &image(&source, "qcow2"), &progress)
        .await
        .unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.contains(&(length, length)), "the fetch");
    let converting: Vec<_> = told.iter().filter(|(_, total)| *total == 64 << 20).collect();
    assert!(converting.len() > 2, "the conversion: {converting:?}");
    assert_eq!(converting.last().unwrap().0, 64 << 20);
}

#[tokio::test]
async fn without_force_raw_images_qcow2_stays_and_the_overlay_shares_its_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    qemu_img(
        &["create", "-q", "-f", "qcow2", "-o", "cluster_size=131072"],
        &[&source, Path::new("64M")],
    );
    let images = host_images_with(&dir, |o| o.force_raw_images = false);
    let base =
        images.cache(&RequestContext::admin(), &image(&source, "qcow2"), silent()).await.unwrap();
    assert_eq!((base.format.as_str(), base.virtual_size_bytes), ("qcow2", 64 << 20));
    images.create_directory(ID).await.unwrap();
    let disk = images.create_root(ID, &base, 0).await.unwrap();
    let told = info(&disk.path, "qcow2");
    assert_eq!(told["virtual-size"], 64u64 << 20);
    assert_eq!(told["cluster-size"], 131_072);
    assert_eq!(told["backing-filename-format"], "qcow2");
}

#[tokio::test]
async fn flat_disks_are_copies_with_nothing_behind_them() {
    for (force_raw, expected) in [(true, "raw"), (false, "qcow2")] {
        let dir = tempfile::tempdir().unwrap();
        let (raw, source) = (dir.path().join("raw"), dir.path().join("image"));
        std::fs::write(&raw, pattern(2 << 20)).unwrap();
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&raw, &source]);
        let images = host_images_with(&dir, |o| {
            o.images_type = "flat".into();
            o.force_raw_images = force_raw;
        });
        let base = images
            .cache(&RequestContext::admin(), &image(&source, "qcow2"), silent())
            .await
            .unwrap();
        images.create_directory(ID).await.unwrap();
        let disk = images.create_root(ID, &base, 1).await.unwrap();
        assert_eq!(disk.format, expected);
        let told = info(&disk.path, expected);
        assert_eq!(told["virtual-size"], 1u64 << 30);
        assert!(told["backing-filename"].is_null());
        assert!(std::fs::metadata(&disk.path).unwrap().blocks() * 512 < 64 << 20, "sparse");
        // A shorter image counts as followed by zeros.
        qemu_img(&["compare", "-q", "-f", "raw", "-F", expected], &[&raw, &disk.path]);
        if force_raw {
            let mut start = vec![0; 2 << 20];
            std::fs::File::open(&disk.path).unwrap().read_exact_at(&mut start, 0).unwrap();
            assert_eq!(start, pattern(2 << 20));
        }
    }
}

#[tokio::test]
async fn preallocation_takes_the_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    std::fs::write(&source, pattern(1 << 20)).unwrap();
    let images = host_images_with(&dir, |o| {
        o.images_type = "raw".into();
        o.preallocate_space = true;
    });
    let base =
        images.cache(&RequestContext::admin(), &image(&source, "raw"), silent()).await.unwrap();
    images.create_directory(ID).await.unwrap();
    let disk = images.create_root(ID, &base, 1).await.unwrap();
    assert!(std::fs::metadata(&disk.path).unwrap().blocks() * 512 >= 1 << 30);
}

#[tokio::test]
async fn every_format_that_we_take_is_converted_faithfully() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    // As large as VHD's geometry can say exactly.
    std::fs::write(&raw, pattern(4 << 20)).unwrap();
    let images = host_images(&dir);
    for (name, qemu, option) in [
        ("qcow2", "qcow2", "compat=0.10"),
        ("qcow2", "qcow2", "compat=1.1,lazy_refcounts=on"),
        ("qcow2", "qcow2", "compression_type=zstd"),
        ("vmdk", "vmdk", "subformat=monolithicSparse"),
        ("vmdk", "vmdk", "subformat=streamOptimized"),
        ("vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("vhd", "vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "vhdx", "subformat=dynamic"),
        ("vdi", "vdi", "static=off"),
    ] {
        let source = dir.path().join(format!("{name}-{option}"));
        qemu_img(&["convert", "-f", "raw", "-O", qemu, "-o", option], &[&raw, &source]);
        let base = images.cache(&RequestContext::admin(), &image(&source, name), silent()).await;
        let base = base.unwrap_or_else(|e| panic!("{name} {option}: {e}"));
        assert_eq!(base.format, "raw", "{name} {option}");
        let mut bytes = std::fs::read(&base.path).unwrap();
        bytes.truncate(4 << 20);
        assert!(bytes == pattern(4 << 20), "{name} {option}");
    }
    let cache = leftovers(&dir.path().join("instances/_base"));
    assert!(cache.iter().all(|name| name.len() == 40), "{cache:?}");
}

/// Names and writes every hostile image that this test knows.
fn hostile_images(dir: &Path) -> Vec<(&'static str, PathBuf, &'static str)> {
    let path = |name: &str| dir.join(name);
    let secret = path("secret");
    std::fs::write(&secret, pattern(1 << 20)).unwrap();
    let patch = |path: &Path, changes: &[(u64, &[u8])]| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        for (at, bytes) in changes {
            file.write_all_at(bytes, *at).unwrap();
        }
    };
    let mut all = Vec::new();
    let mut add = |why, path, format| all.push((why, path, format));

    let backing = path("backing.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b"], &[&secret, &backing]);
    add("backing file", backing, "qcow2");

    let data = path("data.qcow2");
    let option = format!("data_file={}", path("outside").display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option], &[&data, Path::new("1M")]);
    add("data file", data, "qcow2");

    let feature = path("feature.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&feature, Path::new("1M")]);
    patch(&feature, &[(72, &(1u64 << 40).to_be_bytes())]);
    add("unknown feature", feature, "qcow2");

    let full = path("full.qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&secret, &full]);
    let half = path("half.qcow2");
    let bytes = std::fs::read(&full).unwrap();
    std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    add("truncated", half, "qcow2");
    add("declared raw, is qcow2", full.clone(), "raw");
    add("declared vmdk, is qcow2", full, "vmdk");

    let text = path("text.vmdk");
    std::fs::write(
        &text,
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 8 FLAT \"/etc/passwd\" 0\n",
    )
    .unwrap();
    add("vmdk text that names /etc/passwd", text.clone(), "vmdk");
    add("vmdk text declared raw", text, "raw");

    let extent = path("extent.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk"], &[&extent, Path::new("1M")]);
    let bytes = std::fs::read(&extent).unwrap();
    let at = bytes.windows(9).position(|w| w == b"RW 2048 S").unwrap() as u64;
    patch(&extent, &[(at, b"RW 2048 FLAT \"/etc/passwd\" 0\n#")]);
    add("sparse vmdk whose descriptor names /etc/passwd", extent, "vmdk");

    let flat = path("flat.vmdk");
    let subformat = "subformat=monolithicFlat";
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", subformat], &[&flat, Path::new("1M")]);
    add("vmdk with a flat extent", flat, "vmdk");

    let luks = path("luks");
    std::fs::write(&luks, [&b"LUKS\xba\xbe\0\x01"[..], &[0; 4096]].concat()).unwrap();
    add("luks", luks.clone(), "luks");
    add("luks declared raw", luks, "raw");

    let qed = path("qed");
    std::fs::write(&qed, [&b"QED\0"[..], &[0; 4096]].concat()).unwrap();
    add("qed", qed, "raw");

    // Raw inside, another format's header: whoever probes the converted file is misled.
    let inner = path("inner");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&inner, Path::new("1M")]);
    let nested = path("nested.qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&inner, &nested]);
    add("qcow2 inside qcow2", nested, "qcow2");

    let huge = path("huge.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&huge, Path::new("1M")]);
    patch(&huge, &[(24, &(1u64 << 62).to_be_bytes())]);
    add("virtual size beyond its tables", huge, "qcow2");
    all
}

#[tokio::test]
async fn hostile_images_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = tempfile::tempdir().unwrap();
    for force_raw in [true, false] {
        let images = host_images_with(&dir, |o| o.force_raw_images = force_raw);
        for (why, path, format) in hostile_images(hostile.path()) {
            let error =
                match images.cache(&RequestContext::admin(), &image(&path, format), silent()).await
                {
                    // Only the conversion shows what is inside.
                    Ok(_) if why == "qcow2 inside qcow2" && !force_raw => continue,
                    other => other.expect_err(why),
                };
            assert!(matches!(error, ImageError::Unacceptable { .. }), "{why}: {error:?}");
            assert_eq!(error.class(), Class::Refused, "{why}");
        }
        let expected = usize::from(!force_raw);
        let cache = leftovers(&dir.path().join("instances/_base"));
        assert_eq!(cache.len(), expected, "{cache:?}");
    }
    assert_eq!(leftovers(&dir.path().join("instances")), ["_base", "locks"]);
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    std::fs::write(&source, pattern(1 << 20)).unwrap();
    let images = host_images(&dir);
    let mut wrong = with_sha256(image(&source, "raw"), &pattern(1 << 20));
    wrong.checksums[0].value = sha256(b"something else");
    let error = images.cache(&RequestContext::admin(), &wrong, silent()).await.unwrap_err();
    assert!(matches!(error, ImageError::WrongChecksum { .. }), "{error:?}");
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
    let right = with_sha256(image(&source, "raw"), &pattern(1 << 20));
    images.cache(&RequestContext::admin(), &right, silent()).await.unwrap();
}

#[tokio::test]
async fn a_declared_size_must_be_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    std::fs::write(&source, pattern(1 << 20)).unwrap();
    let images = host_images_with(&dir, |o| o.patience.attempts = 2);
    let sized = |size| ImageRequest { size: Some(size), ..image(&source, "raw") };
    let error =
        images.cache(&RequestContext::admin(), &sized((1 << 20) - 1), silent()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unacceptable { .. }), "{error:?}");
    let error =
        images.cache(&RequestContext::admin(), &sized((1 << 20) + 1), silent()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
    images.cache(&RequestContext::admin(), &sized(1 << 20), silent()).await.unwrap();
}

#[tokio::test]
async fn an_image_above_the_flavor_is_refused_before_the_directory_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&source, Path::new("3G")]);
    let images = host_images(&dir);
    let base =
        images.cache(&RequestContext::admin(), &image(&source, "qcow2"), silent()).await.unwrap();
    images.create_directory(ID).await.unwrap();
    let error = images.create_root(ID, &base, 2).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");
    // What we were handed may be a lie; the file isn't.
    let lie = CachedImage { virtual_size_bytes: 1, ..base };
    let error = images.create_root(ID, &lie, 2).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");
    let instance = dir.path().join("instances").join(ID.to_string());
    assert_eq!(leftovers(&instance), ["console.log"]);
}

#[tokio::test]
async fn a_base_that_is_missing_or_elsewhere_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let images = host_images(&dir);
    images.create_directory(ID).await.unwrap();
    let base = |path: PathBuf| CachedImage { path, format: "raw".into(), virtual_size_bytes: 1 };
    let missing = base(dir.path().join("instances/_base/x"));
    let error = images.create_root(ID, &missing, 1).await.unwrap_err();
    assert!(matches!(error, ImageError::BaseMissing { .. }), "{error:?}");
    for path in ["/etc/passwd", "/proc/self/mem"] {
        let error = images.create_root(ID, &base(path.into()), 1).await.unwrap_err();
        assert!(matches!(error, ImageError::BadPath(_)), "{error:?}");
    }
    let climbing = base(dir.path().join("instances/_base/../../secret"));
    assert!(matches!(images.create_root(ID, &climbing, 1).await, Err(ImageError::BadPath(_))));
    let instance = dir.path().join("instances").join(ID.to_string());
    assert_eq!(leftovers(&instance), ["console.log"]);
}

#[tokio::test]
async fn ten_builds_at_once_fetch_an_image_once() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(4 << 20);
    let server = Server::start(content.clone(), Behaviour::default());
    let images = Arc::new(host_images(&dir));
    let request = with_sha256(image_at(&server.url("/image"), "raw"), &content);
    let builds: Vec<_> = (0..10)
        .map(|_| {
            let (images, request) = (Arc::clone(&images), request.clone());
            tokio::spawn(
                async move { images.cache(&RequestContext::admin(), &request, silent()).await },
            )
        })
        .collect();
    for build in builds {
        build.await.unwrap().unwrap();
    }
    assert_eq!(server.requests(), 1);
}

/// The test starts itself twice; with these set it is one of the two processes.
const CHILD_INSTANCES: &str = "IMAGES_TEST_INSTANCES";
const CHILD_URL: &str = "IMAGES_TEST_URL";

#[tokio::test]
async fn two_processes_fetch_an_image_once() {
    if let (Some(path), Ok(url)) = (std::env::var_os(CHILD_INSTANCES), std::env::var(CHILD_URL)) {
        let source = StandaloneSource::new(FilePolicy::Any, Duration::from_secs(30));
        let images = HostImages::new(StoreOptions::new(path), Arc::new(source)).unwrap();
        images.cache(&RequestContext::admin(), &image_at(&url, "raw"), silent()).await.unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let slow = Behaviour { pause: Some(Duration::from_millis(20)), ..Behaviour::default() };
    let server = Server::start(pattern(4 << 20), slow);
    let children: Vec<_> = (0..2)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "two_processes_fetch_an_image_once"])
                .env(CHILD_INSTANCES, dir.path().join("instances"))
                .env(CHILD_URL, server.url("/image"))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(server.requests(), 1);
    assert!(dir.path().join("instances/_base").is_dir(), "the processes did cache it");
}

#[tokio::test]
async fn the_lock_is_where_nova_has_it_and_excludes_a_python_holder() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    std::fs::write(&source, pattern(4096)).unwrap();
    let images = host_images(&dir);
    let request = image(&source, "raw");
    let lock =
        dir.path().join("instances/locks").join(format!("nova-{}", support::sha1(&request.id)));
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    // As fasteners does: fcntl.lockf on a file opened for appending.
    let script = "import fcntl,sys\nf=open(sys.argv[1],'a+')\nfcntl.lockf(f,fcntl.LOCK_EX)\n\
                  print('held',flush=True)\nsys.stdin.read()";
    let mut holder = Command::new("python3")
        .args(["-c", script])
        .arg(&lock)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(holder.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let short = Duration::from_millis(300);
    let waited =
        tokio::time::timeout(short, images.cache(&RequestContext::admin(), &request, silent()))
            .await;
    assert!(waited.is_err(), "the holder was ignored");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    images.cache(&RequestContext::admin(), &request, silent()).await.unwrap();
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(4 << 20);
    let breaks = Behaviour { break_after: Some(1 << 20), ..Behaviour::default() };
    let server = Server::start(content.clone(), breaks);
    let images = host_images_with(&dir, |o| o.patience.backoff = Duration::from_millis(1));
    let seen = AtomicU64::new(0);
    let progress = |done: u64, total: Option<u64>| {
        assert_eq!(total, Some(4 << 20));
        assert!(seen.fetch_max(done, Ordering::Relaxed) <= done, "went back");
    };
    // No checksum: the server's ETag proves that the pieces belong together.
    let base = images
        .cache(&RequestContext::admin(), &image_at(&server.url("/image"), "raw"), &progress)
        .await
        .unwrap();
    assert!(std::fs::read(&base.path).unwrap() == content);
    assert!(server.ranges().len() >= 3, "{:?}", server.ranges());
    assert!(server.sent() < 5 << 20, "fetched more than once: {}", server.sent());
    assert_eq!(seen.load(Ordering::Relaxed), 4 << 20);
}

#[tokio::test]
async fn content_that_changes_meanwhile_is_fetched_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(2 << 20);
    let breaks = Behaviour { break_after: Some(1 << 20), change_tag: true, ..Behaviour::default() };
    let server = Server::start(content.clone(), breaks);
    let images = host_images_with(&dir, |o| {
        o.patience.backoff = Duration::from_millis(1);
        o.patience.attempts = 2;
    });
    let error = images
        .cache(&RequestContext::admin(), &image_at(&server.url("/image"), "raw"), silent())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
}

#[tokio::test]
async fn what_a_crash_left_is_resumed_when_a_checksum_proves_it_and_dropped_when_not() {
    let content = pattern(4 << 20);
    for (left, resumes) in [(content[..3 << 20].to_vec(), true), (vec![9; 3 << 20], false)] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(content.clone(), Behaviour::default());
        let images = host_images(&dir);
        let request = with_sha256(image_at(&server.url("/image"), "raw"), &content);
        let base = dir.path().join("instances/_base");
        std::fs::create_dir_all(&base).unwrap();
        let name = support::sha1(&request.id);
        std::fs::write(base.join(format!("{name}.part")), left).unwrap();
        let cached = images.cache(&RequestContext::admin(), &request, silent()).await.unwrap();
        assert!(std::fs::read(&cached.path).unwrap() == content);
        assert_eq!(leftovers(&base), [name]);
        assert_eq!(server.sent() <= 1 << 20, resumes, "sent {}", server.sent());
    }
}

#[tokio::test]
async fn a_cached_image_is_not_served_for_another_checksum_or_place() {
    let dir = tempfile::tempdir().unwrap();
    let (content, other) = (pattern(1 << 20), pattern(2 << 20));
    let server = Server::start(content.clone(), Behaviour::default());
    let images = host_images(&dir);
    let request = image_at(&server.url("/a"), "raw");
    let sound = with_sha256(request.clone(), &content);
    let cached = images.cache(&RequestContext::admin(), &sound, silent()).await.unwrap();
    images.cache(&RequestContext::admin(), &sound, silent()).await.unwrap();
    let elsewhere = ImageRequest { url: Some(server.url("/b")), ..sound.clone() };
    images
        .cache(&RequestContext::admin(), &elsewhere, silent())
        .await
        .expect("the checksum says that it is the same");

    let error = images
        .cache(&RequestContext::admin(), &with_sha256(request.clone(), &other), silent())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::WrongChecksum { .. }), "{error:?}");
    let unproved = ImageRequest { url: Some(server.url("/b")), ..request.clone() };
    let error = images.cache(&RequestContext::admin(), &unproved, silent()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unacceptable { .. }), "{error:?}");
    assert!(std::fs::read(&cached.path).unwrap() == content, "it may back guests");

    // What nova-compute left there says nothing of its source.
    std::fs::remove_file(&cached.path).unwrap();
    std::fs::write(&cached.path, &other).unwrap();
    images
        .cache(&RequestContext::admin(), &sound, silent())
        .await
        .expect("served by id, as nova does");
}

#[tokio::test]
async fn a_fetch_that_is_dropped_leaves_nothing_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(1 << 20);
    let stalls = Behaviour { stall_after: Some(1000), ..Behaviour::default() };
    let silent_server = Server::start(content.clone(), stalls);
    let images = host_images(&dir);
    let request = image_at(&silent_server.url("/a"), "raw");
    let context = RequestContext::admin();
    let fetch = images.cache(&context, &request, silent());
    tokio::time::timeout(Duration::from_millis(300), fetch).await.expect_err("it stalls");
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
    let server = Server::start(content.clone(), Behaviour::default());
    let again = ImageRequest { url: Some(server.url("/a")), ..request };
    let cached = images.cache(&RequestContext::admin(), &again, silent()).await.unwrap();
    assert!(std::fs::read(&cached.path).unwrap() == content);
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_a_slow_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(1 << 20);
    let idle = Duration::from_millis(400);
    let images = |attempts| {
        let mut options = options(&dir);
        options.patience.idle = idle;
        options.patience.attempts = attempts;
        options.patience.backoff = Duration::from_millis(1);
        HostImages::new(options, Arc::new(StandaloneSource::new(FilePolicy::Any, idle))).unwrap()
    };
    let stalls = Behaviour { stall_after: Some(1000), ..Behaviour::default() };
    let silent_server = Server::start(content.clone(), stalls);
    let error = images(2)
        .cache(&RequestContext::admin(), &image_at(&silent_server.url("/a"), "raw"), silent())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Reschedule);
    assert_eq!(silent_server.requests(), 2);
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
    // 16 pieces, 50 ms apart: slower in all than the time it may be silent.
    let slow = Behaviour { pause: Some(Duration::from_millis(50)), ..Behaviour::default() };
    let slow_server = Server::start(content, slow);
    images(1)
        .cache(&RequestContext::admin(), &image_at(&slow_server.url("/b"), "raw"), silent())
        .await
        .unwrap();
}

#[tokio::test]
async fn absent_and_unreachable_urls_are_told_apart_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(vec![], Behaviour::default());
    let images = host_images_with(&dir, |o| {
        o.patience.attempts = 2;
        o.patience.backoff = Duration::from_millis(1);
    });
    let error = images
        .cache(&RequestContext::admin(), &image_at(&server.url("/404"), "raw"), silent())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error:?}");
    assert_eq!(server.requests(), 1);
    for path in ["/500", "/redirect-to-file", "/redirect-loop"] {
        let error = images
            .cache(&RequestContext::admin(), &image_at(&server.url(path), "raw"), silent())
            .await
            .unwrap_err();
        let expected = if path == "/500" { Class::Reschedule } else { Class::Refused };
        assert_eq!(error.class(), expected, "{path}: {error:?}");
    }
    // A port that nobody listens on.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://user:hunter2@{nobody}/image");
    let request = ImageRequest { id: "nobody".into(), ..image_at(&url, "raw") };
    let error = images.cache(&RequestContext::admin(), &request, silent()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let encrypted = server.url("/image").replace("http:", "https:");
    let error = images
        .cache(&RequestContext::admin(), &image_at(&encrypted, "raw"), silent())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
    images
        .cache(&RequestContext::admin(), &image_at(&server.url("/redirect"), "raw"), silent())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_full_disk_is_said_so_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let small = Tmpfs::mount(&dir.path().join("instances"), "8m");
    let raw = dir.path().join("raw");
    std::fs::write(&raw, pattern(16 << 20)).unwrap();
    let zeros = dir.path().join("compressed");
    // Compressed it fits, as raw it doesn't.
    let repeated: Vec<u8> =
        std::iter::repeat_n(b"hypernova ".iter().copied(), 1_700_000).flatten().collect();
    let text = dir.path().join("text");
    std::fs::write(&text, &repeated[..16 << 20]).unwrap();
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2"], &[&text, &zeros]);
    assert!(std::fs::metadata(&zeros).unwrap().len() < 4 << 20);
    let images = host_images_with(&dir, |o| o.images_type = "flat".into());
    for (path, format) in [(&raw, "raw"), (&zeros, "qcow2")] {
        let error = images
            .cache(&RequestContext::admin(), &image(path, format), silent())
            .await
            .unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "{format}: {error:?}");
        assert_eq!(error.class(), Class::Reschedule);
        assert!(leftovers(&small.path.join("_base")).is_empty());
    }
    let five = dir.path().join("five");
    std::fs::write(&five, pattern(5 << 20)).unwrap();
    let base =
        images.cache(&RequestContext::admin(), &image(&five, "raw"), silent()).await.unwrap();
    images.create_directory(ID).await.unwrap();
    let error = images.create_root(ID, &base, 0).await.unwrap_err();
    assert!(matches!(error, ImageError::NoSpace { .. }), "{error:?}");
    let error = images.create_boot_file(ID, &base, "kernel").await.unwrap_err();
    assert!(matches!(error, ImageError::NoSpace { .. }), "{error:?}");
    let instance = small.path.join(ID.to_string());
    assert!(!leftovers(&instance).iter().any(|name| name.ends_with(".part") || name == "disk"));
}

#[tokio::test]
async fn a_tool_that_hangs_is_killed_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&source, Path::new("1M")]);
    let hang = dir.path().join("hang");
    std::fs::write(&hang, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    Command::new("chmod").arg("+x").arg(&hang).status().unwrap();
    let images = host_images_with(&dir, |o| {
        o.qemu_img.program = hang.to_str().unwrap().into();
        o.qemu_img.short_deadline = Duration::from_millis(100);
        o.qemu_img.long_deadline = Duration::from_millis(100);
    });
    let error = images
        .cache(&RequestContext::admin(), &image(&source, "qcow2"), silent())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Reschedule);
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
}

#[tokio::test]
async fn a_memory_limit_too_small_fails_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&source, Path::new("1M")]);
    let images = host_images_with(&dir, |o| o.qemu_img.memory_bytes = 16 << 20);
    assert!(
        images.cache(&RequestContext::admin(), &image(&source, "qcow2"), silent()).await.is_err()
    );
    assert!(leftovers(&dir.path().join("instances/_base")).is_empty());
}

#[tokio::test]
async fn a_base_in_use_is_never_written_again_and_is_marked_as_used() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    std::fs::write(&source, pattern(1 << 20)).unwrap();
    let images = host_images(&dir);
    let request = image(&source, "raw");
    let base = images.cache(&RequestContext::admin(), &request, silent()).await.unwrap();
    let file = std::fs::File::options().write(true).open(&base.path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let before = std::fs::metadata(&base.path).unwrap();
    std::fs::write(&source, pattern(2 << 20)).unwrap();
    assert_eq!(images.cache(&RequestContext::admin(), &request, silent()).await.unwrap(), base);
    let after = std::fs::metadata(&base.path).unwrap();
    assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
    assert!(after.modified().unwrap() > before.modified().unwrap());
}

#[tokio::test]
async fn isos_kernels_and_ramdisks_are_cached_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut iso = vec![0; 40 * 1024];
    iso[32769..32774].copy_from_slice(b"CD001");
    let images = host_images(&dir);
    for (format, bytes) in [("iso", iso), ("aki", pattern(5001)), ("ari", b"\x1f\x8b.".to_vec())] {
        let source = dir.path().join(format);
        std::fs::write(&source, &bytes).unwrap();
        let base = images
            .cache(&RequestContext::admin(), &image(&source, format), silent())
            .await
            .unwrap();
        assert_eq!(base.format, "raw");
        assert!(std::fs::read(&base.path).unwrap() == bytes, "{format}");
        images.create_directory(ID).await.unwrap();
        let file = images.create_boot_file(ID, &base, format).await.unwrap();
        assert!(std::fs::read(&file).unwrap() == bytes, "{format}");
        for bad in ["../x", "/x", ".", "a/b"] {
            let refused = images.create_boot_file(ID, &base, bad).await;
            assert!(matches!(refused, Err(ImageError::BadPath(_))), "{bad}");
        }
    }
}

#[tokio::test]
async fn a_directory_goes_wholly_and_only_it() {
    let dir = tempfile::tempdir().unwrap();
    let images = host_images(&dir);
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "x").unwrap();
    let instance = images.create_directory(ID).await.unwrap();
    symlink(&outside, instance.join("link")).unwrap();
    std::fs::create_dir(instance.join("deep")).unwrap();
    // What an interrupted removal left.
    let half = dir.path().join("instances").join(format!("{ID}_del"));
    std::fs::create_dir_all(half.join("old")).unwrap();
    images.remove_directory(ID).await.unwrap();
    images.remove_directory(ID).await.unwrap();
    assert!(leftovers(&dir.path().join("instances")).is_empty());
    // A link in the place of the directory is no instance.
    symlink(&outside, &instance).unwrap();
    assert!(matches!(images.create_directory(ID).await, Err(ImageError::BadPath(_))));
    assert!(images.create_config_drive(ID, &ConfigDriveFiles::default()).await.is_err());
    images.remove_directory(ID).await.unwrap();
    assert!(!instance.exists() && outside.join("precious").exists());
}

#[tokio::test]
async fn config_drives_hold_their_files_in_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    let files = ConfigDriveFiles(vec![
        ("openstack/latest/meta_data.json".into(), b"{\"uuid\": \"x\"}".to_vec()),
        ("openstack/latest/user_data".into(), vec![0, 159, 146, 150]),
        ("ec2/latest/meta-data.json".into(), b"{}".to_vec()),
    ]);
    for format in [ConfigDriveFormat::Iso9660, ConfigDriveFormat::Vfat] {
        let images = host_images_with(&dir, |o| o.config_drive_format = format);
        let instance = images.create_directory(ID).await.unwrap();
        for _repeat in 0..2 {
            let disk = images.create_config_drive(ID, &files).await.unwrap();
            assert_eq!(disk.path, instance.join("disk.config"));
            assert_eq!(std::fs::metadata(&disk.path).unwrap().mode() & 0o777, 0o600, "{format:?}");
            for (path, content) in &files.0 {
                let mut read = match format {
                    ConfigDriveFormat::Iso9660 => Command::new("isoinfo"),
                    ConfigDriveFormat::Vfat => Command::new("mtype"),
                };
                match format {
                    ConfigDriveFormat::Iso9660 => {
                        read.args(["-R", "-x", &format!("/{path}"), "-i"]).arg(&disk.path)
                    }
                    ConfigDriveFormat::Vfat => {
                        read.arg("-i").arg(&disk.path).arg(format!("::/{path}"))
                    }
                };
                let out = read.output().unwrap();
                assert_eq!(&out.stdout, content, "{format:?} {path}");
            }
            let label = Command::new("blkid")
                .args(["-o", "value", "-s", "LABEL", "-p"])
                .arg(&disk.path)
                .output();
            let label = String::from_utf8(label.unwrap().stdout).unwrap();
            assert_eq!(label.trim().to_ascii_lowercase(), "config-2", "{format:?}");
        }
        assert_eq!(leftovers(&instance), ["console.log", "disk.config"]);
        let escaping = ConfigDriveFiles(vec![("../../escaped".into(), vec![])]);
        let refused = images.create_config_drive(ID, &escaping).await;
        assert!(matches!(refused, Err(ImageError::BadPath(_))));
        images.remove_directory(ID).await.unwrap();
    }
}

#[test]
fn backends_that_are_not_there_are_refused_at_construction() {
    for images_type in ["lvm", "rbd", "ploop"] {
        let mut options = StoreOptions::new("/nonexistent");
        options.images_type = images_type.into();
        let source = Arc::new(StandaloneSource::new(FilePolicy::Any, Duration::from_secs(1)));
        let error = HostImages::new(options, source).err().unwrap();
        assert!(
            matches!(error, ImageError::Unsupported(_)) && error.to_string().contains(images_type)
        );
    }
}

/// What workflows count on, of the fake as of the real thing.
async fn contract(images: &dyn Images, request: &ImageRequest) {
    let base = images.cache(&RequestContext::admin(), request, silent()).await.unwrap();
    assert_eq!(images.cache(&RequestContext::admin(), request, silent()).await.unwrap(), base);
    assert_eq!(base.format, "raw");
    assert_eq!(base.virtual_size_bytes, request.size.unwrap());
    assert_eq!(base.path.file_name().unwrap().to_str().unwrap(), support::sha1(&request.id));

    assert!(images.create_root(ID, &base, 0).await.is_err(), "without a directory");
    assert_eq!(images.disks(ID).await.unwrap(), []);
    let directory = images.create_directory(ID).await.unwrap();
    assert_eq!(images.create_directory(ID).await.unwrap(), directory);
    assert_eq!(directory.file_name().unwrap().to_str().unwrap(), ID.to_string());
    assert_eq!(images.console_log(ID), directory.join("console.log"));

    let huge = CachedImage { virtual_size_bytes: 2 << 30, ..base.clone() };
    assert!(matches!(images.create_root(ID, &huge, 1).await, Err(ImageError::TooLarge { .. })));
    let gone = CachedImage { path: base.path.with_file_name("gone"), ..base.clone() };
    assert!(matches!(images.create_root(ID, &gone, 1).await, Err(ImageError::BaseMissing { .. })));

    let root = images.create_root(ID, &base, 1).await.unwrap();
    assert_eq!(images.create_root(ID, &base, 1).await.unwrap(), root);
    assert_eq!((root.path.clone(), root.format.as_str()), (directory.join("disk"), "qcow2"));
    assert_eq!(
        images.create_boot_file(ID, &base, "kernel").await.unwrap(),
        directory.join("kernel")
    );
    assert!(matches!(
        images.create_boot_file(ID, &base, "../k").await,
        Err(ImageError::BadPath(_))
    ));
    let files = ConfigDriveFiles(vec![("openstack/latest/meta_data.json".into(), b"{}".to_vec())]);
    let config = images.create_config_drive(ID, &files).await.unwrap();
    assert_eq!(images.create_config_drive(ID, &files).await.unwrap(), config);
    assert_eq!((config.path, config.format.as_str()), (directory.join("disk.config"), "raw"));
    let mut listed: Vec<_> =
        images.disks(ID).await.unwrap().into_iter().map(|disk| disk.path).collect();
    listed.sort();
    assert_eq!(listed, ["disk", "disk.config", "kernel"].map(|name| directory.join(name)));

    images.remove_directory(ID).await.unwrap();
    images.remove_directory(ID).await.unwrap();
    assert_eq!(images.disks(ID).await.unwrap(), []);
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let request = ImageRequest { size: Some(1 << 20), ..image(Path::new("/x"), "raw") };
    let images = FakeImages::default();
    contract(&images, &request).await;
    assert!(images.directories().is_empty());
    assert_eq!(images.fetches(), 1);
}

#[tokio::test]
async fn the_host_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("image");
    std::fs::write(&source, pattern(1 << 20)).unwrap();
    let request = ImageRequest { size: Some(1 << 20), ..image(&source, "raw") };
    contract(&host_images(&dir), &request).await;
    assert_eq!(leftovers(&dir.path().join("instances")), ["_base", "locks"]);
}

fn image_at(url: &str, format: &str) -> ImageRequest {
    ImageRequest {
        id: url.to_owned(),
        url: Some(url.to_owned()),
        disk_format: Some(format.into()),
        checksums: vec![],
        size: None,
        any_file: false,
    }
}

fn host_images_with(dir: &tempfile::TempDir, change: impl FnOnce(&mut StoreOptions)) -> HostImages {
    let mut options = options(dir);
    change(&mut options);
    let source = StandaloneSource::new(FilePolicy::Any, Duration::from_secs(30));
    HostImages::new(options, Arc::new(source)).unwrap()
}
