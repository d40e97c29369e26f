//! One suite over every hypervisor: the fake, libvirt's `test:///default` inside this process, and
//! QEMU under a libvirtd of the test's own. What the fake promises is so what libvirt does.
//!
//! Domains have UUIDs and names of their own and are taken away at the end, also of a failed test.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod hypervisor_daemon;

use std::sync::Arc;
use std::time::Duration;

use hypernova::hypervisor::fake::FakeHypervisor;
use hypernova::hypervisor::libvirt::{Libvirt, LibvirtOptions};
use hypernova::hypervisor::spec::*;
use hypernova::hypervisor::{DomainEvent, Hypervisor, HypervisorError, StartOptions};
use hypernova::model::class::Class;
use hypernova::model::state::PowerState;
use hypervisor_daemon::Daemon;
use tokio::sync::broadcast;
use uuid::Uuid;

/// A hypervisor under test, and what it can't do.
struct Subject {
    name: &'static str,
    hypervisor: Arc<dyn Hypervisor>,
    virt_type: &'static str,
    architecture: &'static str,
    /// Whether a guest reacts to the power button: none runs in QEMU here.
    guests_listen: bool,
    /// libvirt's test driver starts nothing paused, calls a restore a boot, and a wrong state an
    /// internal error.
    is_exact: bool,
}

