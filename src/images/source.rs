//! Standalone mode's images: files of this host and HTTP(S) URLs.
//!
//! A URL may come over the bus from somebody who can't read this host's files, so what `file://`
//! may name is a policy; a request that root made ([`ImageRequest::any_file`]) has none.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use url::Url;

use super::{ImageError, ImageRequest, ImageSource, ImageStream};
use crate::model::context::RequestContext;

const FILE_PIECE: usize = 1 << 20;
const MAX_REDIRECTS: usize = 5;
/// Of servers' validators, kept to resume with; beyond it the oldest knowledge is dropped.
const MAX_VALIDATORS: usize = 256;

/// Which files `file://` may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePolicy {
    /// Any regular file: the asker is root here.
    Any,
    /// Only what lies under these directories once every symbolic link is resolved. An empty list
    /// allows none.
    Under(Vec<PathBuf>),
}

impl FilePolicy {
    /// Whether what lies at `path`, with no link left in it, may be named.
    pub fn allows(&self, path: &Path) -> bool {
        match self {
            Self::Any => true,
            Self::Under(directories) => directories
                .iter()
                .any(|directory| directory.canonicalize().is_ok_and(|real| path.starts_with(real))),
        }
    }
}

/// Files and URLs, by the request's `url`.
pub struct StandaloneSource {
    files: FilePolicy,
    /// To connect, and between two pieces of an answer.
    idle: Duration,
    /// Made with the first URL: it reads the host's certificates.
    client: OnceLock<Client>,
    /// `ETag` or `Last-Modified` by URL, as the last whole answer had it.
    validators: Mutex<HashMap<String, String>>,
}

#[async_trait]
impl ImageSource for StandaloneSource {
    /// # Errors
    /// `NotFound` when there is no such file or URL, `BadPath` when the policy forbids the file,
    /// `Unreachable` for what another try may get over.
    async fn open(
        &self,
        _: &RequestContext,
        image: &ImageRequest,
        offset: u64,
    ) -> Result<ImageStream, ImageError> {
        let Some(text) = &image.url else {
            return Err(unacceptable(image, "it has no URL"));
        };
        let url = Url::parse(text).map_err(|e| unacceptable(image, format!("its URL: {e}")))?;
        match url.scheme() {
            "file" => self.open_file(image, &url, offset).await,
            "http" | "https" => self.open_http(image, url, offset).await,
            other => Err(unacceptable(image, format!("URLs with {other:?} are not supported"))),
        }
    }
}

impl StandaloneSource {
    pub fn new(files: FilePolicy, idle: Duration) -> Self {
        Self { files, idle, client: OnceLock::new(), validators: Mutex::default() }
    }

    async fn open_file(
        &self,
        image: &ImageRequest,
        url: &Url,
        offset: u64,
    ) -> Result<ImageStream, ImageError> {
        let path = url.to_file_path().map_err(|()| ImageError::BadPath(url.to_string()))?;
        let policy = if image.any_file { FilePolicy::Any } else { self.files.clone() };
        let (file, size) = tokio::task::spawn_blocking(move || open_allowed(&path, &policy))
            .await
            .map_err(|e| unreachable(image, e))?
            .map_err(|refusal| refusal.into_error(image))?;
        let offset = if offset <= size { offset } else { 0 };
        let mut file = tokio::fs::File::from_std(file);
        file.seek(io::SeekFrom::Start(offset)).await.map_err(|e| unreachable(image, e))?;
        let id = image.id.clone();
        let bytes = stream::unfold(Some(file), move |file| {
            let id = id.clone();
            async move {
                let mut file = file?;
                let mut piece = vec![0; FILE_PIECE];
                match file.read(&mut piece).await {
                    Ok(0) => None,
                    Ok(n) => {
                        piece.truncate(n);
                        Some((Ok(Bytes::from(piece)), Some(file)))
                    }
                    Err(e) => {
                        let error = ImageError::Unreachable { image: id, message: e.to_string() };
                        Some((Err(error), None))
                    }
                }
            }
        });
        Ok(ImageStream { offset, total: Some(size), bytes: Box::pin(bytes) })
    }

