//! The HTTP APIs of the control plane: who we are to them, where they are, and one request at a
//! time.
//!
//! [`Api`] is one service's API. Clients of Glance, Neutron, placement and Cinder are thin and live
//! in the rooms that use them; they build an [`ApiRequest`] and read an [`ApiResponse`].
//!
//! ```text
//! Session ─ from the configuration ─▶ Endpoint, one a service, which is an Api
//!                                      ├─ identity    whose token, and whose catalog
//!                                      │   └─ keystone   our own tokens, renewed
//!                                      ├─ retry       whether to ask again
//!                                      └─ transport   one exchange
//! ```

pub mod catalog;
pub mod credentials;
pub mod endpoint;
pub mod identity;
pub mod keystone;
pub mod probe;
pub mod retry;
pub mod session;
pub mod streams;
pub mod token;
pub mod transport;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::model::class::Class;
use crate::model::context::RequestContext;

pub use session::{Service, Session, SessionError};

/// On whose behalf a request is sent.
#[derive(Debug, Clone, Copy)]
pub enum Identity<'a> {
    /// The agent itself, by the service's section of nova.conf.
    Service,
    /// The user whose request is served, by the token that came with it.
    User(&'a RequestContext),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A request to a service, relative to its endpoint.
#[derive(Debug, Clone)]
pub struct ApiRequest<'a> {
    pub method: Method,
    /// Below the endpoint, such as `/v2.0/ports/…`; every part of it is escaped already.
    pub path: String,
    /// Escaped by the sender.
    pub query: Vec<(String, String)>,
    /// Beside those of authentication and of JSON: `OpenStack-API-Version: placement 1.20`, …
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<Value>,
    pub identity: Identity<'a>,
    /// `X-OpenStack-Request-ID`: the global id of the request that this one serves.
    pub global_request_id: Option<String>,
    /// Doing it twice is the same as doing it once, though its method doesn't say so.
    pub repeatable: bool,
    traceparent: Option<String>,
}

impl<'a> ApiRequest<'a> {
    pub fn new(method: Method, path: impl Into<String>, identity: Identity<'a>) -> Self {
        let request = Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            identity,
            global_request_id: None,
            repeatable: false,
            traceparent: None,
        };
        match identity {
            Identity::User(context) => request.on_behalf_of(context),
            Identity::Service => request,
        }
    }

    /// Names the request that this one serves, for the logs of the service. The identity stays.
    /// oslo.context: context.py, `RequestContext.global_id`.
    pub fn on_behalf_of(mut self, context: &RequestContext) -> Self {
        let ids = [&context.global_request_id, &context.request_id];
        self.global_request_id = ids.into_iter().flatten().next().cloned();
        self.traceparent = context.child_traceparent();
        self
    }

    fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    pub fn get(path: impl Into<String>, identity: Identity<'a>) -> Self {
        Self::new(Method::Get, path, identity)
    }

    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// See [`ApiRequest::repeatable`].
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }
}

/// An answer, whatever its status: what a 404 or a 409 means is the client's to say.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiResponse {
    pub status: u16,
    /// `Null` when there was none.
    pub body: Value,
    /// The service's `x-openstack-request-id`, for the log.
    pub request_id: Option<String>,
}

impl ApiResponse {
    /// The answer, if its status is one of the 200s.
    ///
    /// # Errors
    /// [`ApiError::Status`] with the service's own words.
    pub fn success(self, what: &str) -> Result<Self, ApiError> {
        match self.status {
            200..=299 => Ok(self),
            status => {
                let message = crate::openstack::error_text(&self.body);
                Err(ApiError::Status { what: what.to_owned(), status, message })
            }
        }
    }
}

/// One service's API. Every request has a deadline, and one that can't have reached its service, or
/// that the service says to repeat, is sent again within a budget.
#[async_trait]
pub trait Api: Send + Sync {
    /// Sends the request and reads the whole answer, within limits of time and size. A 401 for a
    /// token of our own is asked again with a new one.
    async fn send(&self, request: ApiRequest<'_>) -> Result<ApiResponse, ApiError>;
}

/// Who is told how services answer. Its method is called between requests: it must be quick.
pub trait Observer: Debug + Send + Sync {
    /// A request was answered; `None`: there was no answer.
    fn answered(&self, service: &'static str, status: Option<u16>, took: Duration);
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// No answer, or none in time, however often it was asked.
    #[error("{service} can't be reached: {message}")]
    Unreachable { service: &'static str, message: String },
    /// Keystone doesn't take our credentials, or the service doesn't take the token.
    #[error("{service} refuses the credentials: {message}")]
    Unauthorized { service: &'static str, message: String },
    /// The catalog has no such endpoint.
    #[error("{service} has no endpoint: {message}")]
    NoEndpoint { service: &'static str, message: String },
    /// The answer isn't what the API promises.
    #[error("{service} gave a garbled answer: {message}")]
    Garbled { service: &'static str, message: String },
    #[error("{what}: status {status}: {message}")]
    Status { what: String, status: u16, message: String },
}

impl ApiError {
    pub fn class(&self) -> Class {
        match self {
            Self::Status { status: 404, .. } => Class::Absent,
            Self::Status { status: 409 | 429 | 500..=599, .. } => Class::Transient,
            Self::Unreachable { .. } | Self::Garbled { .. } => Class::Transient,
            Self::Unauthorized { .. } | Self::NoEndpoint { .. } | Self::Status { .. } => {
                Class::Refused
            }
        }
    }
}

/// What a service says went wrong: each has its own way of saying it.
pub fn error_text(body: &Value) -> String {
    const LONGEST: usize = 500;
    // `NeutronError`, `error`, or what kind of refusal it is: `computeFault`, `badRequest`, …
    let wrapped = body.as_object().and_then(|all| all.values().find_map(|one| one.get("message")));
    let found = [body.pointer("/errors/0/detail"), wrapped, body.get("message")];
    let text = found.into_iter().flatten().find_map(Value::as_str).unwrap_or("no message");
    // Glance's is a piece of a web page.
    let text = text.replace("<br />", " ");
    text.trim().chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_service_s_words_are_found() {
        let texts = [
            json!({"NeutronError": {"message": "no port", "type": "PortNotFound"}}),
            json!({"errors": [{"detail": "no port", "status": 404}]}),
            json!({"error": {"message": "no port", "code": 404}}),
            json!({"computeFault": {"code": 500, "message": "no port"}}),
            json!({"message": "no port<br /><br />\n\n\n", "code": "404 Not Found"}),
        ];
        for text in texts {
            assert_eq!(error_text(&text), "no port", "{text}");
        }
        assert_eq!(error_text(&json!("x")), "no message");
    }
}
