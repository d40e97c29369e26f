//! Our own calls and casts to other services: the conductor, the scheduler, other computes.
//!
//! Answers come to one queue of this process, declared with the first call and again after each
//! reconnect; `_msg_id` says whose an answer is.
//!
//! oslo.messaging: rpc/client.py; _drivers/amqpdriver.py, ReplyWaiters

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::rpc::envelope::{self, ReceivedRequest, Reply, ReplyAddress, RpcRequest, new_id};
use crate::rpc::failure::RemoteFailure;
use crate::rpc::options::RabbitOptions;
use crate::rpc::publisher::{Destination, Publication, Publisher};
use crate::rpc::topology;

/// A service, and which of its interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub topic: String,
    /// `None`: any server of the topic.
    pub server: Option<String>,
    pub namespace: Option<String>,
    pub version: String,
}

impl Target {
    pub fn new(topic: &str, version: &str) -> Self {
        let (topic, version) = (topic.to_owned(), version.to_owned());
        Self { topic, server: None, namespace: None, version }
    }

    pub fn at(mut self, server: &str) -> Self {
        self.server = Some(server.to_owned());
        self
    }

    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }
}

/// How long a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// For the answer, in all.
    pub timeout: Duration,
    /// And at most so long between two signs of life, which the server is asked to give.
    pub monitor: Option<Duration>,
}

impl Wait {
    /// `rpc_response_timeout`, as it were.
    pub fn of(timeout: Duration) -> Self {
        Self { timeout, monitor: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{method} got no answer from {topic} within {after:?}")]
    Timeout { method: String, topic: String, after: Duration },
    #[error("{0}")]
    Remote(Box<RemoteFailure>),
    #[error("{method} could not be sent to {topic}: {reason}")]
    Transport { method: String, topic: String, reason: String },
}

impl CallError {
    pub fn class(&self) -> Class {
        match self {
            Self::Timeout { .. } | Self::Transport { .. } => Class::Transient,
            Self::Remote(failure) if failure.class.ends_with("NotFound") => Class::Absent,
            Self::Remote(failure) if failure.class == "MessagingTimeout" => Class::Transient,
            Self::Remote(_) => Class::Refused,
        }
    }
}

/// Sends requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    publisher: Arc<Publisher>,
    options: RabbitOptions,
    exchange: String,
    inbox: Arc<Inbox>,
}

/// Where answers arrive. The consuming side fills it.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) queue: String,
    /// Somebody has called: the queue is needed.
    pub(crate) wanted: watch::Sender<bool>,
    /// The queue is declared and consumed.
    pub(crate) ready: watch::Sender<bool>,
    waiters: Mutex<HashMap<String, mpsc::UnboundedSender<Reply>>>,
    recent: Mutex<VecDeque<String>>,
}

const RECENT_REPLIES: usize = 64;

impl Inbox {
    /// `suffix` is in its queue's name: nobody else may have it.
    pub(crate) fn new(suffix: &str) -> Self {
        Self {
            queue: format!("reply_{suffix}"),
            wanted: watch::Sender::new(false),
            ready: watch::Sender::new(false),
            waiters: Mutex::default(),
            recent: Mutex::default(),
        }
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<String, mpsc::UnboundedSender<Reply>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an answer to who waits for it.
    pub(crate) fn take(&self, body: &[u8]) {
        let reply = match envelope::open(body).and_then(Reply::read) {
            Ok(reply) => reply,
            Err(error) => return warn!(%error, "a message in the reply queue is no reply"),
        };
        if let Some(id) = &reply.unique_id {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.contains(id) {
                return debug!(msg_id = reply.msg_id, "an answer came twice");
            }
            recent.push_back(id.clone());
            if recent.len() > RECENT_REPLIES {
                recent.pop_front();
            }
        }
        let waiter = self.waiters().get(&reply.msg_id).cloned();
        match waiter {
            // It may have given up in this moment.
            Some(waiter) => drop(waiter.send(reply)),
            None => debug!(msg_id = reply.msg_id, "an answer came too late"),
        }
    }
}

/// Forgets the waiter, however the call ends.
struct Waiting<'a> {
    inbox: &'a Inbox,
    msg_id: &'a str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inbox.waiters().remove(self.msg_id);
    }
}

impl Client {
    pub(crate) fn new(
        publisher: Arc<Publisher>,
        options: &RabbitOptions,
        exchange: &str,
        inbox: Arc<Inbox>,
    ) -> Self {
        let (options, exchange) = (options.clone(), exchange.to_owned());
        Self(Arc::new(Shared { publisher, options, exchange, inbox }))
    }

