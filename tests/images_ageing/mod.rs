//! Ageing of the image cache over real overlays: what is in use stays, what isn't goes in time.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hypernova::images::store::HostImages;
use hypernova::images::{Aged, Ageing, ImageRequest, Images};
use hypernova::model::context::RequestContext;
use uuid::Uuid;

use crate::support::{host_images, image, pattern, sha1, silent};

const ID: Uuid = Uuid::from_u128(0xa6e);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A cache with images of one age.
struct Host {
    dir: tempfile::TempDir,
    images: HostImages,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = host_images(&dir);
        Self { dir, images }
    }

    fn request(&self, name: &str) -> ImageRequest {
        let path = self.dir.path().join(name);
        std::fs::write(&path, pattern(1 << 20)).unwrap();
        image(&path, "raw")
    }

    /// An image that was used last so long ago.
    async fn cached(&self, name: &str, age: Duration) -> (ImageRequest, PathBuf) {
        let request = self.request(name);
        let path =
            self.images.cache(&RequestContext::admin(), &request, silent()).await.unwrap().path;
        set_age(&path, age);
        (request, path)
    }

    fn instances(&self) -> PathBuf {
        self.dir.path().join("instances")
    }

    async fn age(&self, in_use: &[&str]) -> Aged {
        self.images.age_cache(&by(in_use)).await.unwrap()
    }
}

fn by(in_use: &[&str]) -> Ageing {
    Ageing {
        in_use: in_use.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>(),
        asked_at: SystemTime::now(),
        remove: true,
        original_age: DAY,
        resized_age: Duration::from_secs(3600),
    }
}

fn set_age(path: &Path, age: Duration) {
    let then = SystemTime::now() - age;
    let times = FileTimes::new().set_accessed(then).set_modified(then);
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

fn age_of(path: &Path) -> Duration {
    path.metadata().unwrap().modified().unwrap().elapsed().unwrap()
}

#[tokio::test]
async fn what_a_disk_is_backed_by_stays_and_what_nothing_uses_goes() {
    let host = Host::new();
    let (request, used) = host.cached("used", Duration::ZERO).await;
    host.images.create_directory(ID).await.unwrap();
    let base = host.images.cache(&RequestContext::admin(), &request, silent()).await.unwrap();
    host.images.create_root(ID, &base, 1).await.unwrap();
    set_age(&used, DAY * 9);
    let (_, unused) = host.cached("unused", DAY * 2).await;
    let (_, young) = host.cached("young", DAY / 2).await;
    let lock = host
        .instances()
        .join("locks")
        .join(format!("nova-{}", unused.file_name().unwrap().to_str().unwrap()));
    assert!(lock.exists());
    let aged = host.age(&[]).await;
    assert_eq!(aged, Aged { in_use: 1, kept: 1, removed: vec![unused.clone()] });
    assert!(used.exists() && young.exists() && !unused.exists() && !lock.exists());
    assert!(age_of(&used) < Duration::from_secs(60), "what is in use ages from now on");

    // Of a migrated or resized instance, and of one that was renamed away.
    std::fs::rename(
        host.instances().join(ID.to_string()),
        host.instances().join(format!("{ID}_resize")),
    )
    .unwrap();
    set_age(&used, DAY * 9);
    assert_eq!(host.age(&[]).await.in_use, 1);
    // With the last disk goes what held the base.
    std::fs::remove_dir_all(host.instances().join(format!("{ID}_resize"))).unwrap();
    set_age(&used, DAY * 9);
    assert_eq!(host.age(&[]).await.removed, [used]);
}

#[tokio::test]
async fn what_a_record_names_stays_without_a_disk() {
    let host = Host::new();
    let (request, used) = host.cached("used", DAY * 2).await;
    assert_eq!(host.age(&[&request.id]).await.in_use, 1);
    assert!(age_of(&used) < Duration::from_secs(60));
    let aged = host.images.age_cache(&Ageing { remove: false, ..by(&[]) }).await.unwrap();
    assert_eq!((aged.kept, aged.removed.len()), (1, 0));
}

#[tokio::test]
async fn what_was_looked_up_since_the_records_were_asked_stays() {
    let host = Host::new();
    let (request, path) = host.cached("x", DAY * 2).await;
    let by = Ageing { original_age: Duration::ZERO, ..by(&[]) };
    host.images.cache(&RequestContext::admin(), &request, silent()).await.unwrap();
    assert_eq!(host.images.age_cache(&by).await.unwrap().kept, 1);
    assert!(path.exists());
    // And what is gone is fetched again.
    set_age(&path, DAY * 2);
    assert_eq!(host.images.age_cache(&by).await.unwrap().removed.len(), 1);
    host.images.cache(&RequestContext::admin(), &request, silent()).await.unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn a_locked_image_is_left_to_the_next_pass() {
    let host = Host::new();
    let (_, path) = host.cached("locked", DAY * 2).await;
    let name = path.file_name().unwrap().to_str().unwrap();
    let lock = host.instances().join("locks").join(format!("nova-{name}"));
    // As another process would hold it, nova-compute among them.
    let holder = std::process::Command::new("python3")
        .args(["-c", "import fcntl, sys\nf = open(sys.argv[1], 'a')\nfcntl.lockf(f, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()"])
        .arg(&lock)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut holder = holder.unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "held\n");
    assert_eq!(host.age(&[]).await.kept, 1);
    assert!(path.exists());
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(host.age(&[]).await.removed, [path]);
}

#[tokio::test]
async fn drafts_and_blank_disks_age_and_strangers_stay() {
    let host = Host::new();
    let base = host.instances().join("_base");
    std::fs::create_dir_all(&base).unwrap();
    let hash = sha1("x");
    let names = [
        format!("{hash}.part"),
        format!("{hash}_1073741824"),
        "swap_64".to_owned(),
        "ephemeral_1_40d1d2c".to_owned(),
        "README".to_owned(),
        format!("{hash}.bak"),
    ];
    for name in &names {
        std::fs::write(base.join(name), "x").unwrap();
        set_age(&base.join(name), DAY * 2);
    }
    let removed = host.age(&[]).await.removed.len();
    assert_eq!(removed, 4);
    assert!(base.join("README").exists() && base.join(format!("{hash}.bak")).exists());
}

#[tokio::test]
async fn disks_that_cannot_be_read_keep_every_image() {
    let host = Host::new();
    let (_, path) = host.cached("unused", DAY * 2).await;
    // An instances directory that isn't one any more can't say what is in use.
    let (instances, aside) = (host.instances(), host.dir.path().join("aside"));
    std::fs::rename(&instances, &aside).unwrap();
    std::fs::write(&instances, "").unwrap();
    assert!(host.images.age_cache(&by(&[])).await.is_err());
    std::fs::remove_file(&instances).unwrap();
    std::fs::rename(&aside, &instances).unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn a_cache_that_is_not_there_yet_is_empty() {
    assert_eq!(Host::new().age(&[]).await, Aged::default());
}

#[tokio::test]
async fn hosts_register_where_nova_does() {
    let host = Host::new();
    std::fs::create_dir_all(host.instances()).unwrap();
    let users = host.images.storage_users("host1").await.unwrap();
    assert_eq!(users, ["host1"]);
    let text = std::fs::read_to_string(host.instances().join("compute_nodes")).unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(read["host1"].as_f64().unwrap() > 1.7e9, "{text}");
    assert!(host.instances().join("locks/nova-storage-registry-lock").exists());
}
