//! Compute nodes' records. nova: objects/compute_node.py

use serde_json::json;
use uuid::Uuid;

use super::error::absent;
use super::instances::with_deleted;
use super::{Conductor, ConductorError, Repeat};
use crate::model::context::RequestContext;
use crate::model::object::{ComputeNode, ComputeNodeList, VersionedObject};

impl Conductor {
    /// The node of this uuid; `None` when there is none.
    pub async fn node(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<ComputeNode>, ConductorError> {
        let args = json!([uuid.to_string()]);
        let found = self.fetch::<ComputeNode, _>(context, "get_by_uuid", args, json!({}));
        absent(found.await, &["ComputeHostNotFound"])
    }

    /// The same, also when it is marked as deleted.
    pub async fn node_or_deleted(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<ComputeNode>, ConductorError> {
        self.node(&with_deleted(context), uuid).await
    }

    /// Those of the nodes that are on record, in no order.
    pub async fn nodes(
        &self,
        context: &RequestContext,
        uuids: &[Uuid],
    ) -> Result<Vec<ComputeNode>, ConductorError> {
        let uuids: Vec<String> = uuids.iter().map(Uuid::to_string).collect();
        let (method, args) = ("get_all_by_uuids", json!([uuids]));
        let found: ComputeNodeList =
            self.fetch::<ComputeNodeList, _>(context, method, args, json!({})).await?;
        Ok(found.into_items())
    }

    /// The nodes that are recorded for a host: one, or none.
    pub async fn nodes_of_host(
        &self,
        context: &RequestContext,
        host: &str,
    ) -> Result<Vec<ComputeNode>, ConductorError> {
        let (method, args) = ("get_all_by_host", json!([host]));
        let found =
            self.fetch::<ComputeNodeList, ComputeNodeList>(context, method, args, json!({}));
        let found = absent(found.await, &["ComputeHostNotFound"])?;
        Ok(found.map(ComputeNodeList::into_items).unwrap_or_default())
    }

    /// The node of this hypervisor hostname, whichever host it is recorded for.
    pub async fn node_named(
        &self,
        context: &RequestContext,
        hypervisor_hostname: &str,
    ) -> Result<Option<ComputeNode>, ConductorError> {
        let args = json!([hypervisor_hostname]);
        let found = self.fetch::<ComputeNode, _>(context, "get_by_nodename", args, json!({}));
        absent(found.await, &["ComputeHostNotFound"])
    }

    /// Creates the node's record, and fills in what the database has added. A node of this uuid
    /// that a lost answer has left is taken.
    ///
    /// # Errors
    /// `DuplicateRecord` when another node has the uuid, or the same name on this host.
    pub async fn create_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), ConductorError> {
        let error = match self.create_object(context, node).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let (true, Some(uuid)) = (error.is_unanswered(), node.uuid.get().copied()) else {
            return Err(error);
        };
        match self.node(context, uuid).await? {
            Some(found) if found.host.get() == node.host.get() => {
                *node = found;
                Ok(())
            }
            Some(_) => Err(error),
            None => self.create_object(context, node).await,
        }
    }

    /// Saves what has changed, if anything.
    pub async fn save_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), ConductorError> {
        self.save_object(context, node).await
    }

    /// Takes the mark of a deleted record away.
    pub async fn restore_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), ConductorError> {
        node.deleted.set(false);
        node.deleted_at.set(None);
        // Conductor finds it only for those who see deleted records.
        self.save_object(&with_deleted(context), node).await
    }

    /// Removes the node's record; absent is success.
    pub async fn destroy_node(
        &self,
        context: &RequestContext,
        node: &mut ComputeNode,
    ) -> Result<(), ConductorError> {
        let primitive = node.to_primitive();
        let (method, kwargs) = ("destroy", json!({}));
        let destroyed =
            self.object_action(context, node, primitive, method, kwargs, Repeat::Harmless);
        absent(destroyed.await, &["ComputeHostNotFound"]).map(drop)
    }
}