/// Every claim of the contract, in turn.
async fn keeps_the_contract(subject: &Subject) {
    macro_rules! claims {
        ($($claim:ident),* $(,)?) => { $(
            eprintln!("{}: {}", subject.name, stringify!($claim));
            $claim(subject).await;
        )* };
    }
    claims!(
        a_domain_goes_through_its_life,
        a_repeat_is_already_done,
        what_is_absent_is_said_to_be,
        a_domain_can_start_paused,
        a_saved_domain_is_restored_by_the_next_start_unless_it_must_boot,
        what_became_of_a_late_save_is_known_once_its_job_is_over,
        a_domain_that_is_off_still_names_its_serial_ports,
        the_power_button_is_pressed_and_a_guest_that_listens_goes_off,
        what_the_state_forbids_is_refused,
        lists_and_counters_name_every_domain,
        a_definition_made_while_the_domain_runs_is_the_next_boots,
        an_undefined_domain_runs_on_and_is_gone_when_it_stops,
        a_name_is_one_domains_only,
        hostile_names_are_taken_as_text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_keeps_the_contract() {
    keeps_the_contract(&Subject {
        name: "fake",
        hypervisor: Arc::new(FakeHypervisor::default()),
        virt_type: "qemu",
        architecture: "x86_64",
        guests_listen: true,
        is_exact: true,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirts_test_driver_keeps_the_contract() {
    let libvirt = Libvirt::open(LibvirtOptions::new("test:///default")).await.unwrap();
    keeps_the_contract(&Subject {
        name: "test:///default",
        hypervisor: Arc::new(libvirt),
        virt_type: "test",
        architecture: "i686",
        guests_listen: true,
        is_exact: false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_keeps_the_contract() {
    let Some(daemon) = Daemon::start() else { return };
    let libvirt = Libvirt::open(LibvirtOptions::new(daemon.uri())).await.unwrap();
    keeps_the_contract(&Subject {
        name: "qemu",
        hypervisor: Arc::new(libvirt),
        virt_type: "qemu",
        architecture: "x86_64",
        guests_listen: false,
        is_exact: true,
    })
    .await;
}

impl Subject {
    /// A domain without a disk: its guest finds nothing to boot and stays there.
    fn spec(&self) -> DomainSpec {
        let uuid = Uuid::new_v4();
        let qemu = self.virt_type == "qemu";
        DomainSpec {
            uuid,
            name: format!("hypernova-test-{}", uuid.simple()),
            virt_type: self.virt_type.into(),
            memory_kib: 64 * 1024,
            vcpus: 1,
            metadata: NovaMetadata { name: "contract".into(), ..NovaMetadata::default() },
            os: OsSpec {
                architecture: self.architecture.into(),
                machine: qemu.then(|| "pc".into()),
                boot_devices: vec!["hd".into()],
                boot_menu: false,
                direct_kernel: None,
                firmware: None,
                smbios_from_sysinfo: false,
            },
            features: Features { acpi: qemu, ..Features::default() },
            cpu: CpuSpec { sockets: 1, cores: 1, threads: 1, ..CpuSpec::default() },
            clock: Clock { offset: "utc".into(), ..Clock::default() },
            balloon_stats_period_s: 10,
            usb_model: qemu.then(|| "none".into()),
            ..DomainSpec::default()
        }
    }
}

/// Takes a domain away when a test ends, however it ends.
struct Cleanup {
    hypervisor: Arc<dyn Hypervisor>,
    uuid: Uuid,
    runtime: tokio::runtime::Handle,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let (hypervisor, uuid) = (Arc::clone(&self.hypervisor), self.uuid);
        let runtime = self.runtime.clone();
        let cleanup = std::thread::spawn(move || {
            runtime.block_on(async {
                hypervisor.destroy(uuid).await.ok();
                hypervisor.undefine(uuid).await.ok();
            });
        });
        cleanup.join().ok();
    }
}

async fn defined(subject: &Subject) -> (DomainSpec, Cleanup) {
    let spec = subject.spec();
    let cleanup = Cleanup {
        hypervisor: Arc::clone(&subject.hypervisor),
        uuid: spec.uuid,
        runtime: tokio::runtime::Handle::current(),
    };
    subject.hypervisor.define(&spec).await.unwrap();
    (spec, cleanup)
}

async fn power_state(subject: &Subject, uuid: Uuid) -> PowerState {
    subject.hypervisor.domain(uuid).await.unwrap().unwrap().power_state
}

async fn event(
    events: &mut broadcast::Receiver<DomainEvent>,
    uuid: Uuid,
    state: PowerState,
) -> DomainEvent {
    let wait = async {
        loop {
            let event = events.recv().await.unwrap();
            if event.instance_uuid == uuid && event.power_state == state {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap_or_else(|_| panic!("no event of {state:?}"))
}

const PLAIN: StartOptions = StartOptions { paused: false, force_boot: false };

async fn a_domain_goes_through_its_life(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let mut events = hypervisor.events();
    let (spec, _cleanup) = defined(subject).await;
    let uuid = spec.uuid;

    let info = hypervisor.domain(uuid).await.unwrap().unwrap();
    assert_eq!((info.name.as_str(), info.id), (spec.name.as_str(), None));
    assert_eq!(info.power_state, PowerState::Shutdown);
    assert!(info.nova_owned);

    hypervisor.start(uuid, PLAIN).await.unwrap();
    event(&mut events, uuid, PowerState::Running).await;
    let info = hypervisor.domain(uuid).await.unwrap().unwrap();
    assert_eq!((info.power_state, info.reason.as_str()), (PowerState::Running, "booted"));
    assert!(info.id.is_some());

    hypervisor.pause(uuid).await.unwrap();
    event(&mut events, uuid, PowerState::Paused).await;
    hypervisor.pause(uuid).await.unwrap();
    assert_eq!(power_state(subject, uuid).await, PowerState::Paused);
    hypervisor.unpause(uuid).await.unwrap();
    hypervisor.unpause(uuid).await.unwrap();
    assert_eq!(power_state(subject, uuid).await, PowerState::Running);

    hypervisor.destroy(uuid).await.unwrap();
    assert_eq!(event(&mut events, uuid, PowerState::Shutdown).await.detail, "destroyed");
    hypervisor.undefine(uuid).await.unwrap();
    assert_eq!(hypervisor.domain(uuid).await.unwrap(), None);
}

async fn a_repeat_is_already_done(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let (spec, _cleanup) = defined(subject).await;
    let uuid = spec.uuid;
    hypervisor.define(&spec).await.unwrap();
    hypervisor.start(uuid, PLAIN).await.unwrap();
    let first = hypervisor.domain(uuid).await.unwrap().unwrap().id;
    hypervisor.start(uuid, PLAIN).await.unwrap();
    assert_eq!(hypervisor.domain(uuid).await.unwrap().unwrap().id, first, "not started twice");
    hypervisor.define(&spec).await.unwrap();
    hypervisor.destroy(uuid).await.unwrap();
    hypervisor.destroy(uuid).await.unwrap();
    hypervisor.drop_managed_save(uuid).await.unwrap();
    hypervisor.undefine(uuid).await.unwrap();
    hypervisor.undefine(uuid).await.unwrap();
}

async fn what_is_absent_is_said_to_be(subject: &Subject) {
    let (hypervisor, uuid) = (&subject.hypervisor, Uuid::new_v4());
    assert_eq!(hypervisor.domain(uuid).await.unwrap(), None);
    let absent = |error: HypervisorError| {
        assert!(matches!(error, HypervisorError::NoDomain(u) if u == uuid), "{error:?}");
        assert_eq!(error.class(), Class::Absent);
    };
    absent(hypervisor.start(uuid, PLAIN).await.unwrap_err());
    absent(hypervisor.destroy(uuid).await.unwrap_err());
    absent(hypervisor.press_power_button(uuid).await.unwrap_err());
    absent(hypervisor.pause(uuid).await.unwrap_err());
    absent(hypervisor.domain_xml(uuid, true).await.unwrap_err());
    absent(hypervisor.console_endpoints(uuid).await.unwrap_err());
    absent(hypervisor.stats(uuid).await.unwrap_err());
    absent(hypervisor.managed_save(uuid, Duration::from_secs(5)).await.unwrap_err());
    hypervisor.undefine(uuid).await.unwrap();
}

async fn a_domain_can_start_paused(subject: &Subject) {
    if subject.is_exact {
        let (spec, _cleanup) = defined(subject).await;
        let options = StartOptions { paused: true, force_boot: false };
        subject.hypervisor.start(spec.uuid, options).await.unwrap();
        let info = subject.hypervisor.domain(spec.uuid).await.unwrap().unwrap();
        assert_eq!((info.power_state, info.reason.as_str()), (PowerState::Paused, "user"));
        subject.hypervisor.unpause(spec.uuid).await.unwrap();
        assert_eq!(power_state(subject, spec.uuid).await, PowerState::Running);
    }
}

async fn a_saved_domain_is_restored_by_the_next_start_unless_it_must_boot(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let (spec, _cleanup) = defined(subject).await;
    let uuid = spec.uuid;
    hypervisor.start(uuid, PLAIN).await.unwrap();
    let within = Duration::from_secs(60);
    hypervisor.managed_save(uuid, within).await.unwrap();
    hypervisor.managed_save(uuid, within).await.unwrap();
    let info = hypervisor.domain(uuid).await.unwrap().unwrap();
    assert!(info.managed_save);
    assert_eq!((info.power_state, info.reason.as_str()), (PowerState::Shutdown, "saved"));

    hypervisor.start(uuid, PLAIN).await.unwrap();
    let info = hypervisor.domain(uuid).await.unwrap().unwrap();
    assert!(!info.managed_save);
    assert_eq!(info.reason, if subject.is_exact { "restored" } else { "booted" });

    hypervisor.managed_save(uuid, within).await.unwrap();
    let boot = StartOptions { paused: false, force_boot: true };
    hypervisor.start(uuid, boot).await.unwrap();
    let info = hypervisor.domain(uuid).await.unwrap().unwrap();
    assert!(!info.managed_save);
    assert_eq!(info.reason, "booted");

    hypervisor.managed_save(uuid, within).await.unwrap();
    hypervisor.drop_managed_save(uuid).await.unwrap();
    assert!(!hypervisor.domain(uuid).await.unwrap().unwrap().managed_save);
    hypervisor.start(uuid, PLAIN).await.unwrap();
    hypervisor.managed_save(uuid, within).await.unwrap();
    hypervisor.undefine(uuid).await.unwrap();
    assert_eq!(hypervisor.domain(uuid).await.unwrap(), None, "with its saved memory");
}

async fn what_became_of_a_late_save_is_known_once_its_job_is_over(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    assert!(!hypervisor.has_job(Uuid::new_v4()).await.unwrap());
    hypervisor.abort_job(Uuid::new_v4()).await.unwrap();
    let (spec, _cleanup) = defined(subject).await;
    let uuid = spec.uuid;
    assert!(!hypervisor.has_job(uuid).await.unwrap());
    let mut late = 0;
    for milliseconds in [0, 1, 5, 10, 20, 40, 80, 160, 320, 640] {
        hypervisor.start(uuid, PLAIN).await.unwrap();
        hypervisor.abort_job(uuid).await.unwrap();
        let within = Duration::from_millis(milliseconds);
        match hypervisor.managed_save(uuid, within).await {
            Ok(()) => {}
            Err(HypervisorError::TimedOut { .. }) => late += 1,
            Err(error) => panic!("{error:?}"),
        }
        let over = async {
            while hypervisor.has_job(uuid).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), over).await.expect("the job ends");
        let then = hypervisor.domain(uuid).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let later = hypervisor.domain(uuid).await.unwrap().unwrap();
        assert_eq!(then, later, "after {within:?}");
        assert!(then.managed_save || then.power_state == PowerState::Running, "{then:?}");
    }
    eprintln!("{}: {late} saves took too long", subject.name);
}

async fn a_domain_that_is_off_still_names_its_serial_ports(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let (mut spec, _cleanup) = defined(subject).await;
    let address = "127.0.0.1".to_owned();
    spec.serials = vec![SerialSpec::Tcp { address: address.clone(), port: 10_017, log: None }];
    spec.graphics = vec![GraphicsSpec::Vnc { listen: address.clone() }];
    hypervisor.define(&spec).await.unwrap();
    let endpoints = hypervisor.console_endpoints(spec.uuid).await.unwrap();
    assert_eq!((endpoints.vnc, endpoints.serial), (None, vec![(address, 10_017)]));
}

async fn the_power_button_is_pressed_and_a_guest_that_listens_goes_off(subject: &Subject) {
    let mut events = subject.hypervisor.events();
    let (spec, _cleanup) = defined(subject).await;
    subject.hypervisor.start(spec.uuid, PLAIN).await.unwrap();
    subject.hypervisor.press_power_button(spec.uuid).await.unwrap();
    if subject.guests_listen {
        event(&mut events, spec.uuid, PowerState::Shutdown).await;
        assert_eq!(power_state(subject, spec.uuid).await, PowerState::Shutdown);
    } else {
        assert_eq!(power_state(subject, spec.uuid).await, PowerState::Running);
    }
    subject.hypervisor.destroy(spec.uuid).await.unwrap();
    subject.hypervisor.press_power_button(spec.uuid).await.unwrap();
}

async fn what_the_state_forbids_is_refused(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let (spec, _cleanup) = defined(subject).await;
    for error in [
        hypervisor.pause(spec.uuid).await.unwrap_err(),
        hypervisor.unpause(spec.uuid).await.unwrap_err(),
        hypervisor.managed_save(spec.uuid, Duration::from_secs(5)).await.unwrap_err(),
    ] {
        assert!(matches!(error, HypervisorError::Refused { .. }), "{error:?}");
        if subject.is_exact {
            assert_eq!(error.class(), Class::Refused);
        }
    }
}

async fn lists_and_counters_name_every_domain(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let (on, _cleanup) = defined(subject).await;
    let (off, _cleanup) = defined(subject).await;
    hypervisor.start(on.uuid, PLAIN).await.unwrap();
    let domains = hypervisor.domains().await.unwrap();
    for (spec, state) in [(&on, PowerState::Running), (&off, PowerState::Shutdown)] {
        let info = domains.iter().find(|info| info.instance_uuid == spec.uuid).unwrap();
        assert_eq!(info.power_state, state);
        assert!(info.nova_owned);
    }
    let all = hypervisor.all_stats().await.unwrap();
    for (spec, state) in [(&on, PowerState::Running), (&off, PowerState::Shutdown)] {
        let stats = all.iter().find(|stats| stats.instance_uuid == spec.uuid).unwrap();
        assert_eq!((stats.power_state, &stats.name), (Some(state), &spec.name));
    }
    let states = hypervisor.power_states().await.unwrap();
    assert_eq!(states.get(&on.uuid), Some(&PowerState::Running));
    assert_eq!(states.get(&off.uuid), Some(&PowerState::Shutdown));
    let stats = hypervisor.stats(on.uuid).await.unwrap();
    assert_eq!((stats.instance_uuid, stats.power_state), (on.uuid, Some(PowerState::Running)));
    let host = hypervisor.host_info().await.unwrap();
    assert!(!host.node.is_empty() && host.cpus > 0 && host.memory_mib > 0, "{host:?}");
    assert!(host.guests.contains(&(on.os.architecture.clone(), on.virt_type.clone())));
    let state = hypervisor.host_state().await.unwrap();
    assert_eq!((&state.node, state.memory_mib), (&host.node, host.memory_mib));
    assert!(
        !state.online_cpus.is_empty() && state.present_cpus as usize >= state.online_cpus.len()
    );
    let capabilities = hypervisor.capabilities().await.unwrap();
    assert_eq!(capabilities.cpu.architecture, host.architecture);
}

async fn a_definition_made_while_the_domain_runs_is_the_next_boots(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let (mut spec, _cleanup) = defined(subject).await;
    hypervisor.start(spec.uuid, PLAIN).await.unwrap();
    spec.vcpus = 2;
    spec.cpu.sockets = 2;
    hypervisor.define(&spec).await.unwrap();
    let two = |xml: String| xml.contains(">2</vcpu>");
    assert!(two(hypervisor.domain_xml(spec.uuid, true).await.unwrap()));
    assert!(!two(hypervisor.domain_xml(spec.uuid, false).await.unwrap()));
    hypervisor.destroy(spec.uuid).await.unwrap();
    assert!(two(hypervisor.domain_xml(spec.uuid, false).await.unwrap()));
}

async fn an_undefined_domain_runs_on_and_is_gone_when_it_stops(subject: &Subject) {
    let hypervisor = &subject.hypervisor;
    let (spec, _cleanup) = defined(subject).await;
    hypervisor.start(spec.uuid, PLAIN).await.unwrap();
    hypervisor.undefine(spec.uuid).await.unwrap();
    assert_eq!(power_state(subject, spec.uuid).await, PowerState::Running);
    hypervisor.destroy(spec.uuid).await.unwrap();
    assert_eq!(hypervisor.domain(spec.uuid).await.unwrap(), None);
}

async fn a_name_is_one_domains_only(subject: &Subject) {
    let (spec, _cleanup) = defined(subject).await;
    let other = DomainSpec { uuid: Uuid::new_v4(), ..spec.clone() };
    let error = subject.hypervisor.define(&other).await.unwrap_err();
    assert!(matches!(error, HypervisorError::Refused { .. }), "{error:?}");
    assert_eq!(subject.hypervisor.domain(other.uuid).await.unwrap(), None);
}

async fn hostile_names_are_taken_as_text(subject: &Subject) {
    let mut spec = subject.spec();
    let _cleanup = Cleanup {
        hypervisor: Arc::clone(&subject.hypervisor),
        uuid: spec.uuid,
        runtime: tokio::runtime::Handle::current(),
    };
    spec.metadata.name = "</nova:name><x a='\"'>&amp;]]>\u{0}\u{1}\u{b}\u{fffe}é\u{1f600}".into();
    spec.metadata.flavor.extra_specs = vec![("a\"<b".into(), "\u{7}\r\n<!--".into())];
    subject.hypervisor.define(&spec).await.unwrap();
    let xml = subject.hypervisor.domain_xml(spec.uuid, true).await.unwrap();
    let facts = hypernova::hypervisor::libvirt::xml::read::domain_facts(&xml).unwrap();
    let name = facts.nova.unwrap().display_name.unwrap();
    assert_eq!(name, "</nova:name><x a='\"'>&amp;]]>é\u{1f600}");
}
