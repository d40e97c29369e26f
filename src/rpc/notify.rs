//! Notifications over the bus. They never hold up or fail the work that they tell of: one that can't
//! go out at once waits in a bounded queue, and one task sees to it that they arrive, in order. As
//! long as the broker takes them, a notification is on the line before what its teller asks of
//! others next, so that who listens hears them in that order.
//!
//! oslo.messaging: notify/notifier.py, notify/messaging.py; nova: rpc.py, get_versioned_notifier

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::notify::message::{Notification, Outbox};
use crate::rpc::counters::Counters;
use crate::rpc::envelope::{self, new_id};
use crate::rpc::options::RabbitOptions;
use crate::rpc::publisher::{Destination, Posted, Publication, Publisher};
use crate::rpc::topology;

/// Notifications that may wait for a broker. Beyond it the newest are dropped, and counted.
const WAITING: usize = 1000;
/// What one try to reach a broker takes, for a bounded `retry`.
const TRY_FOR: Duration = Duration::from_secs(5);

/// `[oslo_messaging_notifications]`, as far as the transport needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyOptions {
    /// `driver = messagingv2`: in an envelope. `messaging`: the bare dict.
    pub envelope: bool,
    /// Tries after the first that fails; `None` (`-1`) for ever.
    pub retry: Option<u32>,
}

/// Sends notifications. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier {
    publisher: Arc<Publisher>,
    queue: mpsc::Sender<Queued>,
    /// Of those in the queue, how many are not on the line yet.
    behind: Arc<AtomicUsize>,
    options: Arc<NotifyOptions>,
    rabbit: Arc<RabbitOptions>,
    exchange: Arc<str>,
    counters: Arc<Counters>,
}

impl Notifier {
    pub(crate) fn new(
        publisher: Arc<Publisher>,
        rabbit: &RabbitOptions,
        exchange: &str,
        options: NotifyOptions,
        counters: Arc<Counters>,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let behind = Arc::new(AtomicUsize::new(0));
        let sending = Sending { publisher: publisher.clone(), behind: behind.clone() };
        tasks.spawn(sending.in_order(waiting, options.retry, closing));
        Self {
            publisher,
            queue,
            behind,
            options: Arc::new(options),
            rabbit: Arc::new(rabbit.clone()),
            exchange: exchange.into(),
            counters,
        }
    }
}

impl Outbox for Notifier {
    /// Puts it on the line, or in the queue. Never waits; a full queue drops it.
    fn send(&self, context: &RequestContext, notification: &Notification) {
        let message = message(notification, context);
        let body = if self.options.envelope {
            envelope::seal(&message)
        } else {
            serde_json::to_vec(&message).expect("a map with string keys is JSON")
        };
        let priority = notification.priority.name().to_ascii_lowercase();
        for topic in &notification.topics {
            let routing_key = format!("{topic}.{priority}");
            let queue = topology::notification_queue(&self.rabbit, &self.exchange, &routing_key);
            let to = Destination::Bound(queue);
            let publication = Publication { to, body: body.clone(), expiration: None };
            if !self.take(publication) {
                self.counters.notifications_dropped.add();
                let event_type = &notification.event_type;
                warn!(event_type, "a notification was dropped: too many wait for RabbitMQ");
            }
        }
    }
}

impl Notifier {
    /// `false` when there is no room.
    fn take(&self, publication: Publication) -> bool {
        let Ok(place) = self.queue.try_reserve() else { return false };
        let none_before = self.behind.load(Ordering::Acquire) == 0;
        let posted = none_before.then(|| self.publisher.post(&publication)).flatten();
        if posted.is_none() {
            self.behind.fetch_add(1, Ordering::AcqRel);
        }
        place.send(Queued { publication, posted });
        true
    }
}

/// A notification that isn't known to have arrived.
#[derive(Debug)]
struct Queued {
    publication: Publication,
    /// It is on the line already.
    posted: Option<Posted>,
}

struct Sending {
    publisher: Arc<Publisher>,
    behind: Arc<AtomicUsize>,
}

