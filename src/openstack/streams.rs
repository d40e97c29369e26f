//! Requests whose bodies are too large to be held: images, down and up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use reqwest::Body;
use tokio::time::{Instant, sleep_until};

use super::endpoint::{Answer, Endpoint, Reading};
use super::transport::{Content, Failure};
use super::{ApiError, ApiRequest, ApiResponse};

/// Between two pieces of what is sent: beyond it the service doesn't listen any more.
const IDLE: Duration = Duration::from_secs(60);
/// From the last piece to the answer: the service may have to copy it all to its store.
const STORED_WITHIN: Duration = Duration::from_secs(1800);
/// Of one upload; its pieces have deadlines of their own.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Pieces of a body, whatever their sizes.
pub type Pieces<E> = BoxStream<'static, Result<Bytes, E>>;

/// An answer to a download.
pub enum Download {
    Stream(Stream),
    /// Any status but one of the 200s.
    Refused(ApiResponse),
}

/// The body of a success. Who reads it keeps the time.
pub struct Stream {
    /// 200, or 206 for a part.
    pub status: u16,
    /// Bytes that follow, when the service says it.
    pub length: Option<u64>,
    /// `Content-Range`: where the part starts, and how long the whole is, when known.
    pub range: Option<(u64, Option<u64>)>,
    pub pieces: Pieces<ApiError>,
}

impl Endpoint {
    /// Sends the request, and hands on the body of a success as it comes. It is repeated as any
    /// other until there is an answer; a body that breaks off is the reader's matter.
    ///
    /// # Errors
    /// As [`super::Api::send`].
    pub async fn download(&self, request: ApiRequest<'_>) -> Result<Download, ApiError> {
        let content = request.body.as_ref().map(|body| Bytes::from(body.to_string()));
        let content = content.map_or(Content::None, Content::Bytes);
        let answer = self.ask(&request, &content, self.timeout, Reading::Stream).await?;
        let Answer { status, headers, open: Some(incoming), .. } = answer else {
            return Ok(Download::Refused(self.response(answer)?));
        };
        let range = headers.get("content-range").and_then(|value| value.to_str().ok());
        let service = self.service;
        let broken =
            move |failure: Failure| ApiError::Unreachable { service, message: failure.message };
        Ok(Download::Stream(Stream {
            status,
            length: incoming.length(),
            range: range.and_then(content_range),
            pieces: incoming.stream().map(move |piece| piece.map_err(broken)).boxed(),
        }))
    }

    /// Sends the request with what `pieces` gives, in chunks. `pieces` is called for each attempt;
    /// once the service may have seen any of it, there is no further one.
    ///
    /// # Errors
    /// As [`super::Api::send`]; `Unreachable` also when the service stops taking pieces.
    pub async fn upload<E>(
        &self,
        request: ApiRequest<'_>,
        pieces: &(dyn Fn() -> Pieces<E> + Send + Sync),
    ) -> Result<ApiResponse, ApiError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let watch = Arc::new(Watch::default());
        let make = || {
            let watched = watch.clone();
            watched.moved(Instant::now() + IDLE);
            let ended = watched.clone();
            let pieces = pieces().inspect(move |_| watched.moved(Instant::now() + IDLE)).chain(
                futures_util::stream::poll_fn(move |_| {
                    ended.moved(Instant::now() + STORED_WITHIN);
                    std::task::Poll::Ready(None)
                }),
            );
            Body::wrap_stream(pieces)
        };
        let content = Content::Stream(&make);
        let asking = self.ask(&request, &content, LONGEST, Reading::Whole);
        tokio::select! {
            answer = asking => self.response(answer?),
            () = watch.idle() => Err(ApiError::Unreachable {
                service: self.service,
                message: "it stopped taking what is sent".to_owned(),
            }),
        }
    }
}

/// Until when an upload must move on; `None`: it hasn't begun, and other deadlines count.
#[derive(Default)]
struct Watch(Mutex<Option<Instant>>);

impl Watch {
    fn moved(&self, deadline: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    fn deadline(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when the deadline has passed without being moved.
    async fn idle(&self) {
        loop {
            let now = Instant::now();
            match self.deadline() {
                Some(deadline) if deadline <= now => return,
                Some(deadline) => sleep_until(deadline).await,
                None => sleep_until(now + IDLE).await,
            }
        }
    }
}

/// `bytes 5-9/10` is (5, Some(10)).
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for garbage in ["lines 5-9/10", "bytes */10", "bytes -", ""] {
            assert_eq!(content_range(garbage), None, "{garbage}");
        }
    }
}
