//! One HTTP exchange: connections, TLS, redirects, and limits of time and size.
//!
//! Nothing is repeated here; a failure says whether the request can have reached its service.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, LOCATION};
use reqwest::{Body, Certificate, Client, Identity, Method, StatusCode, redirect};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::SessionError;
use crate::config::keystoneauth::Http;

/// Of an answer that is read whole: the largest are catalogs and lists of ports.
const LARGEST_ANSWER: usize = 16 << 20;
/// Until TCP and TLS stand.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Servers close connections that were idle for 5 s or more. A request that crosses with that is
/// lost, so we are the first to close.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);
const MOST_IDLE: usize = 4;
const MOST_REDIRECTS: usize = 5;

/// Connections of one kind: which certificates are trusted, and which one is ours.
pub struct Transport {
    options: TlsOptions,
    trusted: Option<Vec<Certificate>>,
    identity: Option<Identity>,
    /// Made with the first address of its kind: the one for https reads the host's certificates.
    plain: OnceLock<Client>,
    tls: OnceLock<Client>,
}

/// What makes one transport differ from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    pub cafile: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    pub insecure: bool,
}

impl From<&Http> for TlsOptions {
    fn from(http: &Http) -> Self {
        Self {
            cafile: http.cafile.clone(),
            certfile: http.certfile.clone(),
            keyfile: http.keyfile.clone(),
            insecure: http.insecure,
        }
    }
}

/// What is sent.
pub struct Outgoing<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: &'a HeaderMap,
    pub body: Content<'a>,
}

/// A request's body.
pub enum Content<'a> {
    None,
    Bytes(Bytes),
    /// Made anew for each exchange; sent in chunks.
    Stream(&'a (dyn Fn() -> Body + Send + Sync)),
}

impl<'a> Content<'a> {
    /// The same body, for a further exchange.
    pub fn again(&self) -> Content<'a> {
        match self {
            Self::None => Content::None,
            Self::Bytes(bytes) => Content::Bytes(bytes.clone()),
            Self::Stream(make) => Content::Stream(*make),
        }
    }
}

/// An answer's head, with its body still to be read.
pub struct Incoming {
    pub status: u16,
    pub headers: HeaderMap,
    response: reqwest::Response,
    peer: String,
}

/// No answer.
#[derive(Debug)]
pub struct Failure {
    /// The service may have seen the request, and may have done it.
    pub may_have_arrived: bool,
    /// Nothing but a change of configuration helps.
    pub hopeless: bool,
    /// Names the peer, and holds nothing secret.
    pub message: String,
}

impl Transport {
    /// Reads the files, so that a wrong path is found at the start.
    ///
    /// # Errors
    /// [`SessionError::Tls`].
    pub fn new(section: &str, options: TlsOptions) -> Result<Self, SessionError> {
        // Err: somebody installed it before us.
        rustls::crypto::ring::default_provider().install_default().ok();
        let refused = |option, path: &Path, problem: String| SessionError::Tls {
            section: section.to_owned(),
            option,
            path: path.to_owned(),
            problem,
        };
        let read = |option, path: &Path| {
            std::fs::read(path).map_err(|error| refused(option, path, error.to_string()))
        };
        let trusted = match &options.cafile {
            None => None,
            Some(path) => {
                let certificates = Certificate::from_pem_bundle(&read("cafile", path)?)
                    .map_err(|error| refused("cafile", path, describe(&error)))?;
                if certificates.is_empty() {
                    return Err(refused("cafile", path, "it holds no certificate".to_owned()));
                }
                Some(certificates)
            }
        };
        let identity = match (&options.certfile, &options.keyfile) {
            (None, Some(path)) => {
                return Err(refused("keyfile", path, "certfile is not set".to_owned()));
            }
            (None, None) => None,
            (Some(path), key) => {
                let mut pem = read("certfile", path)?;
                if let Some(key) = key {
                    pem.push(b'\n');
                    pem.extend(read("keyfile", key)?);
                }
                let identity = Identity::from_pem(&pem)
                    .map_err(|error| refused("certfile", path, describe(&error)))?;
                Some(identity)
            }
        };
        let (plain, tls) = (OnceLock::new(), OnceLock::new());
        Ok(Self { options, trusted, identity, plain, tls })
    }

    pub fn options(&self) -> &TlsOptions {
        &self.options
    }

    /// Sends the request and reads the answer's head. A redirect is followed on the same host; the
    /// request's token goes nowhere else.
    ///
    /// # Errors
    /// [`Failure`] when there is no head before `deadline`.
    pub async fn exchange(
        &self,
        outgoing: &Outgoing<'_>,
        deadline: Instant,
    ) -> Result<Incoming, Failure> {
        let mut url = outgoing.url.clone();
        let mut redirects = 0;
        loop {
            let incoming = self.once(outgoing, &url, deadline).await?;
            match redirection(&incoming, &url) {
                Some(next) if redirects < MOST_REDIRECTS => url = next,
                _ => return Ok(incoming),
            }
            redirects += 1;
        }
    }

