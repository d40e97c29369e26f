//! Where deliveries are looked at: a request for the handler, our own ping, a copy of something
//! that came before, or nothing that can be read. Every delivery ends here with one decision, and
//! nothing that arrives is worth more than one line of log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::BasicRejectOptions;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::rpc::compression::unpack;
use crate::rpc::counters::Counters;
use crate::rpc::duplicates::{Arrival, Duplicates, acknowledge};
use crate::rpc::envelope::{self, EnvelopeError, ReceivedRequest, RpcRequest};
use crate::rpc::failure::Fault;
use crate::rpc::incoming::{Ack, Incoming, Source};
use crate::rpc::replies::Replies;

/// The method of the message that we send to ourselves. No endpoint has it.
const SELF_PING: &str = "hypernova_self_ping";

/// Takes deliveries from any topic.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) handler: mpsc::Sender<Incoming>,
    pub(crate) replies: Arc<Replies>,
    pub(crate) duplicates: Duplicates,
    pub(crate) pings: Pings,
    pub(crate) counters: Arc<Counters>,
}

/// Our own pings under way.
#[derive(Debug, Default)]
pub(crate) struct Pings(Mutex<HashMap<String, oneshot::Sender<()>>>);

impl Pings {
    /// A ping's body, and what resolves when it comes back.
    pub(crate) fn new_ping(&self) -> (Vec<u8>, oneshot::Receiver<()>) {
        let request = RpcRequest::new(SELF_PING, "1.0", Map::new());
        let id = request.unique_id.clone().unwrap_or_default();
        let (arrived, arrival) = oneshot::channel();
        let mut pings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that never came back are nobody's any more.
        pings.retain(|_, waiting| !waiting.is_closed());
        pings.insert(id, arrived);
        let message = ReceivedRequest { request, context: Default::default(), reply: None };
        (envelope::seal(&message.write()), arrival)
    }

    fn arrived(&self, message: &Map<String, Value>) -> bool {
        if message.get("method").and_then(Value::as_str) != Some(SELF_PING) {
            return false;
        }
        let id = message.get("_unique_id").and_then(Value::as_str).unwrap_or_default();
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        // One of an earlier process of this host, or one that comes late, is nobody's.
        if let Some(waiting) = waiting {
            waiting.send(()).ok();
        }
        true
    }
}

impl Desk {
    /// The handler has more waiting than it may: what doesn't arrive is not the broker's fault.
    pub(crate) fn is_full(&self) -> bool {
        self.handler.capacity() == 0
    }

    /// Decides about one delivery.
    ///
    /// # Cancel safety
    /// Dropped while the handler has no room, the message stays with the broker, unanswered.
    pub(crate) async fn take(&self, delivery: Delivery, topic: &str) {
        let message = match open(&delivery) {
            Ok(message) => message,
            Err(error) => {
                self.counters.rejected.add();
                warn!(topic, bytes = delivery.data.len(), %error, "a message was rejected");
                let options = BasicRejectOptions { requeue: false };
                return drop(delivery.acker.reject(options).await);
            }
        };
        if self.pings.arrived(&message) {
            return acknowledge(&delivery.acker).await;
        }
        let waits = expiration(&delivery);
        let received = match ReceivedRequest::read(message) {
            Ok(received) => received,
            Err(broken) => {
                self.counters.rejected.add();
                warn!(topic, reason = broken.reason, "a request was refused");
                acknowledge(&delivery.acker).await;
                if let Some(address) = broken.reply {
                    let fault = Fault::builtin("ValueError", broken.reason);
                    self.replies.reply_to(&address, waits).send(Err(fault));
                }
                return;
            }
        };
        let ReceivedRequest { request, context, reply } = received;
        let unacked = match self.duplicates.arrive(request.unique_id.as_deref(), delivery.acker) {
            Arrival::New(unacked) => unacked,
            Arrival::Pending => {
                self.counters.duplicates.add();
                return debug!(
                    topic,
                    method = request.method,
                    "a request came again, still pending"
                );
            }
            Arrival::Accepted(acker) => {
                self.counters.duplicates.add();
                debug!(topic, method = request.method, "a request came twice");
                return acknowledge(&acker).await;
            }
        };
        self.counters.requests.add();
        // No answer is promised before there is room: until then the message is the broker's.
        let Ok(room) = self.handler.reserve().await else { return };
        room.send(Incoming {
            request,
            context,
            reply: reply.map(|address| self.replies.reply_to(&address, waits)),
            ack: Ack::of(unacked),
            source: Source::Broker { topic: topic.to_owned() },
        });
    }
}

fn open(delivery: &Delivery) -> Result<Map<String, Value>, EnvelopeError> {
    envelope::open(&unpack(&delivery.data, delivery.properties.headers().as_ref())?)
}

/// How long the caller waits: oslo's client gives its timeout to the message, in milliseconds.
fn expiration(delivery: &Delivery) -> Option<Duration> {
    let text = delivery.properties.expiration().as_ref()?;
    text.as_str().parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_ping_is_recognised_and_nobody_elses_message_is() {
        let pings = Pings::default();
        let (body, mut arrival) = pings.new_ping();
        let message = envelope::open(&body).expect("an envelope");
        assert!(arrival.try_recv().is_err());
        assert!(pings.arrived(&message));
        assert!(arrival.try_recv().is_ok());
        // A late or foreign one is still a ping, and no request.
        assert!(pings.arrived(&message));
        let Value::Object(other) = serde_json::json!({"method": "start"}) else { unreachable!() };
        assert!(!pings.arrived(&other));
    }
}
