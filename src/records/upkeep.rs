//! The records' third face: what periodic tasks and recovery ask beside [`Records`](super::Records),
//! deleted instances above all.

use async_trait::async_trait;
use uuid::Uuid;

use super::RecordsError;
use crate::model::context::RequestContext;
use crate::model::object::Instance;

#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Those of `uuids` whose record says that they are deleted; soft-deleted ones are not. One
    /// that isn't on record is left out: nobody says that it is deleted.
    async fn deleted_among(
        &self,
        context: &RequestContext,
        uuids: &[Uuid],
    ) -> Result<Vec<Instance>, RecordsError>;

    /// Deleted instances of this host whose record doesn't say that their files are gone.
    /// nova: compute/manager.py, `_run_pending_deletes`
    async fn uncleaned(&self, context: &RequestContext) -> Result<Vec<Instance>, RecordsError>;

    /// Writes the changed fields of a deleted instance.
    async fn save_deleted(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
    ) -> Result<(), RecordsError>;

    /// The instances of these hosts that aren't deleted, soft-deleted ones included. Standalone:
    /// no other host's are known.
    async fn instances_of(
        &self,
        context: &RequestContext,
        hosts: &[String],
    ) -> Result<Vec<Instance>, RecordsError>;

    /// Records that an action on the instance began, as nova-api does before it sends a request.
    /// Standalone: an action is no more than its events. nova: objects/instance_action.py
    async fn action_started(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        action: &str,
    ) -> Result<(), RecordsError>;

    /// Drops the rights to open a console on this host that are over. Standalone: there are none.
    /// nova: compute/manager.py, `_cleanup_expired_console_auth_tokens`
    async fn forget_expired_consoles(&self, context: &RequestContext) -> Result<(), RecordsError>;
}
