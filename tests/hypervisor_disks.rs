//! Jobs on disks and what is asked of a guest's agent: one suite over the fake and over QEMU under a
//! libvirtd of the test's own.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod hypervisor_daemon;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hypernova::hypervisor::block::{BlockCopy, BlockJob};
use hypernova::hypervisor::fake::FakeHypervisor;
use hypernova::hypervisor::libvirt::{Libvirt, LibvirtOptions};
use hypernova::hypervisor::spec::*;
use hypernova::hypervisor::{Hypervisor, HypervisorError, StartOptions};
use hypernova::model::class::Class;
use hypernova::model::secret::Secret;
use hypernova::model::state::PowerState;
use hypervisor_daemon::Daemon;
use uuid::Uuid;

const PLAIN: StartOptions = StartOptions { paused: false, force_boot: false };

/// Larger than what a look at it takes.
const DISK_MIB: u64 = 64;

struct Subject {
    hypervisor: Arc<dyn Hypervisor>,
    /// Where its disks are.
    directory: tempfile::TempDir,
    is_real: bool,
}

/// Every claim of the contract, in turn.
async fn keeps_the_contract(subject: &Subject) {
    disks_are_named_in_order(subject).await;
    a_copy_is_the_disk_at_the_moment_at_which_it_is_cut_off(subject).await;
    a_job_is_in_the_way_of_another(subject).await;
    a_copy_can_be_ended_at_any_time_and_its_end_repeated(subject).await;
    a_copy_ends_with_its_guest(subject).await;
    what_is_not_there_has_no_job(subject).await;
    a_guest_without_an_agent_is_said_to_have_none(subject).await;
    an_interrupt_is_for_a_guest_that_runs(subject).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_keeps_the_contract() {
    let hypervisor = Arc::new(FakeHypervisor::default());
    hypervisor.set_copy_time(Duration::from_millis(200));
    let directory = tempfile::tempdir().unwrap();
    keeps_the_contract(&Subject { hypervisor, directory, is_real: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_keeps_the_contract() {
    let Some(daemon) = Daemon::start() else { return };
    let libvirt = Libvirt::open(LibvirtOptions::new(daemon.uri())).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    keeps_the_contract(&Subject { hypervisor: Arc::new(libvirt), directory, is_real: true }).await;
}

fn qemu_img(args: &[&str]) -> String {
    let done = Command::new("qemu-img").args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A domain of the test's, taken away by [`Guest::remove`].
struct Guest<'a> {
    on: &'a Subject,
    uuid: Uuid,
    disk: PathBuf,
}

impl<'a> Guest<'a> {
    /// One that runs, with a disk over a base that has content.
    async fn start(on: &'a Subject) -> Self {
        let uuid = Uuid::new_v4();
        let path = |name: &str| on.directory.path().join(format!("{}.{name}", uuid.simple()));
        let (base, disk) = (path("base"), path("disk"));
        let content: Vec<u8> = (0..DISK_MIB << 20).map(|n| (n / 4096 % 251) as u8).collect();
        std::fs::write(&base, content).unwrap();
        let backing = ["-b", text(&base), "-F", "raw"];
        qemu_img(&[&["create", "-q", "-f", "qcow2"], &backing[..], &[text(&disk)]].concat());
        let spec = DomainSpec {
            uuid,
            name: format!("hypernova-disks-{}", uuid.simple()),
            virt_type: "qemu".into(),
            memory_kib: 64 * 1024,
            vcpus: 1,
            metadata: NovaMetadata { name: "disks".into(), ..NovaMetadata::default() },
            os: OsSpec {
                architecture: "x86_64".into(),
                machine: Some("pc".into()),
                boot_devices: vec!["hd".into()],
                ..OsSpec::default()
            },
            features: Features { acpi: true, ..Features::default() },
            cpu: CpuSpec { sockets: 1, cores: 1, threads: 1, ..CpuSpec::default() },
            clock: Clock { offset: "utc".into(), ..Clock::default() },
            disks: vec![DiskSpec {
                source: DiskSource::File(disk.clone()),
                device: "disk".into(),
                format: "qcow2".into(),
                cache: "none".into(),
                target: "vda".into(),
                bus: "virtio".into(),
                ..DiskSpec::default()
            }],
            guest_agent_socket: Some(path("agent")),
            ..DomainSpec::default()
        };
        on.hypervisor.define(&spec).await.unwrap();
        on.hypervisor.start(uuid, PLAIN).await.unwrap();
        Self { on, uuid, disk }
    }

    /// A copy to an empty file with the same base.
    fn copy(&self, name: &str) -> BlockCopy {
        let file = self.disk.with_extension(name);
        if self.on.is_real {
            let base = self.disk.with_extension("base");
            let backing = ["-b", text(&base), "-F", "raw", text(&file)];
            qemu_img(&[&["create", "-q", "-f", "qcow2"], &backing[..]].concat());
        }
        BlockCopy { target: "vda".into(), file, format: "qcow2".into(), shallow: true }
    }

    async fn job(&self) -> Option<BlockJob> {
        self.on.hypervisor.block_job(self.uuid, "vda").await.unwrap()
    }

    async fn abort(&self) -> bool {
        self.on.hypervisor.abort_block_job(self.uuid, "vda").await.unwrap()
    }

    async fn until_ready(&self) -> BlockJob {
        let wait = async {
            loop {
                let job = self.job().await.expect("the copy goes on until it is ended");
                if job.ready {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it is ready")
    }

    async fn remove(self) {
        self.on.hypervisor.destroy(self.uuid).await.unwrap();
        self.on.hypervisor.undefine(self.uuid).await.unwrap();
    }
}

async fn disks_are_named_in_order(subject: &Subject) {
    let guest = Guest::start(subject).await;
    let disks = subject.hypervisor.disks(guest.uuid).await.unwrap();
    assert_eq!(disks.len(), 1);
    assert_eq!((disks[0].target.as_str(), disks[0].device.as_str()), ("vda", "disk"));
    assert_eq!(disks[0].source.as_ref(), Some(&guest.disk));
    assert_eq!(disks[0].format.as_deref(), Some("qcow2"));
    guest.remove().await;
}

async fn a_copy_is_the_disk_at_the_moment_at_which_it_is_cut_off(subject: &Subject) {
    let guest = Guest::start(subject).await;
    let before = subject.hypervisor.domain_xml(guest.uuid, true).await.unwrap();
    let copy = guest.copy("copy");
    subject.hypervisor.start_block_copy(guest.uuid, &copy).await.unwrap();
    // An answer that was lost: the same again is the same.
    subject.hypervisor.start_block_copy(guest.uuid, &copy).await.unwrap();
    let job = guest.until_ready().await;
    assert_eq!(job.file.as_ref(), Some(&copy.file));
    assert_eq!(job.done, job.total);
    assert!(guest.abort().await);
    assert_eq!(guest.job().await, None);
    let state = subject.hypervisor.domain(guest.uuid).await.unwrap().unwrap().power_state;
    assert_eq!(state, PowerState::Running);
    // The definition never heard of it.
    assert_eq!(subject.hypervisor.domain_xml(guest.uuid, true).await.unwrap(), before);
    if subject.is_real {
        qemu_img(&["compare", "-U", text(&copy.file), text(&guest.disk)]);
        let base = guest.disk.with_extension("base");
        qemu_img(&["compare", "-U", text(&copy.file), text(&base)]);
    }
    guest.remove().await;
}

async fn a_job_is_in_the_way_of_another(subject: &Subject) {
    let guest = Guest::start(subject).await;
    let (one, two) = (guest.copy("one"), guest.copy("two"));
    subject.hypervisor.start_block_copy(guest.uuid, &one).await.unwrap();
    let error = subject.hypervisor.start_block_copy(guest.uuid, &two).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert_eq!(guest.job().await.unwrap().file, Some(one.file));
    guest.abort().await;
    subject.hypervisor.start_block_copy(guest.uuid, &two).await.unwrap();
    assert_eq!(guest.job().await.unwrap().file, Some(two.file));
    guest.abort().await;
    guest.remove().await;
}

async fn a_copy_can_be_ended_at_any_time_and_its_end_repeated(subject: &Subject) {
    let guest = Guest::start(subject).await;
    for wait in [0, 5, 50] {
        let copy = guest.copy(&format!("ended{wait}"));
        let mut events = subject.hypervisor.block_job_events();
        subject.hypervisor.start_block_copy(guest.uuid, &copy).await.unwrap();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        assert!(guest.abort().await, "{wait}");
        assert!(!guest.abort().await, "{wait}");
        assert_eq!(guest.job().await, None);
        if subject.is_real {
            let event = tokio::time::timeout(Duration::from_secs(5), events.recv()).await;
            assert_eq!(event.unwrap().unwrap().instance_uuid, guest.uuid);
        }
    }
    guest.remove().await;
}

async fn a_copy_ends_with_its_guest(subject: &Subject) {
    let guest = Guest::start(subject).await;
    let copy = guest.copy("gone");
    subject.hypervisor.start_block_copy(guest.uuid, &copy).await.unwrap();
    subject.hypervisor.destroy(guest.uuid).await.unwrap();
    assert_eq!(guest.job().await, None);
    assert!(!guest.abort().await);
    let error = subject.hypervisor.start_block_copy(guest.uuid, &copy).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "it is off: {error}");
    guest.remove().await;
}

async fn what_is_not_there_has_no_job(subject: &Subject) {
    let (hypervisor, nobody) = (&subject.hypervisor, Uuid::new_v4());
    assert_eq!(hypervisor.block_job(nobody, "vda").await.unwrap(), None);
    assert!(!hypervisor.abort_block_job(nobody, "vda").await.unwrap());
    for error in [
        hypervisor.disks(nobody).await.map(drop).unwrap_err(),
        hypervisor.freeze(nobody).await.unwrap_err(),
        hypervisor.inject_nmi(nobody).await.unwrap_err(),
    ] {
        assert_eq!(error.class(), Class::Absent, "{error}");
    }
    let guest = Guest::start(subject).await;
    let copy = BlockCopy { target: "vdz".into(), ..guest.copy("vdz") };
    assert!(hypervisor.start_block_copy(guest.uuid, &copy).await.is_err());
    guest.remove().await;
}

async fn a_guest_without_an_agent_is_said_to_have_none(subject: &Subject) {
    let guest = Guest::start(subject).await;
    let (hypervisor, uuid) = (&subject.hypervisor, guest.uuid);
    for error in [
        hypervisor.freeze(uuid).await.unwrap_err(),
        hypervisor.thaw(uuid).await.unwrap_err(),
        hypervisor.set_user_password(uuid, "root", &Secret::new("p")).await.unwrap_err(),
    ] {
        assert!(matches!(error, HypervisorError::NoAgent { .. }), "{error:?}");
    }
    guest.remove().await;
}

async fn an_interrupt_is_for_a_guest_that_runs(subject: &Subject) {
    let guest = Guest::start(subject).await;
    subject.hypervisor.inject_nmi(guest.uuid).await.unwrap();
    subject.hypervisor.destroy(guest.uuid).await.unwrap();
    let error = subject.hypervisor.inject_nmi(guest.uuid).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
    guest.remove().await;
}
