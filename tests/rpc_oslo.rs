//! The bus against the real oslo.messaging and a real RabbitMQ, in both directions.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use hypernova::model::context::RequestContext;
use hypernova::model::secret::Secret;
use hypernova::notify::message::{Notification, Outbox, Priority};
use hypernova::rpc::bus::{self, Bus, BusSettings};
use hypernova::rpc::client::{CallError, Target, Wait};
use hypernova::rpc::dispatcher::{Dispatcher, Endpoint, Route, Version};
use hypernova::rpc::failure::Fault;
use hypernova::rpc::incoming::{Incoming, Source};
use hypernova::rpc::notify::NotifyOptions;
use hypernova::rpc::options::RabbitOptions;
use hypernova::rpc::transport_url::TransportUrl;
use hypernova::rpc::watchdog::Watchdog;
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::{Map, Value, json};
use support::broker::Broker;
use support::python::Script;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// One broker for the tests that leave it alone. The names on it are each test's own.
static BROKER: LazyLock<Broker> = LazyLock::new(Broker::start_new);

const PATIENCE: Duration = Duration::from_secs(60);

async fn shared_url() -> String {
    tokio::task::spawn_blocking(|| BROKER.url()).await.unwrap()
}

/// Names that no other test has.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

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
        topics: topics.iter().map(|topic| topic.to_string()).collect(),
        watchdog: None,
    }
}

async fn consuming(settings: BusSettings) -> (Bus, mpsc::Receiver<Incoming>) {
    let (bus, requests) = Bus::connect(settings).unwrap();
    timeout(PATIENCE, bus.consuming()).await.expect("consuming");
    (bus, requests)
}

/// What our server did.
#[derive(Default)]
struct Seen(Mutex<Vec<(String, Value, RequestContext)>>);

impl Seen {
    fn methods(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(method, ..)| method.clone()).collect()
    }

    async fn wait_for(&self, method: &str, times: usize) {
        let arrived = async {
            while self.methods().iter().filter(|seen| *seen == method).count() < times {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, arrived).await.expect(method);
    }
}

const METHODS: &[&str] = &["echo", "missing", "fail", "slow", "drop", "note"];

/// A server with the methods above, one task a request.
fn serve(mut requests: mpsc::Receiver<Incoming>) -> Arc<Seen> {
    let endpoint = Endpoint { namespace: None, version: Version::new(6, 5), methods: METHODS };
    let dispatcher = Dispatcher::new("compute", vec![endpoint], true);
    let seen = Arc::new(Seen::default());
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Some(incoming) = requests.recv().await {
            let Incoming { request, context, reply, ack, .. } = incoming;
            let args = Value::Object(request.args.clone());
            kept.0.lock().unwrap().push((request.method.clone(), args.clone(), context));
            let route = dispatcher.route(&request);
            tokio::spawn(async move {
                ack.accept().await;
                let outcome = match route {
                    Err(fault) => Err(fault),
                    Ok(Route::Answer(answer)) => Ok(answer),
                    Ok(Route::Endpoint(_)) => match request.method.as_str() {
                        "echo" => Ok(args),
                        "missing" => {
                            Err(Fault::nova("InstanceNotFound", "Instance a could not be found.")
                                .with("instance_id", "a")
                                .with("code", 404))
                        }
                        "fail" => Err(Fault::builtin("ValueError", "no such thing")),
                        "slow" => {
                            let seconds = args["seconds"].as_f64().unwrap();
                            sleep(Duration::from_secs_f64(seconds)).await;
                            Ok(json!("slept"))
                        }
                        "drop" => return,
                        _ => Ok(Value::Null),
                    },
                };
                if let Some(reply) = reply {
                    reply.send(outcome);
                }
            });
        }
    });
    seen
}

fn call(topic: &str, method: &str, args: Value) -> Value {
    json!({"op": "call", "topic": topic, "server": "host.example", "method": method, "args": args})
}

fn with(mut order: Value, more: Value) -> Value {
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    order
}

