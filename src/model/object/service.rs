//! Services of the control plane. nova: objects/service.py

use uuid::Uuid;

use super::compute_node::ComputeNode;
use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// A service on a host; its `report_count` is the heartbeat.
    Service "1.22" {
        id: i64,
        uuid: Uuid,
        host: Option<String>,
        binary: Option<String>,
        topic: Option<String>,
        report_count: i64,
        disabled: bool,
        disabled_reason: Option<String>,
        availability_zone: Option<String>,
        compute_node: ComputeNode,
        last_seen_up: Option<Timestamp>,
        forced_down: bool,
        /// What the service can do; see nova: `SERVICE_VERSION`.
        version: i64,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several services.
    ServiceList "1.19" of Service
}
