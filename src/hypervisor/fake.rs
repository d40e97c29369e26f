//! A hypervisor that keeps its world in memory: domains that are defined, run, pause, are saved and
//! go away, with the events and refusals of libvirt. `compute_driver = fake.FakeDriver` runs the
//! whole agent on it; tests tell it what should fail and ask what became of the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::time::Instant;
use uuid::Uuid;

use super::block::{BlockCopy, BlockJob, BlockJobEvent, DeviceEvent, DomainDisk, VolumeDisk};
use super::host::{Capabilities, DiskSize, DomainCapabilities, HostCpu, HostState};
use super::libvirt::xml;
use super::spec::{DiskSpec, DomainSpec, GraphicsSpec, InterfaceSpec, NovaMetadata, SerialSpec};
use super::{
    ConsoleEndpoints, DiskStats, DomainEvent, DomainInfo, DomainStats, HostInfo, Hypervisor,
    HypervisorError, InterfaceStats, SpicePorts, StartOptions,
};
use crate::hypervisor::spec::FirmwareFiles;
use crate::model::class::Class;
use crate::model::secret::Secret;
use crate::model::state::PowerState;

mod disks;
mod host;
mod hotplug;
mod nics;

/// State changes kept for a slow receiver.
const EVENT_BACKLOG: usize = 1024;

/// Between two looks at a save.
const SAVE_POLL: Duration = Duration::from_millis(50);

/// The first VNC port, as QEMU's.
const FIRST_VNC_PORT: u16 = 5900;

/// An in-memory hypervisor. Names of calls, for [`fail_at`](Self::fail_at), are the trait's
/// methods: `"define"`, `"start"`, `"managed_save"`, …
#[derive(Debug)]
pub struct FakeHypervisor {
    world: Mutex<World>,
    events: broadcast::Sender<DomainEvent>,
    block_jobs: broadcast::Sender<BlockJobEvent>,
    devices: broadcast::Sender<DeviceEvent>,
}

#[derive(Debug)]
struct World {
    domains: BTreeMap<Uuid, FakeDomain>,
    host: HostInfo,
    next_id: u32,
    latency: Duration,
    failures: BTreeMap<String, Failure>,
    /// Guests that don't react to the power button.
    deaf: BTreeSet<Uuid>,
    /// How long a save takes, and whether it can't be aborted.
    save_time: Duration,
    unstoppable: bool,
    /// Saves under way, and when they end.
    saving: BTreeMap<Uuid, Instant>,
    /// Definitions by their XML, once they were asked for.
    written: BTreeMap<String, DomainSpec>,
    /// Block jobs, and what guest agents were asked.
    disks: disks::Disks,
    /// Guests that keep what they are asked to let go of, and what libvirt keeps for volumes.
    hotplug: hotplug::Hotplug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    class: Class,
    /// How many more times; `None`: always.
    left: Option<u32>,
    /// Whether the call changes the world before it fails, as when an answer is lost.
    after: bool,
}

/// A domain of the fake.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeDomain {
    /// The running definition, or the only one.
    pub spec: DomainSpec,
    /// What the next start takes, when that was defined while the domain ran.
    pub next_spec: Option<DomainSpec>,
    pub id: Option<u32>,
    pub power_state: PowerState,
    pub reason: String,
    pub managed_save: bool,
    /// Whether its definition outlives its run.
    pub persistent: bool,
    /// Whether it carries nova's metadata.
    pub nova_owned: bool,
    /// How many times the guest was booted, restores not counted.
    pub boots: u32,
}

impl FakeDomain {
    fn is_active(&self) -> bool {
        self.id.is_some()
    }
}

impl Default for FakeHypervisor {
    fn default() -> Self {
        Self::new("fake-mini")
    }
}

