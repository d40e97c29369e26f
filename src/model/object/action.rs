//! What was done to an instance, as its owner sees it, and what others tell of it. nova:
//! objects/{instance_action,external_event}.py

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// One request of a user.
    InstanceAction "1.2" {
        id: i64,
        action: Option<String>,
        instance_uuid: Option<Uuid>,
        request_id: Option<String>,
        user_id: Option<String>,
        project_id: Option<String>,
        start_time: Option<Timestamp>,
        finish_time: Option<Timestamp>,
        message: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several requests.
    InstanceActionList "1.1" of InstanceAction
}

versioned_object! {
    /// One step of an action, on one host.
    InstanceActionEvent "1.4" {
        id: i64,
        /// `compute_stop_instance`
        event: Option<String>,
        action_id: Option<i64>,
        start_time: Option<Timestamp>,
        finish_time: Option<Timestamp>,
        /// `Success` or `Error`
        result: Option<String>,
        traceback: Option<String>,
        host: Option<String>,
        details: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several steps.
    InstanceActionEventList "1.1" of InstanceActionEvent
}

versioned_object! {
    /// News of Neutron, Cinder or Cyborg. `tag` is the port or volume it is about.
    InstanceExternalEvent "1.5" {
        instance_uuid: Uuid,
        /// `network-vif-plugged`, `network-changed`, `volume-extended`, `power-update`, …
        name: String,
        /// `failed`, `completed`, `in-progress`
        status: String,
        tag: Option<String>,
        data: BTreeMap<String, String>,
    }
}
