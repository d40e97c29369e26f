//! One connection to one of the URL's brokers, and how to get the next one.
//!
//! lapin's own recovery stays off: it cannot change hosts, and what must be declared again is ours
//! to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Connection, ConnectionProperties};
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::rpc::options::{Failover, LoginMethod, RabbitOptions};
use crate::rpc::tls::{self, TlsError};
use crate::rpc::transport_url::{BrokerHost, TransportUrl};
use crate::rpc::wire::{self, Cutter, Wire};

/// TCP and TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// TCP, TLS and AMQP.
const OPEN_WITHIN: Duration = Duration::from_secs(20);
/// lapin keeps 32 frames of buffer each way for each connection: with RabbitMQ's 128 KiB that is
/// 16 MiB for an agent that rarely sends more than one frame of this size.
const FRAME_MAX: u32 = 16 * 1024;
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// The brokers of a URL, and what a connection to one needs.
#[derive(Debug)]
pub(crate) struct Brokers {
    hosts: Vec<BrokerHost>,
    vhost: String,
    options: RabbitOptions,
    tls: Option<Arc<ClientConfig>>,
    next: AtomicUsize,
}

/// Why one broker could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Refused(#[from] lapin::Error),
}

/// A connection that is up, or was. Dropped, it is cut.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// `host:port`, for logs.
    pub(crate) broker: String,
    cutter: Cutter,
}

impl Brokers {
    /// The hosts are tried in a random order, so that a cloud's agents spread over them.
    pub(crate) fn new(url: &TransportUrl, options: &RabbitOptions) -> Result<Self, TlsError> {
        let mut hosts = url.hosts.clone();
        fastrand::shuffle(&mut hosts);
        Ok(Self {
            hosts,
            vhost: url.vhost.clone(),
            tls: tls::client_config(options)?,
            options: options.clone(),
            next: AtomicUsize::new(0),
        })
    }

    /// A connection to the next host that has one, asking for ever. `purpose` names it in
    /// RabbitMQ's listings.
    ///
    /// # Cancel safety
    /// Dropped, it leaves no connection behind.
    pub(crate) async fn connect(&self, purpose: &str) -> Link {
        let mut attempt = 0;
        loop {
            for _ in 0..self.hosts.len() {
                match self.try_next(purpose).await {
                    Ok(link) => {
                        info!(broker = link.broker, purpose, attempt, "connected to RabbitMQ");
                        return link;
                    }
                    Err((broker, error)) => {
                        warn!(broker, purpose, attempt, %error, "no connection to RabbitMQ");
                    }
                }
            }
            attempt += 1;
            sleep(self.options.retry_delay(attempt, fastrand::f64())).await;
        }
    }

    /// One try at the next host of the list.
    pub(crate) async fn try_next(&self, purpose: &str) -> Result<Link, (String, LinkError)> {
        let index = match self.options.kombu_failover_strategy {
            Failover::RoundRobin => self.next.fetch_add(1, Ordering::Relaxed) % self.hosts.len(),
            Failover::Shuffle => fastrand::usize(..self.hosts.len()),
        };
        let host = &self.hosts[index];
        self.open(host, purpose).await.map_err(|error| (host.address(), error))
    }

    /// Each host once, in the URL's shuffled order: for a check of the configuration.
    pub(crate) async fn try_each(&self) -> Vec<(String, Result<Link, LinkError>)> {
        let mut found = Vec::new();
        for host in &self.hosts {
            found.push((host.address(), self.open(host, "check").await));
        }
        found
    }

    async fn open(&self, host: &BrokerHost, purpose: &str) -> Result<Link, LinkError> {
        let cutter = Cutter::default();
        let silence = self.options.heartbeat_timeout_threshold;
        let (hostname, port) = (host.hostname.clone(), host.port);
        let (tls, slot) = (self.tls.clone(), cutter.slot());
        let dial = async move |_: AMQPUri, _: wire::WireRuntime| {
            let connect = Wire::connect(&hostname, port, tls.clone(), silence, &slot);
            match timeout(CONNECT_WITHIN, connect).await {
                Ok(Ok(wire)) => Ok(AsyncTcpStream::Plain(wire)),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        };
        let name = format!("hypernova:{}:{purpose}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let opening = Connection::connector(self.uri(host), wire::runtime(), dial, properties);
        let connection =
            timeout(OPEN_WITHIN, opening).await.map_err(|_| LinkError::Silent(OPEN_WITHIN))??;
        Ok(Link { connection, broker: host.address(), cutter })
    }

    fn uri(&self, host: &BrokerHost) -> AMQPUri {
        AMQPUri {
            // TLS is the wire's business.
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: host.username.clone(),
                    password: host.password.expose().to_owned(),
                },
                host: host.hostname.clone(),
                port: host.port,
            },
            vhost: self.vhost.clone(),
            query: AMQPQueryString {
                frame_max: Some(FRAME_MAX),
                heartbeat: Some(
                    u16::try_from(self.options.heartbeat_timeout_threshold.as_secs())
                        .unwrap_or(u16::MAX),
                ),
                auth_mechanism: Some(match self.options.rabbit_login_method {
                    LoginMethod::Plain => SASLMechanism::Plain,
                    LoginMethod::AmqPlain => SASLMechanism::AMQPlain,
                    LoginMethod::External => SASLMechanism::External,
                    LoginMethod::RabbitCrDemo => SASLMechanism::RabbitCrDemo,
                }),
                ..AMQPQueryString::default()
            },
        }
    }
}

impl Link {
    pub(crate) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// The broker is pressed for memory or disk and takes no messages for now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ends it at once: every use of it fails from here on.
    pub(crate) fn cut(&self) {
        self.cutter.cut();
    }

    /// Says goodbye, and doesn't wait long for an answer.
    pub(crate) async fn close(self) {
        if self.is_up() {
            // Cut next, whatever came of it.
            timeout(CLOSE_WITHIN, self.connection.close(200, "OK".into())).await.ok();
        }
    }
}
