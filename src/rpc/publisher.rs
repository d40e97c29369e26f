//! Publishing: one connection, and on it *lanes*, channels with one message under way each.
//!
//! A lane waits for the broker's confirm before it takes the next message. That is what makes a
//! returned message (`mandatory`, no such queue) attributable: on a shared channel AMQP and lapin
//! say only that some message came back. Lanes are opened as they are needed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::rpc::counters::Counters;
use crate::rpc::declare;
use crate::rpc::link::{Brokers, Link};
use crate::rpc::topology::{ExchangeSpec, QueueSpec};

const LANES: usize = 16;
/// Of an exchange, a queue or a routing key, in bytes: AMQP's.
pub(crate) const MAX_NAME: usize = 255;
/// A broker that takes longer over a confirm, and hasn't blocked us, is not well.
const CONFIRM_WITHIN: Duration = Duration::from_secs(30);
/// Between two tries of a message whose connection broke: doubled each time, to a limit.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(2);

/// A message to publish.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) to: Destination,
    pub(crate) body: Vec<u8>,
    /// The broker drops the message when nobody took it by then.
    pub(crate) expiration: Option<Duration>,
}

/// Where to, and what must exist before.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    /// A queue by its name, which must exist (`mandatory`).
    Queue { name: String, mandatory: bool },
    /// Whoever is bound to the exchange; nobody is fine.
    Exchange { exchange: ExchangeSpec, routing_key: String },
    /// As before, and this queue is bound first.
    Bound(QueueSpec),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// The broker sent a `mandatory` message back.
    #[error("there is no queue {0}")]
    Undeliverable(String),
    #[error("the broker did not take the message in time")]
    TooLate,
    #[error("the publisher is closed")]
    Closed,
    /// lapin panics at one. A host's name may come from a message.
    #[error("a name of more than {MAX_NAME} bytes")]
    Name,
}

#[derive(Debug)]
pub(crate) struct Publisher {
    brokers: Arc<Brokers>,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    idle: Mutex<Vec<Lane>>,
    permits: Semaphore,
    /// Exchanges and queues that were found not to be durable.
    not_durable: Mutex<HashSet<String>>,
    counters: Arc<Counters>,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Lane {
    link: Arc<Link>,
    channel: Channel,
    declared: HashSet<String>,
}

/// Why one try failed.
enum Failed {
    Undeliverable,
    /// Try again, perhaps at once.
    Broken(String),
    Again,
}

impl Publisher {
    pub(crate) fn new(brokers: Arc<Brokers>, counters: Arc<Counters>) -> Self {
        Self {
            brokers,
            link: tokio::sync::Mutex::new(None),
            idle: Mutex::default(),
            permits: Semaphore::new(LANES),
            not_durable: Mutex::default(),
            counters,
            closed: CancellationToken::new(),
        }
    }

    /// Publishes, and returns when the broker has taken the message. A broken connection is made
    /// anew until `deadline`; a message whose confirm was lost with it is sent again with the same
    /// `_unique_id`, which the receiver recognises.
    pub(crate) async fn publish(
        &self,
        message: &Publication,
        deadline: Option<Instant>,
    ) -> Result<(), PublishError> {
        let (exchange, routing_key) = message.to.address();
        if [exchange, routing_key, message.to.name()].iter().any(|name| name.len() > MAX_NAME) {
            return Err(PublishError::Name);
        }
        let trying = async {
            let mut pause = RETRY_AFTER;
            loop {
                match self.try_once(message).await {
                    Ok(()) => {
                        self.counters.published.add();
                        return Ok(());
                    }
                    Err(Failed::Undeliverable) => {
                        return Err(PublishError::Undeliverable(message.to.name().to_owned()));
                    }
                    Err(Failed::Again) => {}
                    Err(Failed::Broken(error)) => {
                        debug!(to = message.to.name(), error, "publishing again");
                        sleep(pause).await;
                        pause = (pause * 2).min(RETRY_AT_MOST);
                    }
                }
            }
        };
        let trying = async {
            match deadline {
                Some(deadline) => {
                    timeout_at(deadline, trying).await.unwrap_or(Err(PublishError::TooLate))
                }
                None => trying.await,
            }
        };
        tokio::select! {
            done = trying => done,
            () = self.closed.cancelled() => Err(PublishError::Closed),
        }
    }

