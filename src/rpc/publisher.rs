//! Publishing: one connection, on it one [`Line`], and every message until a broker has it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::rpc::compression::Compression;
use crate::rpc::counters::Counters;
use crate::rpc::declare;
use crate::rpc::line::{Letter, Line, Outcome, Taken};
use crate::rpc::link::{Brokers, Link};
use crate::rpc::topology::{ExchangeSpec, QueueSpec};

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
    compression: Option<Compression>,
    line: tokio::sync::Mutex<Option<Arc<Line>>>,
    /// Exchanges and queues that were found not to be durable.
    not_durable: Mutex<HashSet<String>>,
    counters: Arc<Counters>,
    closed: CancellationToken,
}

/// A message that is on the line.
#[derive(Debug)]
pub(crate) struct Posted {
    line: Arc<Line>,
    outcome: oneshot::Receiver<Outcome>,
}

/// Why one try failed.
enum Failed {
    Undeliverable,
    /// Try again, perhaps at once.
    Broken(String),
    Again,
}

impl Publisher {
    pub(crate) fn new(
        brokers: Arc<Brokers>,
        counters: Arc<Counters>,
        compression: Option<Compression>,
    ) -> Self {
        Self {
            brokers,
            compression,
            line: tokio::sync::Mutex::new(None),
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
        let line = self.line().await.map_err(|error| Failed::Broken(error.to_string()))?;
        self.declare(&line, &message.to).await?;
        settled(&line, line.send(self.letter(message))).await
    }

    /// Puts a message on the line at once, before all that is published later. `None` when that
    /// can't be without waiting: nothing is sent then.
    pub(crate) fn post(&self, message: &Publication) -> Option<Posted> {
        let line = self.line.try_lock().ok()?.as_ref().filter(|line| line.is_up())?.clone();
        if !line.has_declared(message.to.name()) {
            return None;
        }
        let outcome = line.post(self.letter(message))?;
        Some(Posted { line, outcome })
    }

    /// Whether the broker has taken what was posted.
    pub(crate) async fn is_taken(&self, posted: Posted) -> bool {
        let Posted { line, outcome } = posted;
        let taken = tokio::select! {
            taken = settled(&line, async { outcome.await.ok() }) => taken.is_ok(),
            () = self.closed.cancelled() => false,
        };
        if taken {
            self.counters.published.add();
        }
        taken
    }

    fn letter(&self, message: &Publication) -> Letter {
        let (exchange, routing_key) = message.to.address();
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(2)
            .with_priority(0)
            .with_headers(self.compression.map(Compression::headers).unwrap_or_default());
        if let Some(expiration) = message.expiration {
            let text = expiration.as_millis().to_string();
            properties = properties.with_expiration(text.as_str().into());
        }
        Letter {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            options: BasicPublishOptions {
                mandatory: matches!(message.to, Destination::Queue { mandatory: true, .. }),
                ..BasicPublishOptions::default()
            },
            properties,
            body: match self.compression {
                Some(method) => method.compress(&message.body),
                None => message.body.clone(),
            },
        }
    }

    fn not_durable(&self) -> MutexGuard<'_, HashSet<String>> {
        self.not_durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line, made anew where it is needed. Everyone who publishes waits for the one try.
    async fn line(&self) -> Result<Arc<Line>, lapin::Error> {
        let mut line = self.line.lock().await;
        if let Some(line) = line.as_ref().filter(|line| line.is_up()) {
            return Ok(line.clone());
        }
        // A channel that the broker closed takes nothing with it: the connection goes on.
        let link = match line.take().map(|line| line.link.clone()) {
            Some(link) if link.is_up() => link,
            lost => {
                if lost.is_some() {
                    self.counters.disconnects.add();
                }
                Arc::new(self.brokers.connect("publish").await)
            }
        };
        let made = Arc::new(Line::open(link).await?);
        *line = Some(made.clone());
        Ok(made)
    }

    /// Once for each line, on a channel of its own: a refusal must not take other messages with it.
    /// What exists doesn't vanish often; when it has, the broker closes the line.
    async fn declare(&self, line: &Line, to: &Destination) -> Result<(), Failed> {
        let name = to.name();
        if matches!(to, Destination::Queue { .. }) || line.has_declared(name) {
            return Ok(());
        }
        let durable = !self.not_durable().contains(name);
        let declaring = async {
            let channel = line.link.connection.create_channel().await?;
            match to {
                Destination::Queue { .. } => {}
                Destination::Exchange { exchange, .. } => {
                    let mut exchange = exchange.clone();
                    exchange.durable &= durable;
                    declare::exchange_on(&channel, &exchange).await?;
                }
                Destination::Bound(queue) => {
                    let mut queue = queue.clone();
                    queue.durable &= durable;
                    if let Some(exchange) = &mut queue.exchange {
                        exchange.durable &= durable;
                    }
                    declare::queue_on(&channel, &queue).await?;
                }
            }
            channel.close(200, "OK".into()).await
        };
        match declaring.await {
            Ok(()) => {
                line.set_declared(name);
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
        self.line.try_lock().is_ok_and(|line| line.as_ref().is_some_and(|line| line.is_up()))
    }

    /// Ends what is being published, and the connection.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        let line = self.line.lock().await.take().and_then(Arc::into_inner);
        if let Some(link) = line.map(|line| line.link.clone()).and_then(Arc::into_inner) {
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

/// What a confirm says of a message.
async fn settled(
    line: &Line,
    confirm: impl Future<Output = Option<Outcome>>,
) -> Result<(), Failed> {
    match wait_unless_blocked(&line.link, confirm).await {
        None => {
            warn!(broker = line.link.broker, "no confirm in time: reconnecting");
            line.link.cut();
            Err(Failed::Broken("no confirm".into()))
        }
        Some(None) => Err(Failed::Broken("the channel is closed".into())),
        Some(Some(Err(error))) => Err(Failed::Broken(error.to_string())),
        Some(Some(Ok(Taken::Refused))) => Err(Failed::Broken("the broker refused it".into())),
        Some(Some(Ok(Taken::Returned))) => Err(Failed::Undeliverable),
        Some(Some(Ok(Taken::Yes))) => Ok(()),
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
