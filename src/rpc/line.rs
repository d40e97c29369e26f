//! One channel that many messages are under way on at once, and whose confirms are told apart.
//!
//! A message that nobody could take comes back (`basic.return`) before the broker confirms it, and
//! lapin hands it out with whichever confirm it sees next: often that of another message. But by
//! the time that a message's own confirm is seen, its return has been handed out, if there was one.
//! So one task publishes, gathers every confirm that is there, and only then says what became of
//! each: a returned message is known by its body, which has an id of its own.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};

use crate::rpc::link::Link;

/// Messages that wait to be written; who comes then waits for room.
const WAITING: usize = 64;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    /// There was no queue for it, and it was mandatory.
    Returned,
    /// The broker could not.
    Refused,
}

/// A message for the line, with AMQP's words for it.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) options: BasicPublishOptions,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

pub(crate) type Outcome = Result<Taken, lapin::Error>;

/// The channel. Its task ends when the line is dropped and what is under way is settled.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) link: Arc<Link>,
    channel: Channel,
    letters: mpsc::Sender<(Letter, oneshot::Sender<Outcome>)>,
    declared: Mutex<HashSet<String>>,
}

impl Line {
    pub(crate) async fn open(link: Arc<Link>) -> Result<Self, lapin::Error> {
        let channel = link.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (letters, waiting) = mpsc::channel(WAITING);
        tokio::spawn(carry(channel.clone(), waiting));
        Ok(Self { link, channel, letters, declared: Mutex::default() })
    }

    pub(crate) fn is_up(&self) -> bool {
        self.link.is_up() && self.channel.status().connected()
    }

    /// Publishes and waits for the confirm; `None` when the line ended without one.
    pub(crate) async fn send(&self, letter: Letter) -> Option<Outcome> {
        let (settled, outcome) = oneshot::channel();
        self.letters.send((letter, settled)).await.ok()?;
        outcome.await.ok()
    }

    /// Gives the line a message if it has room for one: it goes out before all that come after. The
    /// confirm can be waited for.
    pub(crate) fn post(&self, letter: Letter) -> Option<oneshot::Receiver<Outcome>> {
        let (settled, outcome) = oneshot::channel();
        self.letters.try_send((letter, settled)).ok()?;
        Some(outcome)
    }

    /// What was declared for messages of this line stays known as long as the line.
    pub(crate) fn has_declared(&self, name: &str) -> bool {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    pub(crate) fn set_declared(&self, name: &str) {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

fn mark(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

async fn carry(channel: Channel, mut letters: mpsc::Receiver<(Letter, oneshot::Sender<Outcome>)>) {
    let mut under_way = FuturesUnordered::new();
    let mut verdicts = Verdicts::default();
    loop {
        let first = tokio::select! {
            letter = letters.recv() => {
                let Some((letter, settled)) = letter else { break };
                let Letter { exchange, routing_key, options, properties, body } = letter;
                let (exchange, key) = (exchange.as_str().into(), routing_key.as_str().into());
                match channel.basic_publish(exchange, key, options, &body, properties).await {
                    Ok(confirm) => {
                        let mark = mark(&body);
                        under_way.push(async move { (confirm.await, mark, settled) });
                    }
                    // Its sender may have given up.
                    Err(error) => drop(settled.send(Err(error))),
                }
                continue;
            }
            Some(first) = under_way.next() => first,
        };
        let mut gathered = vec![first];
        while let Some(Some(next)) = under_way.next().now_or_never() {
            gathered.push(next);
        }
        let mut settled = Vec::new();
        for (confirm, mark, sender) in gathered {
            settled.push((verdicts.read(confirm), mark, sender));
        }
        for (outcome, mark, sender) in settled {
            let outcome = outcome.map(|taken| verdicts.settle(taken, mark));
            sender.send(outcome).ok();
        }
    }
    while let Some((confirm, mark, sender)) = under_way.next().await {
        let outcome = verdicts.read(confirm).map(|taken| verdicts.settle(taken, mark));
        sender.send(outcome).ok();
    }
}

/// Returned messages whose own confirm hasn't been read yet.
#[derive(Debug, Default)]
struct Verdicts {
    returned: HashSet<u64>,
}

impl Verdicts {
    /// Takes in what a confirm says, of its own message and of any other.
    fn read(&mut self, confirm: Result<Confirmation, lapin::Error>) -> Outcome {
        let (taken, returned) = match confirm? {
            Confirmation::Ack(returned) => (Taken::Yes, returned),
            Confirmation::Nack(returned) => (Taken::Refused, returned),
            Confirmation::NotRequested => (Taken::Yes, None),
        };
        if let Some(message) = returned {
            self.returned.insert(mark(&message.data));
        }
        Ok(taken)
    }

    fn settle(&mut self, taken: Taken, mark: u64) -> Taken {
        if self.returned.remove(&mark) { Taken::Returned } else { taken }
    }
}
