//! Images from Glance: records, content with all that can go wrong on the way, changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use hypernova::images::fetch::Patience;
use hypernova::images::glance::{Glance, ImageUpdate, Visibility};
use hypernova::images::store::{HostImages, StoreOptions};
use hypernova::images::{Checksum, ImageError, ImageRequest, ImageSource, Images};
use hypernova::model::class::Class;
use hypernova::model::context::RequestContext;
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::cloud::{HOUR, Keystone, catalog, config, session, token_of, user};
use crate::server::{Answer, Seen, Server};

/// Glance's recorded answer for an image with kernel and ramdisk.
const RECORDED: &str = include_str!("../fixtures/http/glance_image.json");
const RECORDED_ID: &str = "ce514bfa-84f3-4fb0-b60c-9b5dd21865b2";
/// A recorded snapshot: queued, the patch that nova sent, what came of it, and active.
pub const SNAPSHOT: &str = include_str!("../fixtures/http/glance_snapshot.json");

const ID: &str = "00000000-0000-4000-8000-000000000001";

pub fn glance(options: &str) -> Glance {
    let text =
        format!("[glance]\nconnect_retry_delay = 0.01\nstatus_code_retry_delay = 0.01\n{options}");
    Glance::new(&session(&text), &config(&text).glance)
}

pub fn record(content: &[u8]) -> Value {
    let mut record: Value = serde_json::from_str(RECORDED).unwrap();
    record["id"] = json!(ID);
    record["size"] = json!(content.len());
    record["disk_format"] = json!("raw");
    record["container_format"] = json!("bare");
    record["checksum"] = Value::Null;
    record["os_hash_value"] = json!(sha512(content));
    record
}

fn sha512(content: &[u8]) -> String {
    Sha512::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn content() -> Vec<u8> {
    (0..3_000_000u32).map(|n| (n % 251) as u8).collect()
}

fn request(content: &[u8]) -> ImageRequest {
    ImageRequest {
        id: ID.to_owned(),
        // Not ours to follow: Glance says where its images are.
        url: Some("file:///etc/passwd".to_owned()),
        disk_format: Some("raw".to_owned()),
        checksums: vec![Checksum { algorithm: "sha512".to_owned(), value: sha512(content) }],
        size: Some(content.len() as u64),
        any_file: false,
    }
}

/// The part that a request's Range asks for, and where it starts.
fn part<'a>(seen: &Seen, content: &'a [u8]) -> (usize, &'a [u8]) {
    let range = seen.header("range").and_then(|range| range.strip_prefix("bytes="));
    let start = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    (start, &content[start..])
}

fn partial(start: usize, rest: &[u8], total: usize) -> Answer {
    Answer::bytes(206, rest.to_vec())
        .header("content-range", format!("bytes {start}-{}/{total}", total - 1))
}

