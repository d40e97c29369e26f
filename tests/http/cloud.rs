//! A Keystone of the test's own, and configurations that name it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hypernova::config::Config;
use hypernova::config::files::Files;
use hypernova::model::context::RequestContext;
use hypernova::model::secret::Secret;
use hypernova::openstack::Session;
use serde_json::{Value, json};

use crate::server::{Answer, Seen, Server};

/// Keystone's recorded answer to a password.
pub const RECORDED_TOKEN: &str = include_str!("../fixtures/http/keystone_token.json");

/// Keystone's answer with a token of this name, lifetime and catalog.
pub fn token(name: &str, lifetime: Duration, catalog: &Value) -> Answer {
    let now = jiff::Timestamp::now();
    let ends = now + jiff::SignedDuration::try_from(lifetime).unwrap();
    let mut body: Value = serde_json::from_str(RECORDED_TOKEN).unwrap();
    body["token"]["issued_at"] = json!(now.to_string());
    body["token"]["expires_at"] = json!(ends.to_string());
    body["token"]["catalog"] = catalog.clone();
    Answer::json(201, &body).header("x-subject-token", name)
}

pub const HOUR: Duration = Duration::from_secs(3600);

/// A Keystone that gives out `token-1`, `token-2`, …
pub struct Keystone {
    pub server: Server,
    issued: Arc<AtomicUsize>,
}

impl Keystone {
    pub async fn start(lifetime: Duration, catalog: Value) -> Self {
        let issued = Arc::new(AtomicUsize::new(0));
        let count = issued.clone();
        let server = Server::start(move |seen| {
            assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v3/auth/tokens"));
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            token(&format!("token-{number}"), lifetime, &catalog)
        });
        Self { server: server.await, issued }
    }

    /// With one service in its catalog.
    pub async fn of(kind: &str, service: &Server) -> Self {
        Self::start(HOUR, catalog(&[(kind, "internal", "RegionOne", &service.url(""))])).await
    }

    /// Tokens so far.
    pub fn issued(&self) -> usize {
        self.issued.load(Ordering::SeqCst)
    }

    /// Options of a section that authenticates here.
    pub fn auth(&self) -> String {
        format!("{PASSWORD}auth_url = {}\n", self.server.url(""))
    }
}

pub const PASSWORD: &str = "auth_type = password\nusername = nova\npassword = hunter2\n\
     user_domain_id = default\nproject_name = service\nproject_domain_id = default\n\
     connect_retry_delay = 0.01\nstatus_code_retry_delay = 0.01\n";

/// A catalog of (type, interface, region, address).
pub fn catalog(endpoints: &[(&str, &str, &str, &str)]) -> Value {
    let service = |(kind, interface, region, url): &(&str, &str, &str, &str)| {
        json!({"type": kind, "name": kind, "id": "0", "endpoints": [
            {"id": "1", "interface": interface, "region_id": region, "region": region, "url": url}]})
    };
    endpoints.iter().map(service).collect()
}

pub fn config(text: &str) -> Config {
    let mut files = Files::default();
    files.add(Path::new("nova.conf"), text).unwrap();
    Config::from_files(&files).unwrap()
}

pub fn session(text: &str) -> Session {
    Session::from_config(&config(text), None).unwrap()
}

/// A user with a token, and a catalog as nova-api sends it.
pub fn user(kind: &str, service: &Server) -> RequestContext {
    let mut context = RequestContext {
        request_id: Some("req-local".to_owned()),
        user_id: Some("alice".to_owned()),
        project_id: Some("p1".to_owned()),
        auth_token: Some(Secret::new("user-token")),
        ..RequestContext::default()
    };
    let catalog = json!([{"type": kind, "name": kind, "endpoints": [
        {"region": "RegionOne", "internalURL": service.url(""), "publicURL": "http://192.0.2.1"}]}]);
    context.rest.insert("service_catalog".to_owned(), catalog);
    context
}

/// The token that a request came with.
pub fn token_of(seen: &Seen) -> &str {
    seen.header("x-auth-token").unwrap()
}
