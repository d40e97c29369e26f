//! Notifications into the log: `driver = log`. oslo.messaging: notify/_impl_log.py

use serde_json::json;
use tracing::{error, info};

use super::message::{Notification, Outbox, Priority};
use crate::model::context::RequestContext;

/// Writes each notification as a line.
pub struct LogOutbox;

impl Outbox for LogOutbox {
    fn send(&self, context: &RequestContext, notification: &Notification) {
        let Notification { priority, publisher_id, event_type, payload, .. } = notification;
        let body = json!({
            "publisher_id": publisher_id,
            "event_type": event_type,
            "priority": priority.name(),
            "payload": payload,
        });
        let request_id = context.request_id();
        match priority {
            Priority::Info => info!(request_id, notification = %body, "notification"),
            Priority::Error => error!(request_id, notification = %body, "notification"),
        }
    }
}
