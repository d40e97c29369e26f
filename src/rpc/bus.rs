//! The message bus as the rest of the agent sees it: requests come out of a channel, and a client
//! and a notifier send. At most two connections, one that consumes and one that publishes.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::class::Class;
use crate::rpc::amqp::{Consuming, Supervisor, Topic};
use crate::rpc::client::{Client, Inbox};
use crate::rpc::counters::{Counters, Counts};
use crate::rpc::desk::{Desk, Pings};
use crate::rpc::duplicates::Duplicates;
use crate::rpc::incoming::Incoming;
use crate::rpc::link::Brokers;
use crate::rpc::notify::{self, Notifier, NotifyOptions};
use crate::rpc::options::{OptionsError, RabbitOptions};
use crate::rpc::publisher::{MAX_NAME, Publisher};
use crate::rpc::replies::Replies;
use crate::rpc::tls::TlsError;
use crate::rpc::topology::TopicSpec;
use crate::rpc::transport_url::TransportUrl;
use crate::rpc::watchdog::{self, Watchdog};

/// Requests that wait for the handler. What doesn't fit stays with the broker.
const BACKLOG: usize = 64;

/// What a bus needs to know.
#[derive(Debug, Clone)]
pub struct BusSettings {
    pub url: TransportUrl,
    /// The section as configured; the URL's query overrides it.
    pub options: RabbitOptions,
    /// `[DEFAULT] host`, verbatim.
    pub host: String,
    /// `[DEFAULT] control_exchange`: `nova`.
    pub control_exchange: String,
    /// Served; none for a client only.
    pub topics: Vec<String>,
    /// `None`: no pings to ourselves.
    pub watchdog: Option<Watchdog>,
}

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("host, control_exchange and topic make a name of more than {MAX_NAME} bytes")]
    Name,
}

impl BusError {
    /// Only the operator can help.
    pub fn class(&self) -> Class {
        Class::Refused
    }
}

/// What is to be shown of a bus.
#[derive(Debug, Clone, PartialEq)]
pub struct BusState {
    pub consuming: Consuming,
    pub publishing: bool,
    pub counts: Counts,
}

/// The bus.
#[derive(Debug)]
pub struct Bus {
    client: Client,
    publisher: Arc<Publisher>,
    replies: Arc<Replies>,
    options: RabbitOptions,
    control_exchange: String,
    counters: Arc<Counters>,
    state: watch::Receiver<Consuming>,
    stop: CancellationToken,
    close: CancellationToken,
    supervisor: JoinHandle<()>,
    watchdog: Option<JoinHandle<()>>,
    notifiers: TaskTracker,
    stop_notifying: CancellationToken,
}