impl FakeHypervisor {
    /// An empty host whose node is `node`.
    pub fn new(node: &str) -> Self {
        let host = HostInfo {
            node: node.to_owned(),
            uuid: Some(Uuid::from_u128(0xfa4e)),
            architecture: "x86_64".into(),
            cpus: 1000,
            memory_mib: 800_000,
            hypervisor_type: "fake".into(),
            hypervisor_version: 1_000,
            library_version: 1_000,
            guests: ["qemu", "kvm"].map(|kind| ("x86_64".into(), kind.into())).to_vec(),
        };
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let world = World {
            domains: BTreeMap::new(),
            host,
            next_id: 1,
            latency: Duration::ZERO,
            failures: BTreeMap::new(),
            deaf: BTreeSet::new(),
            save_time: Duration::ZERO,
            unstoppable: false,
            saving: BTreeMap::new(),
            written: BTreeMap::new(),
            disks: disks::Disks::default(),
            hotplug: hotplug::Hotplug::default(),
        };
        let (block_jobs, _) = broadcast::channel(EVENT_BACKLOG);
        let (devices, _) = broadcast::channel(EVENT_BACKLOG);
        Self { world: Mutex::new(world), events, block_jobs, devices }
    }

    /// The next `call` fails and changes nothing.
    pub fn fail_at(&self, call: &str) {
        self.set_failure(call, Failure { class: Class::Reschedule, left: Some(1), after: false });
    }

    /// Every `call` fails from now on, until [`heal`](Self::heal).
    pub fn fail_always(&self, call: &str) {
        self.set_failure(call, Failure { class: Class::Reschedule, left: None, after: false });
    }

    /// The next `times` of `call` fail with that class.
    pub fn fail_with(&self, call: &str, class: Class, times: u32) {
        self.set_failure(call, Failure { class, left: Some(times), after: false });
    }

    /// The next `call` does its work and then fails, as when the answer is lost on its way.
    pub fn fail_after(&self, call: &str) {
        self.set_failure(call, Failure { class: Class::Transient, left: Some(1), after: true });
    }

    /// Takes every planned failure back.
    pub fn heal(&self) {
        self.lock().failures.clear();
    }

    /// Each call takes that long from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// The host as the fake describes it from now on.
    pub fn set_host(&self, host: HostInfo) {
        self.lock().host = host;
    }

    /// Whether that guest ignores the power button.
    pub fn ignore_power_button(&self, uuid: Uuid, ignore: bool) {
        let mut world = self.lock();
        if ignore {
            world.deaf.insert(uuid);
        } else {
            world.deaf.remove(&uuid);
        }
    }

    /// A save takes that long from now on; an `unstoppable` one can't be aborted.
    pub fn set_save_time(&self, save_time: Duration, unstoppable: bool) {
        let mut world = self.lock();
        (world.save_time, world.unstoppable) = (save_time, unstoppable);
    }

    /// What is left of an agent that died while it waited for a save.
    pub fn leave_save(&self, uuid: Uuid) {
        self.lock().begin_save(uuid);
    }

    /// A domain that an operator made beside nova: not ours to touch.
    pub fn add_foreign(&self, mut spec: DomainSpec) {
        spec.metadata = Default::default();
        let domain = FakeDomain { nova_owned: false, ..FakeDomain::defined(spec) };
        self.lock().domains.insert(domain.spec.uuid, domain);
    }

    /// The guest powers itself off, as `poweroff` in it does.
    pub fn guest_powers_off(&self, uuid: Uuid) {
        self.lock().stop(uuid, PowerState::Shutdown, "shutdown", &self.events);
    }

    /// The guest crashes.
    pub fn guest_crashes(&self, uuid: Uuid) {
        self.lock().stop(uuid, PowerState::Crashed, "crashed", &self.events);
    }

    /// Everything there is: what became of the world.
    pub fn world(&self) -> Vec<FakeDomain> {
        self.lock().domains.values().cloned().collect()
    }

    /// One domain of the world.
    pub fn get(&self, uuid: Uuid) -> Option<FakeDomain> {
        self.lock().domains.get(&uuid).cloned()
    }

    fn set_failure(&self, call: &str, failure: Failure) {
        self.lock().failures.insert(call.to_owned(), failure);
    }

    /// The world as it is now: what has come to its end by itself is over.
    fn lock(&self) -> MutexGuard<'_, World> {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.end_saves(&self.events);
        world
    }

    /// Runs one call on the world, with the latency and the failures asked for.
    async fn call<T>(
        &self,
        call: &'static str,
        f: impl FnOnce(&mut World) -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let latency = self.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut world = self.lock();
        let failure = world.take_failure(call);
        let planned = failure.map(|failure| HypervisorError::Refused {
            operation: call,
            message: "the fake was told to fail".into(),
            class: failure.class,
        });
        match (planned, failure) {
            (Some(error), Some(Failure { after: true, .. })) => {
                f(&mut world)?;
                Err(error)
            }
            (Some(error), _) => Err(error),
            (None, _) => f(&mut world),
        }
    }
}

