//! A world of fakes for the engine tests: what a host looks like before and after a workflow.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::any::AnyRecord;
use super::board::Running;
use super::engine::{Controls, Workflow};
use super::external_events::ExternalEvents;
use super::info_cache::InfoCaches;
use super::instance::Subject;
use super::journal::{Head, Journal, JournalError, Phase, Record, Stored};
use super::reschedule::BuildArguments;
use super::spawn::{Build, Spawn};
use super::{Backends, Settings, StepError};
use crate::dispatch::own::OwnRequests;
use crate::dispatch::{Dispatcher, Limits};
use crate::health::Metrics;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::fake::FakeHypervisor;
use crate::images::ImageRequest;
use crate::images::fake::FakeImages;
use crate::images::sink::fake::FakeSink;
use crate::images::snapshots::fake::FakeSnapshots;
use crate::model::context::RequestContext;
use crate::model::object::{
    BlockDeviceMapping, DestinationType, Flavor, ImageMeta, Instance, SourceType,
};
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;
use crate::network::fake::FakeNetwork;
use crate::network::{RequestedNetwork, Wanted};
use crate::node::fake::FakeNode;
use crate::notify::fake::Recorder;
use crate::records::fake::FakeRecords;
use crate::records::history::History;
use crate::records::{Expected, Records};
use crate::volumes::fake::FakeVolumes;
use crate::volumes::host::fake::FakeConnectors;

/// The one instance of these tests.
pub const UUID: Uuid = Uuid::from_u128(0x24ef_2f14_daa6_42b1_b7fa_7136_169b_5f1c);

/// A host of fakes.
pub struct World {
    pub hypervisor: Arc<FakeHypervisor>,
    pub images: Arc<FakeImages>,
    pub snapshots: Arc<FakeSnapshots>,
    pub sink: Arc<FakeSink>,
    pub volumes: Arc<FakeVolumes>,
    pub connectors: Arc<FakeConnectors>,
    pub network: Arc<FakeNetwork>,
    pub records: Arc<FakeRecords>,
    pub notifier: Arc<Recorder>,
    pub events: Arc<ExternalEvents>,
    pub node: Arc<FakeNode>,
    pub settings: Settings,
}

impl World {
    pub fn new() -> Self {
        Self {
            hypervisor: Arc::new(FakeHypervisor::new("node1")),
            images: Arc::new(FakeImages::default()),
            snapshots: Arc::default(),
            sink: Arc::default(),
            volumes: Arc::default(),
            connectors: Arc::default(),
            network: Arc::new(FakeNetwork::new()),
            records: Arc::new(FakeRecords::new("host1")),
            notifier: Arc::new(Recorder::new("host1", Settings::example().name_template)),
            events: Arc::new(ExternalEvents::new()),
            node: Arc::new(FakeNode::new("host1")),
            settings: Settings::example(),
        }
    }

    /// A world whose instance runs.
    pub async fn with_guest() -> Self {
        let world = Self::new();
        let mut record = world.record(spawn()).await;
        world.run(&mut record, &MemoryJournal::default()).await.unwrap();
        assert_eq!(record.head.phase, Phase::Done, "{:?}", record.head.failure);
        world
    }

    pub fn backends(&self) -> Backends {
        Backends {
            hypervisor: self.hypervisor.clone(),
            images: self.images.clone(),
            snapshots: self.snapshots.clone(),
            sink: self.sink.clone(),
            volumes: self.volumes.clone(),
            host_volumes: self.connectors.clone(),
            network: self.network.clone(),
            records: self.records.clone(),
            claims: self.node.clone(),
            scheduling: self.node.clone(),
            notifier: self.notifier.clone(),
            events: self.events.clone(),
            info_caches: Arc::new(InfoCaches::default()),
            settings: Arc::new(self.settings.clone()),
        }
    }

    /// A record of `workflow` on the instance as it is on record now.
    pub async fn record<W: Workflow + HasSubject>(&self, mut workflow: W) -> Record<W> {
        let context = RequestContext::admin();
        let sent = workflow.subject().instance.clone();
        workflow.subject().instance = self.records.receive(&context, sent).await.unwrap();
        Record::queued(format!("{}", Uuid::new_v4()), UUID, context, workflow)
    }

