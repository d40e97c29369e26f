//! Tokens for the agent itself: one for each set of credentials, whoever asks for it.
//!
//! A token is renewed in the background while the old one still works, so nobody waits for Keystone
//! but at the start and after an outage; then all wait for one request, and share what comes of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};
use url::Url;

use super::credentials::Credentials;
use super::retry::{Attempts, RetryPolicy, retry_after};
use super::token::Token;
use super::transport::{Content, Outgoing, Transport};
use super::{ApiError, error_text};

const SERVICE: &str = "keystone";
/// One request for a token.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// All attempts at one token: no further one starts after this.
const PATIENCE: Duration = Duration::from_secs(45);
/// After a renewal in the background failed, until the next.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Where the tokens of one set of credentials come from.
pub struct TokenSource {
    credentials: Credentials,
    transport: Arc<Transport>,
    policy: RetryPolicy,
    current: RwLock<Option<Arc<Token>>>,
    /// Held by the one that asks Keystone, with what came of the last request that failed.
    asking: Mutex<Option<ApiError>>,
    /// Requests that have ended.
    asked: AtomicU64,
    in_background: AtomicBool,
}

impl TokenSource {
    pub fn new(credentials: Credentials, transport: Arc<Transport>) -> Arc<Self> {
        Arc::new(Self {
            credentials,
            transport,
            policy: RetryPolicy { statuses: vec![429, 502, 503, 504], ..RetryPolicy::default() },
            current: RwLock::default(),
            asking: Mutex::default(),
            asked: AtomicU64::default(),
            in_background: AtomicBool::default(),
        })
    }

    pub fn is_of(&self, credentials: &Credentials, transport: &Arc<Transport>) -> bool {
        self.credentials == *credentials && Arc::ptr_eq(&self.transport, transport)
    }

    /// Where it asks.
    pub fn address(&self) -> &Url {
        &self.credentials.tokens_url
    }

    /// A token that works for a while.
    ///
    /// # Errors
    /// `Unauthorized` when Keystone doesn't know us, `Unreachable` and `Garbled` as of any service.
    ///
    /// # Cancel safety
    /// Who gives up waiting loses nothing; the next one asks instead.
    pub async fn token(self: &Arc<Self>) -> Result<Arc<Token>, ApiError> {
        let now = Instant::now();
        if let Some(token) = self.current().filter(|token| token.is_usable(now)) {
            if token.should_be_renewed(now) {
                self.renew_in_background();
            }
            return Ok(token);
        }
        let before = self.asked.load(Ordering::Acquire);
        let mut last_failure = self.asking.lock().await;
        if self.asked.load(Ordering::Acquire) != before {
            // Somebody asked while we waited: what came of it is ours as well.
            if let Some(token) = self.current().filter(|token| token.is_usable(Instant::now())) {
                return Ok(token);
            }
            if let Some(failure) = &*last_failure {
                return Err(failure.clone());
            }
        }
        self.renew(&mut last_failure).await
    }

    /// Forgets `token`, which a service didn't take. One that came since stays.
    pub fn forget(&self, token: &Arc<Token>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, token)) {
            *current = None;
        }
    }

    fn current(&self) -> Option<Arc<Token>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn renew_in_background(self: &Arc<Self>) {
        if self.in_background.swap(true, Ordering::AcqRel) {
            return;
        }
        let source = self.clone();
        tokio::spawn(async move {
            let mut last_failure = source.asking.lock().await;
            let renewed = source.renew(&mut last_failure).await;
            drop(last_failure);
            if let Err(error) = renewed {
                warn!(%error, "the token is not renewed; the old one is used as long as it holds");
                sleep(RENEW_AGAIN_AFTER).await;
            }
            source.in_background.store(false, Ordering::Release);
        });
    }

    async fn renew(&self, last_failure: &mut Option<ApiError>) -> Result<Arc<Token>, ApiError> {
        let renewed = self.ask().await.map(Arc::new);
        *last_failure = renewed.as_ref().err().cloned();
        if let Ok(token) = &renewed {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        }
        self.asked.fetch_add(1, Ordering::AcqRel);
        renewed
    }

    /// Asks Keystone, which makes a further token when it is asked again: no harm is done.
    async fn ask(&self) -> Result<Token, ApiError> {
        let give_up = Instant::now() + PATIENCE;
        let mut attempts = Attempts::new(&self.policy, true);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from(self.credentials.request().to_string());
        loop {
            let started = Instant::now();
            let outgoing = Outgoing {
                method: Method::POST,
                url: self.credentials.tokens_url.clone(),
                headers: &headers,
                body: Content::Bytes(body.clone()),
            };
            let answer = self.exchange(&outgoing, started + ANSWER_WITHIN).await;
            let elapsed_ms = started.elapsed().as_millis() as u64;
            let (pause, error) = match answer {
                Ok((201, id, body, _)) => {
                    debug!(elapsed_ms, "Keystone gave a token");
                    return Token::parse(id.as_deref(), &body, started)
                        .map_err(|message| ApiError::Garbled { service: SERVICE, message });
                }
                Ok((status, _, body, after)) => {
                    let message = format!("status {status}: {}", error_text(&body));
                    let pause = attempts.after_status(status, after);
                    (pause, refusal(status, message))
                }
                Err((message, hopeless)) => {
                    let pause = attempts.after_failure(true).filter(|_| !hopeless);
                    (pause, ApiError::Unreachable { service: SERVICE, message })
                }
            };
            let attempt = attempts.number();
            match pause.filter(|pause| Instant::now() + *pause < give_up) {
                Some(pause) => {
                    debug!(attempt, elapsed_ms, %error, ?pause, "asking Keystone again");
                    sleep(pause).await;
                }
                None => return Err(error),
            }
        }
    }

    /// Status, token, body and `Retry-After`; or what is wrong, and whether it will stay so.
    async fn exchange(
        &self,
        outgoing: &Outgoing<'_>,
        deadline: Instant,
    ) -> Result<(u16, Option<String>, Value, Option<Duration>), (String, bool)> {
        let told = |failure: super::transport::Failure| (failure.message, failure.hopeless);
        let incoming = self.transport.exchange(outgoing, deadline).await.map_err(told)?;
        let status = incoming.status;
        let id = incoming.header("x-subject-token").map(str::to_owned);
        let after = incoming.header("retry-after").and_then(retry_after);
        let body = incoming.read(deadline).await.map_err(told)?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok((status, id, body, after))
    }
}

fn refusal(status: u16, message: String) -> ApiError {
    match status {
        401 | 403 => ApiError::Unauthorized { service: SERVICE, message },
        429 | 500..=599 => ApiError::Unreachable { service: SERVICE, message },
        _ => ApiError::Garbled { service: SERVICE, message },
    }
}
