//! Snapshots in Glance: a place that is free, content once, backups page by page.

use std::io::Write;
use std::sync::Mutex;

use hypernova::images::ImageError;
use hypernova::images::glance::ImageUpdate;
use hypernova::images::sink::{ImageSink, TargetImage};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::cloud::user;
use crate::glance::{SNAPSHOT, glance};
use crate::server::{Answer, Server};

fn recorded(part: &str) -> Value {
    let all: Value = serde_json::from_str(SNAPSHOT).unwrap();
    all[part].clone()
}

fn target(record: &Value) -> TargetImage {
    TargetImage { id: record["id"].as_str().unwrap().to_owned(), any_file: false }
}

#[tokio::test]
async fn a_place_is_taken_while_it_is_free() {
    let queued = recorded("queued");
    for (status, is_free) in
        [("queued", true), ("saving", true), ("active", false), ("deactivated", false)]
    {
        let mut record = queued.clone();
        record["status"] = json!(status);
        let service = Server::start(move |_| Answer::json(200, &record)).await;
        let context = user("image", &service);
        let reserved = glance("").reserve(&context, &target(&queued)).await;
        match reserved {
            Ok(name) => assert_eq!((name.as_deref(), is_free), (Some("snap-live"), true)),
            Err(error) => assert!(matches!(error, ImageError::InUse { .. }) && !is_free),
        }
    }
    let service = Server::start(|_| Answer::status(404)).await;
    let context = user("image", &service);
    let gone = glance("").reserve(&context, &target(&queued)).await.unwrap_err();
    assert!(matches!(gone, ImageError::NotFound(_)));
}

#[tokio::test]
async fn an_image_is_changed_and_filled_as_nova_does_it() {
    let (queued, patched) = (recorded("queued"), recorded("patched"));
    let before = queued.clone();
    let service = Server::start(move |seen| match seen.method.as_str() {
        "PUT" => Answer::status(204),
        "PATCH" => Answer::json(200, &patched),
        _ => Answer::json(200, &before),
    })
    .await;
    let context = user("image", &service);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(b"the image").unwrap();
    let known = ImageUpdate { disk_format: Some("qcow2".to_owned()), ..ImageUpdate::default() };
    let image = target(&queued);
    glance("").fill(&context, &image, &known, file.path(), &|_, _| ()).await.unwrap();
    let path = format!("/v2/images/{}", image.id);
    let asked = [format!("GET {path}"), format!("PATCH {path}"), format!("PUT {path}/file")];
    assert_eq!(service.asked(), asked);
    assert_eq!(service.seen()[2].body.as_ref(), b"the image");
}

#[tokio::test]
async fn what_was_never_reserved_is_deleted_only_while_it_is_empty() {
    for (status, deletes) in [("queued", true), ("saving", true), ("active", false)] {
        let mut record = recorded("queued");
        record["status"] = json!(status);
        let image = target(&record);
        let service = Server::start(move |seen| match seen.method.as_str() {
            "DELETE" => Answer::status(204),
            _ => Answer::json(200, &record),
        })
        .await;
        let context = user("image", &service);
        glance("").discard_empty(&context, &image).await.unwrap();
        assert_eq!(service.asked().len(), if deletes { 2 } else { 1 }, "{status}");
        glance("").discard(&context, &image).await.unwrap();
        assert!(service.asked().last().unwrap().starts_with("DELETE"), "{status}");
    }
}

#[tokio::test]
async fn backups_are_listed_newest_first_page_by_page() {
    let pages = [
        json!({"images": [{"id": "c"}, {"id": "b"}], "next": "/v2/images?marker=b"}),
        json!({"images": [{"id": "a"}, {"no": "id"}]}),
    ];
    let pages = Mutex::new(pages.into_iter());
    let next = move || pages.lock().unwrap().next().unwrap();
    let service = Server::start(move |_| Answer::json(200, &next())).await;
    let context = user("image", &service);
    let instance = Uuid::from_u128(7);
    let found = glance("").backups(&context, instance, "daily & more").await.unwrap();
    let ids: Vec<_> = found.iter().map(|image| image.id.as_str()).collect();
    assert_eq!(ids, ["c", "b", "a"]);
    let seen = service.seen();
    // As glanceclient asks.
    let query = format!(
        "image_type=backup&backup_type=daily+%26+more&instance_uuid={instance}&limit=200\
         &sort_key=created_at&sort_dir=desc"
    );
    assert_eq!((seen[0].path.as_str(), &seen[0].query), ("/v2/images", &query));
    assert_eq!(seen[1].query, query + "&marker=b");
}
