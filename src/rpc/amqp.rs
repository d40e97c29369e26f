//! The consuming side: one connection with a channel for each topic and one for replies, and the
//! supervisor that makes all of it again when any of it breaks.
//!
//! ```text
//!            ┌──────────── lost: connection, channel, queue, watchdog ───────────┐
//!            ▼                                                                    │
//! connect ─▶ declare and consume each topic ─▶ consume replies once wanted ─▶ wait ─▶ close
//! ```
//!
//! Losing a channel or a queue takes the same road as losing the connection: what the broker still
//! held comes again, and is recognised.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::rpc::client::Inbox;
use crate::rpc::compression::unpack;
use crate::rpc::counters::Counters;
use crate::rpc::declare;
use crate::rpc::desk::Desk;
use crate::rpc::link::{Brokers, Link};
use crate::rpc::options::RabbitOptions;
use crate::rpc::topology::{self, QueueSpec, TopicSpec};

/// A session that lasted this long has not failed at once: the back-off starts anew.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// Whether requests arrive now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Consuming {
    /// Since when; `None` while there is no connection.
    pub since: Option<Instant>,
    /// `host:port` of the broker.
    pub broker: Option<String>,
}

/// One topic that we serve.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) spec: TopicSpec,
    /// The last message read from a stream of fanouts; -1 before the first.
    pub(crate) offset: AtomicI64,
}

/// What the supervisor needs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) brokers: Arc<Brokers>,
    pub(crate) options: RabbitOptions,
    pub(crate) topics: Vec<Arc<Topic>>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: watch::Sender<Consuming>,
    /// The watchdog asks for a new connection.
    pub(crate) distrusted: Arc<Notify>,
    /// Take no more requests, and keep the connection for acknowledgements and replies.
    pub(crate) stop: CancellationToken,
    pub(crate) close: CancellationToken,
}

/// How a session ended.
enum Ended {
    Closed,
    Lost(String),
}

/// How the reading of one queue ended.
enum Read {
    Stopped,
    Lost(String),
}

