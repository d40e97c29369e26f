//! An agent in memory, for the commands' own tests: it keeps records by the real rules, builds in
//! steps that can be watched, and can be told to refuse, to fail a build, or to be away.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use clap::Parser;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::agent_client::{Agent, AgentRequest, CallFailure};
use super::check::{CheckArgs, Finding};
use super::output::Output;
use super::serve::ServeArgs;
use super::{Cli, ConfigArgs, Daemon, execute};
use crate::model::context::RequestContext;
use crate::model::object::{Instance, VersionedObject};
use crate::model::state::VmState;
use crate::model::time::Timestamp;
use crate::records::fake::FakeRecords;
use crate::records::history::History;
use crate::records::{Expected, InstanceFault, Records};

const STEPS: u64 = 3;

pub struct FakeAgent {
    pub records: FakeRecords,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sent: Vec<AgentRequest>,
    /// The instance that is being built, and the step it is at.
    building: Option<(Uuid, u64)>,
    refusal: Option<(&'static str, CallFailure)>,
    build_fault: Option<String>,
    deaf: bool,
    hides_workflow: bool,
    away: u32,
    console_log: Option<String>,
}

impl FakeAgent {
    pub fn new() -> Arc<Self> {
        let records = FakeRecords::new("h1");
        Arc::new(Self { records, state: Mutex::default() })
    }

    /// An instance that runs.
    pub async fn add(&self, uuid: u128, name: &str) {
        let mut instance = Instance::default();
        instance.uuid.load(Some(Uuid::from_u128(uuid)));
        instance.display_name.load(Some(Some(name.to_owned())));
        instance.vm_state.load(Some(Some(VmState::Active)));
        instance.power_state.load(Some(Some(1)));
        self.records.receive(&RequestContext::admin(), instance).await.unwrap();
    }

    /// The next request of this method is refused.
    pub fn refuse(&self, method: &'static str, class: &str, message: &str) {
        self.state().refusal = Some((method, CallFailure::new(class, message)));
    }

    /// The next build fails with this fault.
    pub fn fail_build(&self, message: &str) {
        self.state().build_fault = Some(message.to_owned());
    }

    /// Casts are lost.
    pub fn be_deaf(&self) {
        self.state().deaf = true;
    }

    /// The next look at the workflows comes a moment too early to see the build's.
    pub fn hide_workflow(&self) {
        self.state().hides_workflow = true;
    }

    /// The next requests find nobody, once a build is under way.
    pub fn be_away_for(&self, requests: u32) {
        self.state().away = requests;
    }

    pub fn set_console_log(&self, path: &Path) {
        self.state().console_log = Some(path.to_str().unwrap().to_owned());
    }