fn args(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn oslo_calls_casts_and_fans_out_to_us() {
    let url = shared_url().await;
    let (topic, alt) = (unique("compute"), unique("compute-alt"));
    let (bus, requests) = consuming(settings(&url, &[&topic, &alt])).await;
    let seen = serve(requests);
    let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;

    let arguments = json!({"instance": {"uuid": "a", "größe": [1, null, 2.5, true]}});
    for topic in [&topic, &alt] {
        let answer = client.ask(call(topic, "echo", arguments.clone())).await;
        assert_eq!(answer["result"], arguments, "{answer}");
    }
    let context = json!({"request_id": "req-1", "user_id": "u", "is_admin": true,
        "auth_token": "t", "roles": ["admin"], "service_catalog": [], "read_deleted": "no"});
    let noted = with(call(&topic, "note", json!({})), json!({"op": "cast", "context": context}));
    assert_eq!(client.ask(noted.clone()).await["result"], Value::Null);
    seen.wait_for("note", 1).await;
    let (.., received) = seen.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!(received.request_id(), "req-1");
    assert_eq!(received.auth_token, Some(Secret::new("t")));
    assert_eq!(received.rest.keys().collect::<Vec<_>>(), ["service_catalog", "read_deleted"]);

    // To any server of the topic, and to all of them.
    client.ask(with(noted.clone(), json!({"server": null}))).await;
    client.ask(with(noted, json!({"server": null, "fanout": true}))).await;
    seen.wait_for("note", 3).await;

    let ping = json!({"op": "call", "topic": topic, "server": "host.example",
        "namespace": "baseapi", "version": "1.0", "method": "ping", "args": {"arg": "x"}});
    assert_eq!(client.ask(ping).await["result"], json!({"service": "compute", "arg": "x"}));
    let ping = with(call(&topic, "oslo_rpc_server_ping", json!({})), json!({"version": "1.0"}));
    assert_eq!(client.ask(ping).await["result"], "pong");
    let nothing = client.ask(call(&topic, "note", json!({}))).await;
    assert!(nothing.get("result").is_some_and(Value::is_null), "{nothing}");

    let counts = bus.state().counts;
    assert_eq!((counts.rejected, counts.duplicates, counts.replies_lost), (0, 0, 0));
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_go_both_ways() {
    // oslo's documentation says bz2, which kombu doesn't know.
    for method in ["gzip", "bzip2"] {
        let url = format!("{}?kombu_compression={method}", shared_url().await);
        let topic = unique("compressed");
        let (bus, requests) = consuming(settings(&url, &[&topic])).await;
        let seen = serve(requests);
        let tap = raw(&shared_url().await).await;
        let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = tap.queue_declare("".into(), own, FieldTable::default()).await.unwrap();
        let name = queue.name().clone();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        let key = format!("{topic}.host.example");
        let binding =
            tap.queue_bind(name.clone(), "nova".into(), key.as_str().into(), options, arguments);
        binding.await.unwrap();
        let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;
        let long = json!({"text": "ü".repeat(100_000)});
        let answer = client.ask(call(&topic, "echo", long.clone())).await;
        assert!(answer["result"] == long, "{method}: {}", answer["text"]);
        let tapped = tap.basic_get(name, BasicGetOptions::default()).await.unwrap().unwrap();
        assert!(tapped.data.len() < 10_000, "oslo really compresses");
        assert_eq!(seen.methods(), ["echo"]);
        // Who compresses nothing is understood, and understands.
        let mut plain = Script::start("rpc_client.py", &[&shared_url().await, "nova"]).await;
        let answer = plain.ask(call(&topic, "echo", long.clone())).await;
        assert!(answer["result"] == long, "{method}: {}", answer["text"]);
        // Our calls, and the answers to them.
        let server_topic = unique("compressing");
        let _server =
            Script::start("rpc_server.py", &[&url, "nova", &server_topic, "host.example"]).await;
        let target = Target::new(&server_topic, "3.0").at("host.example");
        let (short, wait) = (json!({"a": method}), Wait::of(PATIENCE));
        let context = RequestContext::admin();
        let answer = bus.client().call(&target, "echo", args(short.clone()), &context, wait).await;
        assert_eq!(answer.unwrap(), short, "{method}");
        bus.close(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lasting_queue_names_keep_what_is_sent_between_two_runs() {
    let url = shared_url().await;
    let topic = unique("lasting");
    let named = || {
        let mut settings = settings(&url, &[&topic]);
        settings.options.use_queue_manager = true;
        settings.options.processname = topic.clone();
        settings
    };
    let (bus, requests) = consuming(named()).await;
    drop(requests);
    bus.close(PATIENCE).await;
    let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;
    let mut fanout = call(&topic, "note", json!({"sent": "between"}));
    fanout["op"] = json!("cast");
    client.ask(with(fanout, json!({"fanout": true, "server": null}))).await;
    let (bus, requests) = consuming(named()).await;
    let seen = serve(requests);
    seen.wait_for("note", 1).await;
    // Calls of the second run are answered in the first one's queue.
    let target = Target::new(&topic, "6.0").at("host.example");
    let (context, wait) = (RequestContext::admin(), Wait::of(PATIENCE));
    let answer = bus.client().call(&target, "echo", args(json!({"a": 1})), &context, wait).await;
    assert_eq!(answer.unwrap(), json!({"a": 1}));
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_faults_are_raised_as_the_exceptions_they_name() {
    let url = shared_url().await;
    let topic = unique("compute");
    let (bus, requests) = consuming(settings(&url, &[&topic])).await;
    let _seen = serve(requests);
    let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;

    let raised = client.ask(call(&topic, "missing", json!({}))).await;
    assert_eq!(raised["raised"], "InstanceNotFound_Remote", "{raised}");
    assert_eq!(raised["is_nova"], true);
    assert_eq!(raised["message"], "Instance a could not be found.");
    assert_eq!(raised["kwargs"], json!({"instance_id": "a", "code": 404}));
    let raised = client.ask(call(&topic, "fail", json!({}))).await;
    // A class of Python's own is raised as itself.
    assert_eq!(raised["raised"], "ValueError", "{raised}");
    let raised = client.ask(call(&topic, "drop", json!({}))).await;
    assert_eq!(raised["raised"], "NovaException_Remote", "{raised}");
    let raised = client.ask(call(&topic, "no_such", json!({}))).await;
    assert_eq!(raised["exc_type"], "NoSuchMethod", "{raised}");
    for version in ["6.6", "7.0", "5.0"] {
        let order = with(call(&topic, "echo", json!({})), json!({"version": version}));
        let raised = client.ask(order).await;
        assert_eq!(raised["exc_type"], "UnsupportedVersion", "{raised}");
    }
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_call_oslo_and_get_answers_exceptions_and_timeouts() {
    let url = shared_url().await;
    let topic = unique("conductor");
    let mut server = Script::start("rpc_server.py", &[&url, "nova", &topic, "c1"]).await;
    let (bus, _requests) = Bus::connect(settings(&url, &[])).unwrap();
    let client = bus.client();
    let target = Target::new(&topic, "3.0");
    let mut context = RequestContext::admin();
    context.auth_token = Some(Secret::new("t"));
    let wait = Wait::of(PATIENCE);

    let sent = args(json!({"instance": {"größe": [1, null]}}));
    for target in [target.clone(), target.clone().at("c1")] {
        let answer = client.call(&target, "echo", sent.clone(), &context, wait).await.unwrap();
        assert_eq!(answer, Value::Object(sent.clone()));
    }
    let ran = server.wait_for(|line| line["ran"] == "echo").await;
    assert_eq!(ran["context"]["request_id"], context.request_id());
    assert_eq!(ran["context"]["auth_token"], "t");
    let tasks = Target::new(&topic, "1.20").in_namespace("compute_task");
    let answer = client.call(&tasks, "echo", args(json!({"a": 1})), &context, wait).await.unwrap();
    assert_eq!(answer, json!(["task", {"a": 1}]));

    let error =
        client.call(&target, "not_found", args(json!({"instance_id": "x"})), &context, wait).await;
    let Err(CallError::Remote(failure)) = error else { panic!("{error:?}") };
    assert!(failure.is_nova("InstanceNotFound"), "{failure:?}");
    assert_eq!(failure.message, "Instance x could not be found.");
    assert_eq!(failure.kwargs["instance_id"], "x");
    let error = client.call(&target, "broken", Map::new(), &context, wait).await;
    let Err(CallError::Remote(failure)) = error else { panic!("{error:?}") };
    assert_eq!((failure.module.as_str(), failure.class.as_str()), ("builtins", "KeyError"));
    let newer = Target::new(&topic, "3.9");
    let error = client.call(&newer, "echo", Map::new(), &context, wait).await;
    let Err(CallError::Remote(failure)) = error else { panic!("{error:?}") };
    assert_eq!(failure.class, "UnsupportedVersion");

    // Four seconds of work, and two between signs of life.
    let slow = args(json!({"seconds": 4}));
    let monitored = Wait { timeout: PATIENCE, monitor: Some(Duration::from_secs(2)) };
    let answer = client.call(&target, "slow", slow.clone(), &context, monitored).await.unwrap();
    assert_eq!(answer, "slept");
    let short = Wait::of(Duration::from_secs(1));
    let error = client.call(&target, "slow", slow, &context, short).await;
    assert!(matches!(error, Err(CallError::Timeout { .. })), "{error:?}");
    let nobody = Target::new(&unique("nobody"), "1.0");
    let error = client.call(&nobody, "echo", Map::new(), &context, monitored).await;
    assert!(matches!(error, Err(CallError::Timeout { after, .. }) if after.as_secs() == 2));

    // A name that AMQP can't carry is an error, and no panic.
    let endless = target.clone().at(&"x".repeat(300));
    let error = client.cast(&endless, "echo", Map::new(), &context, PATIENCE).await;
    assert!(matches!(error, Err(CallError::Transport { .. })), "{error:?}");
    client.cast(&target, "echo", args(json!({"cast": 1})), &context, PATIENCE).await.unwrap();
    server.wait_for(|line| line["args"]["cast"] == 1).await;
    client.fanout(&target, "echo", args(json!({"fanout": 1})), &context, PATIENCE).await.unwrap();
    server.wait_for(|line| line["args"]["fanout"] == 1).await;
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_method_keeps_its_caller_waiting_with_signs_of_life() {
    let url = shared_url().await;
    let topic = unique("compute");
    let (bus, requests) = consuming(settings(&url, &[&topic])).await;
    let _seen = serve(requests);
    let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;
    let order = with(call(&topic, "slow", json!({"seconds": 5})), json!({"monitor": 2}));
    let answer = client.ask(order).await;
    assert_eq!(answer["result"], "slept", "{answer}");
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_expired_before_we_came_never_arrives_and_a_cast_does() {
    let url = shared_url().await;
    let topic = unique("compute");
    // The queue exists because we were there before.
    let (bus, _requests) = consuming(settings(&url, &[&topic])).await;
    bus.close(PATIENCE).await;
    let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;
    let late = with(call(&topic, "echo", json!({})), json!({"timeout": 1}));
    assert_eq!(client.ask(late).await["raised"], "MessagingTimeout");
    client.ask(with(call(&topic, "note", json!({})), json!({"op": "cast"}))).await;
    let (bus, requests) = consuming(settings(&url, &[&topic])).await;
    let seen = serve(requests);
    seen.wait_for("note", 1).await;
    assert_eq!(seen.methods(), ["note"]);
    bus.close(PATIENCE).await;
}

/// A raw AMQP client, to send what oslo would not.
async fn raw(url: &str) -> lapin::Channel {
    let url = url.replace("rabbit://", "amqp://") + "%2f";
    let connection =
        lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    // The channel lives as long as its connection.
    std::mem::forget(connection);
    channel
}

async fn publish(channel: &lapin::Channel, topic: &str, body: &[u8]) {
    let properties = lapin::BasicProperties::default().with_content_type("application/json".into());
    let key = format!("{topic}.host.example");
    channel
        .basic_publish("nova".into(), key.as_str().into(), Default::default(), body, properties)
        .await
        .unwrap()
        .await
        .unwrap();
}

fn sealed(message: Value) -> Vec<u8> {
    json!({"oslo.version": "2.0", "oslo.message": message.to_string()}).to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_thrown_away_and_a_broken_call_is_answered() {
    let url = shared_url().await;
    let topic = unique("compute");
    let (bus, requests) = consuming(settings(&url, &[&topic])).await;
    let seen = serve(requests);
    let channel = raw(&url).await;
    for garbage in [
        &b"not json"[..],
        b"[]",
        b"\xff\xfe",
        br#"{"oslo.version": "3.0", "oslo.message": "{}"}"#,
        br#"{"oslo.version": "2.0", "oslo.message": "{"}"#,
        &[0x1f, 0x8b, 8, 0],
        b"",
    ] {
        publish(&channel, &topic, garbage).await;
    }
    let queue = unique("reply_raw");
    let mut replies = {
        use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
        let name = queue.as_str();
        channel
            .queue_declare(name.into(), QueueDeclareOptions::default(), Default::default())
            .await
            .unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        channel.basic_consume(name.into(), "raw".into(), options, Default::default()).await.unwrap()
    };
    let broken = json!({"args": {}, "_msg_id": "7", "_reply_q": queue});
    publish(&channel, &topic, &sealed(broken)).await;
    use futures_util::StreamExt;
    let reply = timeout(PATIENCE, replies.next()).await.expect("a reply").unwrap().unwrap();
    let outer: Value = serde_json::from_slice(&reply.data).unwrap();
    let inner: Value = serde_json::from_str(outer["oslo.message"].as_str().unwrap()).unwrap();
    assert_eq!(inner["_msg_id"], "7");
    assert!(inner["failure"].as_str().unwrap().contains("ValueError"));
    assert_eq!(reply.properties.delivery_mode(), &Some(2));
    assert_eq!(reply.properties.content_type().as_ref().unwrap().as_str(), "application/json");

    // The same message three times runs once.
    let twice = sealed(json!({"method": "note", "version": "6.0", "args": {}, "_unique_id": "d"}));
    for _ in 0..3 {
        publish(&channel, &topic, &twice).await;
    }
    publish(&channel, &topic, &sealed(json!({"method": "echo", "version": "6.0"}))).await;
    seen.wait_for("echo", 1).await;
    assert_eq!(seen.methods(), ["note", "echo"]);
    let counts = bus.state().counts;
    assert_eq!((counts.rejected, counts.duplicates), (8, 2));
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_replies_at_once_exactly_those_without_a_queue_are_lost() {
    let url = shared_url().await;
    let topic = unique("compute");
    let impatient = format!("{url}?kombu_missing_consumer_retry_timeout=0");
    let (bus, requests) = consuming(settings(&impatient, &[&topic])).await;
    let _seen = serve(requests);
    let channel = raw(&url).await;
    let queue = unique("reply_there");
    let options = lapin::options::QueueDeclareOptions::default();
    channel.queue_declare(queue.as_str().into(), options, Default::default()).await.unwrap();
    for number in 0..300 {
        // Each missing queue is another one: one that was missing is not asked twice.
        let to = if number % 3 == 0 { format!("{queue}_{number}") } else { queue.clone() };
        let message = json!({"method": "echo", "version": "6.0", "args": {"n": number},
            "_msg_id": number.to_string(), "_reply_q": to});
        publish(&channel, &topic, &sealed(message)).await;
    }
    let settled = async {
        loop {
            let counts = bus.state().counts;
            if counts.replies + counts.replies_lost == 300 {
                return (counts.replies, counts.replies_lost);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(timeout(PATIENCE, settled).await.expect("all settled"), (200, 100));
    let there = channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
    assert_eq!(there, 200);
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_or_unbound_under_us_comes_back() {
    let url = shared_url().await;
    let topic = unique("compute");
    let watched = BusSettings {
        watchdog: Some(Watchdog { every: Duration::from_secs(1), within: Duration::from_secs(2) }),
        ..settings(&url, &[&topic])
    };
    let (bus, requests) = consuming(watched).await;
    let seen = serve(requests);
    let channel = raw(&url).await;
    let queue = format!("{topic}.host.example");
    let mut states = bus.watch();

    states.borrow_and_update();
    channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
    timeout(PATIENCE, states.wait_for(|state| state.since.is_none())).await.unwrap().unwrap();
    timeout(PATIENCE, bus.consuming()).await.unwrap();
    publish(&channel, &topic, &sealed(json!({"method": "note", "version": "6.0"}))).await;
    seen.wait_for("note", 1).await;

    // Nothing tells us this: only our own ping finds it.
    let key = queue.as_str();
    channel.queue_unbind(key.into(), "nova".into(), key.into(), Default::default()).await.unwrap();
    timeout(PATIENCE, states.wait_for(|state| state.since.is_none())).await.unwrap().unwrap();
    timeout(PATIENCE, bus.consuming()).await.unwrap();
    assert_eq!(bus.state().counts.watchdog_failures, 1);
    publish(&channel, &topic, &sealed(json!({"method": "note", "version": "6.0"}))).await;
    seen.wait_for("note", 2).await;
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_accepted_comes_again_and_what_is_stopped_stays_with_the_broker() {
    let url = shared_url().await;
    let topic = unique("compute");
    let (bus, mut requests) = consuming(settings(&url, &[&topic])).await;
    let channel = raw(&url).await;
    let note = |id: &str| {
        sealed(json!({"method": "note", "version": "6.0", "_unique_id": id, "args": {"id": id}}))
    };
    publish(&channel, &topic, &note("1")).await;
    let first = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    assert_eq!(first.source, Source::Broker { topic: topic.clone() });
    drop(first);
    publish(&channel, &topic, &note("2")).await;
    timeout(PATIENCE, requests.recv()).await.unwrap().unwrap().ack.accept().await;
    bus.stop_consuming();
    publish(&channel, &topic, &note("3")).await;
    sleep(Duration::from_millis(500)).await;
    assert!(requests.try_recv().is_err());
    bus.close(PATIENCE).await;

    let (bus, mut requests) = consuming(settings(&url, &[&topic])).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let again = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
        ids.push(again.request.args["id"].clone());
        again.ack.accept().await;
    }
    assert_eq!(ids, ["1", "3"]);
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_reach_oslos_listener_in_both_formats() {
    let url = shared_url().await;
    let topic = unique("notifications");
    let (bus, _requests) = Bus::connect(settings(&url, &[])).unwrap();
    let notification = |priority, event_type: &str| Notification {
        topics: vec![topic.clone()],
        priority,
        publisher_id: "compute.host.example".into(),
        event_type: event_type.into(),
        payload: json!({"state": "active"}),
    };
    let mut context = RequestContext::admin();
    context.auth_token = Some(Secret::new("hunter2"));
    // Before anybody listens: the queue is made for them.
    let v2 = bus.notifier(NotifyOptions { envelope: true, retry: None });
    v2.send(&context, &notification(Priority::Info, "compute.instance.create.end"));
    let v1 = bus.notifier(NotifyOptions { envelope: false, retry: Some(3) });
    v1.send(&context, &notification(Priority::Error, "compute.instance.create.error"));
    bus.close(PATIENCE).await;
    let mut listener = Script::start("rpc_listener.py", &[&url, "nova", &topic]).await;
    let info = listener.wait_for(|line| line["priority"] == "info").await;
    assert_eq!(info["event_type"], "compute.instance.create.end");
    assert_eq!(info["publisher_id"], "compute.host.example");
    assert_eq!(info["payload"], json!({"state": "active"}));
    assert_eq!(info["context"]["request_id"], context.request_id());
    assert!(!info.to_string().contains("hunter2"));
    let error = listener.wait_for(|line| line["priority"] == "error").await;
    assert_eq!(error["event_type"], "compute.instance.create.error");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_both_directions_survive_a_broker_restart() {
    let (mut broker, url) = tokio::task::spawn_blocking(|| {
        let broker = Broker::start_new();
        let url = broker.url();
        (broker, url)
    })
    .await
    .unwrap();
    let (bus, requests) = consuming(settings(&url, &["compute"])).await;
    let seen = serve(requests);
    let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;
    let mut server = Script::start("rpc_server.py", &[&url, "nova", "conductor", "c1"]).await;

    // Both are being worked on while the broker is away, and answered after it is back.
    let theirs = client
        .order(with(call("compute", "slow", json!({"seconds": 4})), json!({"timeout": 120})))
        .await;
    seen.wait_for("slow", 1).await;
    let ours = tokio::spawn({
        let client = bus.client();
        async move {
            let target = Target::new("conductor", "3.0");
            let (context, wait) = (RequestContext::admin(), Wait::of(Duration::from_secs(120)));
            client.call(&target, "slow", args(json!({"seconds": 4})), &context, wait).await
        }
    });
    server.wait_for(|line| line["ran"] == "slow").await;
    let broker = tokio::task::spawn_blocking(move || {
        broker.stop();
        broker.start();
        broker
    })
    .await
    .unwrap();
    let answer = client.outcome(theirs).await;
    assert_eq!(answer["result"], "slept", "{answer}");
    assert_eq!(ours.await.unwrap().unwrap(), "slept");
    assert_eq!(seen.methods(), ["slow"]);

    timeout(PATIENCE, bus.consuming()).await.unwrap();
    let answer = client.ask(call("compute", "echo", json!({"a": 1}))).await;
    assert_eq!(answer["result"], json!({"a": 1}), "{answer}");
    bus.close(PATIENCE).await;
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_in_the_url_is_passed_over_and_the_other_one_taken() {
    let url = shared_url().await;
    let topic = unique("compute");
    let alive = url.trim_start_matches("rabbit://").trim_end_matches('/');
    // Nothing listens on port 1; whichever comes first, the other is found.
    let both = format!("rabbit://guest:guest@127.0.0.1:1,{alive}/");
    for _ in 0..3 {
        let (bus, requests) = consuming(settings(&both, &[&topic])).await;
        let seen = serve(requests);
        let channel = raw(&url).await;
        publish(&channel, &topic, &sealed(json!({"method": "note", "version": "6.0"}))).await;
        seen.wait_for("note", 1).await;
        bus.close(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_queues_and_streams_are_declared_as_oslo_declares_them() {
    let url = shared_url().await;
    for (exchange, flags) in [
        ("quorum", "rabbit_quorum_queue=1&rabbit_transient_quorum_queue=1"),
        ("durable", "amqp_durable_queues=1&rabbit_transient_queues_ttl=60"),
        (
            "stream",
            "rabbit_quorum_queue=1&rabbit_transient_quorum_queue=1&rabbit_stream_fanout=1\
             &rabbit_qos_prefetch_count=10",
        ),
    ] {
        let (topic, url) = (unique(exchange), format!("{url}?{flags}"));
        // Both sides declare the same queues: a difference is a PRECONDITION_FAILED.
        let mut theirs = Script::start("rpc_server.py", &[&url, exchange, &topic, "c1"]).await;
        let settings =
            BusSettings { control_exchange: exchange.into(), ..settings(&url, &[&topic]) };
        let (bus, requests) = consuming(settings).await;
        let _seen = serve(requests);
        let mut client = Script::start("rpc_client.py", &[&url, exchange]).await;
        let answer = client.ask(call(&topic, "echo", json!({"a": flags}))).await;
        assert_eq!(answer["result"], json!({"a": flags}), "{answer}");
        let target = Target::new(&topic, "3.0").at("c1");
        let (context, wait) = (RequestContext::admin(), Wait::of(PATIENCE));
        let ours = bus.client();
        let answer = ours.call(&target, "echo", args(json!({"a": 1})), &context, wait).await;
        assert_eq!(answer.unwrap(), json!({"a": 1}));
        ours.fanout(&target, "echo", args(json!({"f": 1})), &context, PATIENCE).await.unwrap();
        theirs.wait_for(|line| line["args"]["f"] == 1).await;
        assert_eq!(bus.state().counts.disconnects, 0);
        bus.close(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_not_durable_is_taken_as_it_is() {
    let url = shared_url().await;
    let topic = unique("compute");
    // Here the control plane doesn't ask for durable queues, and we do.
    let mut client = Script::start("rpc_client.py", &[&url, "nova"]).await;
    client.ask(with(call(&topic, "note", json!({})), json!({"op": "cast"}))).await;
    let durable = settings(&format!("{url}?amqp_durable_queues=1"), &[&topic]);
    let (bus, requests) = consuming(durable).await;
    let seen = serve(requests);
    client.ask(with(call(&topic, "note", json!({})), json!({"op": "cast"}))).await;
    seen.wait_for("note", 1).await;
    let target = Target::new(&topic, "6.0").at("host.example");
    bus.client()
        .cast(&target, "note", Map::new(), &RequestContext::admin(), PATIENCE)
        .await
        .unwrap();
    seen.wait_for("note", 2).await;
    bus.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_says_who_answers_and_why_one_does_not() {
    let url = shared_url().await;
    let probe = async |url: &str| {
        let url = TransportUrl::parse(url).unwrap();
        bus::probe(&url, &RabbitOptions::default()).await.unwrap().remove(0).1
    };
    for method in ["PLAIN", "AMQPLAIN"] {
        assert_eq!(probe(&format!("{url}?rabbit_login_method={method}")).await, Ok(()));
    }
    let refused = probe(&url.replace(":guest@", ":hunter2@")).await.expect_err("wrong password");
    assert!(refused.contains("ACCESS_REFUSED") && !refused.contains("hunter2"), "{refused}");
    probe(&format!("{url}no-such-vhost")).await.expect_err("no such virtual host");
    probe("rabbit://127.0.0.1:1/").await.expect_err("nobody is there");
}
