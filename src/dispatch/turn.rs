//! Turns: what the agent itself does about an instance, at a time when no request is.
//!
//! Periodic tasks and recovery look at an instance and decide. Between the look and what follows from
//! it no request may come: so they take a turn of the instance's queue, as a request would.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tracing::error;
use uuid::Uuid;

use super::{Dispatcher, Queue};

impl Dispatcher {
    /// Whether a request of the instance runs or waits.
    pub fn is_busy(&self, uuid: Uuid) -> bool {
        self.inner.queues().contains_key(&uuid)
    }

    /// Does `work` if no request of the instance runs or waits; those that come meanwhile wait for
    /// its end. A workflow that `work` submits for the instance is the next in its queue: `work`
    /// can't wait for how that ends.
    ///
    /// `None`: there are requests, and they come first; or the agent stops.
    ///
    /// # Cancel safety
    /// Once begun, `work` goes on when this is dropped: it is never cut off, so every call in it
    /// needs a deadline.
    pub async fn if_idle<T: Send + 'static>(
        &self,
        uuid: Uuid,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        if self.inner.park.is_cancelled() || self.inner.tasks.is_closed() {
            return None;
        }
        {
            let mut queues = self.inner.queues();
            if queues.contains_key(&uuid) {
                return None;
            }
            queues.insert(uuid, Queue::default());
        }
        let (done, result) = oneshot::channel();
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                // Whoever asked may have given up.
                Ok(value) => drop(done.send(value)),
                Err(_) => error!(instance_uuid = %uuid, "the agent's own work on it panicked"),
            }
            inner.serve_queue(uuid).await;
        });
        result.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Notify;

    use crate::dispatch::tests::{dispatcher, request, stop, submit};
    use crate::dispatch::{Outcome, Submission};
    use crate::workflow::world::{UUID, World};

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_a_turn_and_a_turn_gives_way_to_requests() {
        let dispatcher = dispatcher(&World::with_guest().await, 1);
        let go_on = Arc::new(Notify::new());
        let (waits, own) = (go_on.clone(), dispatcher.clone());
        let turn = tokio::spawn(async move {
            own.if_idle(UUID, async move {
                waits.notified().await;
                7
            })
            .await
        });
        while !dispatcher.is_busy(UUID) {
            tokio::task::yield_now().await;
        }
        let mut outcome = submit(&dispatcher, request("a", stop())).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(outcome.try_recv().is_err(), "the request did not wait");
        assert_eq!(dispatcher.if_idle(UUID, async { 8 }).await, None);
        go_on.notify_one();
        assert_eq!(turn.await.unwrap(), Some(7));
        assert!(matches!(*outcome.await.unwrap(), Outcome::Done));
        assert_eq!(dispatcher.if_idle(UUID, async { 9 }).await, Some(9));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_turn_submits_comes_next() {
        let world = World::with_guest().await;
        let dispatcher = dispatcher(&world, 1);
        let own = dispatcher.clone();
        let submitted = dispatcher
            .if_idle(UUID, async move { own.submit(request("a", stop())).await.unwrap() })
            .await;
        let Some(Submission::Accepted(outcome)) = submitted else { panic!("{submitted:?}") };
        assert!(matches!(*outcome.await.unwrap(), Outcome::Done));
        assert!(!dispatcher.is_busy(UUID));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_panics_or_is_given_up_leaves_the_queue_working() {
        let dispatcher = dispatcher(&World::with_guest().await, 1);
        let panics = async { panic!("told to") };
        assert_eq!(dispatcher.if_idle::<()>(UUID, panics).await, None);
        let ended = Arc::new(Notify::new());
        let tells = ended.clone();
        let slow = dispatcher.if_idle(UUID, async move {
            tokio::time::sleep(Duration::from_secs(9)).await;
            tells.notify_one();
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), slow).await.is_err());
        ended.notified().await;
        let outcome = submit(&dispatcher, request("a", stop())).await;
        assert!(matches!(*outcome.await.unwrap(), Outcome::Done));
    }
}
