//! One service's API: where it is, what its answers mean, and when a request is sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::debug;
use url::Url;

use super::catalog::{Lookup, below};
use super::identity::{Identities, Sender};
use super::retry::{Attempts, RetryPolicy, retry_after};
use super::transport::{Content, Failure, Incoming, Outgoing, Transport};
use super::{Api, ApiError, ApiRequest, ApiResponse, Identity, Method, Observer};

/// Beside the time that one answer may take: no further attempt starts after both.
const REPEATS_WITHIN: Duration = Duration::from_secs(60);

/// Where a service is.
#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    /// Where the sender's catalog says.
    Catalog(Lookup),
    /// One of these, and the next one when it fails. `%(project_id)s` and `%(user_id)s` in them
    /// stand for the sender's.
    Servers(Vec<String>),
}

/// One service's API over HTTP.
pub struct Endpoint {
    pub(super) service: &'static str,
    pub(super) location: Location,
    /// Of `Location::Servers`: the one that is asked.
    pub(super) server: AtomicUsize,
    pub(super) identities: Identities,
    pub(super) transport: Arc<Transport>,
    /// From a request's start to its answer's end.
    pub(super) timeout: Duration,
    pub(super) policy: RetryPolicy,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

/// How an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Whole,
    /// That of a success is left to be read.
    Stream,
}

/// An answer. With [`Reading::Stream`] a success has its body in `open`.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub open: Option<Incoming>,
}

#[async_trait]
impl Api for Endpoint {
    async fn send(&self, request: ApiRequest<'_>) -> Result<ApiResponse, ApiError> {
        let body = request.body.as_ref().map(|body| Bytes::from(body.to_string()));
        let content = body.map_or(Content::None, Content::Bytes);
        let answer = self.ask(&request, &content, self.timeout, Reading::Whole).await?;
        self.response(answer)
    }
}

impl Endpoint {
    /// Sends `request` with `content` until there is an answer that stands. `within` is what one
    /// attempt may take.
    pub(super) async fn ask(
        &self,
        request: &ApiRequest<'_>,
        content: &Content<'_>,
        within: Duration,
        reading: Reading,
    ) -> Result<Answer, ApiError> {
        let give_up = Instant::now() + self.timeout + REPEATS_WITHIN;
        let method = method(request.method);
        // A stream that was begun can't be taken back.
        let repeatable = !matches!(content, Content::Stream(_))
            && (request.repeatable || method.is_idempotent());
        let mut attempts = Attempts::new(&self.policy, repeatable);
        let mut tokens_renewed = false;
        loop {
            let sender = self.identities.sender(self.service, request.identity).await?;
            let server = self.server.load(Ordering::Relaxed);
            let url = self.address(&sender, server, request)?;
            let headers = self.headers(&sender, request)?;
            let started = Instant::now();
            let outgoing =
                Outgoing { method: method.clone(), url, headers: &headers, body: content.again() };
            let answer = self.exchange(&outgoing, started + within, reading).await;
            self.note(request, &answer, started, attempts.number());
            let (pause, result) = match answer {
                Ok(answer) if answer.status == 401 => {
                    if !tokens_renewed && sender.forget_own_tokens() {
                        tokens_renewed = true;
                        continue;
                    }
                    let message = super::error_text(&parsed(&answer.body));
                    return Err(ApiError::Unauthorized { service: self.service, message });
                }
                Ok(answer) => {
                    let after = answer.headers.get("retry-after");
                    let after = after.and_then(|value| value.to_str().ok()).and_then(retry_after);
                    (attempts.after_status(answer.status, after), Ok(answer))
                }
                Err(failure) => {
                    let pause = attempts.after_failure(failure.may_have_arrived);
                    let error =
                        ApiError::Unreachable { service: self.service, message: failure.message };
                    (pause.filter(|_| !failure.hopeless), Err(error))
                }
            };
            match pause.filter(|pause| Instant::now() + *pause < give_up) {
                None => return result,
                Some(pause) => {
                    self.use_next_server(server);
                    sleep(pause).await;
                }
            }
        }
    }

    async fn exchange(
        &self,
        outgoing: &Outgoing<'_>,
        deadline: Instant,
        reading: Reading,
    ) -> Result<Answer, Failure> {
        let incoming = self.transport.exchange(outgoing, deadline).await?;
        let (status, headers) = (incoming.status, incoming.headers.clone());
        if reading == Reading::Stream && (200..300).contains(&status) {
            return Ok(Answer { status, headers, body: Vec::new(), open: Some(incoming) });
        }
        let body = incoming.read(deadline).await?;
        Ok(Answer { status, headers, body, open: None })
    }

