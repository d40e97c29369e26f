//! Allocations of this node that nobody needs any more.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info, warn};
use uuid::Uuid;

use super::NodeError;
use super::tracker::Tracker;
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::telemetry::Chain;

/// What becomes of an allocation whose consumer isn't an instance or a migration of this node.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The instance is gone, and with it the allocation.
    Remove,
    /// It stays, for the reason given. Whether an operator should look at it.
    Keep(&'static str, bool),
}

/// nova: compute/resource_tracker.py, `_remove_deleted_instances_allocations`
fn fate(instance: Option<&Instance>, host: &str, node: &str) -> Fate {
    let Some(instance) = instance else {
        return Fate::Keep("its instance isn't on record: it may be about to be made", false);
    };
    let is_deleted = instance.deleted.get() == Some(&true);
    if is_deleted && instance.hidden.get() != Some(&true) {
        return Fate::Remove;
    }
    match instance.host.text() {
        None => Fate::Keep("its instance is on its way here", false),
        Some(of) if of == host && instance.node.text() == Some(node) => {
            match instance.task_state.value() {
                Some(_) => Fate::Keep("its instance is in transition", false),
                None => Fate::Keep("its instance is here and isn't counted", true),
            }
        }
        Some(of) if of != host => Fate::Keep("its instance is on another host", true),
        Some(_) => Fate::Keep("its instance is on another node of this host", false),
    }
}

/// Removes the allocations of instances that were deleted while this agent didn't look. `keepers`
/// are the node's own instances and migrations; `instances`, those of its instances that were read.
pub(super) async fn remove_leftover_allocations(
    tracker: &Tracker,
    context: &RequestContext,
    keepers: &BTreeSet<Uuid>,
    instances: &BTreeMap<Uuid, Instance>,
) -> Result<(), NodeError> {
    let settings = &tracker.options.node;
    let (placement, records) = (&tracker.backends.placement, &tracker.backends.records);
    let consumers = match placement.consumers(context, settings.uuid).await {
        Ok(consumers) => consumers,
        // A provider that isn't there has nothing given out.
        Err(error) if error.class() == crate::model::class::Class::Absent => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for uuid in consumers.difference(keepers) {
        let read;
        let instance = match instances.get(uuid) {
            Some(instance) => Some(instance),
            None => {
                read = records.instance(context, *uuid).await?;
                read.as_ref()
            }
        };
        match fate(instance, &settings.host, &settings.node) {
            Fate::Remove => {
                info!(instance_uuid = %uuid, "deleted meanwhile: its allocation is removed");
                // Whoever changes it at this moment knows better; the next audit looks again.
                if let Err(error) = placement.clear_allocations(context, *uuid).await {
                    warn!(instance_uuid = %uuid, error = %Chain(&error), "its allocation stays");
                }
            }
            Fate::Keep(why, true) => {
                warn!(consumer = %uuid, why, "an allocation of this node stays")
            }
            Fate::Keep(why, false) => {
                debug!(consumer = %uuid, why, "an allocation of this node stays");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::TaskState;
    use crate::node::usage::tests::instance;

    #[test]
    fn only_what_was_deleted_and_isnt_hidden_is_removed() {
        let fate = |instance: &Instance| fate(Some(instance), "host1", "node1");
        let mut deleted = instance(1);
        deleted.deleted.load(Some(true));
        assert_eq!(fate(&deleted), Fate::Remove);
        deleted.hidden.load(Some(true));
        assert!(matches!(fate(&deleted), Fate::Keep(_, true)), "a move between cells is under way");
        assert!(matches!(super::fate(None, "host1", "node1"), Fate::Keep(_, false)));
        let mut moving = instance(1);
        assert!(matches!(fate(&moving), Fate::Keep(_, true)));
        moving.task_state.load(Some(Some(TaskState::Spawning)));
        assert!(matches!(fate(&moving), Fate::Keep(_, false)));
        moving.host.load(Some(Some("host2".to_owned())));
        assert!(matches!(fate(&moving), Fate::Keep(_, true)));
        moving.host.load(Some(None));
        assert!(matches!(fate(&moving), Fate::Keep(_, false)));
    }
}
