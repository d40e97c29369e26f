//! A real libvirtd and real QEMU guests: what we define is what nova defined, a daemon that restarts
//! loses no request, one that hangs holds up nothing.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod hypervisor_daemon;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hypernova::hypervisor::guest::*;
use hypernova::hypervisor::host::DiskSize;
use hypernova::hypervisor::libvirt::xml::{Node, domain_xml};
use hypernova::hypervisor::libvirt::{Libvirt, LibvirtOptions, Observer};
use hypernova::hypervisor::spec::*;
use hypernova::hypervisor::{Hypervisor, HypervisorError, StartOptions};
use hypernova::model::state::PowerState;
use hypervisor_daemon::Daemon;
use nix::sys::signal::Signal;
use uuid::Uuid;

const PLAIN: StartOptions = StartOptions { paused: false, force_boot: false };

/// The instance of the recording, from nova's words for it.
fn recorded() -> GuestInput {
    let instances = "/var/lib/nova/instances/c096fd3f-811e-4ddd-8fca-f0fd75012396";
    GuestInput {
        uuid: "c096fd3f-811e-4ddd-8fca-f0fd75012396".parse().unwrap(),
        name: "instance-00000002".into(),
        display_name: "many-1".into(),
        creation_time: "2026-11-20 23:06:06".into(),
        package_version: "33.0.2".into(),
        flavor: FlavorMetadata {
            id: "tb.tiny".into(),
            name: "tb.tiny".into(),
            memory_mib: 128,
            disk_gib: 1,
            vcpus: 1,
            ..FlavorMetadata::default()
        },
        image: GuestImage {
            id: Some("9ac5fd6a-073c-423e-8bb6-9593064b906d".into()),
            container_format: Some("bare".into()),
            disk_format: Some("qcow2".into()),
            min_disk_gib: 1,
            ..GuestImage::default()
        },
        os_type: None,
        user: Some(("2c54c6dfca9049f897e04257c950bf4c".into(), "admin".into())),
        project: Some(("1636986d9ad64a04986c679176c6d90f".into(), "admin".into())),
        rescue: None,
        disks: vec![GuestDisk {
            role: DiskRole::Root,
            path: format!("{instances}/disk").into(),
            format: "qcow2".into(),
            io: None,
            device_name: None,
            bus: None,
            device_type: None,
            boot_index: None,
            volume: None,
        }],
        root_device_name: None,
        kernel: None,
        vifs: vec![GuestVif {
            source: InterfaceSource::Ethernet,
            mac_address: "fa:16:3e:32:64:38".into(),
            mtu: Some(1442),
            target: Some("tapffb38c30-19".into()),
            unmanaged_target: false,
            unlimited: false,
            port: PortMetadata {
                uuid: "ffb38c30-19bd-43a5-ab53-0ee090d0e751".into(),
                ips: vec![("fixed".into(), "10.77.0.12".into(), 4)],
            },
        }],
        console_log: Some(format!("{instances}/console.log").into()),
        serial_ports: Vec::new(),
        firmware: None,
        options: GuestOptions {
            virt_type: "qemu".into(),
            cpu_mode: Some("none".into()),
            vnc_listen: Some("10.66.0.11".into()),
            ..GuestOptions::default()
        },
        host: GuestHost { architecture: "x86_64".into(), ..GuestHost::default() },
    }
}

/// A guest that finds nothing to boot. No VNC: daemons that start guests at the same time don't see
/// each other's ports, and may choose the same.
fn bootless(daemon: &Daemon) -> DomainSpec {
    let uuid = Uuid::new_v4();
    let mut input = recorded();
    input.uuid = uuid;
    input.name = format!("hypernova-test-{}", uuid.simple());
    input.disks.clear();
    input.vifs.clear();
    input.flavor.memory_mib = 32;
    input.console_log = Some(daemon.path().join("console.log"));
    input.options.vnc_listen = None;
    let mut spec = domain_spec(&input).unwrap();
    spec.os.boot_devices = vec!["hd".into()];
    spec
}

fn quick(daemon: &Daemon) -> LibvirtOptions {
    let mut options = LibvirtOptions::new(daemon.uri());
    options.call_timeout = Duration::from_secs(20);
    options
}

/// Counts what it is told.
#[derive(Debug, Default)]
struct Told {
    answered: AtomicUsize,
    timed_out: AtomicUsize,
    lost: AtomicUsize,
}

