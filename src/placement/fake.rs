//! Placement in memory, behind [`Api`]: providers with generations, allocations, traits that are
//! known. It answers as the service does, and remembers what it was asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::openstack::{Api, ApiError, ApiRequest, ApiResponse, Method};

#[derive(Debug, Default)]
pub struct FakePlacement {
    world: Mutex<World>,
}

#[derive(Debug, Default)]
struct World {
    providers: BTreeMap<Uuid, FakeProvider>,
    /// By consumer.
    allocations: BTreeMap<Uuid, Value>,
    unknown_traits: BTreeSet<String>,
    requests: Vec<String>,
    /// Statuses that the next requests with this method are answered with.
    failures: VecDeque<(Method, u16)>,
    /// How many more writes are overtaken by another's.
    overtaken: u32,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct FakeProvider {
    pub name: String,
    pub parent: Option<Uuid>,
    pub generation: i64,
    pub inventories: Value,
    pub traits: BTreeSet<String>,
}

impl FakePlacement {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn provider(&self, uuid: Uuid) -> Option<FakeProvider> {
        self.world().providers.get(&uuid).cloned()
    }

    pub fn set_provider(&self, uuid: Uuid, provider: FakeProvider) {
        self.world().providers.insert(uuid, provider);
    }

    /// Gives the consumer something of a provider, as the scheduler does.
    pub fn allocate(&self, consumer: Uuid, provider: Uuid) {
        let mut world = self.world();
        if let Some(provider) = world.providers.get_mut(&provider) {
            provider.generation += 1;
        }
        let given = json!({"generation": 1, "resources": {"VCPU": 1}});
        let all = world.allocations.entry(consumer).or_insert_with(|| {
            json!({"allocations": {}, "consumer_generation": 1, "project_id": "p", "user_id": "u"})
        });
        all["allocations"][provider.to_string()] = given;
    }

