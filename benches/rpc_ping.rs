//! Pings through RabbitMQ: our server against an oslo.messaging server in Python, one broker, one
//! fast client, one run. `cargo bench --bench rpc_ping [-- SECONDS]` prints the ratios.
//!
//! Each server is a process of its own. The client is ours for both: Python's polls its reply queue
//! twice a second and would hide the servers behind that.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is a test that prints")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hypernova::model::context::RequestContext;
use hypernova::rpc::bus::{Bus, BusSettings};
use hypernova::rpc::client::{Client, Target, Wait};
use hypernova::rpc::dispatcher::{Dispatcher, Route};
use hypernova::rpc::options::RabbitOptions;
use hypernova::rpc::transport_url::TransportUrl;
use serde_json::{Map, json};
use support::broker::Broker;
use support::python;

const CALLERS: &[usize] = &[1, 32];

fn settings(url: &str, topics: &[&str]) -> BusSettings {
    BusSettings {
        url: TransportUrl::parse(url).unwrap(),
        options: RabbitOptions::default(),
        host: "bench".into(),
        control_exchange: "nova".into(),
        topics: topics.iter().map(|topic| topic.to_string()).collect(),
        watchdog: None,
    }
}

async fn serve(url: &str) {
    let (bus, mut requests) = Bus::connect(settings(url, &["rust"])).unwrap();
    bus.consuming().await;
    println!("{{\"ready\": true}}");
    let dispatcher = Dispatcher::new("compute", Vec::new(), false);
    while let Some(incoming) = requests.recv().await {
        let route = dispatcher.route(&incoming.request);
        if let Some(reply) = incoming.reply {
            reply.send(route.map(|route| match route {
                Route::Answer(answer) => answer,
                Route::Endpoint(_) => unreachable!("there is none"),
            }));
        }
        // As the agent does: nobody waits for another one's acknowledgement.
        tokio::spawn(incoming.ack.accept());
    }
}

/// Starts a server and waits for its word.
fn start(command: &mut Command) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ready"), "{line}");
    child
}

struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

async fn measure(client: &Client, topic: &str, callers: usize, lasting: Duration) -> Measured {
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (client, target) = (client.clone(), Target::new(topic, "1.0").at("bench"));
            let target = target.in_namespace("baseapi");
            tokio::spawn(async move {
                let context = RequestContext::admin();
                let mut taken = Vec::new();
                while started.elapsed() < lasting {
                    let mut args = Map::new();
                    args.insert("arg".into(), json!("x"));
                    let asked = Instant::now();
                    let wait = Wait::of(Duration::from_secs(30));
                    let answer = client.call(&target, "ping", args, &context, wait).await;
                    assert_eq!(answer.unwrap()["arg"], "x");
                    taken.push(asked.elapsed());
                }
                taken
            })
        })
        .collect();
    let mut taken = Vec::new();
    for task in tasks {
        taken.extend(task.await.unwrap());
    }
    let elapsed = started.elapsed();
    taken.sort();
    let at = |part: f64| taken[((taken.len() - 1) as f64 * part) as usize];
    Measured { per_second: taken.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

async fn compare(url: &str, lasting: Duration) {
    let (bus, _requests) = Bus::connect(settings(url, &[])).unwrap();
    let client = bus.client();
    let mut rust = start(Command::new(std::env::current_exe().unwrap()).args(["--serve", url]));
    let mut python = start(Command::new(python::interpreter()).args([
        "-W",
        "ignore",
        concat!(env!("CARGO_MANIFEST_DIR"), "/benches/rpc_ping.py"),
        url,
    ]));
    println!("callers  server   calls/s       p50       p99");
    for &callers in CALLERS {
        let mut measured = Vec::new();
        for topic in ["python", "rust"] {
            measure(&client, topic, callers, Duration::from_secs(1)).await;
            let found = measure(&client, topic, callers, lasting).await;
            println!(
                "{callers:7}  {topic:7} {:8.0}  {:8.2?}  {:8.2?}",
                found.per_second, found.p50, found.p99
            );
            measured.push(found);
        }
        println!(
            "{callers:7}  ratio   {:7.1}x {:8.2}x {:8.2}x   (wanted: at least 8x, p99 at most 0.25x)",
            measured[1].per_second / measured[0].per_second,
            measured[1].p50.as_secs_f64() / measured[0].p50.as_secs_f64(),
            measured[1].p99.as_secs_f64() / measured[0].p99.as_secs_f64(),
        );
    }
    for server in [&mut rust, &mut python] {
        server.kill().unwrap();
        server.wait().unwrap();
    }
    bus.close(Duration::from_secs(5)).await;
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|text| text != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let [flag, url] = &arguments[..]
        && flag == "--serve"
    {
        return runtime.block_on(serve(url));
    }
    let seconds = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(5);
    let broker = Broker::start_new();
    runtime.block_on(compare(&broker.url(), Duration::from_secs(seconds)));
}
