//! Requests to Neutron: one function a kind of request, typed answers, and Neutron's own name for
//! what went wrong.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::context::RequestContext;
use crate::network::NetworkError;
use crate::openstack::{Api, ApiError, ApiRequest, ApiResponse, Identity, Method, error_text};

/// On whose behalf: binding is an administrator's, a user's ports count against a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    Admin,
    User,
}

/// Neutron, for the length of one request of ours.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub api: &'a dyn Api,
    pub context: &'a RequestContext,
}

/// A request that failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// Neutron said no. `kind` is its class of error, such as `IpAddressInUse`.
    Fault {
        what: String,
        status: u16,
        kind: String,
        message: String,
    },
    Api(ApiError),
}

impl CallError {
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Fault { status: 404, .. })
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Fault { status, .. } => Some(*status),
            Self::Api(_) => None,
        }
    }

    pub fn kind(&self) -> &str {
        match self {
            Self::Fault { kind, .. } => kind,
            Self::Api(_) => "",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Self::Fault { message, .. } => message.clone(),
            Self::Api(error) => error.to_string(),
        }
    }
}

impl From<ApiError> for CallError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<CallError> for NetworkError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Fault { what, status, message, .. } => {
                ApiError::Status { what, status, message }.into()
            }
            CallError::Api(error) => error.into(),
        }
    }
}

impl<'a> Client<'a> {
    /// The resources of a collection that fit all filters; several values of one name are
    /// alternatives.
    pub async fn list<T: DeserializeOwned>(
        self,
        who: As,
        collection: &'static str,
        filters: &[(&str, &str)],
    ) -> Result<Vec<T>, CallError> {
        let mut request = self.request(Method::Get, who, format!("/v2.0/{collection}"));
        for (name, value) in filters {
            request = request.query(name, *value);
        }
        let what = format!("listing {collection}");
        read(self.send(&what, request).await?, &what, &collection.replace('-', "_"))
    }

    /// One resource: `/v2.0/{path}`, whose answer names it `kind`.
    pub async fn get<T: DeserializeOwned>(
        self,
        who: As,
        path: &str,
        kind: &'static str,
        fields: &[&str],
    ) -> Result<T, CallError> {
        let mut request = self.request(Method::Get, who, format!("/v2.0/{path}"));
        for field in fields {
            request = request.query("fields", *field);
        }
        let what = format!("reading {path}");
        read(self.send(&what, request).await?, &what, kind)
    }

    /// Makes a resource. Not repeated unless it can't have been made.
    pub async fn create<T: DeserializeOwned>(
        self,
        who: As,
        path: &str,
        kind: &'static str,
        resource: Value,
    ) -> Result<T, CallError> {
        let body = Value::from_iter([(kind, resource)]);
        let request = self.request(Method::Post, who, format!("/v2.0/{path}")).body(body);
        let what = format!("creating a {kind}");
        read(self.send(&what, request).await?, &what, kind)
    }

    pub async fn update<T: DeserializeOwned>(
        self,
        who: As,
        path: &str,
        kind: &'static str,
        changes: Value,
    ) -> Result<T, CallError> {
        let body = Value::from_iter([(kind, changes)]);
        let request = self.request(Method::Put, who, format!("/v2.0/{path}")).body(body);
        let what = format!("updating {path}");
        read(self.send(&what, request).await?, &what, kind)
    }

    /// A change without a body, and without an answer worth reading.
    pub async fn act(self, method: Method, who: As, path: &str) -> Result<(), CallError> {
        let request = self.request(method, who, format!("/v2.0/{path}"));
        let what = format!("{} of {path}", method.as_str());
        self.send(&what, request).await.map(drop)
    }

    fn request(self, method: Method, who: As, path: String) -> ApiRequest<'a> {
        let identity = match who {
            As::Admin => Identity::Service,
            As::User => Identity::User(self.context),
        };
        ApiRequest::new(method, path, identity).on_behalf_of(self.context)
    }

    async fn send(self, what: &str, request: ApiRequest<'a>) -> Result<ApiResponse, CallError> {
        let answer = self.api.send(request).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let kind = answer.body.pointer("/NeutronError/type").and_then(Value::as_str);
        Err(CallError::Fault {
            what: what.to_owned(),
            status: answer.status,
            kind: kind.unwrap_or_default().chars().take(100).collect(),
            message: error_text(&answer.body),
        })
    }
}

/// An id as a part of a path: it comes from requests and from Neutron.
///
/// # Errors
/// `Garbled` for what no id looks like.
pub(super) fn in_path(id: &str) -> Result<&str, CallError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match (1..=64).contains(&id.len()) && id.chars().all(plain) {
        true => Ok(id),
        false => Err(garbled(format!("{id:?} is no id"))),
    }
}

fn read<T: DeserializeOwned>(
    mut answer: ApiResponse,
    what: &str,
    key: &str,
) -> Result<T, CallError> {
    let found = answer.body.get_mut(key).map(Value::take);
    let found = found.ok_or_else(|| garbled(format!("{what}: no {key} in it")))?;
    serde_json::from_value(found).map_err(|error| garbled(format!("{what}: {error}")))
}

fn garbled(message: String) -> CallError {
    CallError::Api(ApiError::Garbled { service: "neutron", message })
}
