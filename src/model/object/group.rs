//! Server groups. nova: objects/instance_group.py

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// Instances that the scheduler keeps together or apart.
    InstanceGroup "1.11" {
        id: i64,
        user_id: Option<String>,
        project_id: Option<String>,
        uuid: Uuid,
        name: Option<String>,
        /// Replaced by `policy`; kept for old records.
        policies: Option<Vec<String>>,
        members: Option<Vec<String>>,
        hosts: Option<Vec<String>>,
        /// `affinity`, `anti-affinity`, `soft-affinity`, `soft-anti-affinity`
        policy: Option<String>,
        _rules: BTreeMap<String, String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several groups.
    InstanceGroupList "1.8" of InstanceGroup
}
