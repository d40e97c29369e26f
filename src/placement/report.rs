//! Keeps the node's own provider in placement as it should be.
//!
//! What placement has is read once and kept, so that nothing is sent when nothing has changed. It is
//! read again after a while, for what operators change, and when a write finds it changed.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info};
use uuid::Uuid;

use super::PlacementError;
use super::client::Placement;
use super::inventory::{Inventories, Offer, inventories};
use super::traits::{DISABLED, Owned, traits};
use crate::model::context::RequestContext;

/// How often a report is begun anew because somebody else changed the provider meanwhile.
/// nova: compute/resource_tracker.py, `_update_to_placement`
const ATTEMPTS: u32 = 4;

/// Writes the node's provider. One report at a time; the others wait for it.
pub struct Reporter {
    placement: Placement,
    /// `None`: what was read once counts for ever.
    refresh: Option<Duration>,
    seen: Mutex<Option<Seen>>,
}

/// The provider as placement had it.
struct Seen {
    uuid: Uuid,
    at: Instant,
    generation: i64,
    inventories: Inventories,
    traits: BTreeSet<String>,
    /// Traits that we would set, and that this placement doesn't know.
    unknown: BTreeSet<String>,
}

impl Reporter {
    /// `refresh`: `[compute] resource_provider_association_refresh`; zero: never.
    pub fn new(placement: Placement, refresh: Duration) -> Self {
        let refresh = Some(refresh).filter(|refresh| !refresh.is_zero());
        Self { placement, refresh, seen: Mutex::default() }
    }

    /// Makes the provider if it isn't there, and brings its inventories and traits up to date.
    ///
    /// # Errors
    /// Whatever placement says; a conflict only when there is one at every attempt. Part of it may
    /// have been written: the next report finds out what.
    pub async fn report(
        &self,
        context: &RequestContext,
        (uuid, name): (Uuid, &str),
        offer: &Offer,
        owned: &Owned,
    ) -> Result<(), PlacementError> {
        let mut attempt = 1;
        loop {
            let mut seen = self.seen.lock().await;
            let result = async {
                let provider = self.provider(context, (uuid, name), &mut seen).await?;
                self.write_inventories(context, provider, offer).await?;
                self.write_traits(context, provider, owned).await
            };
            match result.await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    *seen = None;
                    if attempt == ATTEMPTS || !matches!(error, PlacementError::Conflict { .. }) {
                        return Err(error);
                    }
                    debug!(attempt, %error, "the report to placement begins anew");
                    attempt += 1;
                }
            }
        }
    }

    /// Sets or takes away the trait of a disabled service, at once.
    /// nova: compute/manager.py, `update_compute_provider_status`
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub async fn set_disabled(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        disabled: bool,
    ) -> Result<(), PlacementError> {
        let mut attempt = 1;
        loop {
            let mut seen = self.seen.lock().await;
            // Whatever it was: the next report reads anew.
            *seen = None;
            let (current, generation) = self.placement.traits(context, uuid).await?;
            let wanted = traits(&Owned::from([(DISABLED.to_owned(), disabled)]), &current);
            if wanted == current {
                return Ok(());
            }
            match self.placement.put_traits(context, uuid, generation, &wanted).await {
                Ok(_) => return Ok(()),
                Err(PlacementError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The provider as it was seen last, or as it is when that was too long ago.
    async fn provider<'a>(
        &self,
        context: &RequestContext,
        (uuid, name): (Uuid, &str),
        seen: &'a mut Option<Seen>,
    ) -> Result<&'a mut Seen, PlacementError> {
        let is_fresh = |seen: &Seen| {
            seen.uuid == uuid && self.refresh.is_none_or(|refresh| seen.at.elapsed() <= refresh)
        };
        if !seen.as_ref().is_some_and(is_fresh) {
            *seen = None;
        }
        match seen {
            Some(seen) => Ok(seen),
            None => Ok(seen.insert(self.read(context, uuid, name).await?)),
        }
    }

    async fn read(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        name: &str,
    ) -> Result<Seen, PlacementError> {
        let tree = self.placement.tree(context, uuid).await?;
        let at = Instant::now();
        let unknown = BTreeSet::new();
        if tree.iter().any(|provider| provider.uuid == uuid) {
            let (inventories, traits) = tokio::join!(
                self.placement.inventories(context, uuid),
                self.placement.traits(context, uuid)
            );
            let ((inventories, first), (traits, second)) = (inventories?, traits?);
            // When it changed between the two, a write at the older one is refused.
            let generation = first.min(second);
            return Ok(Seen { uuid, at, generation, inventories, traits, unknown });
        }
        let created = self.placement.create_root(context, uuid, name).await?;
        info!(node = name, %uuid, "added to placement");
        let (inventories, traits) = Default::default();
        Ok(Seen { uuid, at, generation: created.generation, inventories, traits, unknown })
    }

    async fn write_inventories(
        &self,
        context: &RequestContext,
        seen: &mut Seen,
        offer: &Offer,
    ) -> Result<(), PlacementError> {
        let wanted = inventories(offer, &seen.inventories);
        if wanted == seen.inventories {
            return Ok(());
        }
        let written = self.placement.put_inventories(context, seen.uuid, seen.generation, &wanted);
        (seen.inventories, seen.generation) = written.await?;
        info!(inventories = ?seen.inventories, "inventories reported to placement");
        Ok(())
    }

    async fn write_traits(
        &self,
        context: &RequestContext,
        seen: &mut Seen,
        owned: &Owned,
    ) -> Result<(), PlacementError> {
        let mut wanted = &traits(owned, &seen.traits) - &seen.unknown;
        if wanted == seen.traits {
            return Ok(());
        }
        let new = &wanted - &seen.traits;
        if !new.is_empty() {
            // Those that operators make are theirs to make: ours are all standard ones, of which an
            // older placement doesn't know the newest.
            let known = self.placement.known_traits(context, &new).await?;
            seen.unknown.extend(&new - &known);
            wanted = &wanted - &seen.unknown;
            if wanted == seen.traits {
                return Ok(());
            }
        }
        let written = self.placement.put_traits(context, seen.uuid, seen.generation, &wanted);
        (seen.traits, seen.generation) = written.await?;
        info!(traits = seen.traits.len(), unknown = ?seen.unknown, "traits reported to placement");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
