//! A Neutron in memory, behind [`Api`]: networks, subnets, ports with their bindings, and records of
//! interfaces. A request can be made to fail; what was asked is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::InterfaceRecords;
use crate::model::context::RequestContext;
use crate::model::object::VirtualInterface;
use crate::network::NetworkError;
use crate::openstack::{Api, ApiError, ApiRequest, ApiResponse, Identity, Method};

/// Fields that a port's owner isn't shown.
const ADMIN_ONLY: [&str; 5] = [
    "binding:host_id",
    "binding:profile",
    "binding:vif_type",
    "binding:vif_details",
    "resource_request",
];

/// A Neutron without a network.
#[derive(Debug, Default)]
pub struct FakeNeutron {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By collection, in the order in which they were made.
    resources: BTreeMap<&'static str, Vec<Value>>,
    asked: Vec<Asked>,
    failures: Vec<Failure>,
    /// What ports are bound as.
    vif_type: Option<&'static str>,
    interfaces: Vec<VirtualInterface>,
    made: u128,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// `GET /v2.0/ports?device_id=…`
    pub line: String,
    pub body: Option<Value>,
    pub as_user: bool,
}

#[derive(Debug)]
struct Failure {
    /// Requests of this kind that go well before.
    after: usize,
    line: String,
    status: u16,
    kind: &'static str,
}

impl FakeNeutron {
    /// A Neutron that has OVN's extensions, and nothing else.
    pub fn new() -> Self {
        let fake = Self::default();
        for alias in ["dns-integration", "multi-provider", "binding-extended", "router"] {
            fake.add("extensions", json!({ "alias": alias }));
        }
        fake
    }

    /// Puts a resource there: `networks`, `subnets`, `ports`, `floatingips`, `security-groups`,
    /// `extensions`.
    pub fn add(&self, collection: &'static str, resource: Value) {
        self.state().resources.entry(collection).or_default().push(resource);
    }