    pub async fn run<W: Workflow>(
        &self,
        record: &mut Record<W>,
        journal: &MemoryJournal,
    ) -> Result<Option<StepError>, JournalError> {
        let running = Running::detached();
        let on = self.backends();
        let controls = Controls { park: journal.crash.clone(), ..Controls::default() };
        super::engine::run(record, journal, &on, &running, &controls).await
    }

    /// Everything of the instance on this host, and what its record says.
    pub async fn state(&self) -> Value {
        let domain = self.hypervisor.domain(UUID).await.unwrap();
        let domain = domain.map(|d| json!([d.power_state.name(), d.managed_save, d.id.is_some()]));
        let records: Vec<_> = self.records.all();
        let record = records.first().map(|instance| {
            json!([
                instance.vm_state.value().map(|s| s.as_str()),
                instance.task_state.value().map(|s| s.as_str()),
                instance.power_state.value(),
                instance.host.value(),
                instance.deleted.get(),
                system_metadata(instance),
            ])
        });
        let definition = self.hypervisor.get(UUID).map(|domain| {
            let paths = domain.spec.disks.into_iter().map(|disk| disk.source);
            (paths.collect::<Vec<_>>(), domain.spec.os.direct_kernel)
        });
        json!({
            "domain": domain,
            "definition": definition,
            "kept_definition": self.images.directory(UUID).is_some_and(|it| it.kept.is_some()),
            "is_unbound": self.network.is_unbound(UUID),
            "directories": self.images.directories(),
            "disks": self.images.directory(UUID).map(|directory| directory.disks),
            "allocated": self.network.allocated().values().map(Vec::len).sum::<usize>(),
            "plugged": self.network.plugged().len(),
            "interfaces": self.hypervisor.interfaces(UUID),
            "described_ports": self.hypervisor.described_ports(UUID),
            "recorded_network": self.records.network_of(UUID),
            "addresses": self.network.addresses_of(UUID),
            "claimed": self.node.claimed().len(),
            "known": self.node.known().len(),
            "copies": self.hypervisor.copies().len(),
            "frozen": self.hypervisor.is_frozen(UUID),
            "snapshots": self.snapshots.directories(),
            "attachments": self.volumes.attachments(),
            "volumes": self.volumes.all().into_iter().map(|(id, v)| (id, v.status)).collect::<Vec<_>>(),
            "connected": self.connectors.connected(),
            "guest_volumes": self.hypervisor.volumes(UUID),
            "devices": self.devices().await,
            "kept": self.sink.images().keys().collect::<Vec<_>>(),
            "record": record,
        })
    }

    /// (name, volume, whether it says how it is reached) of the disks on record.
    async fn devices(&self) -> Value {
        let devices = self.records.block_devices(&RequestContext::admin(), UUID).await.unwrap();
        let device = |device: &BlockDeviceMapping| {
            let info = device.connection_info.value().is_some();
            json!([device.device_name.text(), device.volume_id.text(), info])
        };
        devices.items().iter().map(device).collect()
    }

    /// What a failed build has left behind, the record aside.
    pub async fn leftovers(&self) -> Vec<String> {
        let state = self.state().await;
        let empty = [
            ("domain", json!(null)),
            ("directories", json!([])),
            ("allocated", json!(0)),
            ("plugged", json!(0)),
            ("claimed", json!(0)),
            ("known", json!(0)),
            ("attachments", json!([])),
            ("connected", json!([])),
        ];
        let left = empty.iter().filter(|(key, nothing)| state[key] != *nothing);
        left.map(|(key, _)| format!("{key}: {}", state[key])).collect()
    }

    /// The agent's own requests in this world, over a journal in memory.
    pub fn own_requests(&self) -> OwnRequests {
        let journal = Arc::new(MemoryJournal::default());
        let dispatcher = Dispatcher::new(
            self.backends(),
            journal,
            Arc::new(Metrics::new()),
            Limits::of_tests(1),
        );
        OwnRequests::new(dispatcher, self.records.clone())
    }

