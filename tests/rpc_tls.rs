//! TLS to RabbitMQ with certificates of the test's own: what is verified, and what is not.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hypernova::rpc::bus::{self, Bus, BusSettings};
use hypernova::rpc::client::{Target, Wait};
use hypernova::rpc::options::RabbitOptions;
use hypernova::rpc::transport_url::TransportUrl;
use serde_json::{Map, Value, json};
use support::broker::{Broker, TlsFiles};
use tempfile::TempDir;
use tokio::time::timeout;

/// A certificate authority in a directory.
struct Authority(PathBuf);

fn openssl(arguments: &[&str]) {
    let made = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        fs::create_dir(&path).unwrap();
        let authority = Self(path);
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test ca",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout",
            &authority.path("ca.key"),
            "-out",
            &authority.path("ca.pem"),
        ]);
        authority
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Makes `name.pem` and `name.key` for a DNS name.
    fn issue(&self, name: &str, dns: &str) {
        let extensions = self.path("extensions");
        fs::write(&extensions, format!("subjectAltName=DNS:{dns}\nbasicConstraints=CA:FALSE\n"))
            .unwrap();
        let (key, request) = (self.path(&format!("{name}.key")), self.path("request"));
        openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            &format!("/CN={dns}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            &self.path("ca.pem"),
            "-CAkey",
            &self.path("ca.key"),
            "-CAcreateserial",
            "-extfile",
            &extensions,
            "-out",
            &self.path(&format!("{name}.pem")),
        ]);
    }
}

async fn connects(url: &str) -> Result<(), String> {
    let url = TransportUrl::parse(url).unwrap();
    let mut found = bus::probe(&url, &RabbitOptions::default()).await.unwrap();
    found.remove(0).1
}

/// Every login method that oslo knows, against a broker that offers them all.
#[tokio::test(flavor = "multi_thread")]
async fn each_login_method_is_the_brokers_own() {
    let directory = TempDir::new().unwrap();
    let ours = Authority::new(directory.path(), "ours");
    ours.issue("server", "localhost");
    // The certificate's name is the user's.
    ours.issue("client", "guest");
    ours.issue("stranger", "nobody");
    let (ca, certificate, key) =
        (ours.path("ca.pem"), ours.path("server.pem"), ours.path("server.key"));
    let broker = tokio::task::spawn_blocking(move || {
        let tls = TlsFiles {
            ca: Path::new(&ca),
            certificate: Path::new(&certificate),
            key: Path::new(&key),
            mutual: true,
        };
        let lines = "auth_mechanisms.1 = AMQPLAIN\nauth_mechanisms.2 = PLAIN\n\
                     auth_mechanisms.3 = EXTERNAL\nauth_mechanisms.4 = RABBIT-CR-DEMO\n\
                     ssl_cert_login_from = common_name\n";
        Broker::start_configured(&tls, lines, "rabbitmq_auth_mechanism_ssl")
    })
    .await
    .unwrap();
    let by = |method: &str, name: &str| {
        let (certificate, key) =
            (ours.path(&format!("{name}.pem")), ours.path(&format!("{name}.key")));
        broker.tls_url(&format!(
            "&ssl_cert_file={certificate}&ssl_key_file={key}&rabbit_login_method={method}"
        ))
    };
    let wrong = |url: String| url.replace("guest:guest@", "guest:wrong@");
    for method in ["AMQPLAIN", "PLAIN", "RABBIT-CR-DEMO"] {
        assert_eq!(connects(&by(method, "client")).await, Ok(()), "{method}");
        connects(&wrong(by(method, "client"))).await.expect_err(method);
    }
    let external = connects(&wrong(by("EXTERNAL", "client"))).await;
    assert_eq!(external, Ok(()), "the certificate says who it is, not the password");
    connects(&by("EXTERNAL", "stranger")).await.expect_err("there is no user of that name");
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_verified_as_far_as_the_options_say() {
    let directory = TempDir::new().unwrap();
    let (ours, other) =
        (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "other"));
    ours.issue("server", "localhost");
    ours.issue("client", "compute");
    let (ca, certificate, key) =
        (ours.path("ca.pem"), ours.path("server.pem"), ours.path("server.key"));
    let broker = tokio::task::spawn_blocking(move || {
        Broker::start_with_tls(&TlsFiles {
            ca: Path::new(&ca),
            certificate: Path::new(&certificate),
            key: Path::new(&key),
            mutual: true,
        })
    })
    .await
    .unwrap();

    let us = format!(
        "&ssl_cert_file={}&ssl_key_file={}",
        ours.path("client.pem"),
        ours.path("client.key")
    );
    let verified = format!("{us}&ssl_ca_file={}", ours.path("ca.pem"));
    let by_name = format!("{verified}&ssl_enforce_hostname_verification=1");
    let foreign = format!("{us}&ssl_ca_file={}", other.path("ca.pem"));
    // The broker is asked for as 127.0.0.1, which its certificate doesn't name.
    let at_name = |url: String| url.replace("@127.0.0.1:", "@localhost:");
    assert_eq!(connects(&broker.tls_url(&us)).await, Ok(()), "nothing is verified without a CA");
    assert_eq!(connects(&broker.tls_url(&verified)).await, Ok(()), "the name doesn't matter");
    let error = connects(&broker.tls_url(&by_name)).await.expect_err("the name matters");
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(connects(&at_name(broker.tls_url(&by_name))).await, Ok(()), "the name is right");
    let error = connects(&broker.tls_url(&foreign)).await.expect_err("a foreign authority");
    assert!(error.contains("certificate"), "{error}");
    connects(&broker.tls_url("")).await.expect_err("this broker wants our certificate");
    connects(&broker.tls_url(&us).replace("ssl=1", "ssl=0")).await.expect_err("not without TLS");

    // And more than a handshake: a call to ourselves, with a body of several frames.
    let (bus, mut requests) = Bus::connect(BusSettings {
        url: TransportUrl::parse(&broker.tls_url(&verified)).unwrap(),
        options: RabbitOptions::default(),
        host: "h".into(),
        control_exchange: "nova".into(),
        topics: vec!["compute".into()],
        watchdog: None,
    })
    .unwrap();
    let patience = Duration::from_secs(60);
    timeout(patience, bus.consuming()).await.unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = requests.recv().await {
            incoming.ack.accept().await;
            let args = incoming.request.args;
            incoming.reply.unwrap().send(Ok(Value::Object(args)));
        }
    });
    let mut args = Map::new();
    args.insert("user_data".into(), json!("x".repeat(300_000)));
    let target = Target::new("compute", "6.0").at("h");
    let answer = bus
        .client()
        .call(&target, "echo", args.clone(), &Default::default(), Wait::of(patience))
        .await
        .unwrap();
    assert_eq!(answer, Value::Object(args));
    bus.close(patience).await;
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}