async fn read(
    glance: &Glance,
    context: &RequestContext,
    offset: u64,
) -> Result<Vec<u8>, ImageError> {
    let mut stream = glance.open(context, &request(&content()), offset).await?;
    let mut all = Vec::new();
    while let Some(piece) = stream.bytes.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

/// Fetches into a cache in a directory of its own.
async fn cache(glance: Glance, context: &RequestContext) -> Result<Vec<u8>, ImageError> {
    let directory = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(directory.path().join("instances"));
    options.patience =
        Patience { idle: Duration::from_secs(2), attempts: 4, backoff: Duration::from_millis(5) };
    let images = HostImages::new(options, Arc::new(glance)).unwrap();
    let cached = images.cache(context, &request(&content()), &|_, _| ()).await?;
    Ok(std::fs::read(cached.path).unwrap())
}

#[tokio::test]
async fn the_recorded_image_is_shown_in_novas_words() {
    let record: Value = serde_json::from_str(RECORDED).unwrap();
    let service = Server::start(move |_| Answer::json(200, &record)).await;
    let context = user("image", &service);
    let image = glance("").show(&context, RECORDED_ID).await.unwrap();
    assert_eq!(service.asked(), [format!("GET /v2/images/{RECORDED_ID}")]);
    assert_eq!(token_of(&service.seen()[0]), "user-token");

    assert_eq!((image.name.as_deref(), image.status.as_str()), (Some("tb-ami"), "active"));
    assert_eq!((image.size, image.visibility), (Some(16_777_216), Visibility::Public));
    assert_eq!(image.disk_format.as_deref(), Some("ami"));
    let algorithms: Vec<_> = image.checksums.iter().map(|sum| sum.algorithm.as_str()).collect();
    assert_eq!(algorithms, ["sha512", "md5"]);
    assert_eq!(image.properties["kernel_id"], "a04fd63f-bdb9-4178-a665-7b6d6b435a6d");
    assert!(!image.properties.contains_key("direct_url"));
    assert_eq!(image.meta.min_disk.get(), Some(&0));
}

#[tokio::test]
async fn refusals_have_novas_names() {
    for (status, class) in [
        (404, Class::Refused),
        (403, Class::Refused),
        (400, Class::Refused),
        (409, Class::Refused),
        (413, Class::Refused),
        (500, Class::Reschedule),
        (503, Class::Reschedule),
    ] {
        let service = Server::start(move |_| {
            Answer::json(status, &json!({"message": "No image found with ID x<br /><br />"}))
        })
        .await;
        let context = user("image", &service);
        let error = glance("num_retries = 0").show(&context, ID).await.unwrap_err();
        assert_eq!(error.class(), class, "{status}: {error}");
        let right = match status {
            404 => matches!(&error, ImageError::NotFound(id) if id == ID),
            403 => matches!(error, ImageError::NotAuthorized { .. }),
            400 => matches!(error, ImageError::Rejected { .. }),
            409 => matches!(error, ImageError::InUse { .. }),
            413 => matches!(error, ImageError::QuotaExceeded(_)),
            _ => matches!(error, ImageError::Unreachable { .. }),
        };
        assert!(right, "{status}: {error:?}");
        assert_eq!(service.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_is_another_images_record_or_none_is_refused() {
    for body in [json!({}), json!([]), json!({"id": "other", "status": "active"})] {
        let service = Server::start(move |_| Answer::json(200, &body)).await;
        let context = user("image", &service);
        let error = glance("").show(&context, ID).await.unwrap_err();
        assert!(matches!(error, ImageError::Unreachable { .. }), "{error}");
    }
    let service = Server::start(|_| Answer::status(200)).await;
    let context = user("image", &service);
    for id in ["", "../../v3/users", "a/b", "a?b", "a b", "ä"] {
        let error = glance("").show(&context, id).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    }
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn content_comes_whole_and_is_resumed_where_it_broke_off() {
    let whole = content();
    let sent = whole.clone();
    let tries = Mutex::new(0);
    let service = Server::start(move |seen| {
        assert_eq!(seen.path, format!("/v2/images/{ID}/file"));
        let (start, rest) = part(seen, &sent);
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        match *tries {
            1 => Answer::truncated(200, sent[..1_000_000].to_vec(), sent.len() as u64),
            2 => Answer::hangup(),
            _ => partial(start, rest, sent.len()),
        }
    })
    .await;
    let context = user("image", &service);
    assert_eq!(cache(glance(""), &context).await.unwrap(), whole);
    let ranges: Vec<_> =
        service.seen().iter().map(|s| s.header("range").map(str::to_owned)).collect();
    let resumed = Some("bytes=1000000-".to_owned());
    assert_eq!(ranges, [None, resumed.clone(), resumed]);
}

#[tokio::test]
async fn a_store_that_can_not_start_in_the_middle_starts_anew() {
    let whole = content();
    let sent = whole.clone();
    let service = Server::start(move |seen| match seen.header("range") {
        Some(_) => Answer::json(416, &json!({"message": "The Range requested is not available."})),
        None => Answer::bytes(200, sent.clone()),
    })
    .await;
    let context = user("image", &service);
    assert_eq!(read(&glance(""), &context, 1000).await.unwrap(), whole);
    assert_eq!(service.seen().len(), 2);
}

#[tokio::test]
async fn content_that_is_wrong_silent_or_absent_never_reaches_the_cache() {
    let mut wrong = content();
    wrong[7] ^= 1;
    for (answer, expected) in [
        (Answer::bytes(200, wrong), "sha512 is "),
        (Answer::bytes(200, [content(), vec![0]].concat()), "larger than declared"),
        (Answer::stalled(content()[..10].to_vec()), "no byte within"),
        (Answer::truncated(200, content()[..10].to_vec(), 3_000_000), "can't be read"),
        (Answer::status(204), "Image has no associated data"),
        (Answer::status(404), "was not found"),
        (Answer::status(403), "not authorized"),
    ] {
        let service = Server::start(move |seen| match seen.header("range") {
            Some(_) => Answer::status(416),
            None => answer.clone(),
        })
        .await;
        let context = user("image", &service);
        let error = cache(glance("num_retries = 0"), &context).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_kernel_is_checked_though_it_is_only_named() {
    let whole = content();
    let sent = whole.clone();
    let service = Server::start(move |seen| {
        if seen.path.ends_with("/file") {
            Answer::bytes(200, sent.clone())
        } else {
            Answer::json(200, &record(&sent))
        }
    })
    .await;
    let context = user("image", &service);
    let named = ImageRequest { checksums: vec![], size: None, ..request(&[]) };
    let known = glance("").complete(&context, &named).await.unwrap();
    assert_eq!(known.size, Some(whole.len() as u64));
    assert_eq!(known.checksums, request(&whole).checksums);
    // What came with the request isn't asked for again.
    let before = service.seen().len();
    assert_eq!(glance("").complete(&context, &known).await.unwrap(), known);
    assert_eq!(service.seen().len(), before);

    let mut queued = record(&whole);
    queued["status"] = json!("queued");
    let service = Server::start(move |_| Answer::json(200, &queued)).await;
    let error = glance("").complete(&user("image", &service), &named).await.unwrap_err();
    assert!(error.to_string().contains("queued, not active"), "{error}");
    let error = glance("verify_glance_signatures = true").complete(&context, &named).await;
    assert!(matches!(error, Err(ImageError::Unsupported(_))));
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    let dead = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let busy = Server::start(|_| Answer::status(503)).await;
    let good = Server::start(|_| Answer::json(200, &record(b"x"))).await;
    let context = user("image", &busy);
    let servers = format!("{dead},{}/,{}", busy.url("/v2"), good.url(""));
    for _ in 0..6 {
        let glance = glance(&format!("api_servers = {servers}"));
        glance.show(&context, ID).await.unwrap();
        // Whichever came first, the one that works is kept.
        let before = good.seen().len();
        glance.show(&context, ID).await.unwrap();
        assert_eq!(good.seen().len(), before + 1);
    }
    assert!(busy.seen().iter().all(|seen| seen.path == format!("/v2/images/{ID}")));
    let error = glance(&format!("api_servers = {dead}\nnum_retries = 1"));
    let error = error.show(&context, ID).await.unwrap_err();
    assert!(matches!(&error, ImageError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&dead), "{error}");
}

#[tokio::test]
async fn a_snapshot_is_described_as_nova_does() {
    let recorded: Value = serde_json::from_str(SNAPSHOT).unwrap();
    let answers = recorded.clone();
    let service = Server::start(move |seen| match seen.method.as_str() {
        "GET" => Answer::json(200, &answers["queued"]),
        _ => Answer::json(200, &answers["patched"]),
    })
    .await;
    let context = user("image", &service);
    let id = recorded["queued"]["id"].as_str().unwrap();
    let properties = [
        ("kernel_id", ""),
        ("image_location", "snapshot"),
        ("image_state", "available"),
        ("owner_id", "acc734c4f2fa4828bc08cfd4c9410414"),
        ("ramdisk_id", ""),
    ];
    let update = ImageUpdate {
        name: Some("snap-live".to_owned()),
        disk_format: Some("qcow2".to_owned()),
        container_format: Some("bare".to_owned()),
        properties: properties.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    };
    let image = glance("").update(&context, id, &update).await.unwrap();
    assert_eq!(image.disk_format.as_deref(), Some("qcow2"));
    let seen = service.seen();
    assert_eq!(service.asked(), [format!("GET /v2/images/{id}"), format!("PATCH /v2/images/{id}")]);
    let kind = "application/openstack-images-v2.1-json-patch";
    assert_eq!(seen[1].header("content-type"), Some(kind));
    let by_path = |patch: &Value| -> BTreeMap<String, Value> {
        let steps = patch.as_array().unwrap().iter();
        steps.map(|step| (step["path"].to_string(), step.clone())).collect()
    };
    assert_eq!(by_path(&seen[1].json()), by_path(&recorded["patch"]));

    // Nothing is left to change.
    let patched = recorded["patched"].clone();
    let done = Server::start(move |_| Answer::json(200, &patched)).await;
    glance("").update(&user("image", &done), id, &update).await.unwrap();
    assert_eq!(done.seen().len(), 1);
}

#[tokio::test]
async fn a_delete_takes_absent_as_success() {
    for (status, good) in [(204, true), (404, true), (403, false), (409, false)] {
        let service = Server::start(move |_| Answer::status(status)).await;
        let context = user("image", &service);
        assert_eq!(glance("").delete(&context, ID).await.is_ok(), good, "{status}");
        assert_eq!(service.asked(), [format!("DELETE /v2/images/{ID}")]);
    }
}

#[tokio::test]
async fn work_that_nobody_asked_for_is_done_as_the_service_user() {
    let service = Server::start(|_| Answer::json(200, &record(b"x"))).await;
    let internal = service.url("");
    let keystone =
        Keystone::start(HOUR, catalog(&[("image", "internal", "RegionOne", &internal)])).await;
    let text = format!("[service_user]\n{}", keystone.auth());
    let glance = Glance::new(&session(&text), &config(&text).glance);
    glance.show(&RequestContext::admin(), ID).await.unwrap();
    assert_eq!(token_of(&service.seen()[0]), "token-1");
}
