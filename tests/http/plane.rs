//! The clients against a control plane that runs: the one that the configuration files named by
//! HYPERNOVA_NOVA_CONF (separated by colons) belong to.
//!
//! `HYPERNOVA_NOVA_CONF=/etc/nova/nova.conf cargo test --test http plane -- --nocapture`; without
//! them there is nothing to ask, and nothing is.

#![allow(clippy::print_stdout, reason = "who runs it wants to see what it found")]

use std::io::Write;
use std::sync::Arc;

use futures_util::StreamExt;
use hypernova::config::{Config, Source};
use hypernova::images::ImageSource;
use hypernova::images::checksum::Verifier;
use hypernova::images::glance::{Glance, ImageUpdate};
use hypernova::model::context::RequestContext;
use hypernova::openstack::{ApiRequest, Identity, Method, Service, Session};
use serde_json::{Value, json};

fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}

fn config() -> Option<Config> {
    let files = std::env::var("HYPERNOVA_NOVA_CONF").ok()?;
    let sources: Vec<_> = files.split(':').map(|file| Source::File(file.into())).collect();
    Some(Config::load(&sources).unwrap())
}

#[tokio::test]
async fn every_service_answers() {
    let Some(config) = config() else { return };
    let before = resident_kib();
    let session = Session::from_config(&config, None).unwrap();
    let probed = session.probe().await;
    for probed in &probed {
        println!("{}: {:?}", probed.subject, probed.result);
    }
    let ask = async |service, path: &str, key: &str| {
        let request = ApiRequest::get(path, Identity::Service);
        let answer = session.service(service).send(request).await.unwrap().success(path).unwrap();
        assert!(answer.body[key].is_array() && answer.request_id.is_some(), "{path}");
        println!("{path}: {}", answer.body[key].as_array().unwrap().len());
    };
    ask(Service::Placement, "/resource_providers", "resource_providers").await;
    ask(Service::Neutron, "/v2.0/networks", "networks").await;
    ask(Service::Glance, "/v2/images", "images").await;
    println!("resident: {} KiB more", resident_kib() - before);
    let failed: Vec<_> = probed
        .iter()
        .filter(|probed| probed.result.is_err() && probed.subject != "cinder")
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn an_image_goes_up_and_comes_down() {
    let Some(config) = config() else { return };
    let session = Session::from_config(&config, None).unwrap();
    let glance = Arc::new(Glance::new(&session, &config.glance));
    let context = RequestContext::admin();
    let request = ApiRequest::new(Method::Post, "/v2/images", Identity::User(&context))
        .body(json!({"name": "hypernova-test", "visibility": "private"}));
    let made = session.service(Service::Glance).send(request).await.unwrap();
    let made = made.success("create").unwrap().body;
    let id = made["id"].as_str().unwrap();

    let content: Vec<u8> = (0..5_000_000u32).map(|n| (n % 247) as u8).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    let update = ImageUpdate {
        disk_format: Some("raw".into()),
        container_format: Some("bare".into()),
        properties: [("image_state".to_owned(), "available".to_owned())].into(),
        ..ImageUpdate::default()
    };
    let started = std::time::Instant::now();
    let told = |what: &str| println!("{what}: {:?}", started.elapsed());
    let result = async {
        assert_eq!(glance.show(&context, id).await.unwrap().status, "queued");
        glance.update(&context, id, &update).await.unwrap();
        told("updated");
        glance.upload(&context, id, file.path(), &|_, _| ()).await.unwrap();
        told("uploaded");
        // A repeat finds its own work.
        glance.upload(&context, id, file.path(), &|_, _| ()).await.unwrap();
        told("uploaded again");
        let image = glance.show(&context, id).await.unwrap();
        assert_eq!((image.status.as_str(), image.size), ("active", Some(5_000_000)));
        assert_eq!(image.properties["image_state"], "available");

        let mut verifier = Verifier::new(&image.request()).unwrap();
        verifier.update(&content[..1_234_567]);
        let mut stream = glance.open(&context, &image.request(), 1_234_567).await.unwrap();
        assert_eq!((stream.offset, stream.total), (1_234_567, Some(5_000_000)));
        while let Some(piece) = stream.bytes.next().await {
            verifier.update(&piece.unwrap());
        }
        verifier.verify(id).unwrap();
        told("read");
    };
    let result = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(result)).await;
    glance.delete(&context, id).await.unwrap();
    glance.delete(&context, id).await.unwrap();
    told("deleted");
    result.unwrap();
    let gone: Value = json!(glance.show(&context, id).await.unwrap_err().to_string());
    assert!(gone.as_str().unwrap().contains("was not found"), "{gone}");
}
