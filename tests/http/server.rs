//! A small web server whose every answer the test decides.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An answer, good or bad.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Whole(Bytes),
    /// Pieces, with a pause before each.
    Slow(Vec<Bytes>, Duration),
    /// Announces more than it sends, and breaks off.
    Truncated(Bytes, u64),
    /// Sends this, and then nothing any more.
    Stalled(Bytes),
    /// No answer at all: the connection is closed.
    Hangup,
    /// No answer at all, ever.
    Silence,
}

impl Answer {
    fn of(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    pub fn status(status: u16) -> Self {
        Self::of(status, Body::Whole(Bytes::new()))
    }

    pub fn json(status: u16, body: &Value) -> Self {
        let body = Body::Whole(Bytes::from(body.to_string()));
        Self::of(status, body).header("content-type", "application/json")
    }

    pub fn bytes(status: u16, body: impl Into<Bytes>) -> Self {
        Self::of(status, Body::Whole(body.into()))
    }

    pub fn slow(pieces: Vec<Bytes>, pause: Duration) -> Self {
        Self::of(200, Body::Slow(pieces, pause))
    }

    pub fn truncated(status: u16, body: impl Into<Bytes>, announced: u64) -> Self {
        Self::of(status, Body::Truncated(body.into(), announced))
    }

    pub fn stalled(body: impl Into<Bytes>) -> Self {
        Self::of(200, Body::Stalled(body.into()))
    }

    pub fn hangup() -> Self {
        Self::of(200, Body::Hangup)
    }

    pub fn silence() -> Self {
        Self::of(200, Body::Silence)
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// A web server on a loopback port of its own, until it is dropped.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(answer);
        let log = seen.clone();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (handler, log, tls) = (handler.clone(), log.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, handler, log).await,
                        // A client that doesn't trust us is its own business.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, handler, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, seen, connections, task }
    }

    /// The address, by the name that certificates are for.
    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How often somebody connected, and may have got no further.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Methods and paths so far.
    pub fn asked(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(stream: S, handler: Arc<Handler>, log: Arc<Mutex<Vec<Seen>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, log) = (handler.clone(), log.clone());
        async move { respond(request, &handler, &log).await }
    });
    // A connection that breaks is part of the test.
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn respond(
    request: Request<Incoming>,
    handler: &Arc<Handler>,
    log: &Mutex<Vec<Seen>>,
) -> Result<Response<BoxBody<Bytes, io::Error>>, io::Error> {
    let (head, body) = request.into_parts();
    let mut seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        body: Bytes::new(),
    };
    seen.body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    log.lock().unwrap().push(seen.clone());
    let answer = handler(&seen);
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let never = |error: Infallible| match error {};
    let frame = |piece: Bytes| Ok::<_, io::Error>(Frame::data(piece));
    let body = match answer.body {
        Body::Whole(bytes) => Full::new(bytes).map_err(never).boxed(),
        Body::Slow(pieces, pause) => {
            let pieces = stream::iter(pieces).then(move |piece| async move {
                tokio::time::sleep(pause).await;
                Ok(Frame::data(piece))
            });
            BodyExt::boxed(StreamBody::new(pieces))
        }
        Body::Truncated(bytes, announced) => {
            response = response.header("content-length", announced);
            let broken = Err(io::Error::other("broken off"));
            BodyExt::boxed(StreamBody::new(stream::iter([frame(bytes), broken])))
        }
        Body::Stalled(bytes) => {
            let pieces = stream::iter([frame(bytes)]).chain(stream::pending());
            BodyExt::boxed(StreamBody::new(pieces))
        }
        Body::Hangup => return Err(io::Error::other("hung up")),
        Body::Silence => std::future::pending().await,
    };
    response.body(body).map_err(io::Error::other)
}
