//! Images to Glance: streamed, begun again when that is safe, and never twice.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hypernova::images::ImageError;
use hypernova::model::context::RequestContext;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::cloud::user;
use crate::glance::{glance, record};
use crate::server::{Answer, Server};

const ID: &str = "00000000-0000-4000-8000-000000000001";

fn file(length: usize) -> (NamedTempFile, Vec<u8>) {
    let content: Vec<u8> = (0..length).map(|n| (n % 253) as u8).collect();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    (file, content)
}

/// A Glance that answers uploads in turn, and says that the image is `status` with `size` bytes.
async fn service(uploads: Vec<Answer>, status: &'static str, size: usize) -> Server {
    let uploads = Mutex::new(uploads.into_iter());
    Server::start(move |seen| {
        if seen.method == "PUT" {
            return uploads.lock().unwrap().next().unwrap();
        }
        let mut record = record(b"");
        record["status"] = json!(status);
        record["size"] = json!(size);
        Answer::json(200, &record)
    })
    .await
}

async fn upload(
    context: &RequestContext,
    file: &NamedTempFile,
    options: &str,
) -> Result<u64, ImageError> {
    let furthest = AtomicU64::new(0);
    let progress = |done, _| furthest.store(done, Ordering::Relaxed);
    glance(options).upload(context, ID, file.path(), &progress).await?;
    Ok(furthest.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_file_arrives_in_chunks_and_whole() {
    let (file, content) = file(3_000_001);
    let service = service(vec![Answer::status(204)], "queued", 0).await;
    let context = user("image", &service);
    assert_eq!(upload(&context, &file, "").await.unwrap(), content.len() as u64);
    let seen = service.seen().remove(0);
    assert_eq!(seen.path, format!("/v2/images/{ID}/file"));
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
    assert_eq!(seen.header("x-auth-token"), Some("user-token"));
    assert!(seen.body == content);
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn an_upload_that_broke_off_is_begun_again_while_the_image_waits_for_it() {
    let (file, content) = file(100_000);
    let answers = vec![Answer::hangup(), Answer::status(503), Answer::status(204)];
    let service = service(answers, "queued", 0).await;
    let context = user("image", &service);
    upload(&context, &file, "").await.unwrap();
    let put: Vec<_> = service.seen().into_iter().filter(|seen| seen.method == "PUT").collect();
    assert_eq!(put.len(), 3);
    assert!(put[2].body == content);
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_found() {
    let (file, content) = file(100_000);
    for lost in [Answer::hangup(), Answer::status(409)] {
        let done = service(vec![lost], "active", content.len()).await;
        upload(&user("image", &done), &file, "").await.unwrap();
        assert_eq!(done.asked().len(), 2);
    }
    let other = service(vec![Answer::status(409)], "active", 7).await;
    let error = upload(&user("image", &other), &file, "").await.unwrap_err();
    assert!(matches!(error, ImageError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn refusals_and_the_end_of_retries_are_told() {
    let (file, _) = file(1000);
    for (status, retries, asked) in [(413, 3, 1), (404, 3, 1), (403, 3, 1), (500, 1, 4)] {
        let service = service(vec![Answer::status(status); 9], "queued", 0).await;
        let context = user("image", &service);
        let error = upload(&context, &file, &format!("num_retries = {retries}")).await.unwrap_err();
        let right = match status {
            413 => matches!(error, ImageError::QuotaExceeded(_)),
            404 => matches!(error, ImageError::NotFound(_)),
            403 => matches!(error, ImageError::NotAuthorized { .. }),
            _ => matches!(error, ImageError::Unreachable { .. }),
        };
        assert!(right, "{status}: {error:?}");
        assert_eq!(service.seen().len(), asked, "{status}");
    }
    let gone = std::path::Path::new("/nowhere");
    let service = service(vec![], "queued", 0).await;
    let error =
        glance("").upload(&user("image", &service), ID, gone, &|_, _| ()).await.unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error}");
}
