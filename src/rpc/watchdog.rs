//! Proves that messages still arrive: sends one to each of our own queues and looks for it. A
//! connection can be up, with heartbeats, while its queue has no binding or its consumer is gone.
//!
//! The host would look alive to nova (its state goes through the conductor) and answer nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error};

use crate::rpc::amqp::{Consuming, Topic};
use crate::rpc::counters::Counters;
use crate::rpc::desk::Desk;
use crate::rpc::publisher::{Destination, Publication, Publisher};

/// How often, and how patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchdog {
    pub every: Duration,
    /// A ping that isn't back by then is lost.
    pub within: Duration,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), within: Duration::from_secs(20) }
    }
}

/// Pings for ever.
pub(crate) async fn run(
    settings: Watchdog,
    topics: Vec<Arc<Topic>>,
    desk: Arc<Desk>,
    publisher: Arc<Publisher>,
    counters: Arc<Counters>,
    state: watch::Receiver<Consuming>,
    distrusted: Arc<Notify>,
) {
    loop {
        // Jitter, as everywhere that a cloud's agents would act in one instant.
        sleep(settings.every.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        for topic in &topics {
            let since = state.borrow().since;
            if since.is_none() {
                break;
            }
            let back = ping(settings.within, topic, &desk, &publisher).await;
            // The same session, and not one that began in between.
            if !back && state.borrow().since == since && !desk.is_full() {
                counters.watchdog_failures.add();
                let queue = &topic.spec.host.name;
                error!(queue, within = ?settings.within, "RabbitMQ did not bring back our own message");
                distrusted.notify_one();
                break;
            }
        }
    }
}

/// True unless the broker took the message and didn't bring it.
async fn ping(within: Duration, topic: &Topic, desk: &Desk, publisher: &Publisher) -> bool {
    let (body, arrival) = desk.pings.new_ping();
    let queue = &topic.spec.host;
    let Some(exchange) = queue.exchange.clone() else { return true };
    let to = Destination::Exchange { exchange, routing_key: queue.routing_key.clone() };
    let message = Publication { to, body, expiration: Some(within) };
    if let Err(error) = publisher.publish(&message, Some(Instant::now() + within)).await {
        // The publishing side looks after itself.
        debug!(%error, "no ping was sent");
        return true;
    }
    timeout(within, arrival).await.is_ok()
}
