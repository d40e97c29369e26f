//! Requests whose way into the journal isn't smooth: what is answered, when, and what the broker
//! keeps.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::Acker;
use lapin::message::Delivery;
use rusqlite::Connection;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::duplicates::{Arrival, Duplicates};
use super::envelope::{Reply, ReplyAddress, RpcRequest};
use super::failure::RemoteFailure;
use super::incoming::{Ack, Incoming, ReplySink, ReplyTo, Source};
use super::operator::Operator;
use super::server::Server;
use crate::dispatch::{Dispatcher, Limits};
use crate::health::Metrics;
use crate::model::context::RequestContext;
use crate::model::object::VersionedObject;
use crate::model::state::TaskState;
use crate::workflow::sqlite::SqliteJournal;
use crate::workflow::world::{UUID, World, instance};

const OTHER: Uuid = Uuid::from_u128(7);

/// A server over a world of fakes and a journal on disk.
struct Bench {
    directory: tempfile::TempDir,
    requests: mpsc::Sender<Incoming>,
    stop: CancellationToken,
    served: JoinHandle<()>,
    server: Arc<Server>,
    dispatcher: Dispatcher,
}

/// A call under way.
struct Call {
    answers: mpsc::UnboundedReceiver<Reply>,
    acker: Acker,
}

struct Answers(mpsc::UnboundedSender<Reply>);

#[async_trait]
impl ReplySink for Answers {
    fn answer(&self, message: Map<String, Value>) {
        self.0.send(Reply::read(message).unwrap()).ok();
    }

    async fn heartbeat(&self, _: Map<String, Value>) -> bool {
        true
    }
}

impl Bench {
    fn new(world: &World) -> Self {
        Self::in_directory(world, tempfile::tempdir().unwrap())
    }

    fn in_directory(world: &World, directory: tempfile::TempDir) -> Self {
        let journal = SqliteJournal::open(&directory.path().join("journal.db")).unwrap();
        let metrics = Arc::new(Metrics::new());
        let dispatcher = Dispatcher::new(
            world.backends(),
            Arc::new(journal),
            metrics.clone(),
            Limits::of_tests(10),
        );
        let operator = Operator::new(dispatcher.clone(), None, PathBuf::from("/instances"));
        let server = Arc::new(Server::new(dispatcher.clone(), operator, metrics, false));
        let (requests, incoming) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let served = tokio::spawn(server.clone().serve(incoming, stop.clone()));
        Self { directory, requests, stop, served, server, dispatcher }
    }

    /// Does something to the journal behind the agent's back.
    fn tamper(&self, sql: &str) {
        let path = self.directory.path().join("journal.db");
        Connection::open(path).unwrap().execute_batch(sql).unwrap();
    }

    /// The journal takes nothing of that instance, as a full disk wouldn't.
    fn refuse(&self, uuid: Uuid) {
        self.tamper(&format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON workflow WHEN NEW.instance_uuid = '{uuid}'
             BEGIN SELECT RAISE(FAIL, 'no room'); END"
        ));
    }

    fn allow(&self) {
        self.tamper("DROP TRIGGER refuse");
    }

    async fn call(&self, id: &str, method: &str, uuid: Uuid) -> Call {
        let mut subject = instance(None);
        subject.uuid.load(Some(uuid));
        subject.id.load(Some(if uuid == UUID { 13 } else { 14 }));
        let task_state = (method == "stop_instance").then_some(TaskState::PoweringOff);
        subject.task_state.load(Some(task_state));
        let mut args = Map::new();
        args.insert("instance".into(), subject.to_primitive());
        match method {
            "stop_instance" => drop(args.insert("clean_shutdown".into(), json!(true))),
            "get_vnc_console" => drop(args.insert("console_type".into(), json!("novnc"))),
            "get_console_output" => drop(args.insert("tail_length".into(), Value::Null)),
            _ => {}
        }
        let mut request = RpcRequest::new(method, "6.0", args);
        request.unique_id = Some(id.to_owned());
        let (sender, answers) = mpsc::unbounded_channel();
        let address = ReplyAddress { msg_id: id.into(), reply_queue: "q".into(), monitor: None };
        let acker = Delivery::mock(1, "".into(), "".into(), false, Vec::new()).acker;
        let Arrival::New(unacked) = Duplicates::default().arrive(Some(id), acker.clone()) else {
            panic!("it never came before");
        };
        let incoming = Incoming {
            request,
            context: RequestContext::admin(),
            reply: Some(ReplyTo::new(&address, Arc::new(Answers(sender)), &Handle::current())),
            ack: Ack::of(unacked),
            source: Source::Broker { topic: "compute".into() },
        };
        self.requests.send(incoming).await.unwrap();
        Call { answers, acker }
    }

    async fn finish(self) -> tempfile::TempDir {
        self.stop.cancel();
        self.served.await.unwrap();
        self.dispatcher.stop(Duration::ZERO).await;
        self.server.finish().await;
        self.directory
    }
}