impl Bus {
    /// Starts connecting, and returns at once: a broker that is away now is waited for in the
    /// background, for ever. Requests come out of the receiver.
    ///
    /// # Errors
    /// What no waiting would mend: contradicting options, unreadable certificates.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(settings: BusSettings) -> Result<(Self, mpsc::Receiver<Incoming>), BusError> {
        let options = settings.url.options(&settings.options)?;
        options.check()?;
        let inbox = Arc::new(Inbox::new(&options.queue_suffix(1)));
        let longest = settings.topics.iter().map(String::len).max().unwrap_or(0);
        // "_fanout_" and an id are the most that is put after a topic besides the host.
        let id = inbox.queue.len() + "_fanout_".len();
        let longest = longest + 1 + settings.host.len().max(id);
        if longest.max(settings.control_exchange.len()) > MAX_NAME {
            return Err(BusError::Name);
        }
        let brokers = Arc::new(Brokers::new(&settings.url, &options)?);
        let counters = Arc::new(Counters::default());
        let publisher =
            Arc::new(Publisher::new(brokers.clone(), counters.clone(), options.kombu_compression));
        let replies = Arc::new(Replies::new(publisher.clone(), counters.clone(), &options));
        let exchange = settings.control_exchange;
        let client = Client::new(publisher.clone(), &options, &exchange, inbox.clone());
        let (handler, requests) = mpsc::channel(BACKLOG);
        let desk = Arc::new(Desk {
            handler,
            replies: replies.clone(),
            duplicates: Duplicates::default(),
            pings: Pings::default(),
            counters: counters.clone(),
        });
        let topic = |(index, name): (usize, &String)| {
            let id = options.queue_suffix(index + 2);
            let spec = TopicSpec::new(&options, &exchange, name, &settings.host, &id);
            Arc::new(Topic { name: name.clone(), spec, offset: AtomicI64::new(-1) })
        };
        let topics: Vec<_> = settings.topics.iter().enumerate().map(topic).collect();
        let (state, states) = watch::channel(Consuming::default());
        let (stop, close) = (CancellationToken::new(), CancellationToken::new());
        let distrusted = Arc::new(Notify::new());
        let watchdog = settings.watchdog.filter(|_| !topics.is_empty()).map(|settings| {
            tokio::spawn(watchdog::run(
                settings,
                topics.clone(),
                desk.clone(),
                publisher.clone(),
                counters.clone(),
                states.clone(),
                distrusted.clone(),
            ))
        });
        let supervisor = Supervisor {
            brokers,
            options: options.clone(),
            topics,
            desk,
            inbox,
            counters: counters.clone(),
            state,
            distrusted,
            stop: stop.clone(),
            close: close.clone(),
        };
        let bus = Self {
            client,
            publisher,
            replies,
            options,
            control_exchange: exchange,
            counters,
            state: states,
            stop,
            close,
            supervisor: tokio::spawn(supervisor.run()),
            watchdog,
            notifiers: TaskTracker::new(),
            stop_notifying: CancellationToken::new(),
        };
        Ok((bus, requests))
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A notifier over this bus's connection. For a `transport_url` of its own, make a second bus
    /// without topics: it connects once something is sent.
    pub fn notifier(&self, options: NotifyOptions) -> Notifier {
        Notifier::new(
            self.publisher.clone(),
            &self.options,
            &self.control_exchange,
            options,
            self.counters.clone(),
            &self.notifiers,
            self.stop_notifying.clone(),
        )
    }

    pub fn state(&self) -> BusState {
        BusState {
            consuming: self.state.borrow().clone(),
            publishing: self.publisher.is_up(),
            counts: self.counters.read(),
        }
    }

    /// Reads the counts, for as long as anybody likes.
    pub fn counts(&self) -> impl Fn() -> Counts + Send + Sync + use<> {
        let counters = self.counters.clone();
        move || counters.read()
    }

    /// Follows whether requests arrive.
    pub fn watch(&self) -> watch::Receiver<Consuming> {
        self.state.clone()
    }

    /// Returns once every queue is consumed.
    pub async fn consuming(&self) {
        // The sender lives as long as the supervisor; after it nothing is consumed again.
        if self.watch().wait_for(|state| state.since.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes no more requests. Those that were delivered and not accepted go back to the broker
    /// when the bus closes; acknowledgements, replies, calls and casts go on.
    pub fn stop_consuming(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.abort();
        }
        self.stop.cancel();
    }

    /// Stops consuming, gives answers and notifications that are under way up to `within` to go
    /// out, deletes the fanout queues and closes both connections.
    pub async fn close(self, within: Duration) {
        self.stop_consuming();
        timeout(within, self.replies.finish()).await.ok();
        self.stop_notifying.cancel();
        notify::finish(&self.notifiers, within).await;
        self.close.cancel();
        // A panic of it was logged by the runtime's hook, and nothing is left to be closed then.
        self.supervisor.await.ok();
        self.publisher.close().await;
    }
}

/// Tries every broker of a URL once, and says what came of it: for a check of the configuration.
pub async fn probe(
    url: &TransportUrl,
    options: &RabbitOptions,
) -> Result<Vec<(String, Result<(), String>)>, BusError> {
    let options = url.options(options)?;
    options.check()?;
    let mut found = Vec::new();
    for (broker, link) in Brokers::new(url, &options)?.try_each().await {
        let result = match link {
            Ok(link) => {
                link.close().await;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        };
        found.push((broker, result));
    }
    Ok(found)
}
