//! Placement's API, as far as a compute node uses it: one request a method, at the microversions
//! that nova uses. nova: scheduler/client/report.py

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::PlacementError;
use super::inventory::{Inventories, Inventory};
use crate::model::context::RequestContext;
use crate::openstack::{Api, ApiRequest, ApiResponse, Identity, Method};

/// A provider without what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderName {
    pub uuid: Uuid,
    pub name: String,
    /// Grows with each change of the provider; a write names the one it builds upon.
    pub generation: i64,
}

/// Something of a provider, and the generation at which that was so.
pub type At<T> = (T, i64);

/// Placement. Cheap to clone.
#[derive(Clone)]
pub struct Placement {
    api: Arc<dyn Api>,
}

impl Placement {
    /// `api` is the service's, with the agent's own credentials.
    pub fn new(api: Arc<dyn Api>) -> Self {
        Self { api }
    }

    /// The providers of the tree that `uuid` is in; none when placement doesn't know it.
    pub async fn tree(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Vec<ProviderName>, PlacementError> {
        const WHAT: &str = "list providers";
        let request = request(context, Method::Get, "/resource_providers".to_owned(), Some("1.14"));
        let request = request.query("in_tree", uuid.to_string());
        let answer = self.api.send(request).await?.success(WHAT)?;
        let providers = answer.body.get("resource_providers").and_then(Value::as_array);
        let providers = providers.ok_or_else(|| lacks(WHAT, "resource_providers"))?;
        providers.iter().map(|provider| provider_name(WHAT, provider)).collect()
    }

    /// Adds a root provider, or finds the one that has been added meanwhile.
    ///
    /// # Errors
    /// [`PlacementError::NameTaken`] when another provider has the name.
    pub async fn create_root(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        name: &str,
    ) -> Result<ProviderName, PlacementError> {
        const WHAT: &str = "create provider";
        let path = "/resource_providers".to_owned();
        let request = request(context, Method::Post, path, Some("1.20"));
        let request = request.body(json!({"uuid": uuid.to_string(), "name": name}));
        let answer = self.api.send(request).await?;
        if answer.status != 409 {
            return provider_name(WHAT, &answer.success(WHAT)?.body);
        }
        let providers = self.tree(context, uuid).await?;
        let found = providers.into_iter().find(|provider| provider.uuid == uuid);
        found.ok_or_else(|| PlacementError::NameTaken {
            name: name.to_owned(),
            message: crate::openstack::error_text(&answer.body),
        })
    }

    pub async fn inventories(
        &self,
        context: &RequestContext,
        provider: Uuid,
    ) -> Result<At<Inventories>, PlacementError> {
        const WHAT: &str = "read inventories";
        let path = format!("/resource_providers/{provider}/inventories");
        let answer = self.api.send(request(context, Method::Get, path, None)).await?;
        read_inventories(WHAT, &answer.success(WHAT)?.body)
    }

    /// Replaces all inventories.
    ///
    /// # Errors
    /// [`PlacementError::Conflict`] when the generation isn't the provider's any more,
    /// [`PlacementError::InUse`] when a class is to go of which something is given out.
    pub async fn put_inventories(
        &self,
        context: &RequestContext,
        provider: Uuid,
        generation: i64,
        inventories: &Inventories,
    ) -> Result<At<Inventories>, PlacementError> {
        const WHAT: &str = "write inventories";
        let path = format!("/resource_providers/{provider}/inventories");
        let request = request(context, Method::Put, path, Some("1.26"));
        let body = json!({"resource_provider_generation": generation, "inventories": inventories});
        let answer = self.api.send(request.body(body)).await?;
        if answer.status == 409 && error_code(&answer) == Some("placement.inventory.inuse") {
            return Err(PlacementError::InUse(crate::openstack::error_text(&answer.body)));
        }
        read_inventories(WHAT, &no_conflict(answer, provider)?.success(WHAT)?.body)
    }

    pub async fn traits(
        &self,
        context: &RequestContext,
        provider: Uuid,
    ) -> Result<At<BTreeSet<String>>, PlacementError> {
        const WHAT: &str = "read traits";
        let path = format!("/resource_providers/{provider}/traits");
        let answer = self.api.send(request(context, Method::Get, path, Some("1.6"))).await?;
        read_traits(WHAT, &answer.success(WHAT)?.body)
    }

    /// Replaces all traits.
    ///
    /// # Errors
    /// [`PlacementError::Conflict`] when the generation isn't the provider's any more.
    pub async fn put_traits(
        &self,
        context: &RequestContext,
        provider: Uuid,
        generation: i64,
        traits: &BTreeSet<String>,
    ) -> Result<At<BTreeSet<String>>, PlacementError> {
        const WHAT: &str = "write traits";
        let path = format!("/resource_providers/{provider}/traits");
        let request = request(context, Method::Put, path, Some("1.6"));
        let body = json!({"resource_provider_generation": generation, "traits": traits});
        let answer = self.api.send(request.body(body)).await?;
        read_traits(WHAT, &no_conflict(answer, provider)?.success(WHAT)?.body)
    }

    /// Those of `names` that placement has.
    pub async fn known_traits(
        &self,
        context: &RequestContext,
        names: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, PlacementError> {
        const WHAT: &str = "list traits";
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let request = request(context, Method::Get, "/traits".to_owned(), Some("1.6"));
        let request = request.query("name", format!("in:{}", names.join(",")));
        let answer = self.api.send(request).await?.success(WHAT)?;
        texts(WHAT, &answer.body, "traits")
    }

    /// Instances and migrations that have something of the provider.
    pub async fn consumers(
        &self,
        context: &RequestContext,
        provider: Uuid,
    ) -> Result<BTreeSet<Uuid>, PlacementError> {
        const WHAT: &str = "read allocations";
        let path = format!("/resource_providers/{provider}/allocations");
        let answer = self.api.send(request(context, Method::Get, path, None)).await?;
        let answer = answer.success(WHAT)?;
        let allocations = answer.body.get("allocations").and_then(Value::as_object);
        let allocations = allocations.ok_or_else(|| lacks(WHAT, "allocations"))?;
        Ok(allocations.keys().filter_map(|consumer| consumer.parse().ok()).collect())
    }

    /// Sends a request of `allocations.rs`.
    pub(super) async fn send(
        &self,
        request: ApiRequest<'_>,
    ) -> Result<ApiResponse, PlacementError> {
        Ok(self.api.send(request).await?)
    }
}

/// A request at a microversion; `None`: at the lowest.
pub(super) fn request(
    context: &RequestContext,
    method: Method,
    path: String,
    version: Option<&str>,
) -> ApiRequest<'static> {
    let request = ApiRequest::new(method, path, Identity::Service).on_behalf_of(context);
    match version {
        Some(version) => request.header("OpenStack-API-Version", format!("placement {version}")),
        None => request,
    }
}

pub(super) fn lacks(what: &'static str, missing: &'static str) -> PlacementError {
    PlacementError::Garbled { what, missing }
}

/// The answer, unless it is a 409.
pub(super) fn no_conflict(
    answer: ApiResponse,
    what: impl std::fmt::Display,
) -> Result<ApiResponse, PlacementError> {
    match answer.status {
        409 => {
            let message = crate::openstack::error_text(&answer.body);
            Err(PlacementError::Conflict { what: what.to_string(), message })
        }
        _ => Ok(answer),
    }
}

/// From microversion 1.23 on.
fn error_code(answer: &ApiResponse) -> Option<&str> {
    answer.body.pointer("/errors/0/code").and_then(Value::as_str)
}

fn provider_name(what: &'static str, provider: &Value) -> Result<ProviderName, PlacementError> {
    let text = |name| provider.get(name).and_then(Value::as_str);
    let uuid = text("uuid").and_then(|uuid| uuid.parse().ok()).ok_or_else(|| lacks(what, "uuid"));
    let generation = provider.get("generation").and_then(Value::as_i64);
    Ok(ProviderName {
        uuid: uuid?,
        name: text("name").unwrap_or_default().to_owned(),
        generation: generation.ok_or_else(|| lacks(what, "generation"))?,
    })
}

fn generation(what: &'static str, body: &Value) -> Result<i64, PlacementError> {
    let generation = body.get("resource_provider_generation").and_then(Value::as_i64);
    generation.ok_or_else(|| lacks(what, "resource_provider_generation"))
}

fn read_inventories(what: &'static str, body: &Value) -> Result<At<Inventories>, PlacementError> {
    let inventories = body.get("inventories").and_then(Value::as_object);
    let inventories = inventories.ok_or_else(|| lacks(what, "inventories"))?;
    let read = |(class, inventory): (&String, &Value)| {
        let inventory = serde_json::from_value::<Inventory>(inventory.clone());
        let inventory = inventory.map_err(|_| lacks(what, "a whole inventory"));
        inventory.map(|inventory| (class.clone(), inventory))
    };
    let inventories: Result<Inventories, _> = inventories.iter().map(read).collect();
    Ok((inventories?, generation(what, body)?))
}

fn read_traits(what: &'static str, body: &Value) -> Result<At<BTreeSet<String>>, PlacementError> {
    Ok((texts(what, body, "traits")?, generation(what, body)?))
}

fn texts(
    what: &'static str,
    body: &Value,
    name: &'static str,
) -> Result<BTreeSet<String>, PlacementError> {
    let list = body.get(name).and_then(Value::as_array).ok_or_else(|| lacks(what, name))?;
    Ok(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}
