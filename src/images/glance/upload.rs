//! An image's content, from a file to Glance. nova: image/glance.py, `_upload_data`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::io::AsyncReadExt;
use tokio::time::sleep;
use tracing::warn;

use super::{Glance, refused};
use crate::images::{ImageError, Progress};
use crate::model::context::RequestContext;
use crate::openstack::Method;
use crate::openstack::streams::Pieces;

const PIECE: usize = 256 << 10;
/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// After an upload broke off, until Glance has noticed.
const NOTICE_WITHIN: u32 = 15;
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Glance {
    /// Gives the image its content, from `file`. Glance makes it active then. An image that has
    /// content of this size already is left alone: a repeat finds its own work.
    ///
    /// # Errors
    /// `NotFound` when the image was deleted meanwhile, `QuotaExceeded`, `NotAuthorized`, `InUse`
    /// when it has other content, `Io` of the file, `Unreachable`.
    pub async fn upload(
        &self,
        context: &RequestContext,
        id: &str,
        file: &Path,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        let unreadable = |source| ImageError::Io { operation: "read", path: file.into(), source };
        let size = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
        let mut attempt = 0;
        loop {
            let error = match self.upload_once(context, id, file, size, progress).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // It may have got there without our knowing; and a conflict may be with ourselves.
            let unclear =
                matches!(error, ImageError::Unreachable { .. } | ImageError::InUse { .. });
            if !unclear {
                return Err(error);
            }
            match self.settled(context, id).await {
                Some((status, there)) if status == "active" && there == Some(size) => return Ok(()),
                Some((status, _)) if status == "queued" && attempt < self.retries => {}
                _ => return Err(error),
            }
            attempt += 1;
            warn!(attempt, image = id, %error, "uploading the image again");
        }
    }

    async fn upload_once(
        &self,
        context: &RequestContext,
        id: &str,
        file: &Path,
        size: u64,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        let request = self
            .request(Method::Put, context, id, "/file")?
            .header("content-type", "application/octet-stream");
        let sent = Arc::new(AtomicU64::new(0));
        let path: Arc<Path> = file.into();
        let make = || {
            sent.store(0, Ordering::Relaxed);
            pieces(path.clone(), sent.clone())
        };
        let sending = self.endpoint.upload(request, &make);
        tokio::pin!(sending);
        let answer = loop {
            tokio::select! {
                answer = &mut sending => break answer,
                () = sleep(TELL_EVERY) => progress(sent.load(Ordering::Relaxed), Some(size)),
            }
        };
        let answer = answer.map_err(|error| super::failed(id, error))?;
        if !(200..300).contains(&answer.status) {
            return Err(refused(id, &answer));
        }
        progress(size, Some(size));
        Ok(())
    }

    /// Status and size of the image once Glance has made up its mind; `None`: not in time.
    async fn settled(&self, context: &RequestContext, id: &str) -> Option<(String, Option<u64>)> {
        for _ in 0..NOTICE_WITHIN {
            match self.show(context, id).await {
                Ok(image) if image.status == "saving" => sleep(LOOK_EVERY).await,
                Ok(image) => return Some((image.status, image.size)),
                Err(_) => return None,
            }
        }
        None
    }
}

/// The file's content, counted as it goes.
fn pieces(path: Arc<Path>, sent: Arc<AtomicU64>) -> Pieces<io::Error> {
    enum State {
        Closed(Arc<Path>),
        Open(tokio::fs::File),
        Ended,
    }
    stream::unfold(State::Closed(path), move |state| {
        let sent = sent.clone();
        async move {
            let opened = match state {
                State::Closed(path) => tokio::fs::File::open(&path).await,
                State::Open(file) => Ok(file),
                State::Ended => return None,
            };
            let read = async {
                let mut file = opened?;
                file.set_max_buf_size(PIECE);
                let mut piece = vec![0; PIECE];
                let length = file.read(&mut piece).await?;
                piece.truncate(length);
                io::Result::Ok((file, piece))
            };
            match read.await {
                Ok((_, piece)) if piece.is_empty() => None,
                Ok((file, piece)) => {
                    sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    Some((Ok(Bytes::from(piece)), State::Open(file)))
                }
                Err(error) => Some((Err(error), State::Ended)),
            }
        }
    })
    .boxed()
}