    /// Changes the instance's record, as somebody else would.
    pub async fn change(&self, change: impl FnOnce(&mut Instance)) {
        let context = RequestContext::admin();
        let mut instance = self.records.instance(&context, UUID).await.unwrap().unwrap();
        change(&mut instance);
        self.records.save(&context, &mut instance, Expected::Any).await.unwrap();
    }

    pub async fn faults(&self) -> usize {
        self.records.faults(UUID).await.unwrap().len()
    }
}

/// Without when it was shelved: that is another second each time.
fn system_metadata(instance: &Instance) -> Value {
    let mut metadata = instance.system_metadata.get().cloned().unwrap_or_default();
    if let Some(at) = metadata.get_mut("shelved_at") {
        *at = None;
    }
    json!(metadata)
}

/// What the tests need of a workflow beside its steps.
pub trait HasSubject {
    fn subject(&mut self) -> &mut Subject;
}

/// An instance as nova-api sends it, with the task state it has set.
pub fn instance(task_state: Option<TaskState>) -> Instance {
    let mut flavor = Flavor::default();
    flavor.id.load(Some(1));
    flavor.name.load(Some(Some("tiny".into())));
    flavor.flavorid.load(Some("tiny".into()));
    flavor.memory_mb.load(Some(128));
    flavor.vcpus.load(Some(1));
    flavor.root_gb.load(Some(1));
    flavor.ephemeral_gb.load(Some(2));
    flavor.swap.load(Some(64));
    flavor.extra_specs.load(Some(Default::default()));
    let mut instance = Instance::default();
    instance.uuid.load(Some(UUID));
    instance.id.load(Some(13));
    instance.display_name.load(Some(Some("sc".into())));
    instance.hostname.load(Some(Some("sc".into())));
    instance.project_id.load(Some(Some("p".into())));
    instance.user_id.load(Some(Some("u".into())));
    instance.launch_index.load(Some(Some(0)));
    instance.vm_state.load(Some(Some(VmState::Building)));
    instance.task_state.load(Some(task_state));
    instance.power_state.load(Some(Some(0)));
    instance.config_drive.load(Some(Some("True".into())));
    instance.metadata.load(Some(Default::default()));
    instance.system_metadata.load(Some(Default::default()));
    instance.flavor.load(Some(flavor));
    instance.created_at.load(Some(Some(Timestamp::from_second(1_795_216_180))));
    instance
}

pub fn subject(task_state: TaskState, method: &str) -> Subject {
    Subject::new(instance(Some(task_state)), method)
}

/// An image as a build asks for it.
pub fn spawn_image(id: &str) -> ImageRequest {
    ImageRequest {
        id: id.to_owned(),
        url: Some(format!("file:///images/{id}")),
        disk_format: None,
        checksums: Vec::new(),
        size: None,
        any_file: false,
    }
}

/// A build that uses every step.
pub fn spawn() -> Spawn {
    let image = spawn_image;
    let build = Build {
        image_meta: ImageMeta::from_image_dict(&json!({
            "id": "9ac5fd6a-073c-423e-8bb6-9593064b906d", "status": "active", "properties": {},
        }))
        .unwrap(),
        image: Some(image("9ac5fd6a-073c-423e-8bb6-9593064b906d")),
        kernel: Some(image("kernel")),
        ramdisk: Some(image("ramdisk")),
        wanted: Wanted {
            networks: vec![RequestedNetwork {
                network_id: Some("bridge:br0".to_owned()),
                ..RequestedNetwork::default()
            }],
            ..Wanted::default()
        },
        admin_password: None,
        injected_files: Vec::new(),
        block_devices: block_devices(),
        limits: None,
        arguments: BuildArguments::default(),
    };
    Spawn::new(subject(TaskState::Scheduling, "_do_build_and_run_instance"), build)
}