impl Observer for Told {
    fn answered(&self, _operation: &'static str, _took: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn timed_out(&self, _operation: &'static str) {
        self.timed_out.fetch_add(1, Ordering::Relaxed);
    }

    fn connection_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// A document as a tree, to compare: order of attributes and white space don't count.
fn tree(xml: &str) -> Node {
    fn normal(node: &mut Node) {
        node.attributes.sort();
        node.text = node.text.trim().to_owned();
        node.children.iter_mut().for_each(normal);
    }
    let mut node = Node::parse(xml).unwrap();
    normal(&mut node);
    node
}

/// A recorded document as this machine's libvirt has it: an older one doesn't know every attribute,
/// and QEMU's machine types are the distribution's.
fn as_libvirt_has_it(daemon: &Daemon, recorded: &str) -> String {
    let file = daemon.path().join("recorded.xml");
    std::fs::write(&file, recorded.replace("pc-i440fx-10.0", "pc")).unwrap();
    let uuid = tree(recorded).child("uuid").unwrap().text.clone();
    let virsh = |words: &[&str]| {
        let ran = std::process::Command::new("virsh")
            .args(["-q", "-c", &daemon.uri()])
            .args(words)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    virsh(&["define", file.to_str().unwrap()]);
    let had = virsh(&["dumpxml", "--inactive", &uuid]);
    virsh(&["undefine", &uuid]);
    had
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_define_is_what_nova_defined() {
    let Some(daemon) = Daemon::start() else { return };
    let libvirt = Libvirt::open(quick(&daemon)).await.unwrap();
    let spec = domain_spec(&recorded()).unwrap();
    let nova = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/domain/recorded-instance-00000002.xml"
    ))
    .unwrap();
    let nova = as_libvirt_has_it(&daemon, &nova);
    libvirt.define(&spec).await.unwrap();
    let ours = libvirt.domain_xml(spec.uuid, true).await.unwrap();
    let (ours, nova) = (tree(&ours), tree(&nova));
    for (ours, nova) in ours.children.iter().zip(&nova.children) {
        assert_eq!(ours, nova, "in {}", nova.name);
    }
    assert_eq!(ours, nova);
    libvirt.undefine(spec.uuid).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_consoles_and_counters() {
    let Some(daemon) = Daemon::start() else { return };
    let libvirt = Libvirt::open(quick(&daemon)).await.unwrap();
    let mut spec = bootless(&daemon);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    spec.graphics = vec![GraphicsSpec::Vnc { listen: "127.0.0.1".into() }];
    let log = Some(daemon.path().join("console.log"));
    spec.serials = vec![SerialSpec::Tcp { address: "127.0.0.1".into(), port, log }];
    libvirt.define(&spec).await.unwrap();
    assert_eq!(libvirt.console_endpoints(spec.uuid).await.unwrap().vnc, None);
    libvirt.start(spec.uuid, PLAIN).await.unwrap();
    let consoles = libvirt.console_endpoints(spec.uuid).await.unwrap();
    let (host, vnc) = consoles.vnc.unwrap();
    assert_eq!(host, "127.0.0.1");
    assert!(vnc >= 5900);
    assert_eq!(consoles.serial, [("127.0.0.1".to_owned(), port)]);
    let stats = libvirt.stats(spec.uuid).await.unwrap();
    assert_eq!((stats.memory_max_kib, stats.vcpu_times_ns.len()), (32 * 1024, 1));
    assert!(stats.cpu_time_ns > 0);
    let host = libvirt.host_info().await.unwrap();
    assert_eq!((host.hypervisor_type.as_str(), host.architecture.as_str()), ("QEMU", "x86_64"));
    assert!(host.hypervisor_version > 7_000_000, "{host:?}");
    let caps = libvirt.capabilities().await.unwrap();
    assert!(caps.machines("x86_64").iter().any(|machine| machine == "q35"));
    let caps = libvirt.domain_capabilities("x86_64", Some("q35"), "qemu").await.unwrap();
    assert!(caps.disk_buses.contains(&"virtio".to_owned()), "{caps:?}");
    assert!(libvirt.cpu_models("x86_64").await.unwrap().contains(&"qemu64".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_running_and_of_stopped_guests_have_their_guests_size() {
    let Some(daemon) = Daemon::start() else { return };
    let libvirt = Libvirt::open(quick(&daemon)).await.unwrap();
    assert_eq!(libvirt.disk_sizes().await.unwrap(), []);
    let mut paths = Vec::new();
    let mut specs = Vec::new();
    for (name, format) in [("on", "qcow2"), ("off", "qcow2"), ("raw", "raw")] {
        let path = daemon.path().join(name);
        let mut create = std::process::Command::new("qemu-img");
        let made = create.args(["create", "-q", "-f", format]).arg(&path).arg("64M").status();
        assert!(made.unwrap().success());
        let mut spec = bootless(&daemon);
        spec.disks = vec![DiskSpec {
            source: DiskSource::File(path.clone()),
            device: "disk".into(),
            format: format.into(),
            cache: "writeback".into(),
            target: "vda".into(),
            bus: "virtio".into(),
            ..DiskSpec::default()
        }];
        libvirt.define(&spec).await.unwrap();
        if name != "off" {
            libvirt.start(spec.uuid, PLAIN).await.unwrap();
        }
        paths.push(path.to_str().unwrap().to_owned());
        specs.push(spec);
    }
    let mut found = libvirt.disk_sizes().await.unwrap();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    paths.sort();
    let disk = |path: String| DiskSize { path, capacity_bytes: 64 << 20 };
    assert_eq!(found, paths.into_iter().map(disk).collect::<Vec<_>>());
    for spec in specs {
        libvirt.destroy(spec.uuid).await.unwrap();
        libvirt.undefine(spec.uuid).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_features_are_those_of_its_model_too() {
    let Some(daemon) = Daemon::start() else { return };
    let libvirt = Libvirt::open(quick(&daemon)).await.unwrap();
    let caps = libvirt.capabilities().await.unwrap();
    assert!(!caps.cells.is_empty());
    let feature = |name: &str| caps.cpu.features.contains(name);
    assert!(feature("fpu") && feature("sse2") && feature("lm"), "{:?}", caps.cpu);
    let of_model = libvirt.model_features(&caps.cpu, "qemu64").await.unwrap().unwrap();
    assert!(of_model.contains("sse2") && !of_model.contains("avx"), "{of_model:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_without_novas_metadata_is_left_alone() {
    let Some(daemon) = Daemon::start() else { return };
    let libvirt = Libvirt::open(quick(&daemon)).await.unwrap();
    let spec = bootless(&daemon);
    let xml = domain_xml(&spec);
    let (start, end) = (xml.find("<metadata>").unwrap(), xml.find("</metadata>").unwrap());
    let foreign = format!("{}{}", &xml[..start], &xml[end + "</metadata>".len()..]);
    let file = daemon.path().join("foreign.xml");
    std::fs::write(&file, foreign).unwrap();
    let virsh = |args: &[&str]| {
        let mut virsh = std::process::Command::new("virsh");
        let out = virsh.args(["-c", &daemon.uri()]).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    virsh(&["define", file.to_str().unwrap()]);
    virsh(&["start", &spec.name]);
    let not_ours = |error: HypervisorError| {
        assert!(matches!(&error, HypervisorError::NotOurs { name } if *name == spec.name));
    };
    not_ours(libvirt.define(&spec).await.unwrap_err());
    let namesake = DomainSpec { uuid: Uuid::new_v4(), ..spec.clone() };
    not_ours(libvirt.define(&namesake).await.unwrap_err());
    not_ours(libvirt.destroy(spec.uuid).await.unwrap_err());
    not_ours(libvirt.undefine(spec.uuid).await.unwrap_err());
    not_ours(libvirt.press_power_button(spec.uuid).await.unwrap_err());
    let info = libvirt.domain(spec.uuid).await.unwrap().unwrap();
    assert_eq!((info.nova_owned, info.power_state), (false, PowerState::Running));
}

/// Requests go on while the daemon is killed and comes back a second later; every one is answered,
/// the guest runs on, and events arrive again.
#[tokio::test(flavor = "multi_thread")]
async fn a_libvirtd_that_restarts_loses_no_request() {
    let Some(mut daemon) = Daemon::start() else { return };
    let libvirt = Arc::new(Libvirt::open(quick(&daemon)).await.unwrap());
    let spec = bootless(&daemon);
    libvirt.define(&spec).await.unwrap();
    libvirt.start(spec.uuid, PLAIN).await.unwrap();
    let id = libvirt.domain(spec.uuid).await.unwrap().unwrap().id;

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut askers = Vec::new();
    for index in 0..12 {
        let (libvirt, stop, answered) = (libvirt.clone(), stop.clone(), answered.clone());
        let (uuid, other) = (spec.uuid, bootless(&daemon));
        askers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match index % 4 {
                    0 => drop(libvirt.domain(uuid).await?),
                    1 => drop(libvirt.domains().await?),
                    2 => drop(libvirt.all_stats().await?),
                    _ => {
                        libvirt.define(&other).await?;
                        libvirt.undefine(other.uuid).await?;
                    }
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), HypervisorError>(())
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    tokio::task::block_in_place(|| {
        daemon.kill();
        #[allow(clippy::disallowed_methods, reason = "a test may wait")]
        std::thread::sleep(Duration::from_secs(1));
    });
    let before = answered.load(Ordering::Relaxed);
    tokio::task::block_in_place(|| daemon.run());
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await.unwrap().unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > before, "requests go on afterwards");

    let info = libvirt.domain(spec.uuid).await.unwrap().unwrap();
    assert_eq!((info.id, info.power_state), (id, PowerState::Running), "the guest never noticed");
    let mut events = libvirt.events();
    libvirt.pause(spec.uuid).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
    assert_eq!(event.unwrap().unwrap().power_state, PowerState::Paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirtd_that_hangs_times_out_and_holds_up_nothing() {
    let Some(daemon) = Daemon::start() else { return };
    // With the usual deadlines, for what is not in question here.
    let patient = Libvirt::open(quick(&daemon)).await.unwrap();
    let mut options = quick(&daemon);
    options.call_timeout = Duration::from_secs(2);
    options.job_timeout = Duration::from_secs(2);
    options.keepalive = (1, 2);
    let told = Arc::new(Told::default());
    options.observer = Some(told.clone());
    let libvirt = Arc::new(Libvirt::open(options).await.unwrap());
    let elsewhere = Libvirt::open(LibvirtOptions::new("test:///default")).await.unwrap();
    let spec = bootless(&daemon);
    patient.define(&spec).await.unwrap();

    daemon.signal(Signal::SIGSTOP);
    // First on the connection there is, then on one that keepalives have closed meanwhile.
    for _round in 0..2 {
        let started = Instant::now();
        let mut calls = Vec::new();
        for index in 0..40 {
            let (libvirt, uuid) = (libvirt.clone(), spec.uuid);
            calls.push(tokio::spawn(async move {
                match index % 3 {
                    0 => libvirt.domain(uuid).await.map(drop),
                    1 => libvirt.all_stats().await.map(drop),
                    _ => libvirt.start(uuid, PLAIN).await,
                }
            }));
        }
        // Meanwhile the runtime and other connections are as quick as ever.
        let asked = Instant::now();
        elsewhere.domains().await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        for call in calls {
            let error = call.await.unwrap().unwrap_err();
            assert!(matches!(error, HypervisorError::TimedOut { .. }), "{error:?}");
        }
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    assert_eq!(told.timed_out.load(Ordering::Relaxed), 80);
    assert_eq!(told.answered.load(Ordering::Relaxed), 0);

    daemon.signal(Signal::SIGCONT);
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match libvirt.domain(spec.uuid).await {
            Ok(Some(_)) => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    assert!(told.answered.load(Ordering::Relaxed) > 0);
    assert!(told.lost.load(Ordering::Relaxed) > 0, "keepalives closed the connection");
    // What was asked before the hang may still have been done: the domain is there and whole.
    patient.start(spec.uuid, PLAIN).await.unwrap();
    let running = libvirt.domain(spec.uuid).await.unwrap().unwrap();
    assert_eq!(running.power_state, PowerState::Running);
    patient.destroy(spec.uuid).await.unwrap();
    patient.undefine(spec.uuid).await.unwrap();
}

#[tokio::test]
async fn no_libvirtd_is_said_at_once() {
    let started = Instant::now();
    let options = LibvirtOptions::new("qemu+unix:///system?socket=/nonexistent/libvirt-sock");
    let error = Libvirt::open(options).await.unwrap_err();
    assert!(matches!(error, HypervisorError::Unreachable { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}
