//! `/metrics` and `/healthz` over HTTP, on a local address.
//!
//! Whoever can connect may ask; nobody can make the agent work for it: a few connections, small
//! requests, one answer each, and not for long.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::health::{Health, Metrics};
use crate::model::class::Class;

/// Connections at once; further ones are closed unanswered.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of a request's head: hyper's least.
const MAX_REQUEST: usize = 8 * 1024;
/// A connection's whole life.
const MAX_LIFE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    #[error("can't listen on {address} ([hypernova] metrics_listen)")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

impl HealthError {
    pub fn class(&self) -> Class {
        Class::Refused
    }
}

/// A server that listens and doesn't answer yet.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Health,
}

impl HealthServer {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`HealthError::Listen`].
    pub async fn bind(
        address: SocketAddr,
        metrics: Arc<Metrics>,
        health: Health,
    ) -> Result<Self, HealthError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| HealthError::Listen { address, source })?;
        Ok(Self { listener, metrics, health })
    }

    /// The address that it listens on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: asking again at once would only spin.
                    warn!(%error, "can't accept a connection for metrics");
                    sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
            let (metrics, health) = (self.metrics.clone(), self.health.clone());
            tokio::spawn(async move {
                if timeout(MAX_LIFE, serve(stream, metrics, health)).await.is_err() {
                    debug!("a connection for metrics took too long");
                }
                drop(permit);
            });
        }
    }
}

async fn serve(stream: TcpStream, metrics: Arc<Metrics>, health: Health) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &metrics, &health);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_LIFE)
        .max_buf_size(MAX_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        debug!(%error, "a connection for metrics failed");
    }
}

fn answer(
    method: &Method,
    path: &str,
    metrics: &Metrics,
    health: &Health,
) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if method != Method::GET && method != Method::HEAD {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => respond(StatusCode::OK, OPEN_METRICS, metrics.encode()),
        "/healthz" => {
            let (healthy, body) = health.to_json();
            let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            respond(status, "application/json", format!("{body}\n"))
        }
        _ => respond(StatusCode::NOT_FOUND, TEXT, "/metrics or /healthz\n".to_owned()),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::health::{Component, State};

    struct Running {
        address: SocketAddr,
        health: Health,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    async fn start() -> Running {
        let health = Health::new(&[Component::Libvirt]);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let metrics = Arc::new(Metrics::new());
        let server = HealthServer::bind(address, metrics, health.clone()).await.unwrap();
        let address = server.address().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Running { address, health, stop, task }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }

    #[tokio::test]
    async fn health_is_503_until_all_is_up() {
        let server = start().await;
        let answer = get(server.address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        server.health.set(Component::Libvirt, State::Up);
        let answer = get(server.address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer
                .ends_with("{\"status\":\"ok\",\"components\":{\"libvirt\":{\"state\":\"up\"}}}\n")
        );
        server.stop.cancel();
        server.task.await.unwrap();
    }

    #[tokio::test]
    async fn metrics_are_open_metrics() {
        let server = start().await;
        let answer = get(server.address, "/metrics?x=1").await;
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(answer.ends_with("# EOF\n"), "{answer}");
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let server = start().await;
        let post = "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
        assert!(ask(server.address, post).await.starts_with("HTTP/1.1 405"));
        assert!(get(server.address, "/").await.starts_with("HTTP/1.1 404"));
        assert!(ask(server.address, "\0\0\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * MAX_REQUEST));
        let answer = ask(server.address, &long).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(get(server.address, "/metrics").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed_and_the_next_one_is_served() {
        let server = start().await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(b"GET").await.unwrap();
            idle.push(stream);
        }
        assert_eq!(get(server.address, "/metrics").await, "");
        drop(idle);
        // The server notices the closed connections when it is next scheduled.
        while get(server.address, "/metrics").await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let server = start().await;
        let metrics = Arc::new(Metrics::new());
        let error = HealthServer::bind(server.address, metrics, server.health.clone()).await;
        assert!(error.unwrap_err().to_string().contains(&server.address.to_string()));
    }
}