    async fn try_once(&self, message: &Publication) -> Result<(), Failed> {
        let _permit = self.permits.acquire().await.expect("never closed");
        let mut lane = match self.idle_lane() {
            Some(lane) => lane,
            None => self.open_lane().await.map_err(|error| Failed::Broken(error.to_string()))?,
        };
        // An early return drops the lane: its channel may be closed, or hold an open confirm.
        self.declare(&mut lane, &message.to).await?;
        let options = BasicPublishOptions {
            mandatory: matches!(message.to, Destination::Queue { mandatory: true, .. }),
            ..BasicPublishOptions::default()
        };
        let (exchange, key) = message.to.address();
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(2)
            .with_priority(0)
            .with_headers(Default::default());
        if let Some(expiration) = message.expiration {
            let text = expiration.as_millis().to_string();
            properties = properties.with_expiration(text.as_str().into());
        }
        let broken = |error: lapin::Error| Failed::Broken(error.to_string());
        let publishing = lane.channel.basic_publish(
            exchange.into(),
            key.into(),
            options,
            &message.body,
            properties,
        );
        let confirm = async { publishing.await?.await };
        match wait_unless_blocked(&lane.link, confirm).await {
            None => {
                warn!(broker = lane.link.broker, "no confirm in time: reconnecting");
                lane.link.cut();
                Err(Failed::Broken("no confirm".into()))
            }
            Some(Err(error)) => Err(broken(error)),
            Some(Ok(Confirmation::Nack(_))) => Err(Failed::Broken("the broker refused it".into())),
            Some(Ok(Confirmation::Ack(Some(_)))) => {
                self.give_back(lane);
                Err(Failed::Undeliverable)
            }
            Some(Ok(Confirmation::Ack(None) | Confirmation::NotRequested)) => {
                self.give_back(lane);
                Ok(())
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_durable(&self) -> MutexGuard<'_, HashSet<String>> {
        self.not_durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_lane(&self) -> Option<Lane> {
        let mut idle = self.idle();
        while let Some(lane) = idle.pop() {
            if lane.link.is_up() && lane.channel.status().connected() {
                return Some(lane);
            }
        }
        None
    }

    fn give_back(&self, lane: Lane) {
        self.idle().push(lane);
    }

    async fn open_lane(&self) -> Result<Lane, lapin::Error> {
        let link = self.link().await;
        let channel = link.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Lane { link, channel, declared: HashSet::new() })
    }

    /// The connection, made anew where it is needed. Everyone who publishes waits for the one try.
    async fn link(&self) -> Arc<Link> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| link.is_up()) {
            return link.clone();
        }
        if link.take().is_some() {
            self.counters.disconnects.add();
        }
        self.idle().clear();
        let made = Arc::new(self.brokers.connect("publish").await);
        *link = Some(made.clone());
        made
    }

    /// Once for each lane: what exists doesn't vanish often, and if it does the broker closes the
    /// channel and with it the lane.
    async fn declare(&self, lane: &mut Lane, to: &Destination) -> Result<(), Failed> {
        let name = to.name();
        if matches!(to, Destination::Queue { .. }) || lane.declared.contains(name) {
            return Ok(());
        }
        let durable = !self.not_durable().contains(name);
        let declared = match to {
            Destination::Queue { .. } => Ok(()),
            Destination::Exchange { exchange, .. } => {
                let mut exchange = exchange.clone();
                exchange.durable &= durable;
                declare::exchange_on(&lane.channel, &exchange).await
            }
            Destination::Bound(queue) => {
                let mut queue = queue.clone();
                queue.durable &= durable;
                if let Some(exchange) = &mut queue.exchange {
                    exchange.durable &= durable;
                }
                declare::queue_on(&lane.channel, &queue).await
            }
        };
        match declared {
            Ok(()) => {
                lane.declared.insert(name.to_owned());
                Ok(())
            }
            Err(error) if declare::is_not_durable(&error) && durable => {
                info!(name, "what is there is not durable; neither is ours");
                self.not_durable().insert(name.to_owned());
                Err(Failed::Again)
            }
            Err(error) => Err(Failed::Broken(error.to_string())),
        }
    }

    /// Is the connection up? For the state that is shown; it may be gone in the next moment.
    pub(crate) fn is_up(&self) -> bool {
        // Held only while somebody connects.
        self.link.try_lock().is_ok_and(|link| link.as_ref().is_some_and(|link| link.is_up()))
    }

    /// Ends what is being published, and the connection.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        self.idle().clear();
        if let Some(link) = self.link.lock().await.take().and_then(Arc::into_inner) {
            link.close().await;
        }
    }
}

impl Destination {
    fn name(&self) -> &str {
        match self {
            Self::Queue { name, .. } => name,
            Self::Exchange { exchange, .. } => &exchange.name,
            Self::Bound(queue) => &queue.name,
        }
    }

    /// The exchange and the routing key.
    fn address(&self) -> (&str, &str) {
        match self {
            Self::Queue { name, .. } => ("", name),
            Self::Exchange { exchange, routing_key } => (&exchange.name, routing_key),
            Self::Bound(queue) => {
                let exchange = queue.exchange.as_ref();
                (exchange.map_or("", |exchange| &exchange.name), &queue.routing_key)
            }
        }
    }
}

/// Waits for a confirm; a broker that has said that it takes nothing now is not overdue.
async fn wait_unless_blocked<T>(link: &Link, confirm: impl Future<Output = T>) -> Option<T> {
    let mut confirm = std::pin::pin!(confirm);
    loop {
        match timeout(CONFIRM_WITHIN, confirm.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if link.is_blocked() => {
                warn!(broker = link.broker, "RabbitMQ takes no messages now")
            }
            Err(_) => return None,
        }
    }
}