    /// The providers of which the consumer has something.
    pub fn allocated(&self, consumer: Uuid) -> Vec<String> {
        let world = self.world();
        let given = world.allocations.get(&consumer).and_then(|all| all["allocations"].as_object());
        given.map(|given| given.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn forget_trait(&self, name: &str) {
        self.world().unknown_traits.insert(name.to_owned());
    }

    /// The next request with this method is answered with this status.
    pub fn fail_next(&self, method: Method, status: u16) {
        self.world().failures.push_back((method, status));
    }

    /// The next writes of a provider come too late.
    pub fn overtake(&self, writes: u32) {
        self.world().overtaken = writes;
    }

    /// What was asked since this was last called: `GET /traits`, …
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.world().requests)
    }
}

fn answer(status: u16, body: Value) -> ApiResponse {
    ApiResponse { status, body, request_id: None }
}

fn refused(status: u16, code: &str, detail: &str) -> ApiResponse {
    answer(status, json!({"errors": [{"status": status, "code": code, "detail": detail}]}))
}

#[async_trait]
impl Api for FakePlacement {
    async fn send(&self, request: ApiRequest<'_>) -> Result<ApiResponse, ApiError> {
        let mut world = self.world();
        world.requests.push(format!("{:?} {}", request.method, request.path).to_uppercase());
        if let Some(index) = world.failures.iter().position(|(m, _)| *m == request.method) {
            let (_, status) = world.failures.remove(index).unwrap();
            return Ok(refused(status, "", "the fake was told to fail"));
        }
        Ok(world.answer(&request))
    }
}

impl World {
    fn answer(&mut self, request: &ApiRequest<'_>) -> ApiResponse {
        let query = |name: &str| {
            request.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        let body = request.body.clone().unwrap_or_default();
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        match (request.method, parts.as_slice()) {
            (Method::Get, ["resource_providers"]) => {
                let root: Uuid = query("in_tree").unwrap().parse().unwrap();
                let of_tree = |(uuid, provider): &(&Uuid, &FakeProvider)| {
                    **uuid == root || provider.parent == Some(root)
                };
                let list = self.providers.iter().filter(of_tree).map(|(uuid, provider)| {
                    json!({"uuid": uuid, "name": provider.name, "generation": provider.generation})
                });
                let list: Vec<Value> = list.collect();
                answer(200, json!({"resource_providers": list}))
            }
            (Method::Post, ["resource_providers"]) => {
                let uuid: Uuid = body["uuid"].as_str().unwrap().parse().unwrap();
                let name = body["name"].as_str().unwrap().to_owned();
                if self.providers.iter().any(|(u, p)| *u == uuid || p.name == name) {
                    return refused(409, "placement.duplicate_name", "there is one already");
                }
                let provider = FakeProvider {
                    name: name.clone(),
                    inventories: json!({}),
                    ..FakeProvider::default()
                };
                self.providers.insert(uuid, provider);
                answer(200, json!({"uuid": uuid, "name": name, "generation": 0}))
            }
            (method, ["resource_providers", uuid, what]) => {
                let uuid: Uuid = uuid.parse().unwrap();
                match method {
                    Method::Get => self.read(uuid, what),
                    _ => self.write(uuid, what, &body),
                }
            }
            (Method::Get, ["traits"]) => {
                let asked = query("name").unwrap().trim_start_matches("in:").split(',');
                let known: Vec<&str> =
                    asked.filter(|name| !self.unknown_traits.contains(*name)).collect();
                answer(200, json!({"traits": known}))
            }
            (method, ["allocations", consumer]) => {
                self.consumer(method, consumer.parse().unwrap(), body)
            }
            _ => refused(404, "", "no such resource"),
        }
    }

    fn read(&self, uuid: Uuid, what: &str) -> ApiResponse {
        let Some(provider) = self.providers.get(&uuid) else {
            return refused(404, "", "no such provider");
        };
        let value = match what {
            "inventories" => provider.inventories.clone(),
            "traits" => json!(provider.traits),
            _ => {
                let key = uuid.to_string();
                let has = |all: &Value| all["allocations"].get(&key).is_some();
                let of = self.allocations.iter().filter(|(_, all)| has(all));
                json!(of.map(|(consumer, _)| (*consumer, json!({}))).collect::<BTreeMap<_, _>>())
            }
        };
        answer(200, json!({what: value, "resource_provider_generation": provider.generation}))
    }

    fn write(&mut self, uuid: Uuid, what: &str, body: &Value) -> ApiResponse {
        let Some(provider) = self.providers.get_mut(&uuid) else {
            return refused(404, "", "no such provider");
        };
        if self.overtaken > 0 {
            self.overtaken -= 1;
            provider.generation += 1;
        }
        if body["resource_provider_generation"] != json!(provider.generation) {
            return refused(409, "placement.concurrent_update", "generation mismatch");
        }
        provider.generation += 1;
        match what {
            "inventories" => provider.inventories = body["inventories"].clone(),
            _ => provider.traits = serde_json::from_value(body["traits"].clone()).unwrap(),
        }
        let unknown = provider.traits.intersection(&self.unknown_traits).next();
        if unknown.is_some() {
            return refused(400, "", "no such trait");
        }
        self.read(uuid, what)
    }

    fn consumer(&mut self, method: Method, consumer: Uuid, body: Value) -> ApiResponse {
        match method {
            Method::Get => {
                let all = self.allocations.get(&consumer).cloned();
                answer(200, all.unwrap_or_else(|| json!({"allocations": {}})))
            }
            Method::Delete => match self.allocations.remove(&consumer) {
                Some(_) => answer(204, Value::Null),
                None => refused(404, "", "no allocations"),
            },
            _ => {
                let generation = |all: &Value| all["consumer_generation"].clone();
                if self.allocations.get(&consumer).map(generation) != Some(generation(&body)) {
                    return refused(409, "placement.concurrent_update", "consumer generation");
                }
                match body["allocations"].as_object().unwrap().is_empty() {
                    true => drop(self.allocations.remove(&consumer)),
                    false => drop(self.allocations.insert(consumer, body)),
                }
                answer(204, Value::Null)
            }
        }
    }
}