    /// Asks and waits for the answer. The request disappears from the broker when nobody has taken
    /// it by the time that we wait no longer.
    ///
    /// # Errors
    /// `Timeout`: the method may have run, may run yet, or never. `Remote`: it raised.
    /// `Transport`: the request was never taken by a broker.
    ///
    /// # Cancel safety
    /// Dropped, the request may still be carried out; its answer is thrown away.
    pub async fn call(
        &self,
        target: &Target,
        method: &str,
        args: Map<String, Value>,
        context: &RequestContext,
        wait: Wait,
    ) -> Result<Value, CallError> {
        let timed_out = |after| CallError::Timeout {
            method: method.to_owned(),
            topic: target.topic.clone(),
            after,
        };
        let deadline = Instant::now() + wait.timeout;
        let inbox = &self.0.inbox;
        inbox.wanted.send_replace(true);
        let mut ready = inbox.ready.subscribe();
        let unsent = |reason: &str| CallError::Transport {
            method: method.to_owned(),
            topic: target.topic.clone(),
            reason: reason.to_owned(),
        };
        match timeout_at(deadline, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(unsent("the bus is closed")),
            Err(_) => return Err(unsent("no connection to RabbitMQ")),
        }
        let msg_id = new_id();
        let (sender, mut answers) = mpsc::unbounded_channel();
        inbox.waiters().insert(msg_id.clone(), sender);
        let _waiting = Waiting { inbox, msg_id: &msg_id };
        let reply = ReplyAddress {
            msg_id: msg_id.clone(),
            reply_queue: inbox.queue.clone(),
            monitor: wait.monitor,
        };
        let message = request(target, method, args, context, Some(reply));
        let publication =
            Publication { expiration: Some(wait.timeout), ..self.to(target, &message) };
        match self.0.publisher.publish(&publication, Some(deadline)).await {
            Ok(()) => {}
            Err(error) => return Err(unsent(&error.to_string())),
        }
        let mut early = None;
        loop {
            let heard_by = match wait.monitor {
                Some(monitor) => deadline.min(Instant::now() + monitor),
                None => deadline,
            };
            let reply = match timeout_at(heard_by, answers.recv()).await {
                Ok(Some(reply)) => reply,
                Ok(None) => return Err(unsent("the bus is closed")),
                Err(_) if heard_by < deadline => {
                    return Err(timed_out(wait.monitor.unwrap_or(wait.timeout)));
                }
                Err(_) => return Err(timed_out(wait.timeout)),
            };
            // Historic servers send the result first and the ending after it.
            let empty = reply.outcome == Ok(Value::Null);
            if reply.ending {
                let outcome = match early {
                    Some(outcome) if empty => outcome,
                    _ => reply.outcome,
                };
                return outcome.map_err(|failure| CallError::Remote(Box::new(failure)));
            }
            if !empty {
                early = Some(reply.outcome);
            }
        }
    }

    /// Sends, and returns when a broker has the message: nobody may ever read it. `within` bounds
    /// how long to look for a broker.
    pub async fn cast(
        &self,
        target: &Target,
        method: &str,
        args: Map<String, Value>,
        context: &RequestContext,
        within: Duration,
    ) -> Result<(), CallError> {
        let message = request(target, method, args, context, None);
        self.publish(target, method, self.to(target, &message), within).await
    }

    /// A cast to every server of the topic.
    pub async fn fanout(
        &self,
        target: &Target,
        method: &str,
        args: Map<String, Value>,
        context: &RequestContext,
        within: Duration,
    ) -> Result<(), CallError> {
        let message = request(target, method, args, context, None);
        let exchange = topology::fanout_exchange(&self.0.options, &target.topic);
        let publication = Publication {
            to: Destination::Exchange { exchange, routing_key: String::new() },
            body: envelope::seal(&message.write()),
            expiration: None,
        };
        self.publish(target, method, publication, within).await
    }

    async fn publish(
        &self,
        target: &Target,
        method: &str,
        publication: Publication,
        within: Duration,
    ) -> Result<(), CallError> {
        let deadline = Instant::now() + within;
        self.0.publisher.publish(&publication, Some(deadline)).await.map_err(|error| {
            CallError::Transport {
                method: method.to_owned(),
                topic: target.topic.clone(),
                reason: error.to_string(),
            }
        })
    }

    fn to(&self, target: &Target, message: &ReceivedRequest) -> Publication {
        let routing_key = match &target.server {
            Some(server) => format!("{}.{server}", target.topic),
            None => target.topic.clone(),
        };
        let exchange = topology::topic_exchange(&self.0.options, &self.0.exchange);
        Publication {
            to: Destination::Exchange { exchange, routing_key },
            body: envelope::seal(&message.write()),
            expiration: None,
        }
    }
}

fn request(
    target: &Target,
    method: &str,
    args: Map<String, Value>,
    context: &RequestContext,
    reply: Option<ReplyAddress>,
) -> ReceivedRequest {
    let mut request = RpcRequest::new(method, &target.version, args);
    request.namespace = target.namespace.clone();
    ReceivedRequest { request, context: context.clone(), reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(msg_id: &str) -> Vec<u8> {
        envelope::seal(&envelope::final_reply(msg_id, Ok(Value::Null)))
    }

    #[test]
    fn an_answer_finds_its_waiter_once_and_only_while_it_waits() {
        let inbox = Inbox::new("1");
        let (sender, mut answers) = mpsc::unbounded_channel();
        inbox.waiters().insert("1".into(), sender);
        let body = answer("1");
        inbox.take(&body);
        inbox.take(&body);
        inbox.take(&answer("2"));
        inbox.take(b"garbage");
        assert_eq!(answers.try_recv().expect("the answer").msg_id, "1");
        assert!(answers.try_recv().is_err());
        drop(Waiting { inbox: &inbox, msg_id: "1" });
        assert!(inbox.waiters().is_empty());
    }

    #[test]
    fn a_remote_not_found_is_absent() {
        let class = |class: &str| {
            let failure = RemoteFailure::from_wire(&serde_json::json!({"class": class}));
            CallError::Remote(Box::new(failure)).class()
        };
        assert_eq!(class("InstanceNotFound"), Class::Absent);
        assert_eq!(class("MessagingTimeout"), Class::Transient);
        assert_eq!(class("Forbidden"), Class::Refused);
    }
}