    /// The requests that would change something, in order.
    pub fn sent(&self) -> Vec<AgentRequest> {
        let all = self.state().sent.clone();
        all.into_iter().filter(|request| request.namespace.is_none()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(&self, request: AgentRequest) -> Result<Value, CallFailure> {
        {
            let mut state = self.state();
            state.sent.push(request.clone());
            if state.building.is_some() && state.away > 0 {
                state.away -= 1;
                let error = io::ErrorKind::ConnectionRefused.into();
                return Err(CallFailure::unreachable(Path::new("/fake"), &error));
            }
            if state.refusal.as_ref().is_some_and(|(method, _)| *method == request.method) {
                return Err(state.refusal.take().unwrap().1);
            }
        }
        let context = RequestContext::admin();
        let message = || Instance::from_primitive(&request.args["instance"]).unwrap();
        match request.method {
            "list_instances" => {
                let all = self.records.instances(&context, &[]).await.unwrap();
                Ok(all.iter().map(Instance::to_primitive).collect())
            }
            "show_instance" => self.show(request.args["instance"].as_str().unwrap()).await,
            "list_workflows" => self.work().await,
            "show_node" => Ok(json!({"host": "h1", "node": "n1", "hypervisor_type": "QEMU"})),
            "get_host_uptime" => Ok(json!(" 10:00 up 1 day\n")),
            "get_console_output" => Ok(json!(format!("tail {}", request.args["tail_length"]))),
            "get_vnc_console" => Ok(json!({"host": "127.0.0.1", "port": 5900, "token": "x"})),
            "get_instance_diagnostics" => {
                Ok(json!({"nova_object.data": {"driver": "libvirt", "uptime": 5}}))
            }
            "build_and_run_instance" => {
                let record = self.records.receive(&context, message()).await.unwrap();
                self.state().building = Some((*record.uuid.get().unwrap(), 0));
                Ok(Value::Null)
            }
            "terminate_instance" => {
                let mut record = self.records.receive(&context, message()).await.unwrap();
                self.records.destroy(&context, &mut record).await.unwrap();
                Ok(Value::Null)
            }
            "snapshot_instance" => {
                let url = url::Url::parse(request.args["image_id"].as_str().unwrap()).unwrap();
                std::fs::write(url.to_file_path().unwrap(), "image").unwrap();
                self.settle(
                    self.records.receive(&context, message()).await.unwrap(),
                    VmState::Active,
                )
                .await;
                Ok(Value::Null)
            }
            "reserve_block_device_name" => {
                let mut device = crate::model::object::BlockDeviceMapping::default();
                device.uuid.load(Some(Uuid::from_u128(0xb0)));
                device.device_name.load(Some(Some("/dev/vdb".to_owned())));
                Ok(device.to_primitive())
            }
            "attach_volume"
            | "detach_volume"
            | "swap_volume"
            | "external_instance_event"
            | "detach_interface" => Ok(Value::Null),
            "attach_interface" => Ok(json!({
                "id": Uuid::from_u128(0xb1), "address": "fa:16:3e:00:00:01",
                "devname": "tap0", "network": {"label": request.args["network_id"]},
            })),
            method => {
                let vm_state = match method {
                    "stop_instance" => VmState::Stopped,
                    "pause_instance" => VmState::Paused,
                    "suspend_instance" => VmState::Suspended,
                    "start_instance" | "reboot_instance" | "unpause_instance"
                    | "resume_instance" | "restore_instance" | "unrescue_instance"
                    | "rebuild_instance" | "unshelve_instance" => VmState::Active,
                    "soft_delete_instance" => VmState::SoftDeleted,
                    "rescue_instance" => VmState::Rescued,
                    "shelve_instance" => VmState::Shelved,
                    "shelve_offload_instance" => VmState::ShelvedOffloaded,
                    other => panic!("the agent has no {other}"),
                };
                self.settle(self.records.receive(&context, message()).await.unwrap(), vm_state)
                    .await;
                Ok(Value::Null)
            }
        }
    }

    async fn settle(&self, mut record: Instance, vm_state: VmState) {
        record.vm_state.set(Some(vm_state));
        record.task_state.set(None);
        record.power_state.set(Some(if vm_state == VmState::Active { 1 } else { 4 }));
        let context = RequestContext::admin();
        self.records.save(&context, &mut record, Expected::Any).await.unwrap();
    }

    async fn show(&self, uuid: &str) -> Result<Value, CallFailure> {
        let uuid = Uuid::parse_str(uuid).unwrap();
        let record = self.records.instance(&RequestContext::admin(), uuid).await.unwrap();
        let missing = || CallFailure::new("InstanceNotFound", format!("no instance {uuid}"));
        let record = record.ok_or_else(missing)?;
        let faults = self.records.faults(uuid).await.unwrap();
        let fault = |fault: &crate::records::history::RecordedFault| {
            json!({"code": fault.code, "message": fault.message,
                   "created_at": fault.created_at.to_string()})
        };
        Ok(json!({
            "instance": record.to_primitive(), "domain": null, "vnc": null, "serial": [],
            "faults": faults.iter().map(fault).collect::<Vec<_>>(), "events": [],
            "directory": "/i", "console_log": self.state().console_log, "interfaces": [],
        }))
    }

    /// Each look at the workflows takes a build one step on.
    async fn work(&self) -> Result<Value, CallFailure> {
        let Some((uuid, step)) = self.state().building else { return Ok(json!([])) };
        if std::mem::take(&mut self.state().hides_workflow) {
            // What a spawn's first step writes, which is done by the next look.
            let context = RequestContext::admin();
            let mut record = self.records.instance(&context, uuid).await.unwrap().unwrap();
            record.task_state.set(None);
            self.records.save(&context, &mut record, Expected::Any).await.unwrap();
            return Ok(json!([]));
        }
        if step < STEPS {
            self.state().building = Some((uuid, step + 1));
            return Ok(json!([{
                "id": 1, "workflow": "spawn", "instance_uuid": uuid, "phase": "forward",
                "step": "FetchImage", "step_index": step + 1, "steps": STEPS,
                "started_at": Timestamp::now().to_string(), "done": 5, "total": 10,
            }]));
        }
        let context = RequestContext::admin();
        self.state().building = None;
        let record = self.records.instance(&context, uuid).await.unwrap().unwrap();
        let fault = self.state().build_fault.take();
        let Some(message) = fault else {
            self.settle(record, VmState::Active).await;
            return Ok(json!([]));
        };
        let fault = InstanceFault { code: 500, message, details: String::new() };
        self.records.record_fault(&context, uuid, fault).await.unwrap();
        self.settle(record, VmState::Error).await;
        Ok(json!([]))
    }
}

#[async_trait]
impl Agent for FakeAgent {
    async fn call(&self, request: AgentRequest) -> Result<Value, CallFailure> {
        self.answer(request).await
    }

    async fn cast(&self, request: AgentRequest) -> Result<(), CallFailure> {
        if self.state().deaf {
            return Ok(());
        }
        self.answer(request).await.map(|_| ())
    }
}

struct FakeDaemon(Option<Arc<FakeAgent>>);

#[async_trait]
impl Daemon for FakeDaemon {
    fn serve(&self, _: &ServeArgs, _: Option<&Path>) -> ExitCode {
        ExitCode::SUCCESS
    }

    async fn check(&self, _: &CheckArgs) -> Vec<Finding> {
        Vec::new()
    }

    async fn xml(&self, _: &ConfigArgs, build: Map<String, Value>) -> Result<String, CallFailure> {
        let name = &build["instance"]["nova_object.data"]["display_name"];
        Ok(format!("<domain><title>{}</title></domain>", name.as_str().unwrap()))
    }

    async fn connect(&self, socket: &Path) -> Result<Arc<dyn Agent>, CallFailure> {
        match &self.0 {
            Some(agent) => Ok(agent.clone()),
            None => Err(CallFailure::unreachable(socket, &io::ErrorKind::NotFound.into())),
        }
    }
}

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect(&self.out)
    }
}

/// Runs a command line; without an agent, nobody listens on the socket.
pub async fn run<const N: usize>(agent: Option<&Arc<FakeAgent>>, line: [&str; N]) -> Ran {
    let cli = Cli::try_parse_from(["hypernova"].into_iter().chain(line)).unwrap();
    let (out, err) = (Shared::default(), Shared::default());
    let mut output = Output::to(cli.json, Box::new(out.clone()), Box::new(err.clone()));
    let daemon = FakeDaemon(agent.cloned());
    let code = execute(&cli.command, &daemon, Path::new("/fake.sock"), &mut output).await;
    Ran { code, out: out.text(), err: err.text() }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
