//! A request as its handler gets it: what to do, on whose behalf, where the answer goes, and how to
//! say that it won't be lost any more.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::model::context::RequestContext;
use crate::rpc::duplicates::Unacked;
use crate::rpc::envelope::{self, ReplyAddress, RpcRequest};
use crate::rpc::failure::Fault;

/// One request, from the broker or from the local socket.
#[derive(Debug)]
pub struct Incoming {
    pub request: RpcRequest,
    pub context: RequestContext,
    /// `None` for a cast: nobody waits.
    pub reply: Option<ReplyTo>,
    pub ack: Ack,
    pub source: Source,
}

impl Incoming {
    /// Leaves a request to the agent's next run: not acknowledged, and not answered now. The local
    /// socket has no next run: its caller learns that the request was dropped.
    pub fn hand_back(self) {
        if let Some(reply) = self.reply {
            reply.hand_back(&self.source);
        }
    }
}

/// Which door it came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Broker { topic: String },
    Local { peer_uid: u32 },
}

/// The broker's copy of a request. It stays until [`Ack::accept`]; dropped without it, the broker
/// delivers the request again after the next reconnect.
#[derive(Debug)]
pub struct Ack(Option<Unacked>);

impl Ack {
    pub(crate) fn of(delivery: Unacked) -> Self {
        Self(Some(delivery))
    }

    /// There is no copy: the local socket, and tests.
    pub fn none() -> Self {
        Self(None)
    }

    /// The request is durably ours: the broker may forget it. If that doesn't reach the broker
    /// because the connection has just broken, the redelivery is recognised and dropped.
    pub async fn accept(self) {
        if let Some(delivery) = self.0 {
            delivery.accept().await;
        }
    }
}

/// Takes replies to where they go.
#[async_trait]
pub(crate) trait ReplySink: Send + Sync {
    /// Sends the last message of a call, in the background, as long as the caller may wait for it.
    fn answer(&self, message: Map<String, Value>);

    /// Sends a sign of life; false when nobody is there to hear it.
    async fn heartbeat(&self, message: Map<String, Value>) -> bool;
}

/// The one answer to a call. Until it is given the caller gets the signs of life it asked for;
/// dropped unanswered, it answers with a failure, so that nobody waits in vain.
pub struct ReplyTo {
    msg_id: String,
    sink: Arc<dyn ReplySink>,
    heartbeat: Option<AbortHandle>,
    answered: bool,
}

impl ReplyTo {
    pub(crate) fn new(address: &ReplyAddress, sink: Arc<dyn ReplySink>, runtime: &Handle) -> Self {
        let heartbeat = address.heartbeat_interval().map(|interval| {
            let (msg_id, sink) = (address.msg_id.clone(), sink.clone());
            runtime.spawn(keep_alive(msg_id, interval, sink)).abort_handle()
        });
        Self { msg_id: address.msg_id.clone(), sink, heartbeat, answered: false }
    }

    /// Answers. The message is on its way when this returns; a broken connection delays it.
    pub fn send(mut self, outcome: Result<Value, Fault>) {
        self.answer(outcome);
    }

    /// The agent's next run will answer; see [`Incoming::hand_back`].
    pub(crate) fn hand_back(mut self, source: &Source) {
        if let Source::Broker { .. } = source {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.answered = true;
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.abort();
        }
    }

    fn answer(&mut self, outcome: Result<Value, Fault>) {
        self.finish();
        self.sink.answer(envelope::final_reply(&self.msg_id, outcome));
    }
}

async fn keep_alive(msg_id: String, interval: Duration, sink: Arc<dyn ReplySink>) {
    loop {
        tokio::time::sleep(interval).await;
        if !sink.heartbeat(envelope::heartbeat(&msg_id)).await {
            return;
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Err(Fault::nova(
                "NovaException",
                "the compute agent dropped the request without an answer",
            )));
        }
    }
}

impl std::fmt::Debug for ReplyTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyTo").field("msg_id", &self.msg_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::rpc::envelope::Reply;

    #[derive(Default)]
    struct Kept {
        answers: Mutex<Vec<Reply>>,
        heartbeats: Mutex<u32>,
    }

    #[async_trait]
    impl ReplySink for Kept {
        fn answer(&self, message: Map<String, Value>) {
            self.answers.lock().unwrap().push(Reply::read(message).unwrap());
        }

        async fn heartbeat(&self, _: Map<String, Value>) -> bool {
            *self.heartbeats.lock().unwrap() += 1;
            true
        }
    }

    fn call(monitor: Option<u64>) -> (ReplyTo, Arc<Kept>) {
        let address = ReplyAddress {
            msg_id: "1".into(),
            reply_queue: "q".into(),
            monitor: monitor.map(Duration::from_secs),
        };
        let sink = Arc::new(Kept::default());
        (ReplyTo::new(&address, sink.clone(), &Handle::current()), sink)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_handler_shows_signs_of_life_until_it_answers() {
        let (reply, sink) = call(Some(60));
        tokio::time::sleep(Duration::from_secs(100)).await;
        reply.send(Ok(json!(1)));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(*sink.heartbeats.lock().unwrap(), 3);
        let answers = sink.answers.lock().unwrap();
        assert_eq!(answers.len(), 1);
        assert!(answers[0].ending);
    }

    #[tokio::test]
    async fn a_request_that_is_handed_back_is_answered_by_the_next_run_and_not_by_this() {
        let incoming = |reply, source| Incoming {
            request: RpcRequest::new("m", "6.0", Map::new()),
            context: RequestContext::default(),
            reply: Some(reply),
            ack: Ack::none(),
            source,
        };
        let (reply, sink) = call(None);
        incoming(reply, Source::Broker { topic: "compute".into() }).hand_back();
        assert!(sink.answers.lock().unwrap().is_empty());
        let (reply, sink) = call(None);
        incoming(reply, Source::Local { peer_uid: 0 }).hand_back();
        assert!(sink.answers.lock().unwrap()[0].outcome.is_err());
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_is_answered_with_a_failure() {
        let (reply, sink) = call(None);
        drop(reply);
        let answers = sink.answers.lock().unwrap();
        assert_eq!(answers.len(), 1);
        assert!(answers[0].outcome.is_err());
    }
}