impl Call {
    async fn answer(&mut self) -> Result<Value, RemoteFailure> {
        self.answers.recv().await.expect("an answer").outcome
    }

    fn is_unanswered(&mut self) -> bool {
        self.answers.try_recv().is_err()
    }

    fn is_acknowledged(&self) -> bool {
        !self.acker.usable()
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_journal_cannot_take_waits_unanswered_and_unacknowledged() {
    let world = World::with_guest().await;
    let bench = Bench::new(&world);
    bench.refuse(UUID);
    let mut stop = bench.call("a", "stop_instance", UUID).await;
    let mut start = bench.call("b", "start_instance", UUID).await;
    // Another instance's goes on; that there is nothing to stop is its honest answer.
    let mut other = bench.call("c", "stop_instance", OTHER).await;
    assert_eq!(other.answer().await.unwrap_err().class, "InstanceInvalidState");
    assert!(other.is_acknowledged());
    tokio::time::sleep(Duration::from_secs(100)).await;
    for call in [&mut stop, &mut start] {
        assert!(call.is_unanswered() && !call.is_acknowledged());
    }
    bench.allow();
    assert_eq!(stop.answer().await, Ok(Value::Null));
    assert_eq!(start.answer().await, Ok(Value::Null));
    assert!(stop.is_acknowledged() && start.is_acknowledged());
    // In the order in which they came: it was stopped, then started.
    assert_eq!(world.hypervisor.get(UUID).unwrap().boots, 2);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_journal_when_the_agent_stops_is_the_brokers_again() {
    let world = World::with_guest().await;
    let bench = Bench::new(&world);
    bench.refuse(UUID);
    let mut stop = bench.call("a", "stop_instance", UUID).await;
    let mut start = bench.call("b", "start_instance", UUID).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.finish().await;
    for call in [&mut stop, &mut start] {
        assert!(call.is_unanswered() && !call.is_acknowledged());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_again_after_a_restart_is_answered_when_its_work_ends() {
    let world = World::with_guest().await;
    world.hypervisor.ignore_power_button(UUID, true);
    let bench = Bench::new(&world);
    let mut first = bench.call("a", "stop_instance", UUID).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(first.is_unanswered(), "the guest has a minute to shut down");
    let directory = bench.finish().await;
    let bench = Bench::in_directory(&world, directory);
    bench.dispatcher.resume().await.unwrap();
    let mut again = bench.call("a", "stop_instance", UUID).await;
    assert_eq!(again.answer().await, Ok(Value::Null));
    assert!(again.is_acknowledged());
    assert_eq!(world.hypervisor.get(UUID).unwrap().boots, 1);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn questions_of_a_hypervisor_that_hangs_are_few_and_end_in_time() {
    let world = World::with_guest().await;
    let bench = Bench::new(&world);
    world.hypervisor.set_latency(Duration::from_secs(100_000));
    let asked = Instant::now();
    let mut calls = Vec::new();
    for number in 0..400 {
        calls.push(bench.call(&number.to_string(), "get_console_output", UUID).await);
    }
    let mut at_once = 0;
    for call in &mut calls {
        let fault = call.answer().await.unwrap_err();
        assert_eq!(fault.class, "HypervisorUnavailable");
        at_once += usize::from(fault.message.contains("questions wait"));
    }
    assert_eq!(at_once, 400 - 256);
    assert!(asked.elapsed() < Duration::from_secs(61), "{:?}", asked.elapsed());
    world.hypervisor.set_latency(Duration::ZERO);
    let mut again = bench.call("again", "get_console_output", UUID).await;
    assert_eq!(again.answer().await, Ok(json!("")));
    bench.finish().await;
}

#[tokio::test]
async fn a_console_of_an_instance_that_is_being_built_is_not_ready() {
    let bench = Bench::new(&World::new());
    let mut call = bench.call("a", "get_vnc_console", UUID).await;
    let fault = call.answer().await.unwrap_err();
    assert_eq!((&*fault.class, &fault.kwargs["code"]), ("InstanceNotReady", &json!(400)));
    let mut call = bench.call("b", "get_console_output", UUID).await;
    assert_eq!(call.answer().await.unwrap_err().class, "InstanceNotFound");
    bench.finish().await;
}