impl From<lapin::Error> for Ended {
    fn from(error: lapin::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Supervisor {
    /// Runs until `close`.
    pub(crate) async fn run(self) {
        let mut failures = 0;
        loop {
            let link = tokio::select! {
                link = self.connect() => link,
                () = self.close.cancelled() => return,
            };
            let started = Instant::now();
            let ended = tokio::select! {
                ended = self.session(&link) => ended,
                () = self.close.cancelled() => Ended::Closed,
            };
            self.state.send_replace(Consuming::default());
            self.inbox.ready.send_replace(false);
            match ended {
                Ended::Closed => {
                    self.delete_fanout_queues(&link).await;
                    return link.close().await;
                }
                Ended::Lost(reason) => {
                    self.counters.disconnects.add();
                    warn!(broker = link.broker, reason, "lost the connection to RabbitMQ");
                }
            }
            // What has broken is not waited for.
            link.cut();
            failures = if started.elapsed() > STEADY_AFTER { 0 } else { failures + 1 };
            let delay = self.options.retry_delay(failures, fastrand::f64());
            tokio::select! {
                () = sleep(delay) => {}
                () = self.close.cancelled() => return,
            }
        }
    }

    async fn connect(&self) -> Link {
        if self.topics.is_empty() {
            // A client only: nothing to consume before the first call. The sender is ours.
            let mut wanted = self.inbox.wanted.subscribe();
            wanted.wait_for(|wanted| *wanted).await.ok();
        }
        self.brokers.connect("consume").await
    }

    async fn session(&self, link: &Link) -> Ended {
        match self.consume(link).await {
            Ok(ended) => ended,
            Err(error) => error.into(),
        }
    }

    async fn consume(&self, link: &Link) -> Result<Ended, lapin::Error> {
        let mut reading = JoinSet::new();
        // A channel closes with its last handle, and acknowledgements need it to the end.
        let mut channels = Vec::new();
        let mut tag = 0;
        if !self.stop.is_cancelled() {
            for topic in &self.topics {
                let channel = link.connection.create_channel().await?;
                if self.options.rabbit_qos_prefetch_count > 0 {
                    let prefetch = self.options.rabbit_qos_prefetch_count;
                    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
                }
                for queue in topic.spec.queues() {
                    declare::queue(link, queue).await?;
                    tag += 1;
                    let consumer = self.start(&channel, queue, topic, tag).await?;
                    let (desk, topic) = (self.desk.clone(), topic.clone());
                    let (stop, channel) = (self.stop.clone(), channel.clone());
                    reading.spawn(read_requests(consumer, channel, desk, topic, stop));
                }
                channels.push(channel);
            }
        }
        let mut wanted = self.inbox.wanted.subscribe();
        if *wanted.borrow_and_update() {
            channels.push(self.start_replies(link, &mut reading).await?);
        }
        if !self.topics.is_empty() && !self.stop.is_cancelled() {
            let topics: Vec<_> = self.topics.iter().map(|topic| topic.name.as_str()).collect();
            info!(broker = link.broker, topics = topics.join(","), "consuming from RabbitMQ");
            let (since, broker) = (Some(Instant::now()), Some(link.broker.clone()));
            self.state.send_replace(Consuming { since, broker });
        }
        let mut stopped = self.stop.is_cancelled();
        loop {
            tokio::select! {
                Some(ended) = reading.join_next() => match ended {
                    Ok(Read::Stopped) => {}
                    Ok(Read::Lost(reason)) => return Ok(Ended::Lost(reason)),
                    Err(panic) => return Ok(Ended::Lost(panic.to_string())),
                },
                Ok(()) = wanted.changed(), if !*self.inbox.ready.borrow() => {
                    channels.push(self.start_replies(link, &mut reading).await?);
                }
                () = self.distrusted.notified() => {
                    return Ok(Ended::Lost("our own ping did not come back".into()));
                }
                () = self.stop.cancelled(), if !stopped => {
                    stopped = true;
                    self.state.send_replace(Consuming::default());
                }
            }
        }
    }

    async fn start(
        &self,
        channel: &Channel,
        queue: &QueueSpec,
        topic: &Topic,
        tag: u32,
    ) -> Result<Consumer, lapin::Error> {
        let mut arguments = FieldTable::default();
        if self.options.enable_cancel_on_failover {
            arguments.insert("x-cancel-on-ha-failover".into(), AMQPValue::Boolean(true));
        }
        if queue.stream {
            let offset = match topic.offset.load(Ordering::Relaxed) {
                -1 => AMQPValue::LongString("last".into()),
                last => AMQPValue::LongLongInt(last + 1),
            };
            arguments.insert("x-stream-offset".into(), offset);
        }
        let (name, tag) = (queue.name.as_str(), tag.to_string());
        let options = BasicConsumeOptions::default();
        channel.basic_consume(name.into(), tag.as_str().into(), options, arguments).await
    }

    async fn start_replies(
        &self,
        link: &Link,
        reading: &mut JoinSet<Read>,
    ) -> Result<Channel, lapin::Error> {
        let queue = topology::reply_queue(&self.options, &self.inbox.queue);
        declare::queue(link, &queue).await?;
        let channel = link.connection.create_channel().await?;
        let options = BasicConsumeOptions::default();
        let name = queue.name.as_str();
        let consumer =
            channel.basic_consume(name.into(), "replies".into(), options, FieldTable::default());
        reading.spawn(read_replies(consumer.await?, self.inbox.clone()));
        self.inbox.ready.send_replace(true);
        Ok(channel)
    }

    /// Nobody will read them: without us they would fill until they expire.
    async fn delete_fanout_queues(&self, link: &Link) {
        // One of a lasting name is this agent's again when it comes back.
        if !link.is_up() || self.options.use_queue_manager {
            return;
        }
        for topic in self.topics.iter().filter(|topic| !topic.spec.fanout.stream) {
            let deleting = async {
                let channel = link.connection.create_channel().await?;
                let name = topic.spec.fanout.name.as_str();
                channel.queue_delete(name.into(), QueueDeleteOptions::default()).await
            };
            let within = Duration::from_secs(2);
            match tokio::time::timeout(within, deleting).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => debug!(%error, "a fanout queue is left to expire"),
                Err(_) => debug!("a fanout queue is left to expire"),
            }
        }
    }
}

async fn read_requests(
    mut consumer: Consumer,
    channel: Channel,
    desk: Arc<Desk>,
    topic: Arc<Topic>,
    stop: CancellationToken,
) -> Read {
    loop {
        let delivery = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            delivery = consumer.next() => delivery,
        };
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Read::Lost(error.to_string()),
            None => return Read::Lost(format!("queue {} is gone", consumer.queue())),
        };
        remember_offset(&delivery, &topic);
        tokio::select! {
            // What the handler has no room for now stays with the broker.
            () = desk.take(delivery, &topic.name) => {}
            () = stop.cancelled() => break,
        }
    }
    let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
    if let Err(error) = cancelled {
        debug!(%error, "a consumer ended before it was cancelled");
    }
    Read::Stopped
}

async fn read_replies(mut consumer: Consumer, inbox: Arc<Inbox>) -> Read {
    loop {
        // All that are there are acknowledged at once: the channel carries nothing else.
        let mut next = consumer.next().await;
        let last = loop {
            let acker = match next {
                Some(Ok(delivery)) => {
                    match unpack(&delivery.data, delivery.properties.headers().as_ref()) {
                        Ok(body) => inbox.take(&body),
                        Err(error) => warn!(%error, "a message in the reply queue is no reply"),
                    }
                    delivery.acker
                }
                Some(Err(error)) => return Read::Lost(error.to_string()),
                None => return Read::Lost("the reply queue is gone".into()),
            };
            match consumer.next().now_or_never() {
                Some(more) => next = more,
                None => break acker,
            }
        };
        if let Err(error) = last.ack(BasicAckOptions { multiple: true }).await {
            return Read::Lost(error.to_string());
        }
    }
}

fn remember_offset(delivery: &Delivery, topic: &Topic) {
    let headers = delivery.properties.headers().as_ref();
    let offset = headers.and_then(|headers| headers.inner().get("x-stream-offset"));
    if let Some(AMQPValue::LongLongInt(offset)) = offset {
        topic.offset.store(*offset, Ordering::Relaxed);
    }
}