    async fn open_http(
        &self,
        image: &ImageRequest,
        url: Url,
        offset: u64,
    ) -> Result<ImageStream, ImageError> {
        let client = self.client(image)?;
        let key = url.to_string();
        let validator = self.validators().get(&key).cloned();
        let mut request = client.get(url);
        // Without a validator only a checksum can tell that the halves belong together.
        if offset > 0 && (validator.is_some() || !image.checksums.is_empty()) {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
            if let Some(validator) = validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let response = tokio::time::timeout(self.idle, request.send())
            .await
            .map_err(|_| unreachable(image, format!("no answer within {:?}", self.idle)))?
            .map_err(|e| describe(image, e))?;
        let (offset, total) = match response.status() {
            StatusCode::OK => {
                self.remember(key, response.headers());
                (0, response.content_length())
            }
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((start, total)) if start == offset => (offset, total),
                _ => return Err(unreachable(image, "the server sent another range than asked")),
            },
            StatusCode::RANGE_NOT_SATISFIABLE
                if total_of_refused_range(&response) == Some(offset) =>
            {
                let nothing = stream::empty::<Result<Bytes, ImageError>>();
                return Ok(ImageStream { offset, total: Some(offset), bytes: Box::pin(nothing) });
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(ImageError::NotFound(image.id.clone()));
            }
            // What can't be followed at all, such as a file of this host, comes back as it is.
            status if status.is_redirection() => {
                return Err(unacceptable(image, "it redirects to where it may not"));
            }
            status => {
                self.validators().remove(&key);
                return Err(unreachable(image, format!("the server answered {status}")));
            }
        };
        let context = image.clone();
        let bytes =
            response.bytes_stream().map(move |piece| piece.map_err(|e| describe(&context, e)));
        Ok(ImageStream { offset, total, bytes: Box::pin(bytes) })
    }

    fn client(&self, image: &ImageRequest) -> Result<&Client, ImageError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Err: somebody installed it before us.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder()
            .connect_timeout(self.idle)
            .read_timeout(self.idle)
            .redirect(redirect::Policy::custom(follow))
            .user_agent(concat!("hypernova/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| unreachable(image, e))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Keeps what proves that a later range is of the same bytes. Weak tags don't.
    fn remember(&self, url: String, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let strong = text(header::ETAG).filter(|tag| !tag.starts_with("W/"));
        let mut validators = self.validators();
        if validators.len() >= MAX_VALIDATORS {
            validators.clear();
        }
        match strong.or_else(|| text(header::LAST_MODIFIED)) {
            Some(validator) => validators.insert(url, validator),
            None => validators.remove(&url),
        };
    }

    fn validators(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.validators.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Redirects stay on the web, and don't give encryption up.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_encrypted = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    match attempt.url().scheme() {
        _ if attempt.previous().len() > MAX_REDIRECTS => attempt.error("too many redirects"),
        "https" => attempt.follow(),
        "http" if !was_encrypted => attempt.follow(),
        _ => attempt.error("redirected to another scheme"),
    }
}

/// `bytes 100-199/200`: where it starts, and the whole length when known.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

/// `bytes */200` with status 416: nothing was left to send.
fn total_of_refused_range(response: &Response) -> Option<u64> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes */")?.parse().ok()
}

/// Why a file isn't read.
#[derive(Debug)]
enum FileRefusal {
    Absent,
    Forbidden(PathBuf),
    NotAFile,
    Io(io::Error),
}

impl FileRefusal {
    fn into_error(self, image: &ImageRequest) -> ImageError {
        match self {
            Self::Absent => ImageError::NotFound(image.id.clone()),
            Self::Forbidden(path) => ImageError::BadPath(path.display().to_string()),
            Self::NotAFile => unacceptable(image, "its URL names something else than a file"),
            Self::Io(e) => unreachable(image, e),
        }
    }
}

/// Opens `path` if `policy` allows the file that it turns out to be.
fn open_allowed(path: &Path, policy: &FilePolicy) -> Result<(File, u64), FileRefusal> {
    let resolved = path.canonicalize();
    if let FilePolicy::Under(_) = policy {
        // Absent or forbidden must look the same outside of the allowed directories.
        let shown = resolved.as_deref().unwrap_or(path);
        let climbs = shown.components().any(|c| c == std::path::Component::ParentDir);
        if climbs || !policy.allows(shown) {
            return Err(FileRefusal::Forbidden(path.to_owned()));
        }
    }
    let file = resolved
        .and_then(|resolved| {
            OpenOptions::new()
                .read(true)
                // Opening a FIFO or a device must neither wait nor do anything.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(resolved)
        })
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => FileRefusal::Absent,
            _ => FileRefusal::Io(e),
        })?;
    let metadata = file.metadata().map_err(FileRefusal::Io)?;
    if !metadata.is_file() {
        return Err(FileRefusal::NotAFile);
    }
    // A directory on the way may have been swapped since: ask what was really opened.
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if !policy.allows(&opened.map_err(FileRefusal::Io)?) {
        return Err(FileRefusal::Forbidden(path.to_owned()));
    }
    Ok((file, metadata.len()))
}