    /// All of a collection.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        self.state().resources.get(collection).cloned().unwrap_or_default()
    }

    /// Sets keys of every resource of this collection for which `key` is `value`.
    pub fn change(&self, collection: &str, key: &str, value: &str, changes: &Value) {
        let mut state = self.state();
        let found = state.resources.get_mut(collection).into_iter().flatten();
        for resource in found.filter(|resource| resource[key] == value) {
            merge(resource, changes);
        }
    }

    /// Makes the request that begins with `line`, after `after` others that do, fail once.
    pub fn fail(&self, line: &str, after: usize, status: u16, kind: &'static str) {
        self.state().failures.push(Failure { after, line: line.to_owned(), status, kind });
    }

    /// From now on ports are bound as this type.
    pub fn bind_as(&self, vif_type: &'static str) {
        self.state().vif_type = Some(vif_type);
    }

    /// What was asked so far; forgotten then.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    /// The recorded interfaces: port, address, tag.
    pub fn interfaces(&self) -> Vec<(Uuid, String, Option<String>)> {
        let read = |interface: &VirtualInterface| {
            let uuid = interface.uuid.get().copied().unwrap_or_default();
            let address = interface.address.value().cloned().unwrap_or_default();
            (uuid, address, interface.tag.value().cloned())
        };
        self.state().interfaces.iter().map(read).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Api for FakeNeutron {
    async fn send(&self, request: ApiRequest<'_>) -> Result<ApiResponse, ApiError> {
        let mut state = self.state();
        let as_user =
            matches!(request.identity, Identity::User(context) if context.auth_token.is_some());
        let query: Vec<_> = request.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let line = format!("{} {}{query}", request.method.as_str(), request.path);
        state.asked.push(Asked { line: line.clone(), body: request.body.clone(), as_user });
        let of_kind = |failure: &Failure| line.starts_with(&failure.line);
        if let Some(at) = state.failures.iter().position(of_kind) {
            if state.failures[at].after == 0 {
                let failure = state.failures.remove(at);
                return Ok(fault(failure.status, failure.kind));
            }
            state.failures[at].after -= 1;
        }
        let path = request.path.strip_prefix("/v2.0/").unwrap_or_default().to_owned();
        let parts: Vec<_> = path.split('/').collect();
        let mut answer = match (request.method, parts.as_slice()) {
            (Method::Get, [collection]) => state.list(collection, &request.query),
            (Method::Post, ["ports"]) => state.create_port(request.body.unwrap_or_default()),
            (Method::Get, ["auto-allocated-topology", _]) => fault(409, "AutoAllocationFailure"),
            (Method::Get, [collection, id]) => state.show(collection, id),
            (Method::Put, ["ports", id]) => {
                state.update_port(id, &request.body.unwrap_or_default())
            }
            (Method::Delete, ["ports", id]) => state.delete_port(id),
            (method, ["ports", id, "bindings", rest @ ..]) => {
                state.bindings(method, id, rest, request.body.unwrap_or_default())
            }
            _ => fault(404, "HTTPNotFound"),
        };
        if as_user {
            hide(&mut answer.body);
        }
        Ok(answer)
    }
}

impl State {
    fn of(&mut self, collection: &str) -> &mut Vec<Value> {
        const KNOWN: [&str; 6] =
            ["networks", "subnets", "ports", "floatingips", "security-groups", "extensions"];
        let name = KNOWN.into_iter().find(|known| *known == collection).unwrap_or("others");
        self.resources.entry(name).or_default()
    }

    fn list(&mut self, collection: &str, filters: &[(String, String)]) -> ApiResponse {
        let fits = |resource: &Value| {
            let names = filters.iter().map(|(name, _)| name).filter(|name| *name != "fields");
            names.into_iter().all(|name| {
                let mut values = filters.iter().filter(|(n, _)| n == name).map(|(_, value)| value);
                values.any(|wanted| match &resource[name] {
                    Value::Bool(truth) => wanted.eq_ignore_ascii_case(&truth.to_string()),
                    Value::String(text) => text == wanted,
                    _ => false,
                })
            })
        };
        let found: Vec<_> = self.of(collection).iter().filter(|r| fits(r)).cloned().collect();
        ok(200, Value::from_iter([(collection.replace('-', "_"), Value::Array(found))]))
    }

    fn show(&mut self, collection: &str, id: &str) -> ApiResponse {
        let found = self.of(collection).iter().find(|resource| resource["id"] == id);
        match found {
            Some(found) => {
                let kind = collection.strip_suffix('s').unwrap_or(collection);
                ok(200, Value::from_iter([(kind, found.clone())]))
            }
            None => fault(404, if collection == "ports" { "PortNotFound" } else { "NotFound" }),
        }
    }

    fn create_port(&mut self, body: Value) -> ApiResponse {
        self.made += 1;
        let id = Uuid::from_u128(0xc735_2cde_117d_4aa3_9307_0000_0000_0000 + self.made);
        let network = body["port"]["network_id"].clone();
        let Some(found) = self.of("networks").iter().find(|n| n["id"] == network).cloned() else {
            return fault(404, "NetworkNotFound");
        };
        let mut port = json!({
            "id": id.to_string(), "status": "DOWN", "admin_state_up": true, "device_owner": "",
            "mac_address": format!("fa:16:3e:00:00:{:02x}", self.made), "dns_name": "",
            "binding:host_id": "", "binding:vif_type": "unbound", "binding:vif_details": {},
            "binding:profile": {}, "binding:vnic_type": "normal", "bindings": [],
        });
        let subnet = found["subnets"][0].clone();
        port["fixed_ips"] = match body["port"]["fixed_ips"][0]["ip_address"].as_str() {
            Some(address) => json!([{ "subnet_id": subnet, "ip_address": address }]),
            None => {
                json!([{ "subnet_id": subnet, "ip_address": format!("10.77.0.{}", self.made) }])
            }
        };
        for (key, value) in body["port"].as_object().into_iter().flatten() {
            if key != "fixed_ips" {
                port[key] = value.clone();
            }
        }
        self.of("ports").push(port.clone());
        ok(201, json!({ "port": port }))
    }

    fn update_port(&mut self, id: &str, body: &Value) -> ApiResponse {
        let kind = self.vif_type.unwrap_or("ovs");
        let mut body = body.clone();
        let asked = body.pointer_mut("/port/fixed_ips").and_then(Value::as_array_mut);
        for ip in asked.into_iter().flatten() {
            let is_full =
                |subnet: &&Value| subnet["id"] == ip["subnet_id"] && subnet["full"] == true;
            if self.of("subnets").iter().any(|subnet| is_full(&subnet)) {
                return fault(409, "IpAddressGenerationFailure");
            }
            if ip.get("ip_address").is_none() {
                self.made += 1;
                ip["ip_address"] = json!(format!("10.77.0.{}", self.made));
            }
        }
        let Some(port) = self.of("ports").iter_mut().find(|port| port["id"] == id) else {
            return fault(404, "PortNotFound");
        };
        merge(port, &body["port"]);
        if let Some(host) = body["port"].get("binding:host_id") {
            let bound = host.as_str().is_some_and(|host| !host.is_empty());
            port["binding:vif_type"] = json!(if bound { kind } else { "unbound" });
            port["binding:vif_details"] = match bound && kind == "ovs" {
                true => json!({
                    "port_filter": true, "connectivity": "l2", "ovs_create_tap": false,
                    "bridge_name": "br-int", "datapath_type": "netdev", "bound_drivers": {"0": "ovn"},
                }),
                false => json!({}),
            };
            if !bound {
                port["binding:host_id"] = json!("");
                port["status"] = json!("DOWN");
            }
        }
        let port = port.clone();
        ok(200, json!({ "port": port }))
    }

    fn delete_port(&mut self, id: &str) -> ApiResponse {
        let ports = self.of("ports");
        let before = ports.len();
        ports.retain(|port| port["id"] != id);
        if ports.len() == before { fault(404, "PortNotFound") } else { ok(204, Value::Null) }
    }

    fn bindings(&mut self, method: Method, id: &str, rest: &[&str], body: Value) -> ApiResponse {
        let failed = self.vif_type == Some("binding_failed");
        let Some(port) = self.of("ports").iter_mut().find(|port| port["id"] == id) else {
            return fault(404, "PortNotFound");
        };
        let host = rest.first().copied().unwrap_or_default().to_owned();
        let Value::Array(bindings) = &mut port["bindings"] else { return fault(500, "") };
        let at = bindings.iter().position(|binding| binding["host"] == host);
        match (method, rest, at) {
            (Method::Post, [], _) => {
                let mut binding = body["binding"].clone();
                if bindings.iter().any(|other| other["host"] == binding["host"]) {
                    return fault(409, "PortBindingAlreadyExists");
                }
                binding["status"] = json!("INACTIVE");
                binding["vif_type"] = json!(if failed { "binding_failed" } else { "ovs" });
                bindings.push(binding.clone());
                ok(201, json!({ "binding": binding }))
            }
            (Method::Get, [_], Some(at)) => ok(200, json!({ "binding": bindings[at] })),
            (Method::Delete, [_], Some(at)) => {
                bindings.remove(at);
                ok(204, Value::Null)
            }
            (Method::Put, [_, "activate"], Some(at)) => {
                bindings[at]["status"] = json!("ACTIVE");
                let binding = bindings[at].clone();
                port["binding:host_id"] = json!(host);
                ok(200, json!({ "binding": binding }))
            }
            _ => fault(404, "PortBindingNotFound"),
        }
    }
}

#[async_trait]
impl InterfaceRecords for FakeNeutron {
    async fn create(
        &self,
        _: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), NetworkError> {
        let mut state = self.state();
        if let Some(at) = state.failures.iter().position(|failure| failure.line == "interface") {
            let failure = state.failures.remove(at);
            let message = format!("status {}", failure.status);
            return Err(NetworkError::Unrecorded {
                message,
                class: crate::model::class::Class::Transient,
            });
        }
        if !state.interfaces.iter().any(|other| other.uuid.get() == interface.uuid.get()) {
            state.interfaces.push(interface.clone());
        }
        Ok(())
    }

    async fn of_instance(
        &self,
        _: &RequestContext,
        instance: Uuid,
    ) -> Result<Vec<Uuid>, NetworkError> {
        let state = self.state();
        let own = state.interfaces.iter().filter(|i| i.instance_uuid.get() == Some(&instance));
        Ok(own.filter_map(|interface| interface.uuid.get().copied()).collect())
    }

    async fn of_port(
        &self,
        _: &RequestContext,
        port: Uuid,
    ) -> Result<Option<VirtualInterface>, NetworkError> {
        let state = self.state();
        Ok(state.interfaces.iter().find(|one| one.uuid.get() == Some(&port)).cloned())
    }

    async fn destroy(
        &self,
        _: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), NetworkError> {
        self.state().interfaces.retain(|other| other.uuid.get() != interface.uuid.get());
        Ok(())
    }

    async fn delete_of_instance(
        &self,
        _: &RequestContext,
        instance: Uuid,
    ) -> Result<(), NetworkError> {
        self.state().interfaces.retain(|other| other.instance_uuid.get() != Some(&instance));
        Ok(())
    }
}

fn merge(resource: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().into_iter().flatten() {
        resource[key] = value.clone();
    }
}

fn hide(body: &mut Value) {
    let Value::Object(body) = body else { return };
    let resources = body.values_mut().flat_map(|value| match value {
        Value::Array(all) => all.iter_mut().collect::<Vec<_>>(),
        one => vec![one],
    });
    for resource in resources.filter_map(Value::as_object_mut) {
        resource.retain(|key, _| !ADMIN_ONLY.contains(&key.as_str()));
    }
}

fn ok(status: u16, body: Value) -> ApiResponse {
    ApiResponse { status, body, request_id: None }
}

fn fault(status: u16, kind: &str) -> ApiResponse {
    let message = format!("told to say {kind}");
    ok(status, json!({ "NeutronError": { "type": kind, "message": message, "detail": "" } }))
}
