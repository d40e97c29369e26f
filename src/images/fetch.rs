//! One image's bytes, from its source into a `.part` file: resumed when the connection breaks,
//! hashed on the way.
//!
//! Writing and hashing happen on a blocking thread of their own, fed through a short channel, so
//! that neither holds up a runtime thread and the network waits for the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::checksum::Verifier;
use super::files::{blocking, io_error};
use super::lock::Held;
use super::{ImageError, ImageRequest, ImageSource, Progress};
use crate::model::context::RequestContext;

/// Progress that earns a connection its retries back.
const EARNS_RETRIES: u64 = 1 << 20;
/// Pieces between the network and the disk.
const QUEUE: usize = 16;

/// How patient a fetch is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without a byte.
    pub idle: Duration,
    /// Tries without progress before it is given up.
    pub attempts: u32,
    /// Before the second try; doubled for each further one.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), attempts: 5, backoff: Duration::from_millis(500) }
    }
}

/// Where an image comes from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    pub source: &'a dyn ImageSource,
    /// Whose rights count.
    pub context: &'a RequestContext,
    pub patience: Patience,
}

/// Fetches `image` into `part` and checks length and checksum. What an earlier try left in `part`
/// is resumed if a checksum will prove the whole, and dropped otherwise. `lock` is on `part`.
///
/// # Errors
/// As the source, `WrongChecksum`, `NoSpace`; `part` stays for the caller to remove.
pub async fn fetch(
    origin: Origin<'_>,
    image: &ImageRequest,
    part: &Path,
    lock: &Arc<Held>,
    progress: Progress<'_>,
) -> Result<(), ImageError> {
    let once = |resume| fetch_once(origin, image, part, lock, progress, resume);
    let resumed = once(true).await;
    match resumed {
        // The bytes that were left may have been of another content.
        Err((ImageError::WrongChecksum { .. }, true)) => once(false).await.map_err(|(e, _)| e),
        other => other.map_err(|(e, _)| e),
    }
}

/// The error, and whether bytes of an earlier try were used.
async fn fetch_once(
    origin: Origin<'_>,
    image: &ImageRequest,
    part: &Path,
    lock: &Arc<Held>,
    progress: Progress<'_>,
    resume: bool,
) -> Result<(), (ImageError, bool)> {
    let verifier = Verifier::new(image).map_err(|e| (e, false))?;
    let resume = resume && !image.checksums.is_empty();
    let limit = image.size;
    let (file, verifier, left) =
        blocking("open", part, move |part| open_part(part, verifier, resume, limit))
            .await
            .map_err(|e| (e, false))?;
    let writer = Writer::start(part, file, verifier, Arc::clone(lock));
    let fetched = Fetch { origin, image, progress, writer, done: left };
    fetched.run().await.map_err(|e| (e, left > 0))
}

/// Opens the part, hashing what is in it when that is to be used.
fn open_part(
    part: &Path,
    mut verifier: Verifier,
    resume: bool,
    limit: Option<u64>,
) -> io::Result<(File, Verifier, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(part)?;
    let there = file.metadata()?.len();
    if !resume || limit.is_some_and(|limit| there > limit) {
        file.set_len(0)?;
        return Ok((file, verifier, 0));
    }
    let mut piece = vec![0; 1 << 20];
    let mut left = 0;
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok((file, verifier, left));
        }
        verifier.update(&piece[..n]);
        left += n as u64;
    }
}

struct Fetch<'a> {
    origin: Origin<'a>,
    image: &'a ImageRequest,
    progress: Progress<'a>,
    writer: Writer,
    /// Bytes handed to the writer.
    done: u64,
}

