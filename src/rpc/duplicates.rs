//! Messages that arrive twice. A request is acknowledged only once it is in the journal, so a
//! connection that breaks before that brings it again while the first copy is still being looked
//! at. `_unique_id` tells; what to do depends on how far the first copy is:
//!
//! | first copy | second copy |
//! |---|---|
//! | accepted | is acknowledged and dropped |
//! | pending | waits, and is acknowledged with the first |
//! | dropped unaccepted | is a new message |
//!
//! oslo.messaging: _drivers/common.py's `_MsgIdCache` in amqp.py, which keeps 16 ids. Ours are
//! acknowledged later and all topics share the ring, so it is larger.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::Acker;
use lapin::options::BasicAckOptions;
use tracing::debug;

/// Ids remembered: about 100 KiB.
const REMEMBERED: usize = 1024;

/// The ids of the last messages.
#[derive(Debug, Default, Clone)]
pub(crate) struct Duplicates(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    order: VecDeque<String>,
    seen: HashMap<String, Copies>,
}

#[derive(Debug)]
enum Copies {
    /// The broker's copies of a message that a handler holds.
    Pending(Vec<Acker>),
    Accepted,
}

/// What became of an arriving message.
#[derive(Debug)]
pub(crate) enum Arrival {
    New(Unacked),
    /// It came before and was accepted; it must be acknowledged.
    Accepted(Acker),
    /// It came before and is still held; its acknowledgement follows the first copy's.
    Pending,
}

/// A message that its handler hasn't accepted yet.
#[derive(Debug)]
pub(crate) struct Unacked {
    /// `None` for a message without an id: it has one copy as far as we can tell.
    known: Option<(String, Duplicates)>,
    acker: Option<Acker>,
}

impl Duplicates {
    pub(crate) fn arrive(&self, id: Option<&str>, acker: Acker) -> Arrival {
        let Some(id) = id else {
            return Arrival::New(Unacked { known: None, acker: Some(acker) });
        };
        let mut ring = self.ring();
        match ring.seen.get_mut(id) {
            Some(Copies::Accepted) => return Arrival::Accepted(acker),
            Some(Copies::Pending(copies)) => {
                copies.push(acker);
                return Arrival::Pending;
            }
            None => {}
        }
        ring.seen.insert(id.to_owned(), Copies::Pending(vec![acker]));
        ring.order.push_back(id.to_owned());
        while ring.order.len() > REMEMBERED {
            if let Some(oldest) = ring.order.pop_front() {
                ring.seen.remove(&oldest);
            }
        }
        Arrival::New(Unacked { known: Some((id.to_owned(), self.clone())), acker: None })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every copy there is, and the id is marked as done.
    fn accept(&self, id: &str) -> Vec<Acker> {
        match self.ring().seen.get_mut(id) {
            Some(copies) => match std::mem::replace(copies, Copies::Accepted) {
                Copies::Pending(ackers) => ackers,
                Copies::Accepted => Vec::new(),
            },
            None => Vec::new(),
        }
    }

    /// The handler would not have it: the next copy is a new message.
    fn release(&self, id: &str) {
        let mut ring = self.ring();
        if matches!(ring.seen.get(id), Some(Copies::Pending(_))) {
            ring.seen.remove(id);
            ring.order.retain(|known| known != id);
        }
    }
}

impl Unacked {
    pub(crate) async fn accept(mut self) {
        let ackers = match self.known.take() {
            Some((id, ring)) => ring.accept(&id),
            None => self.acker.take().into_iter().collect(),
        };
        for acker in ackers {
            acknowledge(&acker).await;
        }
    }
}

impl Drop for Unacked {
    fn drop(&mut self) {
        if let Some((id, ring)) = self.known.take() {
            ring.release(&id);
        }
    }
}

/// Acknowledges; a copy of a connection that is gone needs none.
pub(crate) async fn acknowledge(acker: &Acker) {
    if let Err(error) = acker.ack(BasicAckOptions::default()).await {
        debug!(%error, "the broker will deliver this message again");
    }
}

#[cfg(test)]
mod tests {
    use lapin::message::Delivery;

    use super::*;

    fn copy() -> Acker {
        Delivery::mock(1, "".into(), "".into(), false, Vec::new()).acker
    }

    fn new(arrival: Arrival) -> Unacked {
        match arrival {
            Arrival::New(unacked) => unacked,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_copy_of_an_accepted_message_is_dropped() {
        let ring = Duplicates::default();
        let first = copy();
        new(ring.arrive(Some("a"), first.clone())).accept().await;
        assert!(!first.usable());
        assert!(matches!(ring.arrive(Some("a"), copy()), Arrival::Accepted(_)));
    }

    #[tokio::test]
    async fn a_copy_of_a_pending_message_is_acknowledged_with_it() {
        let ring = Duplicates::default();
        let pending = new(ring.arrive(Some("a"), copy()));
        let second = copy();
        assert!(matches!(ring.arrive(Some("a"), second.clone()), Arrival::Pending));
        assert!(second.usable());
        pending.accept().await;
        assert!(!second.usable());
    }

    #[tokio::test]
    async fn a_message_that_nobody_accepted_is_new_when_it_comes_again() {
        let ring = Duplicates::default();
        let first = copy();
        drop(new(ring.arrive(Some("a"), first.clone())));
        assert!(first.usable());
        new(ring.arrive(Some("a"), copy())).accept().await;
    }

    #[tokio::test]
    async fn messages_without_an_id_are_never_duplicates() {
        let ring = Duplicates::default();
        let acker = copy();
        let first = new(ring.arrive(None, acker.clone()));
        let _second = new(ring.arrive(None, copy()));
        first.accept().await;
        assert!(!acker.usable());
    }

    #[tokio::test]
    async fn the_ring_forgets_the_oldest() {
        let ring = Duplicates::default();
        for id in 0..=REMEMBERED {
            new(ring.arrive(Some(&id.to_string()), copy())).accept().await;
        }
        assert!(matches!(ring.arrive(Some("1"), copy()), Arrival::Accepted(_)));
        assert!(matches!(ring.arrive(Some("0"), copy()), Arrival::New(_)));
    }
}
