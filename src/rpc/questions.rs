//! Questions under way: few are answered at once, few wait, and none for longer than its caller. A
//! libvirt that hangs so costs each an error, and the agent nothing.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::failure::Fault;

/// Answered at once.
const AT_ONCE: usize = 64;

/// Those that wait included.
const AT_ALL: usize = 256;

/// From its arrival to its answer. Callers wait as long. nova: `[DEFAULT] rpc_response_timeout`
const WITHIN: Duration = Duration::from_secs(60);

/// The turns of one kind of question.
#[derive(Debug)]
pub(crate) struct Questions {
    turns: Semaphore,
    places: Semaphore,
    at_all: usize,
    within: Duration,
}

impl Questions {
    pub(crate) fn new() -> Self {
        Self::of(AT_ONCE, AT_ALL, WITHIN)
    }

    /// For what takes longer than a question does.
    pub(crate) fn of(at_once: usize, at_all: usize, within: Duration) -> Self {
        let (turns, places) = (Semaphore::new(at_once), Semaphore::new(at_all));
        Self { turns, places, at_all, within }
    }

    /// Answers when its turn comes. `work` may be dropped half-way.
    ///
    /// # Errors
    /// `HypervisorUnavailable` at once when too many wait, and when there is no answer in time; what
    /// `work` says.
    pub(crate) async fn answer(
        &self,
        work: impl Future<Output = Result<Value, Fault>>,
    ) -> Result<Value, Fault> {
        let unavailable = |why: String| Fault::nova("HypervisorUnavailable", why);
        let Ok(_place) = self.places.try_acquire() else {
            let all = self.at_all;
            return Err(unavailable(format!("{all} questions wait for their answers already")));
        };
        let answer = async {
            let _turn = self.turns.acquire().await;
            work.await
        };
        let answered = timeout(self.within, answer).await;
        let late = || Err(unavailable(format!("no answer within {:?}", self.within)));
        answered.unwrap_or_else(|_| late())
    }
}