impl Fetch<'_> {
    async fn run(mut self) -> Result<(), ImageError> {
        let mut attempt = 1;
        let mut best = self.done;
        while self.image.size.is_none_or(|size| self.done < size || size == 0) {
            let Err(error) = self.stream().await else { break };
            if !matches!(error, ImageError::Unreachable { .. }) {
                return Err(self.writer.failure_or(error).await);
            }
            if self.done >= best + EARNS_RETRIES {
                best = self.done;
                attempt = 1;
            }
            if attempt >= self.origin.patience.attempts {
                return Err(error);
            }
            warn!(attempt, done_bytes = self.done, %error, "fetching the image again");
            tokio::time::sleep(self.origin.patience.backoff * 2u32.saturating_pow(attempt - 1))
                .await;
            attempt += 1;
        }
        self.writer.finish(&self.image.id).await
    }

    /// One connection, from where we are to the end.
    async fn stream(&mut self) -> Result<(), ImageError> {
        let broke_off =
            |message: String| ImageError::Unreachable { image: self.image.id.clone(), message };
        let idle = self.origin.patience.idle;
        let silent = || broke_off(format!("no byte within {idle:?}"));
        let Origin { source, context, .. } = self.origin;
        let opening = source.open(context, self.image, self.done);
        let mut stream = tokio::time::timeout(idle, opening).await.map_err(|_| silent())??;
        if stream.offset != self.done {
            if stream.offset != 0 {
                return Err(broke_off("the source started elsewhere than asked".into()));
            }
            self.writer.send(Order::Restart).await?;
            self.done = 0;
        }
        let total = self.image.size.or(stream.total);
        loop {
            let next = tokio::time::timeout(idle, stream.bytes.next()).await;
            let Some(piece) = next.map_err(|_| silent())? else { break };
            let piece = piece?;
            self.done += piece.len() as u64;
            if self.image.size.is_some_and(|size| self.done > size) {
                return Err(ImageError::Unacceptable {
                    image: self.image.id.clone(),
                    reason: "it is larger than declared".into(),
                });
            }
            self.writer.send(Order::Write(piece)).await?;
            (self.progress)(self.done, total);
        }
        match total {
            Some(total) if self.done < total => {
                Err(broke_off(format!("it ended after {} of {total} bytes", self.done)))
            }
            _ => Ok(()),
        }
    }
}

enum Order {
    Write(Bytes),
    Restart,
}

/// The thread that writes and hashes.
struct Writer {
    path: PathBuf,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<io::Result<Verifier>>>,
}

impl Writer {
    /// The thread holds `lock` until its last byte is written, also when the fetch is dropped
    /// and somebody else waits to open the same part.
    fn start(path: &Path, mut file: File, mut verifier: Verifier, lock: Arc<Held>) -> Self {
        let (orders, mut queue) = mpsc::channel(QUEUE);
        let thread = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            while let Some(order) = queue.blocking_recv() {
                match order {
                    Order::Write(bytes) => {
                        file.write_all(&bytes)?;
                        verifier.update(&bytes);
                    }
                    Order::Restart => {
                        file.set_len(0)?;
                        file.rewind()?;
                        verifier.restart();
                    }
                }
            }
            Ok(verifier)
        });
        Self { path: path.to_owned(), orders: Some(orders), thread: Some(thread) }
    }

    async fn send(&mut self, order: Order) -> Result<(), ImageError> {
        let sent = match &self.orders {
            Some(orders) => orders.send(order).await.is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        let gone = io_error("write", &self.path, io::Error::other("the writer ended"));
        Err(self.failure_or(gone).await)
    }

    /// What stopped the writer, if something did.
    async fn failure_or(&mut self, other: ImageError) -> ImageError {
        match self.end().await {
            Err(failure) => failure,
            Ok(_) => other,
        }
    }

    async fn finish(&mut self, image: &str) -> Result<(), ImageError> {
        match self.end().await? {
            Some(mut verifier) => verifier.verify(image),
            None => Ok(()),
        }
    }

    async fn end(&mut self) -> Result<Option<Verifier>, ImageError> {
        self.orders = None;
        let Some(thread) = self.thread.take() else { return Ok(None) };
        match thread.await {
            Ok(Ok(verifier)) => Ok(Some(verifier)),
            Ok(Err(e)) => Err(io_error("write", &self.path, e)),
            Err(panic) => Err(io_error("write", &self.path, io::Error::other(panic))),
        }
    }
}