    /// # Errors
    /// `Garbled` for a success whose body isn't JSON.
    pub(super) fn response(&self, answer: Answer) -> Result<ApiResponse, ApiError> {
        let status = answer.status;
        let body = match serde_json::from_slice(&answer.body) {
            Ok(body) => body,
            Err(error) if (200..300).contains(&status) && !answer.body.is_empty() => {
                let message = format!("status {status} with a body that is no JSON: {error}");
                return Err(ApiError::Garbled { service: self.service, message });
            }
            Err(_) => Value::Null,
        };
        Ok(ApiResponse { status, body, request_id: request_id(&answer.headers) })
    }

    /// Where the service is for the agent itself.
    pub(super) async fn find(&self) -> Result<String, ApiError> {
        let sender = self.identities.sender(self.service, Identity::Service).await?;
        self.base(&sender, self.server.load(Ordering::Relaxed))
    }

    /// Where the service is for `sender`, without a path.
    fn base(&self, sender: &Sender, server: usize) -> Result<String, ApiError> {
        let absent = |message: String| ApiError::NoEndpoint { service: self.service, message };
        match &self.location {
            Location::Servers(servers) => {
                let server = servers.get(server % servers.len().max(1));
                let server = server.ok_or_else(|| absent("no address is set".to_owned()))?;
                Ok(sender.fill_in(server))
            }
            Location::Catalog(lookup) => sender.find(lookup).ok_or_else(|| {
                let region = lookup.region.as_deref().unwrap_or("any region");
                let interfaces = lookup.interfaces.join(", ");
                absent(format!(
                    "the catalog has no {} endpoint of interface {interfaces} in {region}",
                    lookup.service_type
                ))
            }),
        }
    }

    fn address(
        &self,
        sender: &Sender,
        server: usize,
        request: &ApiRequest<'_>,
    ) -> Result<Url, ApiError> {
        let base = self.base(sender, server)?;
        let mut url = below(&base, &request.path).ok_or_else(|| {
            let message = format!("{base} is no http or https address");
            ApiError::NoEndpoint { service: self.service, message }
        })?;
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        Ok(url)
    }

    fn headers(&self, sender: &Sender, request: &ApiRequest<'_>) -> Result<HeaderMap, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if request.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let global = request.global_request_id.as_deref();
        let named = [("x-openstack-request-id", global), ("traceparent", request.traceparent())];
        let asked = request.headers.iter().map(|(name, value)| (*name, Some(value.as_str())));
        for (name, value) in named.into_iter().chain(asked) {
            // A value that can't be a header came with the request, and isn't worth failing for.
            let Some(Ok(value)) = value.map(HeaderValue::from_str) else { continue };
            if let Ok(name) = HeaderName::try_from(name) {
                headers.insert(name, value);
            }
        }
        sender.sign(&mut headers).map_err(|_| ApiError::Unauthorized {
            service: self.service,
            message: "the token can't be sent: it holds characters that a header may not".into(),
        })?;
        Ok(headers)
    }

    fn use_next_server(&self, failed: usize) {
        let next = failed.wrapping_add(1);
        // Err: another request has moved on already.
        self.server.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    fn note(
        &self,
        request: &ApiRequest<'_>,
        answer: &Result<Answer, Failure>,
        started: Instant,
        attempt: u32,
    ) {
        let took = started.elapsed();
        let elapsed_ms = took.as_millis() as u64;
        let (service, method, path) = (self.service, request.method.as_str(), &request.path);
        let global_request_id = request.global_request_id.as_deref();
        match answer {
            Ok(answer) => {
                let (status, request_id) = (answer.status, request_id(&answer.headers));
                debug!(
                    service,
                    method,
                    path,
                    status,
                    elapsed_ms,
                    attempt,
                    request_id,
                    global_request_id,
                    "HTTP request answered"
                );
            }
            Err(Failure { message: error, .. }) => {
                debug!(
                    service,
                    method,
                    path,
                    elapsed_ms,
                    attempt,
                    global_request_id,
                    error,
                    "HTTP request failed"
                );
            }
        }
        if let Some(observer) = &self.observer {
            observer.answered(service, answer.as_ref().ok().map(|answer| answer.status), took);
        }
    }
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-openstack-request-id")?.to_str().ok()?;
    Some(value.chars().take(64).collect())
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or(Value::Null)
}

fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
    }
}