impl Sending {
    async fn in_order(
        self,
        mut waiting: mpsc::Receiver<Queued>,
        retry: Option<u32>,
        closing: CancellationToken,
    ) {
        let mut closed = false;
        loop {
            let next = tokio::select! {
                next = waiting.recv() => next,
                () = closing.cancelled(), if !closed => {
                    // What is queued still goes out; nothing new gets in.
                    waiting.close();
                    closed = true;
                    continue;
                }
            };
            let Some(Queued { publication, posted }) = next else { return };
            let was_behind = posted.is_none();
            if let Some(posted) = posted
                && self.publisher.is_taken(posted).await
            {
                continue;
            }
            let deadline = retry.map(|retry| Instant::now() + TRY_FOR * (retry.saturating_add(1)));
            if let Err(error) = self.publisher.publish(&publication, deadline).await {
                warn!(%error, "a notification was not sent");
            }
            if was_behind {
                self.behind.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

fn message(notification: &Notification, context: &RequestContext) -> Map<String, Value> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S.%6f").to_string();
    let mut message = Map::new();
    message.insert("message_id".into(), Uuid::new_v4().to_string().into());
    message.insert("publisher_id".into(), notification.publisher_id.clone().into());
    message.insert("event_type".into(), notification.event_type.clone().into());
    message.insert("priority".into(), notification.priority.name().into());
    message.insert("payload".into(), notification.payload.clone());
    message.insert("timestamp".into(), now.into());
    message.insert("_unique_id".into(), new_id().into());
    message.extend(redacted(context));
    message
}

/// Who and what, without what lets one act in their name: no token, no catalog, no address.
/// oslo.context: redacted_copy; nova: context.py, to_dict
fn redacted(context: &RequestContext) -> Map<String, Value> {
    let given = |key: &str| context.rest.get(key).cloned().unwrap_or_default();
    let or_dash = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let identity = format!(
        "{} {} {} {} {}",
        context.user_id.as_deref().unwrap_or("-"),
        context.project_id.as_deref().unwrap_or("-"),
        or_dash(&given("domain")),
        or_dash(&given("user_domain")),
        or_dash(&given("project_domain")),
    );
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string();
    let keys = json!({
        "user": context.user_id,
        "project_id": context.project_id,
        "system_scope": given("system_scope"),
        "project": context.project_id,
        "domain": given("domain"),
        "user_domain": given("user_domain"),
        "project_domain": given("project_domain"),
        "is_admin": context.is_admin,
        "read_only": false,
        "show_deleted": false,
        "auth_token": null,
        "request_id": context.request_id,
        "global_request_id": context.global_request_id,
        "resource_uuid": null,
        "roles": context.roles,
        "user_identity": identity,
        "is_admin_project": true,
        "user_id": context.user_id,
        "read_deleted": "no",
        "remote_address": null,
        "timestamp": now,
        "quota_class": null,
        "user_name": context.user_name,
        "service_catalog": [],
        "project_name": context.project_name,
    });
    let Value::Object(keys) = keys else { return Map::new() };
    keys.into_iter().map(|(key, value)| (format!("_context_{key}"), value)).collect()
}

/// Gives what is queued a moment to go out.
pub(crate) async fn finish(tasks: &TaskTracker, within: Duration) {
    tasks.close();
    timeout(within, tasks.wait()).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;
    use crate::notify::message::Priority;

    #[test]
    fn a_notification_never_carries_a_token_or_a_catalog() {
        let mut context = RequestContext::admin();
        context.auth_token = Some(Secret::new("hunter2"));
        for (key, value) in [
            ("service_catalog", json!([{"endpoints": ["hunter2"]}])),
            ("user_domain", json!("default")),
            ("remote_address", json!("hunter2")),
        ] {
            context.rest.insert(key.into(), value);
        }
        let notification = Notification {
            topics: vec!["notifications".into()],
            priority: Priority::Error,
            publisher_id: "compute.h".into(),
            event_type: "compute.instance.create.error".into(),
            payload: json!({"a": 1}),
        };
        let message = message(&notification, &context);
        assert!(!serde_json::to_string(&message).expect("JSON").contains("hunter2"));
        assert_eq!(message["_context_user_domain"], "default");
        assert_eq!(message["_context_service_catalog"], json!([]));
        assert_eq!(message["_context_user_identity"], "- - - default -");
        assert_eq!(message["priority"], "ERROR");
        let timestamp = message["timestamp"].as_str().expect("text");
        assert_eq!(timestamp.len(), "2026-11-20 22:00:00.000000".len());
    }
}
