//! What others report of an instance while a workflow waits for it: Neutron that a port is plugged,
//! say. nova: compute/manager.py, InstanceEvents
//!
//! ```text
//! expect ─▶ plug ─▶ … ─▶ wait ─▶ forget
//!             └── deliver ──┘          (at any time in between)
//! ```
//!
//! What is expected is registered before the act that brings the event about, so that one that comes
//! early is not lost. Nothing is kept over a restart: whoever waits then asks for the state instead.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

/// nova: objects/external_event.py
pub const VIF_PLUGGED: &str = "network-vif-plugged";

/// Which event: its name, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey {
    pub name: String,
    /// A port's id, for `network-vif-plugged`.
    pub tag: Option<String>,
}

impl EventKey {
    pub fn vif_plugged(port: Uuid) -> Self {
        Self { name: VIF_PLUGGED.to_owned(), tag: Some(port.to_string()) }
    }
}

/// How it ended, whatever it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    Completed,
    Failed,
}

/// The events that workflows of this agent expect.
#[derive(Debug, Default)]
pub struct ExternalEvents {
    expected: Mutex<HashMap<Uuid, Expectations>>,
}

type Expectations = HashMap<EventKey, watch::Sender<Option<Reported>>>;

impl ExternalEvents {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on these events of the instance are kept. One that is expected already keeps what
    /// has come.
    pub fn expect(&self, instance: Uuid, keys: impl IntoIterator<Item = EventKey>) {
        let mut expected = self.expected();
        let of_instance = expected.entry(instance).or_default();
        for key in keys {
            of_instance.entry(key).or_insert_with(|| watch::Sender::new(None));
        }
        if of_instance.is_empty() {
            expected.remove(&instance);
        }
    }

    /// An event has come. Says whether anybody expects it.
    pub fn deliver(&self, instance: Uuid, key: &EventKey, reported: Reported) -> bool {
        let expected = self.expected();
        let Some(waiting) = expected.get(&instance).and_then(|keys| keys.get(key)) else {
            return false;
        };
        waiting.send_replace(Some(reported));
        true
    }

    /// Waits for an event that is expected, for as long as it takes; `None` when it isn't expected
    /// any more.
    ///
    /// # Cancel safety
    /// Safe: an event that comes meanwhile is kept.
    pub async fn wait(&self, instance: Uuid, key: &EventKey) -> Option<Reported> {
        let mut arrival = {
            let expected = self.expected();
            expected.get(&instance)?.get(key)?.subscribe()
        };
        let arrived = arrival.wait_for(Option::is_some).await.ok()?;
        *arrived
    }

    /// Nothing is expected for the instance any more.
    pub fn forget(&self, instance: Uuid) {
        self.expected().remove(&instance);
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<Uuid, Expectations>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: Uuid = Uuid::from_u128(1);

    fn key() -> EventKey {
        EventKey::vif_plugged(Uuid::from_u128(2))
    }

    #[tokio::test]
    async fn an_event_before_its_waiter_is_kept_and_one_that_nobody_expects_is_not() {
        let events = ExternalEvents::new();
        assert!(!events.deliver(INSTANCE, &key(), Reported::Completed));
        events.expect(INSTANCE, [key()]);
        assert!(events.deliver(INSTANCE, &key(), Reported::Failed));
        events.expect(INSTANCE, [key()]);
        assert_eq!(events.wait(INSTANCE, &key()).await, Some(Reported::Failed));
        assert!(!events.deliver(Uuid::from_u128(3), &key(), Reported::Completed));
    }

    #[tokio::test]
    async fn a_waiter_wakes_up_when_the_event_comes_or_is_forgotten() {
        let events = std::sync::Arc::new(ExternalEvents::new());
        for forgotten in [false, true] {
            events.expect(INSTANCE, [key()]);
            let waiting = tokio::spawn({
                let events = events.clone();
                async move { events.wait(INSTANCE, &key()).await }
            });
            tokio::task::yield_now().await;
            if forgotten {
                events.forget(INSTANCE);
                assert_eq!(waiting.await.unwrap(), None);
            } else {
                events.deliver(INSTANCE, &key(), Reported::Completed);
                assert_eq!(waiting.await.unwrap(), Some(Reported::Completed));
                events.forget(INSTANCE);
            }
        }
        assert_eq!(events.wait(INSTANCE, &key()).await, None);
    }
}
