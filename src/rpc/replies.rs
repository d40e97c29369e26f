//! Answers to the callers of our methods, on their way back through the broker.
//!
//! A caller's queue can be missing for a while: its broker restarts, or its service does. So an
//! answer that comes back is tried again every quarter of a second for
//! `kombu_missing_consumer_retry_timeout`, and a queue that stayed away that long is remembered.
//! No answer is kept longer than its caller waits.
//!
//! oslo.messaging: _drivers/amqpdriver.py, AMQPIncomingMessage._send_reply

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::rpc::counters::Counters;
use crate::rpc::envelope::{self, ReplyAddress};
use crate::rpc::incoming::{ReplySink, ReplyTo};
use crate::rpc::options::RabbitOptions;
use crate::rpc::publisher::{Destination, Publication, PublishError, Publisher};

const RETRY_AFTER: Duration = Duration::from_millis(250);
const REMEMBER_DEAD_FOR: Duration = Duration::from_secs(60);
const DEAD_QUEUES: usize = 200;
/// For a request that doesn't say how long its caller waits: nova's `long_rpc_timeout`.
const LONGEST_WAIT: Duration = Duration::from_secs(1800);

/// Sends answers.
#[derive(Debug)]
pub(crate) struct Replies {
    publisher: Arc<Publisher>,
    counters: Arc<Counters>,
    mandatory: bool,
    give_up_after: Duration,
    dead: Mutex<HashMap<String, Instant>>,
    under_way: TaskTracker,
    runtime: Handle,
}

/// One caller, and until when it waits.
struct Caller {
    replies: Arc<Replies>,
    queue: String,
    waits_until: Instant,
}

impl Replies {
    pub(crate) fn new(
        publisher: Arc<Publisher>,
        counters: Arc<Counters>,
        options: &RabbitOptions,
    ) -> Self {
        Self {
            publisher,
            counters,
            mandatory: options.direct_mandatory_flag,
            give_up_after: options.kombu_missing_consumer_retry_timeout,
            dead: Mutex::default(),
            under_way: TaskTracker::new(),
            runtime: Handle::current(),
        }
    }

    /// The handle for one call. `waits` is the request's expiration: its caller's timeout.
    pub(crate) fn reply_to(
        self: &Arc<Self>,
        address: &ReplyAddress,
        waits: Option<Duration>,
    ) -> ReplyTo {
        let caller = Caller {
            replies: self.clone(),
            queue: address.reply_queue.clone(),
            waits_until: Instant::now() + waits.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT * 48),
        };
        ReplyTo::new(address, Arc::new(caller), &self.runtime)
    }

    /// Waits until every answer is out or given up.
    pub(crate) async fn finish(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }

    fn dead(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        dead.retain(|_, until| *until > now);
        dead
    }

    async fn send(&self, queue: &str, waits_until: Instant, message: &Map<String, Value>) {
        let lost = |why: &str| {
            self.counters.replies_lost.add();
            let msg_id = message.get("_msg_id").and_then(Value::as_str);
            warn!(queue, msg_id, why, "nobody can be answered");
        };
        if self.dead().contains_key(queue) {
            return lost("its queue was missing a moment ago");
        }
        let publication = self.publication(queue, message);
        let mut missing_until = None;
        loop {
            match self.publisher.publish(&publication, Some(waits_until)).await {
                Ok(()) => return self.counters.replies.add(),
                Err(PublishError::TooLate) => return lost("the caller waits no longer"),
                Err(PublishError::Closed) => return lost("the agent stops"),
                Err(PublishError::Name) => return lost("its queue's name is too long"),
                Err(PublishError::Undeliverable(_)) => {
                    let now = Instant::now();
                    let until = *missing_until.get_or_insert(now + self.give_up_after);
                    if now >= waits_until {
                        return lost("the caller waits no longer");
                    }
                    if now >= until {
                        let mut dead = self.dead();
                        if dead.len() < DEAD_QUEUES {
                            dead.insert(queue.to_owned(), now + REMEMBER_DEAD_FOR);
                        }
                        return lost("its queue is missing");
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    fn publication(&self, queue: &str, message: &Map<String, Value>) -> Publication {
        Publication {
            to: Destination::Queue { name: queue.to_owned(), mandatory: self.mandatory },
            body: envelope::seal(message),
            expiration: None,
        }
    }
}

#[async_trait]
impl ReplySink for Caller {
    fn answer(&self, message: Map<String, Value>) {
        let (replies, queue, until) = (self.replies.clone(), self.queue.clone(), self.waits_until);
        let sending = async move { replies.send(&queue, until, &message).await };
        self.replies.under_way.spawn_on(sending, &self.replies.runtime);
    }

    async fn heartbeat(&self, message: Map<String, Value>) -> bool {
        let publication = self.replies.publication(&self.queue, &message);
        self.replies.publisher.publish(&publication, Some(self.waits_until)).await.is_ok()
    }
}