/// What went wrong on the web. The URL may hold a password, so it stays out.
fn describe(image: &ImageRequest, error: reqwest::Error) -> ImageError {
    let refused = error.is_redirect();
    let error = error.without_url();
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        message = format!("{message}: {next}");
        cause = next.source();
    }
    if refused { unacceptable(image, message) } else { unreachable(image, message) }
}

fn unacceptable(image: &ImageRequest, reason: impl Into<String>) -> ImageError {
    ImageError::Unacceptable { image: image.id.clone(), reason: reason.into() }
}

fn unreachable(image: &ImageRequest, message: impl ToString) -> ImageError {
    ImageError::Unreachable { image: image.id.clone(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image(url: &str) -> ImageRequest {
        ImageRequest {
            id: "i".into(),
            url: Some(url.into()),
            disk_format: None,
            checksums: vec![],
            size: None,
            any_file: false,
        }
    }

    async fn read(policy: FilePolicy, url: &str, offset: u64) -> Result<Vec<u8>, ImageError> {
        let source = StandaloneSource::new(policy, Duration::from_secs(10));
        let mut stream = source.open(&RequestContext::admin(), &image(url), offset).await?;
        let mut all = Vec::new();
        while let Some(piece) = stream.bytes.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    fn url(path: &Path) -> String {
        Url::from_file_path(path).unwrap().to_string()
    }

    #[tokio::test]
    async fn a_file_is_read_from_the_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, b"0123456789").unwrap();
        assert_eq!(read(FilePolicy::Any, &url(&path), 4).await.unwrap(), b"456789");
        assert_eq!(read(FilePolicy::Any, &url(&path), 99).await.unwrap(), b"0123456789");
    }

    #[tokio::test]
    async fn files_elsewhere_are_forbidden_also_through_links_and_dots() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, b"s").unwrap();
        std::fs::write(open.join("image"), b"i").unwrap();
        symlink(&secret, open.join("link")).unwrap();
        symlink(dir.path(), open.join("dir")).unwrap();
        let policy = FilePolicy::Under(vec![open.clone()]);
        assert_eq!(read(policy.clone(), &url(&open.join("image")), 0).await.unwrap(), b"i");
        for path in [
            secret.clone(),
            open.join("link"),
            open.join("dir/secret"),
            dir.path().join("absent"),
            PathBuf::from("/etc/passwd"),
        ] {
            let error = read(policy.clone(), &url(&path), 0).await.unwrap_err();
            assert!(matches!(error, ImageError::BadPath(_)), "{path:?}: {error}");
        }
        for text in [
            format!("file://{}/../secret", open.display()),
            format!("file://{}/%2e%2e/secret", open.display()),
            format!("file://{}/x/%2e%2e%2f%2e%2e%2fsecret", open.display()),
            "file://elsewhere/etc/passwd".to_owned(),
        ] {
            let error = read(policy.clone(), &text, 0).await.unwrap_err();
            assert!(matches!(error, ImageError::BadPath(_)), "{text}: {error}");
        }
        let absent = read(policy, &url(&open.join("absent")), 0).await.unwrap_err();
        assert!(matches!(absent, ImageError::NotFound(_)));
    }

    #[tokio::test]
    async fn devices_fifos_and_directories_are_not_images() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [Path::new("/dev/zero"), &fifo, dir.path()] {
            let error = read(FilePolicy::Any, &url(path), 0).await.unwrap_err();
            assert!(matches!(error, ImageError::Unacceptable { .. }), "{path:?}: {error}");
        }
    }

    #[tokio::test]
    async fn other_schemes_are_refused() {
        for text in ["ftp://h/i", "data:,x", "no url"] {
            let error = read(FilePolicy::Any, text, 0).await.unwrap_err();
            assert!(matches!(error, ImageError::Unacceptable { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn ranges_are_read() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            headers
        };
        assert_eq!(content_range(&headers("bytes 5-9/10")), Some((5, Some(10))));
        assert_eq!(content_range(&headers("bytes 5-9/*")), Some((5, None)));
        assert_eq!(content_range(&headers("lines 5-9/10")), None);
    }
}
