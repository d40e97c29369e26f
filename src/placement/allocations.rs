//! What a consumer, an instance or a migration, has been given.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::PlacementError;
use super::client::{Placement, lacks, no_conflict, request};
use crate::model::context::RequestContext;
use crate::openstack::{ApiResponse, Method};

/// The microversion from which a consumer has a generation.
const WITH_GENERATION: Option<&str> = Some("1.28");

impl Placement {
    /// Takes away all that the consumer has been given, whoever changes it meanwhile. Absent is
    /// success. nova: `delete_allocation_for_instance` with force
    pub async fn delete_allocations(
        &self,
        context: &RequestContext,
        consumer: Uuid,
    ) -> Result<(), PlacementError> {
        let request = request(context, Method::Delete, path(consumer), None);
        let answer = self.send(request).await?;
        match answer.status {
            404 => Ok(()),
            _ => done(answer, "delete allocations"),
        }
    }

    /// The same, unless somebody changes them meanwhile. Absent is success.
    ///
    /// # Errors
    /// [`PlacementError::Conflict`].
    pub async fn clear_allocations(
        &self,
        context: &RequestContext,
        consumer: Uuid,
    ) -> Result<(), PlacementError> {
        self.change_allocations(context, consumer, Map::clear).await
    }

    /// Takes away what the consumer has of `provider` and of those below it, and leaves the rest:
    /// an evacuated instance keeps what it has on its new host.
    ///
    /// # Errors
    /// [`PlacementError::Conflict`].
    /// nova: `remove_provider_tree_from_instance_allocation`
    pub async fn remove_provider_from_allocations(
        &self,
        context: &RequestContext,
        consumer: Uuid,
        provider: Uuid,
    ) -> Result<(), PlacementError> {
        let tree = self.tree(context, provider).await?;
        let of_tree = |given: &str| {
            let uuid = given.parse::<Uuid>();
            uuid.is_ok_and(|uuid| tree.iter().any(|provider| provider.uuid == uuid))
        };
        self.change_allocations(context, consumer, |given| {
            given.retain(|provider, _| !of_tree(provider));
        })
        .await
    }

    /// Reads, changes and writes what the consumer has, by provider; writes nothing when nothing
    /// has changed.
    async fn change_allocations(
        &self,
        context: &RequestContext,
        consumer: Uuid,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<(), PlacementError> {
        const WHAT: &str = "read allocations";
        let read = request(context, Method::Get, path(consumer), WITH_GENERATION);
        let ApiResponse { mut body, .. } = self.send(read).await?.success(WHAT)?;
        let given = body.get_mut("allocations").and_then(Value::as_object_mut);
        let given = given.ok_or_else(|| lacks(WHAT, "allocations"))?;
        let before = given.len();
        change(given);
        if given.len() == before {
            return Ok(());
        }
        for provider in given.values_mut().filter_map(Value::as_object_mut) {
            provider.shift_remove("generation");
        }
        let write = request(context, Method::Put, path(consumer), WITH_GENERATION).body(body);
        let answer = no_conflict(self.send(write).await?, consumer)?;
        done(answer, "write allocations")
    }
}

fn done(answer: ApiResponse, what: &str) -> Result<(), PlacementError> {
    answer.success(what)?;
    Ok(())
}

fn path(consumer: Uuid) -> String {
    format!("/allocations/{consumer}")
}
