//! Which endpoint answers a request: by namespace, version and method, as data. Pure.
//!
//! oslo.messaging: rpc/dispatcher.py, RPCDispatcher.dispatch; nova: baserpc.py

use std::fmt;

use serde_json::{Value, json};

use crate::rpc::envelope::RpcRequest;
use crate::rpc::failure::Fault;

/// An RPC version, `major.minor` or `major.minor.revision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub revision: Option<u32>,
}

impl Version {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, revision: None }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self {
            major: parts.next()??,
            minor: parts.next().unwrap_or(Some(0))?,
            revision: match parts.next() {
                Some(revision) => Some(revision?),
                None => None,
            },
        };
        parts.next().is_none().then_some(version)
    }

    /// Can what implements this version serve one who asks for `wanted`?
    pub fn serves(self, wanted: Self) -> bool {
        if self.major != wanted.major || wanted.minor > self.minor {
            return false;
        }
        wanted.minor < self.minor
            || wanted.revision.is_none_or(|wanted| wanted <= self.revision.unwrap_or(0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        match self.revision {
            Some(revision) => write!(f, ".{revision}"),
            None => Ok(()),
        }
    }
}

/// Methods of one namespace, at one version.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub namespace: Option<&'static str>,
    pub version: Version,
    pub methods: &'static [&'static str],
}

/// Who answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// The endpoint at this position of [`Dispatcher::new`]'s list.
    Endpoint(usize),
    /// Nobody needs to be asked: this is the answer.
    Answer(Value),
}

/// The endpoints of a server, and those that every server has.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    service: String,
    endpoints: Vec<Endpoint>,
    ping_enabled: bool,
}

const BASE: Endpoint = Endpoint {
    namespace: Some("baseapi"),
    version: Version::new(1, 1),
    methods: &["ping", "get_backdoor_port"],
};

const SERVER_PING: Endpoint = Endpoint {
    namespace: None,
    version: Version::new(1, 0),
    methods: &["oslo_rpc_server_ping"],
};

impl Dispatcher {
    /// `service` is what `baseapi`'s ping answers with: `compute`. `ping_enabled` is
    /// `[DEFAULT] rpc_ping_enabled`.
    pub fn new(service: &str, endpoints: Vec<Endpoint>, ping_enabled: bool) -> Self {
        Self { service: service.to_owned(), endpoints, ping_enabled }
    }

    /// # Errors
    /// `NoSuchMethod` when an endpoint fits but lacks the method, `UnsupportedVersion` when none
    /// fits, `TypeError` when a built-in method misses its argument.
    pub fn route(&self, request: &RpcRequest) -> Result<Route, Fault> {
        let wanted = Version::parse(&request.version);
        let mut compatible = false;
        let mut serves = |endpoint: &Endpoint| {
            let fits = endpoint.namespace == request.namespace.as_deref()
                && wanted.is_some_and(|wanted| endpoint.version.serves(wanted));
            compatible |= fits;
            fits && !request.method.starts_with('_')
                && endpoint.methods.contains(&request.method.as_str())
        };
        if let Some(index) = self.endpoints.iter().position(&mut serves) {
            return Ok(Route::Endpoint(index));
        }
        if serves(&BASE) {
            return self.answer_base(request).map(Route::Answer);
        }
        if self.ping_enabled && serves(&SERVER_PING) {
            return Ok(Route::Answer("pong".into()));
        }
        Err(if compatible {
            Fault::no_such_method(&request.method)
        } else {
            Fault::unsupported_version(&request.version, &request.method)
        })
    }

    fn answer_base(&self, request: &RpcRequest) -> Result<Value, Fault> {
        if request.method != "ping" {
            // There is no backdoor.
            return Ok(Value::Null);
        }
        let arg = request.args.get("arg").ok_or_else(|| {
            let text = "BaseRPCAPI.ping() missing 1 required positional argument: 'arg'";
            Fault::builtin("TypeError", text)
        })?;
        Ok(json!({ "service": self.service, "arg": arg }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn dispatcher(ping_enabled: bool) -> Dispatcher {
        let compute = |minor, methods| Endpoint { namespace: None, version: Version::new(6, minor), methods };
        let old = Endpoint { namespace: None, version: Version::new(5, 13), methods: &["start", "old"] };
        Dispatcher::new("compute", vec![compute(5, &["start", "_private"]), old], ping_enabled)
    }

    fn request(namespace: Option<&str>, version: &str, method: &str) -> RpcRequest {
        let mut request = RpcRequest::new(method, version, Map::new());
        request.namespace = namespace.map(str::to_owned);
        request
    }

    #[test]
    fn the_endpoint_of_the_same_major_and_no_older_minor_answers() {
        let route = |version, method| dispatcher(false).route(&request(None, version, method));
        assert_eq!(route("6.0", "start"), Ok(Route::Endpoint(0)));
        assert_eq!(route("6.5", "start"), Ok(Route::Endpoint(0)));
        assert_eq!(route("5.13", "start"), Ok(Route::Endpoint(1)));
        for version in ["6.6", "7.0", "4.0", "1.0", "six", "", "6.5.1"] {
            let fault = route(version, "start").expect_err(version);
            assert_eq!(fault.class, "UnsupportedVersion", "{version}");
        }
    }

    #[test]
    fn a_method_that_no_fitting_endpoint_has_is_no_method() {
        for (version, method) in [("6.0", "stop"), ("6.0", "old"), ("6.0", "_private")] {
            let fault = dispatcher(false).route(&request(None, version, method)).expect_err(method);
            assert_eq!(fault, Fault::no_such_method(method));
        }
    }

    #[test]
    fn a_namespace_keeps_its_methods_to_itself() {
        let fault = dispatcher(false).route(&request(Some("compute_task"), "6.0", "start"));
        assert_eq!(fault.expect_err("no namespace").class, "UnsupportedVersion");
        let fault = dispatcher(false).route(&request(None, "1.1", "ping"));
        assert_eq!(fault.expect_err("no namespace").class, "UnsupportedVersion");
    }

    #[test]
    fn the_base_api_answers_for_every_service() {
        let mut ping = request(Some("baseapi"), "1.0", "ping");
        let missing = dispatcher(false).route(&ping).expect_err("no arg");
        assert_eq!(missing.class, "TypeError");
        ping.args.insert("arg".into(), json!("x"));
        let answer = Route::Answer(json!({"service": "compute", "arg": "x"}));
        assert_eq!(dispatcher(false).route(&ping), Ok(answer));
        let port = request(Some("baseapi"), "1.1", "get_backdoor_port");
        assert_eq!(dispatcher(false).route(&port), Ok(Route::Answer(Value::Null)));
    }

    #[test]
    fn the_server_ping_answers_only_where_it_is_enabled() {
        let ping = request(None, "1.0", "oslo_rpc_server_ping");
        assert_eq!(dispatcher(true).route(&ping), Ok(Route::Answer("pong".into())));
        assert!(dispatcher(false).route(&ping).is_err());
    }
}
