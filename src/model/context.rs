//! Who asked, and in the course of which request. nova: context.py, RequestContext.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::model::secret::Secret;
use crate::model::trace::Span;

/// A request's context. What isn't named here is kept and sent on with messages made on its behalf.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RequestContext {
    #[serde(default)]
    pub request_id: Option<String>,
    #[serde(default)]
    pub global_request_id: Option<String>,
    #[serde(default)]
    pub user_id: Option<String>,
    #[serde(default)]
    pub project_id: Option<String>,
    #[serde(default)]
    pub user_name: Option<String>,
    #[serde(default)]
    pub project_name: Option<String>,
    #[serde(default)]
    pub auth_token: Option<Secret>,
    #[serde(default)]
    pub is_admin: bool,
    #[serde(default)]
    pub roles: Vec<String>,
    /// This agent's part of the trace that the request belongs to; it stays here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl RequestContext {
    /// The context of work that nobody asked for: periodic tasks, recovery.
    pub fn admin() -> Self {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string();
        Self {
            request_id: Some(format!("req-{}", Uuid::new_v4())),
            is_admin: true,
            rest: [("timestamp".to_owned(), Value::String(now))].into_iter().collect(),
            ..Self::default()
        }
    }

    /// The same request with an administrator's rights. nova: context.py, elevated
    pub fn elevated(&self) -> Self {
        let mut elevated = Self { is_admin: true, ..self.clone() };
        if !elevated.roles.iter().any(|role| role == "admin") {
            elevated.roles.push("admin".to_owned());
        }
        elevated
    }

    pub fn request_id(&self) -> &str {
        self.request_id.as_deref().unwrap_or("-")
    }
}
