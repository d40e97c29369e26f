//! The conductor's client over a real RabbitMQ, which is restarted, and with a conductor that
//! loses requests and answers: nothing is done twice, and nothing is left undone.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use hypernova::model::context::RequestContext;
use hypernova::model::object::{Instance, InstanceFault as FaultObject, Service};
use hypernova::model::state::{TaskState, VmState};
use hypernova::node::service::{self, ServiceOptions};
use hypernova::records::conductor::fake::{FakeConductor, Mishap};
use hypernova::records::conductor::{
    Call, CallFailure, Caller, Conductor, ConductorOptions, ConductorRecords,
};
use hypernova::records::{Expected, InstanceFault, Records};
use hypernova::rpc::bus::{Bus, BusSettings};
use hypernova::rpc::failure::Fault;
use hypernova::rpc::incoming::Incoming;
use hypernova::rpc::options::RabbitOptions;
use hypernova::rpc::transport_url::TransportUrl;
use serde_json::Value;
use support::broker::Broker;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const UUID: Uuid = Uuid::from_u128(7);

fn settings(url: &str, topics: &[&str]) -> BusSettings {
    BusSettings {
        url: TransportUrl::parse(url).unwrap(),
        // A test has no thirty seconds to wait for a broker that is back.
        options: RabbitOptions {
            rabbit_interval_max: Duration::from_secs(1),
            ..RabbitOptions::default()
        },
        host: "host.example".into(),
        control_exchange: "nova".into(),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        watchdog: None,
    }
}

/// Answers what comes over the bus as the conductor in memory does; what that one loses gets no
/// answer.
fn serve(fake: Arc<FakeConductor>, mut requests: mpsc::Receiver<Incoming>) {
    tokio::spawn(async move {
        while let Some(incoming) = requests.recv().await {
            incoming.ack.accept().await;
            let (topic, version) = ("conductor", "3.0");
            let method = match incoming.request.method.as_str() {
                "ping" => "ping",
                "object_action" => "object_action",
                _ => "object_class_action_versions",
            };
            let (args, context) = (incoming.request.args, &incoming.context);
            let call = Call { topic, namespace: None, version, method, args, context };
            let answer = Caller::call(&*fake, call, Duration::ZERO).await;
            let outcome: Result<Value, Fault> = match answer {
                Ok(answer) => Ok(answer),
                Err(CallFailure::Raised(raised)) => Err(Fault::nova(raised.class, raised.message)),
                Err(_) => {
                    std::mem::forget(incoming.reply);
                    continue;
                }
            };
            incoming.reply.unwrap().send(outcome);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_done_twice_when_the_broker_restarts() {
    let (mut broker, url) = tokio::task::spawn_blocking(|| {
        let broker = Broker::start_new();
        let url = broker.url();
        (broker, url)
    })
    .await
    .unwrap();
    let fake = Arc::new(FakeConductor::new());
    let (server, requests) = Bus::connect(settings(&url, &["conductor"])).unwrap();
    serve(fake.clone(), requests);
    let (client, _) = Bus::connect(settings(&url, &[])).unwrap();
    let options = ConductorOptions::new(Duration::from_secs(5));
    let conductor = Conductor::new(Arc::new(client.client()), options);
    assert!(conductor.wait_until_ready(&CancellationToken::new()).await);
    let records = ConductorRecords::new(conductor.clone(), "h1");
    let context = RequestContext::admin();

    let mut instance = Instance::default();
    instance.id.load(Some(3));
    instance.uuid.load(Some(UUID));
    instance.vm_state.load(Some(Some(VmState::Building)));
    instance.task_state.load(Some(Some(TaskState::Spawning)));
    fake.add(&instance);
    let spawning = || Expected::OneOf(vec![Some(TaskState::Spawning)]);

    // The conductor does it, and its answer is lost.
    fake.mishap("Instance.save", Mishap::LostAnswer);
    fake.mishap("InstanceFault.create", Mishap::LostAnswer);
    instance.vm_state.set(Some(VmState::Active));
    instance.task_state.set(None);
    records.save(&context, &mut instance, spawning()).await.unwrap();
    let fault = InstanceFault { code: 500, message: "once".into(), details: String::new() };
    records.record_fault(&context, UUID, fault).await.unwrap();
    assert_eq!(fake.rows::<FaultObject>().len(), 1);

    let mut conductor_service = Service::default();
    conductor_service.host.load(Some(Some("c1".to_owned())));
    conductor_service.binary.load(Some(Some("nova-conductor".to_owned())));
    conductor_service.version.load(Some(72));
    fake.add(&conductor_service);
    let options = ServiceOptions {
        host: "h1".to_owned(),
        report_interval: Duration::from_secs(1),
        allow_old_computes: false,
    };
    let service = service::find(&conductor, options).await.unwrap().register().await.unwrap();
    service.beat().await;
    assert_eq!(count(&fake), 1);

    // The broker goes, with what is on its way, and comes back: on a busy machine not soon.
    let patient = Conductor::new(Arc::new(client.client()), ConductorOptions::new(PATIENCE));
    let records = ConductorRecords::new(patient, "h1");
    let restarted = tokio::task::spawn_blocking(move || {
        broker.stop();
        broker.start();
        broker
    });
    instance.task_state.set(Some(TaskState::PoweringOff));
    let idle = Expected::OneOf(vec![None]);
    records.save(&context, &mut instance, idle).await.unwrap();
    let broker = restarted.await.unwrap();
    let row = fake.rows::<Instance>().remove(0);
    assert_eq!(row.task_state.value(), Some(&TaskState::PoweringOff));
    timeout(PATIENCE, async {
        while count(&fake) < 2 {
            service.beat().await;
        }
    })
    .await
    .expect("heartbeats go on");
    client.close(PATIENCE).await;
    server.close(PATIENCE).await;
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}

fn count(fake: &FakeConductor) -> i64 {
    let services = fake.rows::<Service>();
    let own = services.iter().find(|service| service.host.text() == Some("h1")).unwrap();
    *own.report_count.get().unwrap()
}