    async fn once(
        &self,
        outgoing: &Outgoing<'_>,
        url: &Url,
        deadline: Instant,
    ) -> Result<Incoming, Failure> {
        let peer = url[url::Position::BeforeScheme..url::Position::AfterPort].to_owned();
        let client = self.client(url, &peer)?;
        let request =
            client.request(outgoing.method.clone(), url.clone()).headers(outgoing.headers.clone());
        let request = match &outgoing.body {
            Content::None => request,
            Content::Bytes(bytes) => request.body(bytes.clone()),
            Content::Stream(make) => request.body(make()),
        };
        let response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::from_error(&peer, &error)),
            Err(_) => return Err(Failure::broken(&peer, "no answer in time")),
        };
        Ok(Incoming {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            response,
            peer,
        })
    }

    fn client(&self, url: &Url, peer: &str) -> Result<&Client, Failure> {
        let is_tls = url.scheme() == "https";
        let cell = if is_tls { &self.tls } else { &self.plain };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let builder = Client::builder()
            .http1_only()
            .connect_timeout(CONNECT_WITHIN)
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(MOST_IDLE)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("hypernova/", env!("CARGO_PKG_VERSION")));
        let builder = match (is_tls, &self.trusted) {
            // The host's certificates aren't read for nothing.
            (false, _) => builder.tls_certs_only([]),
            (true, Some(trusted)) => builder.tls_certs_only(trusted.iter().cloned()),
            (true, None) => builder,
        };
        let builder = builder.tls_danger_accept_invalid_certs(self.options.insecure && is_tls);
        let builder = match &self.identity {
            Some(identity) if is_tls => builder.identity(identity.clone()),
            _ => builder,
        };
        let client = builder.build().map_err(|error| Failure {
            may_have_arrived: false,
            hopeless: true,
            message: format!("{peer}: {}", describe(&error)),
        })?;
        Ok(cell.get_or_init(|| client))
    }
}

impl Incoming {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Failure`] when it breaks off, is too large, or isn't there before `deadline`.
    pub async fn read(self, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let too_large = || Failure::broken(&self.peer, "the answer is too large");
        let announced = self.response.content_length().unwrap_or(0);
        if announced > LARGEST_ANSWER as u64 {
            return Err(too_large());
        }
        let peer = self.peer.clone();
        let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
        let mut stream = self.response.bytes_stream();
        loop {
            let piece = match timeout_at(deadline, stream.next()).await {
                Err(_) => return Err(Failure::broken(&peer, "the answer did not end in time")),
                Ok(None) => return Ok(body),
                Ok(Some(Err(error))) => return Err(Failure::from_error(&peer, &error)),
                Ok(Some(Ok(piece))) => piece,
            };
            if body.len() + piece.len() > LARGEST_ANSWER {
                return Err(Failure::broken(&peer, "the answer is too large"));
            }
            body.extend_from_slice(&piece);
        }
    }

    /// The body piece by piece. Who reads it keeps the time.
    pub fn stream(self) -> impl futures_core::Stream<Item = Result<Bytes, Failure>> + Send + use<> {
        let peer = self.peer;
        self.response
            .bytes_stream()
            .map(move |piece| piece.map_err(|error| Failure::from_error(&peer, &error)))
    }

    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }
}

impl Failure {
    fn from_error(peer: &str, error: &reqwest::Error) -> Self {
        let message = format!("{peer}: {}", describe(error));
        let hopeless = is_about_certificates(error);
        Self { may_have_arrived: !error.is_connect(), hopeless, message }
    }

    fn broken(peer: &str, problem: &str) -> Self {
        let message = format!("{peer}: {problem}");
        Self { may_have_arrived: true, hopeless: false, message }
    }
}

/// The error with its causes, and without the address.
fn describe(error: &reqwest::Error) -> String {
    let mut message = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let text = next.to_string();
        if !message.ends_with(&text) {
            message = if message.is_empty() { text } else { format!("{message}: {text}") };
        }
        cause = next.source();
    }
    if message.is_empty() { "the exchange failed".to_owned() } else { message }
}

/// Looks into I/O errors, too: their `source` passes over the error that they hold.
fn is_about_certificates(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match (held, error.source()) {
        (Some(held), _) => is_about_certificates(held),
        (None, Some(source)) => is_about_certificates(source),
        (None, None) => false,
    }
}

/// Where an answer sends us on to: only on the same host, and never from https to http.
fn redirection(incoming: &Incoming, from: &Url) -> Option<Url> {
    let follows = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !follows.iter().any(|status| status.as_u16() == incoming.status) {
        return None;
    }
    let to = from.join(incoming.headers.get(LOCATION)?.to_str().ok()?).ok()?;
    let safe = to.scheme() == from.scheme() || (from.scheme(), to.scheme()) == ("http", "https");
    (safe && to.host() == from.host()).then_some(to)
}

/// Adds a header whose value never shows.
///
/// # Errors
/// A value that can't be a header's.
pub fn secret_header(
    headers: &mut HeaderMap,
    name: &'static str,
    value: &str,
) -> Result<(), InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(value)?;
    value.set_sensitive(true);
    headers.insert(HeaderName::from_static(name), value);
    Ok(())
}
