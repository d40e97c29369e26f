//! The way of a change into the journal. One that the journal can't take waits, unacknowledged and
//! unanswered, and what comes after it for the same instance waits behind it; changes of other
//! instances go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info};
use uuid::Uuid;

use crate::dispatch::{Dispatcher, Submission};
use crate::telemetry::Chain;
use crate::workflow::any::AnyRecord;
use crate::workflow::engine::{Controls, pause};
use crate::workflow::journal::JournalError;

/// Changes that may wait at once. What comes after them stays at the door.
const ROOM: usize = 256;

/// Takes changes into the journal.
#[derive(Debug)]
pub(crate) struct Intake {
    /// The last change of each instance that waits; cancelled once it waits no more.
    last: Mutex<HashMap<Uuid, CancellationToken>>,
    room: Arc<Semaphore>,
}

/// What became of a change.
pub(crate) enum Taken {
    Now(Result<Submission, JournalError>),
    Later(Box<Waiting>),
    /// The agent stops: it stays at the door.
    Not,
}

/// A change that is not in the journal yet.
pub(crate) struct Waiting {
    record: AnyRecord,
    before: Option<CancellationToken>,
    /// Lets the next one through, however this one ends.
    _through: DropGuard,
    _room: OwnedSemaphorePermit,
}

impl Intake {
    pub(crate) fn new() -> Self {
        Self { last: Mutex::default(), room: Arc::new(Semaphore::new(ROOM)) }
    }

    /// Tries to put `record` into the journal. Waits only for room, and until `stop`.
    pub(crate) async fn take(
        &self,
        record: AnyRecord,
        dispatcher: &Dispatcher,
        stop: &CancellationToken,
    ) -> Taken {
        let uuid = record.head().instance_uuid;
        if !self.is_waited_for(uuid) {
            match dispatcher.submit(record.clone()).await {
                Err(error) if error.may_pass() => error!(
                    instance_uuid = %uuid, workflow = record.name(), error = %Chain(&error),
                    "the journal can't take a request: it waits"
                ),
                taken => return Taken::Now(taken),
            }
        }
        let room = self.room.clone().acquire_owned();
        let Some(Ok(room)) = stop.run_until_cancelled(room).await else { return Taken::Not };
        let through = CancellationToken::new();
        let mut last = self.last();
        last.retain(|_, waiting| !waiting.is_cancelled());
        let before = last.insert(uuid, through.clone());
        drop(last);
        let through = through.drop_guard();
        Taken::Later(Box::new(Waiting { record, before, _through: through, _room: room }))
    }

    fn is_waited_for(&self, uuid: Uuid) -> bool {
        self.last().get(&uuid).is_some_and(|waiting| !waiting.is_cancelled())
    }

    fn last(&self) -> MutexGuard<'_, HashMap<Uuid, CancellationToken>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Asks the journal again and again. `None`: the agent stops, and nothing was taken.
    pub(crate) async fn finish(
        self,
        dispatcher: &Dispatcher,
        stop: &CancellationToken,
    ) -> Option<Result<Submission, JournalError>> {
        let head = self.record.head();
        let controls = Controls { park: stop.clone(), ..Controls::default() };
        let mut attempt = 1;
        match &self.before {
            // It found the journal as it is now.
            Some(before) => stop.run_until_cancelled(before.cancelled()).await?,
            None => pause(attempt, &controls).await,
        }
        while !stop.is_cancelled() {
            match dispatcher.submit(self.record.clone()).await {
                Err(error) if error.may_pass() => {
                    error!(
                        instance_uuid = %head.instance_uuid, workflow = head.workflow, attempt,
                        error = %Chain(&error), "the journal still can't take a request"
                    );
                    pause(attempt, &controls).await;
                    attempt += 1;
                }
                taken => {
                    info!(
                        instance_uuid = %head.instance_uuid, workflow = head.workflow,
                        "the journal has taken a request that waited"
                    );
                    return Some(taken);
                }
            }
        }
        None
    }
}