/// The disks that nova-api records of it: the root, an ephemeral and swap.
fn block_devices() -> Vec<BlockDeviceMapping> {
    let device = |number: u128, source, format: Option<&str>, size| {
        let mut device = BlockDeviceMapping::default();
        device.uuid.load(Some(Uuid::from_u128(number)));
        device.instance_uuid.load(Some(UUID));
        device.source_type.load(Some(Some(source)));
        device.destination_type.load(Some(Some(DestinationType::Local)));
        device.boot_index.load(Some(Some(if source == SourceType::Image { 0 } else { -1 })));
        device.guest_format.load(Some(format.map(str::to_owned)));
        device.volume_size.load(Some(size));
        device
    };
    vec![
        device(1, SourceType::Image, None, None),
        device(2, SourceType::Blank, Some("ext4"), Some(1)),
        device(3, SourceType::Blank, None, Some(1)),
        device(4, SourceType::Blank, Some("swap"), Some(64)),
    ]
}

/// A journal in memory that can break at a given write, as a crash would.
#[derive(Default)]
pub struct MemoryJournal {
    /// Cancelled when it breaks: nobody waits for the disk of an agent that is gone.
    pub crash: CancellationToken,
    records: Mutex<Vec<Stored>>,
    writes: Mutex<usize>,
    break_at: Option<usize>,
    fail_at: Option<usize>,
}

impl MemoryJournal {
    /// Breaks at write number `write`, counted from 0: it doesn't reach the disk.
    pub fn breaking_at(write: usize) -> Self {
        Self { break_at: Some(write), ..Self::default() }
    }

    /// Write number `write` fails, and the next one works: somebody had it locked.
    pub fn failing_at(write: usize) -> Self {
        Self { fail_at: Some(write), ..Self::default() }
    }

    pub fn writes(&self) -> usize {
        *self.writes.lock().unwrap()
    }

    /// What a restarted agent finds.
    pub fn found(&self) -> Option<AnyRecord> {
        let stored = self.records.lock().unwrap().first().cloned()?;
        Some(AnyRecord::open(stored).unwrap())
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn add(&self, head: &Head, body: &[u8]) -> Result<bool, JournalError> {
        let stored = Stored { head: head.clone(), body: body.to_vec() };
        self.records.lock().unwrap().push(stored);
        Ok(true)
    }

    async fn write(&self, head: &Head, body: &[u8]) -> Result<(), JournalError> {
        let mut writes = self.writes.lock().unwrap();
        let number = *writes;
        *writes += 1;
        if self.fail_at == Some(number) {
            let message = "locked".to_owned();
            return Err(JournalError::Storage {
                path: String::new(),
                operation: "written",
                message,
            });
        }
        if self.break_at.is_some_and(|at| number >= at) {
            self.crash.cancel();
            let message = "told to break".to_owned();
            return Err(JournalError::Storage {
                path: String::new(),
                operation: "written",
                message,
            });
        }
        let mut records = self.records.lock().unwrap();
        records.retain(|stored| stored.head.id != head.id);
        records.push(Stored { head: head.clone(), body: body.to_vec() });
        Ok(())
    }

    async fn unsettled(&self) -> Result<Vec<Stored>, JournalError> {
        Ok(self.records.lock().unwrap().iter().filter(|r| !r.head.settled).cloned().collect())
    }

    async fn find(&self, id: &str) -> Result<Option<Head>, JournalError> {
        let records = self.records.lock().unwrap();
        Ok(records.iter().find(|r| r.head.id == id).map(|r| r.head.clone()))
    }

    async fn stuck(&self) -> Result<Vec<Head>, JournalError> {
        let records = self.records.lock().unwrap();
        let stuck = records.iter().filter(|r| r.head.phase == Phase::Stuck);
        Ok(stuck.map(|stored| stored.head.clone()).collect())
    }

    async fn forget_stuck(&self, instance: Uuid) -> Result<(), JournalError> {
        let gone = |r: &Stored| r.head.phase == Phase::Stuck && r.head.instance_uuid == instance;
        self.records.lock().unwrap().retain(|stored| !gone(stored));
        Ok(())
    }

    async fn prune(&self, _before: Timestamp) -> Result<usize, JournalError> {
        Ok(0)
    }
}