impl FakeDomain {
    fn defined(spec: DomainSpec) -> Self {
        Self {
            spec,
            next_spec: None,
            id: None,
            power_state: PowerState::Shutdown,
            reason: "unknown".into(),
            managed_save: false,
            persistent: true,
            nova_owned: true,
            boots: 0,
        }
    }
}

impl World {
    fn take_failure(&mut self, call: &str) -> Option<Failure> {
        let failure = self.failures.get_mut(call)?;
        let taken = *failure;
        if let Some(left) = &mut failure.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.failures.remove(call);
            }
        }
        Some(taken)
    }

    fn found(&mut self, uuid: Uuid) -> Result<&mut FakeDomain, HypervisorError> {
        self.domains.get_mut(&uuid).ok_or(HypervisorError::NoDomain(uuid))
    }

    fn ours(&mut self, uuid: Uuid) -> Result<&mut FakeDomain, HypervisorError> {
        let domain = self.found(uuid)?;
        if domain.nova_owned {
            Ok(domain)
        } else {
            Err(HypervisorError::NotOurs { name: domain.spec.name.clone() })
        }
    }

    fn define(&mut self, spec: &DomainSpec) -> Result<(), HypervisorError> {
        let namesake =
            |other: &&FakeDomain| other.spec.name == spec.name && other.spec.uuid != spec.uuid;
        if let Some(other) = self.domains.values().find(namesake) {
            return Err(match other.nova_owned {
                false => HypervisorError::NotOurs { name: spec.name.clone() },
                true => wrong_state("define", "the name belongs to another domain"),
            });
        }
        match self.ours(spec.uuid) {
            Ok(domain) if domain.is_active() => {
                domain.persistent = true;
                domain.next_spec = Some(spec.clone());
            }
            Ok(domain) => domain.spec = spec.clone(),
            Err(HypervisorError::NoDomain(uuid)) => {
                self.domains.insert(uuid, FakeDomain::defined(spec.clone()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn begin_save(&mut self, uuid: Uuid) {
        self.saving.insert(uuid, Instant::now() + self.save_time);
        if let Some(domain) = self.domains.get_mut(&uuid) {
            (domain.power_state, domain.reason) = (PowerState::Paused, "saving".into());
        }
    }

    fn end_saves(&mut self, events: &broadcast::Sender<DomainEvent>) {
        let now = Instant::now();
        let over = self.saving.iter().filter(|(_, ends)| **ends <= now);
        for uuid in over.map(|(uuid, _)| *uuid).collect::<Vec<_>>() {
            self.saving.remove(&uuid);
            let domain = self.domains.get_mut(&uuid).filter(|domain| domain.is_active());
            if let Some(domain) = domain {
                domain.managed_save = true;
                self.stop(uuid, PowerState::Shutdown, "saved", events);
            }
        }
    }

    fn abort_save(&mut self, uuid: Uuid) {
        if !self.unstoppable && self.saving.remove(&uuid).is_some() {
            let domain = self.domains.get_mut(&uuid).filter(|domain| domain.is_active());
            if let Some(domain) = domain {
                (domain.power_state, domain.reason) = (PowerState::Running, "save canceled".into());
            }
        }
    }

    /// Ends a run. What had no definition beside it is gone.
    fn stop(
        &mut self,
        uuid: Uuid,
        power_state: PowerState,
        reason: &str,
        events: &broadcast::Sender<DomainEvent>,
    ) {
        let Some(domain) = self.domains.get_mut(&uuid).filter(|domain| domain.is_active()) else {
            return;
        };
        // A job on a disk ends with its guest.
        self.disks.forget(uuid);
        domain.id = None;
        domain.power_state = power_state;
        domain.reason = reason.into();
        if let Some(spec) = domain.next_spec.take() {
            domain.spec = spec;
        }
        if !domain.persistent {
            self.domains.remove(&uuid);
        }
        send(events, uuid, power_state, reason);
    }
}

fn send(events: &broadcast::Sender<DomainEvent>, uuid: Uuid, state: PowerState, detail: &str) {
    // Nobody listening is fine.
    events
        .send(DomainEvent { instance_uuid: uuid, power_state: state, detail: detail.into() })
        .ok();
}

/// libvirt's refusal of something the domain's state doesn't allow.
fn wrong_state(operation: &'static str, message: &str) -> HypervisorError {
    HypervisorError::Refused { operation, message: message.into(), class: Class::Refused }
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    async fn define(&self, spec: &DomainSpec) -> Result<(), HypervisorError> {
        self.call("define", |world| world.define(spec)).await
    }

    async fn define_again(&self, uuid: Uuid, xml: &str) -> Result<(), HypervisorError> {
        self.call("define_again", |world| {
            let kept = world.written.get(xml).filter(|spec| spec.uuid == uuid).cloned();
            let message = "the definition that was kept is of another domain".to_owned();
            let garbled = HypervisorError::Garbled { operation: "define", message };
            world.define(&kept.ok_or(garbled)?)
        })
        .await
    }

    async fn start(&self, uuid: Uuid, options: StartOptions) -> Result<(), HypervisorError> {
        self.call("start", |world| {
            let id = world.next_id;
            let domain = world.ours(uuid)?;
            if domain.is_active() {
                return Ok(());
            }
            let restored = domain.managed_save && !options.force_boot;
            domain.managed_save = false;
            domain.id = Some(id);
            domain.boots += u32::from(!restored);
            let booted = if restored { "restored" } else { "booted" };
            (domain.power_state, domain.reason) = match options.paused {
                true => (PowerState::Paused, "user".into()),
                false => (PowerState::Running, booted.into()),
            };
            world.next_id += 1;
            send(&self.events, uuid, PowerState::Running, booted);
            if options.paused {
                send(&self.events, uuid, PowerState::Paused, "paused");
            }
            Ok(())
        })
        .await
    }

    async fn destroy(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("destroy", |world| {
            world.ours(uuid)?;
            world.stop(uuid, PowerState::Shutdown, "destroyed", &self.events);
            Ok(())
        })
        .await
    }

    async fn undefine(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("undefine", |world| {
            if !world.domains.contains_key(&uuid) {
                return Ok(());
            }
            let domain = world.ours(uuid)?;
            domain.managed_save = false;
            domain.persistent = false;
            if !domain.is_active() {
                world.domains.remove(&uuid);
            }
            Ok(())
        })
        .await
    }

    async fn press_power_button(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("press_power_button", |world| {
            let domain = world.ours(uuid)?;
            // A guest whose CPUs stand still can't hear it either.
            let hears = domain.power_state == PowerState::Running;
            if hears && !world.deaf.contains(&uuid) {
                world.stop(uuid, PowerState::Shutdown, "shutdown", &self.events);
            }
            Ok(())
        })
        .await
    }

    async fn pause(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("pause", |world| {
            let domain = world.ours(uuid)?;
            match domain.power_state {
                PowerState::Paused => return Ok(()),
                PowerState::Running => {}
                _ => return Err(wrong_state("pause", "domain is not running")),
            }
            domain.power_state = PowerState::Paused;
            domain.reason = "user".into();
            send(&self.events, uuid, PowerState::Paused, "paused");
            Ok(())
        })
        .await
    }

    async fn unpause(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("unpause", |world| {
            let domain = world.ours(uuid)?;
            match domain.power_state {
                PowerState::Running => return Ok(()),
                PowerState::Paused => {}
                _ => return Err(wrong_state("unpause", "domain is not running")),
            }
            domain.power_state = PowerState::Running;
            domain.reason = "unpaused".into();
            send(&self.events, uuid, PowerState::Running, "unpaused");
            Ok(())
        })
        .await
    }

    async fn managed_save(&self, uuid: Uuid, within: Duration) -> Result<(), HypervisorError> {
        self.call("managed_save", |world| {
            let busy = world.saving.contains_key(&uuid);
            let domain = world.ours(uuid)?;
            match (domain.is_active(), domain.managed_save) {
                (false, true) => return Ok(()),
                (false, false) => return Err(wrong_state("managed save", "domain is not running")),
                (true, _) if busy => return Err(wrong_state("managed save", "it has a job")),
                (true, _) => {}
            }
            world.begin_save(uuid);
            world.end_saves(&self.events);
            Ok(())
        })
        .await?;
        let deadline = Instant::now() + within;
        while self.lock().saving.contains_key(&uuid) && Instant::now() < deadline {
            tokio::time::sleep(SAVE_POLL.min(within)).await;
        }
        let mut world = self.lock();
        if world.saving.contains_key(&uuid) {
            world.abort_save(uuid);
            return Err(HypervisorError::TimedOut { operation: "managed save", after: within });
        }
        match world.domains.get(&uuid) {
            Some(domain) if domain.is_active() => {
                let message = "it was aborted".into();
                let class = Class::Transient;
                Err(HypervisorError::Refused { operation: "managed save", message, class })
            }
            _ => Ok(()),
        }
    }

    async fn has_job(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        self.call("has_job", |world| Ok(world.saving.contains_key(&uuid))).await
    }

    async fn abort_job(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("abort_job", |world| {
            world.abort_save(uuid);
            Ok(())
        })
        .await
    }

    async fn drop_managed_save(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("drop_managed_save", |world| {
            world.ours(uuid)?.managed_save = false;
            Ok(())
        })
        .await
    }

    async fn domain(&self, uuid: Uuid) -> Result<Option<DomainInfo>, HypervisorError> {
        self.call("domain", |world| Ok(world.domains.get(&uuid).map(info))).await
    }

    async fn domains(&self) -> Result<Vec<DomainInfo>, HypervisorError> {
        self.call("domains", |world| Ok(world.domains.values().map(info).collect())).await
    }

    async fn power_states(&self) -> Result<BTreeMap<Uuid, PowerState>, HypervisorError> {
        self.call("power_states", |world| {
            Ok(world.domains.iter().map(|(uuid, domain)| (*uuid, domain.power_state)).collect())
        })
        .await
    }

    async fn domain_xml(&self, uuid: Uuid, inactive: bool) -> Result<String, HypervisorError> {
        self.call("domain_xml", |world| {
            let domain = world.found(uuid)?;
            let next = domain.next_spec.as_ref().filter(|_| inactive);
            let spec = next.unwrap_or(&domain.spec).clone();
            let text = xml::domain_xml(&spec);
            world.written.insert(text.clone(), spec);
            Ok(text)
        })
        .await
    }

    async fn firmware(&self, uuid: Uuid) -> Result<Option<FirmwareFiles>, HypervisorError> {
        let domain = self.get(uuid);
        Ok(domain.and_then(|domain| domain.spec.os.firmware).and_then(|uefi| uefi.files))
    }

    async fn console_endpoints(&self, uuid: Uuid) -> Result<ConsoleEndpoints, HypervisorError> {
        self.call("console_endpoints", |world| {
            let domain = world.found(uuid)?;
            let port = domain.id.map(|id| FIRST_VNC_PORT + u16::try_from(id % 1000).unwrap_or(0));
            let vnc = domain.spec.graphics.iter().find_map(|graphics| match graphics {
                GraphicsSpec::Vnc { listen } => port.map(|port| (listen.clone(), port)),
                GraphicsSpec::Spice { .. } => None,
            });
            let spice = domain.spec.graphics.iter().find_map(|graphics| match graphics {
                GraphicsSpec::Vnc { .. } => None,
                // After VNC's, as QEMU's.
                GraphicsSpec::Spice { .. } => {
                    let port = port? + u16::from(vnc.is_some());
                    Some(SpicePorts { port, tls_port: None })
                }
            });
            let serial = domain.spec.serials.iter().filter_map(|serial| match serial {
                SerialSpec::Tcp { address, port, .. } => Some((address.clone(), *port)),
                SerialSpec::Pty { .. } => None,
            });
            Ok(ConsoleEndpoints { vnc, spice, serial: serial.collect() })
        })
        .await
    }

    async fn stats(&self, uuid: Uuid) -> Result<DomainStats, HypervisorError> {
        self.call("stats", |world| Ok(stats(world.found(uuid)?, true))).await
    }

    async fn all_stats(&self) -> Result<Vec<DomainStats>, HypervisorError> {
        self.call("all_stats", |world| {
            Ok(world.domains.values().map(|domain| stats(domain, false)).collect())
        })
        .await
    }

    async fn host_info(&self) -> Result<HostInfo, HypervisorError> {
        self.call("host_info", |world| Ok(world.host.clone())).await
    }

    async fn capabilities(&self) -> Result<Arc<Capabilities>, HypervisorError> {
        self.call("capabilities", |world| Ok(Arc::new(host::capabilities(&world.host)))).await
    }

    async fn host_state(&self) -> Result<HostState, HypervisorError> {
        self.call("host_state", |world| Ok(host::state(&world.host))).await
    }

    async fn domain_capabilities(
        &self,
        _: &str,
        machine: Option<&str>,
        _: &str,
    ) -> Result<DomainCapabilities, HypervisorError> {
        self.call("domain_capabilities", |_| Ok(host::domain_capabilities(machine))).await
    }

    async fn model_features(
        &self,
        cpu: &HostCpu,
        _: &str,
    ) -> Result<Option<BTreeSet<String>>, HypervisorError> {
        self.call("model_features", |_| Ok(Some(cpu.features.clone()))).await
    }

    async fn disk_sizes(&self) -> Result<Vec<DiskSize>, HypervisorError> {
        // The fake's disks have no sizes.
        self.call("disk_sizes", |_| Ok(Vec::new())).await
    }

    async fn disks(&self, uuid: Uuid) -> Result<Vec<DomainDisk>, HypervisorError> {
        self.call("disks", |world| Ok(disks::of_spec(&world.found(uuid)?.spec))).await
    }

    async fn start_block_copy(&self, uuid: Uuid, copy: &BlockCopy) -> Result<(), HypervisorError> {
        self.call("start_block_copy", |world| world.start_copy(uuid, copy)).await
    }

    async fn block_job(
        &self,
        uuid: Uuid,
        target: &str,
    ) -> Result<Option<BlockJob>, HypervisorError> {
        self.call("block_job", |world| Ok(world.disks.job(uuid, target))).await
    }

    async fn abort_block_job(&self, uuid: Uuid, target: &str) -> Result<bool, HypervisorError> {
        self.call("abort_block_job", |world| Ok(world.disks.abort(uuid, target))).await
    }

    async fn freeze(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("freeze", |world| {
            world.ask_agent("freeze", uuid)?;
            world.disks.frozen.insert(uuid);
            Ok(())
        })
        .await
    }

    async fn thaw(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("thaw", |world| {
            world.ask_agent("thaw", uuid)?;
            world.disks.frozen.remove(&uuid);
            Ok(())
        })
        .await
    }

    async fn set_user_password(
        &self,
        uuid: Uuid,
        user: &str,
        password: &Secret,
    ) -> Result<(), HypervisorError> {
        self.call("set_user_password", |world| {
            world.ask_agent("set user password", uuid)?;
            world.disks.passwords.insert((uuid, user.to_owned()), password.clone());
            Ok(())
        })
        .await
    }

    async fn inject_nmi(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.call("inject_nmi", |world| {
            if !world.ours(uuid)?.is_active() {
                return Err(wrong_state("inject NMI", "domain is not running"));
            }
            *world.disks.interrupts.entry(uuid).or_default() += 1;
            Ok(())
        })
        .await
    }

    async fn defined_disks(&self, uuid: Uuid) -> Result<Vec<DomainDisk>, HypervisorError> {
        self.call("defined_disks", |world| {
            let domain = world.found(uuid)?;
            Ok(disks::of_spec(domain.next_spec.as_ref().unwrap_or(&domain.spec)))
        })
        .await
    }

    async fn attach_disk(&self, uuid: Uuid, disk: &DiskSpec) -> Result<(), HypervisorError> {
        self.call("attach_disk", |world| world.attach_disk(uuid, disk)).await
    }

    async fn forget_disk(&self, uuid: Uuid, disk: &VolumeDisk) -> Result<(), HypervisorError> {
        self.call("forget_disk", |world| world.forget_disk(uuid, disk)).await
    }

    async fn release_disk(
        &self,
        uuid: Uuid,
        disk: &VolumeDisk,
    ) -> Result<Option<String>, HypervisorError> {
        self.call("release_disk", |world| world.release_disk(uuid, disk, &self.devices)).await
    }

    async fn attach_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        self.call("attach_interface", |world| world.attach_interface(uuid, interface)).await
    }

    async fn forget_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<(), HypervisorError> {
        self.call("forget_interface", |world| world.forget_interface(uuid, interface)).await
    }

    async fn release_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<Option<String>, HypervisorError> {
        self.call("release_interface", |world| {
            world.release_interface(uuid, interface, &self.devices)
        })
        .await
    }

    async fn has_interface(
        &self,
        uuid: Uuid,
        interface: &InterfaceSpec,
    ) -> Result<bool, HypervisorError> {
        self.call("has_interface", |world| world.has_interface(uuid, interface)).await
    }

    async fn describe(&self, uuid: Uuid, metadata: &NovaMetadata) -> Result<(), HypervisorError> {
        self.call("describe", |world| world.describe(uuid, metadata)).await
    }

    async fn resize_disk(
        &self,
        uuid: Uuid,
        target: &str,
        bytes: u64,
    ) -> Result<(), HypervisorError> {
        self.call("resize_disk", |world| world.resize_disk(uuid, target, bytes)).await
    }

    async fn start_disk_swap(&self, uuid: Uuid, to: &DiskSpec) -> Result<(), HypervisorError> {
        self.call("start_disk_swap", |world| world.start_swap(uuid, to)).await
    }

    async fn pivot_block_job(&self, uuid: Uuid, target: &str) -> Result<(), HypervisorError> {
        self.call("pivot_block_job", |world| world.pivot(uuid, target)).await
    }

    async fn keep_volume_secret(
        &self,
        volume_id: &str,
        passphrase: &Secret,
    ) -> Result<Uuid, HypervisorError> {
        self.call("keep_volume_secret", |world| Ok(world.hotplug.keep(volume_id, passphrase))).await
    }

    async fn volume_secret(&self, volume_id: &str) -> Result<Option<Uuid>, HypervisorError> {
        self.call("volume_secret", |world| Ok(world.hotplug.secret(volume_id))).await
    }

    async fn forget_volume_secret(&self, volume_id: &str) -> Result<(), HypervisorError> {
        self.call("forget_volume_secret", |world| {
            world.hotplug.secrets.remove(volume_id);
            Ok(())
        })
        .await
    }

    fn device_events(&self) -> broadcast::Receiver<DeviceEvent> {
        self.devices.subscribe()
    }

    fn block_job_events(&self) -> broadcast::Receiver<BlockJobEvent> {
        self.block_jobs.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<DomainEvent> {
        self.events.subscribe()
    }
}

fn info(domain: &FakeDomain) -> DomainInfo {
    DomainInfo {
        instance_uuid: domain.spec.uuid,
        name: domain.spec.name.clone(),
        id: domain.id,
        power_state: domain.power_state,
        reason: domain.reason.clone(),
        managed_save: domain.managed_save,
        nova_owned: domain.nova_owned,
    }
}

/// Counters of nothing, for the devices there are; libvirt names addresses for one domain only.
fn stats(domain: &FakeDomain, with_addresses: bool) -> DomainStats {
    let spec = &domain.spec;
    let active = domain.is_active();
    DomainStats {
        instance_uuid: spec.uuid,
        name: spec.name.clone(),
        power_state: Some(domain.power_state),
        cpu_time_ns: 0,
        vcpu_times_ns: if active { vec![0; spec.vcpus as usize] } else { Vec::new() },
        memory_max_kib: spec.memory_kib,
        memory_used_kib: if active { spec.memory_kib } else { 0 },
        disks: spec
            .disks
            .iter()
            .map(|disk| DiskStats {
                target: disk.target.clone(),
                errors: -1,
                ..DiskStats::default()
            })
            .collect(),
        interfaces: spec
            .interfaces
            .iter()
            .filter(|_| active)
            .map(|interface| InterfaceStats {
                device: interface.target.clone().unwrap_or_default(),
                mac_address: with_addresses.then(|| interface.mac_address.clone()),
                ..InterfaceStats::default()
            })
            .collect(),
    }
}
