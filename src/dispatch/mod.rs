//! Dispatch: who may start now, and in which order.
//!
//! ```text
//! submit ─▶ journal (queued) ─▶ the instance's queue ─▶ admission ─▶ workflow
//!              └─▶ acknowledged     one task each         (pure)
//! ```
//!
//! Each instance has one queue and one task, so two workflows never run on one instance at once.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use crate::health::Metrics;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::time::Timestamp;
use crate::records::{Expected, InstancePart, RecordsError};
use crate::telemetry::Chain;
use crate::workflow::any::AnyRecord;
use crate::workflow::board::{Board, Row, Running};
use crate::workflow::engine::{Controls, pause, write_until_parked};
use crate::workflow::journal::{Failure, Head, Journal, JournalError, Phase};
use crate::workflow::{Backends, StepError};

pub mod admission;
pub mod console;
pub mod events;
mod outcome;
pub mod own;
pub mod precache;
pub mod query;
#[cfg(test)]
mod tests;
mod turn;

pub use outcome::Outcome;

use admission::{Admission, Refusal, RequestKind, admit};

/// What a workflow may look at, and what is told of its instance.
const LOOKED_AT: &[InstancePart] = &[
    InstancePart::Flavor,
    InstancePart::InfoCache,
    InstancePart::Metadata,
    InstancePart::SystemMetadata,
];

/// How long an ended record is kept, so that a redelivery is recognised.
const KEEP_SETTLED: Duration = Duration::from_secs(24 * 3600);

/// What became of a submission.
#[derive(Debug)]
pub enum Submission {
    /// It is in the journal. The receiver tells how it ended.
    Accepted(oneshot::Receiver<Arc<Outcome>>),
    /// The journal knew it: a redelivery. The receiver tells how the first one ended.
    Duplicate(oneshot::Receiver<Arc<Outcome>>),
}

/// Who waits for the end of what is queued or runs, by its id.
type Endings = HashMap<String, Vec<oneshot::Sender<Arc<Outcome>>>>;

/// Hands requests to their instances' queues.
#[derive(Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

struct Inner {
    backends: Backends,
    journal: Arc<dyn Journal>,
    board: Board,
    metrics: Arc<Metrics>,
    queues: Mutex<HashMap<Uuid, Queue>>,
    endings: Mutex<Endings>,
    turns: Turns,
    tasks: TaskTracker,
    park: CancellationToken,
}

/// How many of the long workflows run at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `[DEFAULT] max_concurrent_builds`
    pub builds: usize,
    /// `[DEFAULT] max_concurrent_snapshots`: of backups, too.
    pub snapshots: usize,
}

#[cfg(test)]
impl Limits {
    /// As many of each.
    pub fn of_tests(each: usize) -> Self {
        Self { builds: each, snapshots: each }
    }
}

/// Their turns.
struct Turns {
    builds: Semaphore,
    snapshots: Semaphore,
}

impl Turns {
    /// The turns that a request waits for; `None`: it doesn't wait.
    fn of(&self, kind: RequestKind) -> Option<&Semaphore> {
        match kind {
            RequestKind::Build => Some(&self.builds),
            RequestKind::Snapshot | RequestKind::Backup => Some(&self.snapshots),
            _ => None,
        }
    }
}

/// The queue of one instance; there is a task for it as long as it is in the map.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Queued>,
    current: Option<CancellationToken>,
}

struct Queued {
    record: AnyRecord,
    running: Arc<Running>,
    cancel: CancellationToken,
}

impl Dispatcher {
    pub fn new(
        backends: Backends,
        journal: Arc<dyn Journal>,
        metrics: Arc<Metrics>,
        limits: Limits,
    ) -> Self {
        let inner = Inner {
            backends,
            journal,
            board: Board::new(metrics.clone()),
            metrics,
            queues: Mutex::default(),
            endings: Mutex::default(),
            turns: Turns {
                builds: Semaphore::new(limits.builds),
                snapshots: Semaphore::new(limits.snapshots),
            },
            tasks: TaskTracker::new(),
            park: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn backends(&self) -> &Backends {
        &self.inner.backends
    }

    /// Writes the request into the journal and queues it. When this returns, the message may be
    /// acknowledged.
    ///
    /// # Errors
    /// [`JournalError`]: nothing was taken.
    pub async fn submit(&self, record: AnyRecord) -> Result<Submission, JournalError> {
        if !self.inner.journal.add(record.head(), &record.body()?).await? {
            info!(id = record.head().id, workflow = record.name(), "redelivered; known already");
            return Ok(Submission::Duplicate(self.follow(&record.head().id).await?));
        }
        Ok(Submission::Accepted(self.enqueue(record)))
    }

    /// Takes up what the journal holds from before, in order.
    ///
    /// # Errors
    /// [`JournalError`] when the journal can't be read.
    pub async fn resume(&self) -> Result<usize, JournalError> {
        let mut resumed = 0;
        for stored in self.inner.journal.unsettled().await? {
            match AnyRecord::open(stored) {
                Ok(record) => {
                    let head = record.head();
                    info!(
                        workflow = record.name(),
                        instance_uuid = %head.instance_uuid,
                        request_id = head.request_id,
                        phase = head.phase.as_str(),
                        step = head.next,
                        "taking up a workflow from the journal"
                    );
                    drop(self.enqueue(record));
                    resumed += 1;
                }
                Err(error) => {
                    error!(error = %Chain(&error), "a record of the journal is left alone")
                }
            }
        }
        Ok(resumed)
    }

    /// Forgets what ended long ago.
    ///
    /// # Errors
    /// [`JournalError`] when the journal can't be written.
    pub async fn prune(&self) -> Result<usize, JournalError> {
        let cutoff = Timestamp::now().as_second().saturating_sub_unsigned(KEEP_SETTLED.as_secs());
        self.inner.journal.prune(Timestamp::from_second(cutoff)).await
    }

    /// What is queued, running or stuck.
    ///
    /// # Errors
    /// [`JournalError`] when the journal can't be read.
    pub async fn rows(&self) -> Result<Vec<Row>, JournalError> {
        let mut rows = self.inner.board.rows();
        let running = |id: &str, rows: &[Row]| rows.iter().any(|row| row.id == id);
        for head in self.inner.journal.stuck().await? {
            if !running(&head.id, &rows) {
                rows.push(stuck_row(head));
            }
        }
        Ok(rows)
    }

    /// How many workflows are queued or running.
    pub fn active(&self) -> usize {
        self.inner.board.len()
    }

    /// Lets running workflows finish for `within`, then parks them between two steps, and waits for
    /// that: a step is never cut off.
    pub async fn stop(&self, within: Duration) {
        self.inner.tasks.close();
        let finished = tokio::time::timeout(within, self.inner.tasks.wait()).await;
        if finished.is_err() {
            warn!(left = self.active(), "parking what still runs; the next start goes on with it");
            self.inner.park.cancel();
            self.inner.tasks.wait().await;
        }
    }

    /// Waits for the end of what the journal knows, or reads how it ended.
    async fn follow(&self, id: &str) -> Result<oneshot::Receiver<Arc<Outcome>>, JournalError> {
        let (ended, outcome) = oneshot::channel();
        if let Some(waiting) = self.inner.endings().get_mut(id) {
            waiting.push(ended);
            return Ok(outcome);
        }
        let head = self.inner.journal.find(id).await?;
        let told = match head {
            Some(Head { phase: Phase::Done, .. }) => Outcome::Done,
            Some(Head { phase, failure: Some(failure), .. }) if phase.is_final() => {
                Outcome::FailedBefore(failure)
            }
            _ if self.inner.park.is_cancelled() => Outcome::Parked,
            _ => Outcome::Unreadable,
        };
        // Its receiver is ours, and there.
        drop(ended.send(Arc::new(told)));
        Ok(outcome)
    }

    fn enqueue(&self, record: AnyRecord) -> oneshot::Receiver<Arc<Outcome>> {
        let (ended, outcome) = oneshot::channel();
        let head = record.head();
        let uuid = head.instance_uuid;
        let running =
            self.inner.board.add(&head.id, record.name(), record.steps(), uuid, &head.request_id);
        let deletes = RequestKind::of(&record) == RequestKind::Delete;
        self.inner.endings().insert(head.id.clone(), vec![ended]);
        let queued = Queued { record, running, cancel: CancellationToken::new() };
        let mut queues = self.inner.queues();
        let is_new = !queues.contains_key(&uuid);
        let queue = queues.entry(uuid).or_default();
        if deletes {
            // Everything before a delete gives way: what runs is undone, what waits never starts.
            queue.current.iter().for_each(CancellationToken::cancel);
            let waiting = queue.waiting.iter();
            let changes = waiting.filter(|w| RequestKind::of(&w.record) != RequestKind::Delete);
            changes.for_each(|waiting| waiting.cancel.cancel());
        }
        queue.waiting.push_back(queued);
        drop(queues);
        if is_new {
            let inner = self.inner.clone();
            self.inner.tasks.spawn(async move { inner.serve_queue(uuid).await });
        }
        outcome
    }
}

impl Inner {
    fn queues(&self) -> MutexGuard<'_, HashMap<Uuid, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endings(&self) -> MutexGuard<'_, Endings> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance's next request; none: its queue is taken down, under the same lock.
    fn next(&self, uuid: Uuid) -> Option<Queued> {
        let mut queues = self.queues();
        let queue = queues.get_mut(&uuid)?;
        let next = queue.waiting.pop_front();
        match &next {
            Some(queued) => queue.current = Some(queued.cancel.clone()),
            None => drop(queues.remove(&uuid)),
        }
        next
    }

    async fn serve_queue(&self, uuid: Uuid) {
        while let Some(queued) = self.next(uuid) {
            let Queued { mut record, running, cancel } = queued;
            let span = info_span!(
                "workflow",
                workflow = record.name(),
                instance_uuid = %uuid,
                request_id = record.head().request_id,
                global_request_id = record.context().global_request_id.as_deref(),
                trace_id = record.context().trace_id(),
                span_id = record.context().span_id(),
                parent_span_id = record.context().parent_span_id(),
            );
            let id = record.head().id.clone();
            let started = std::time::Instant::now();
            self.metrics.workflow_started(record.name());
            let controls = Controls { cancel, park: self.park.clone() };
            let served = self.serve_or_catch(&mut record, &running, &controls);
            let outcome = served.instrument(span.clone()).await;
            span.in_scope(|| outcome.tell(started.elapsed()));
            let label = outcome.label(record.head().phase);
            self.metrics.workflow_finished(record.name(), label);
            self.board.remove(&id);
            let outcome = Arc::new(outcome);
            for waiting in self.endings().remove(&id).into_iter().flatten() {
                // The caller may have gone: a cast has none.
                drop(waiting.send(outcome.clone()));
            }
        }
    }

    /// Serves a request; a panic in it leaves its workflow stuck, and the queue goes on.
    async fn serve_or_catch(
        &self,
        record: &mut AnyRecord,
        running: &Running,
        controls: &Controls,
    ) -> Outcome {
        let served = AssertUnwindSafe(self.serve(record, running, controls)).catch_unwind().await;
        let panic = match served {
            Ok(outcome) => return outcome,
            Err(panic) => panic,
        };
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let error = StepError::Panicked(text.to_owned());
        let head = record.head_mut();
        head.phase = Phase::Stuck;
        head.failure = Some(Failure::of(&error, "-".to_owned(), 0));
        // It is stuck already: what is left is to write that down and to tell the record.
        let journal = self.journal.as_ref();
        let told = AssertUnwindSafe(record.run(journal, &self.backends, running, controls));
        match told.catch_unwind().await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => error!(error = %Chain(&error), "the journal could not be written"),
            Err(_) => error!("telling of a panic panicked too"),
        }
        Outcome::Failed(error)
    }

    async fn serve(
        &self,
        record: &mut AnyRecord,
        running: &Running,
        controls: &Controls,
    ) -> Outcome {
        if self.park.is_cancelled() {
            return Outcome::Parked;
        }
        // What was under way before a restart was admitted then.
        if record.head().phase == Phase::Queued {
            match self.admit(record, controls).await {
                Ok(Admission::Run) => {}
                Ok(Admission::AlreadyDone) => {
                    return self
                        .close(record, Phase::Done, Outcome::AlreadyDone, running, controls)
                        .await;
                }
                Err(Outcome::Parked) => return Outcome::Parked,
                Err(outcome) => {
                    return self.close(record, Phase::Refused, outcome, running, controls).await;
                }
            }
        }
        let _turn = match self.turns.of(RequestKind::of(record)) {
            // A delete, or the end of the agent, doesn't wait for those of other instances.
            Some(turns) => tokio::select! {
                permit = turns.acquire() => permit.ok(),
                () = controls.cancel.cancelled() => None,
                () = controls.park.cancelled() => None,
            },
            None => None,
        };
        info!(steps = record.steps(), "started");
        let journal = self.journal.as_ref();
        match record.run(journal, &self.backends, running, controls).await {
            Ok(error) if record.head().phase.is_final() => {
                self.after(record).await;
                let head = record.head();
                match (head.phase, error, &head.failure) {
                    (Phase::Done, ..) => Outcome::Done,
                    (_, Some(error), _) => Outcome::Failed(error),
                    (_, None, Some(failure)) => Outcome::FailedBefore(failure.clone()),
                    (_, None, None) => Outcome::Unreadable,
                }
            }
            Ok(_) => Outcome::Parked,
            Err(error) => {
                error!(error = %Chain(&error), "the agent stops before the journal could be written");
                Outcome::Parked
            }
        }
    }

    /// Looks at the record, and decides.
    async fn admit(
        &self,
        record: &mut AnyRecord,
        controls: &Controls,
    ) -> Result<Admission, Outcome> {
        let kind = RequestKind::of(record);
        let context = record.context().clone();
        let message = record.instance_mut().clone();
        let mut attempt = 1;
        let received = loop {
            match self.read(&context, message.clone()).await {
                // The request is ours: it waits for the records, and is not lost.
                Err(error) if error.class() == Class::Transient => {
                    warn!(error = %Chain(&error), attempt, "waiting for the records");
                }
                received => break received,
            }
            pause(attempt, controls).await;
            attempt += 1;
            if controls.park.is_cancelled() {
                return Err(Outcome::Parked);
            }
        };
        let instance = match received {
            Ok(instance) => instance,
            Err(error) if error.class() == Class::Absent && kind == RequestKind::Delete => {
                return Ok(Admission::AlreadyDone);
            }
            Err(error) => return Err(Outcome::Unrecorded(error)),
        };
        let vm_state = instance.vm_state.value().copied();
        let task_state = instance.task_state.value().copied();
        *record.instance_mut() = instance;
        let decision = match controls.cancel.is_cancelled() {
            true => Err(Refusal::being_deleted(kind)),
            false => admit(kind, vm_state, task_state),
        };
        decision.map_err(Outcome::Refused)
    }

    /// The instance with all that workflows look at: a message has what its sender happened to have
    /// read.
    async fn read(
        &self,
        context: &RequestContext,
        message: Instance,
    ) -> Result<Instance, RecordsError> {
        let records = &self.backends.records;
        let mut instance = records.receive(context, message).await?;
        records.load(context, &mut instance, LOOKED_AT).await?;
        Ok(instance)
    }

    /// Ends a record that didn't run. A task state that only its request set is taken back.
    async fn close(
        &self,
        record: &mut AnyRecord,
        phase: Phase,
        outcome: Outcome,
        running: &Running,
        controls: &Controls,
    ) -> Outcome {
        if phase == Phase::Refused
            && let Err(error) = record.turn_away(&self.backends, running).await
        {
            warn!(error = %Chain(&error), "what was made for a refused request is left");
        }
        let kind = RequestKind::of(record);
        let context = record.context().clone();
        let instance = record.instance_mut();
        let set_by_request =
            instance.task_state.value().is_some_and(|state| kind.task_states().contains(state));
        let is_recorded = !matches!(outcome, Outcome::Unrecorded(_) | Outcome::AlreadyDone);
        if set_by_request && is_recorded {
            let expected = Expected::OneOf(vec![instance.task_state.value().copied()]);
            instance.task_state.set(None);
            if let Err(error) = self.backends.records.save(&context, instance, expected).await {
                warn!(error = %Chain(&error), "the task state could not be taken back");
            }
        }
        let head = record.head_mut();
        head.phase = phase;
        head.settled = true;
        head.failure = outcome.refusal();
        let written = match record.body() {
            Ok(body) => {
                let journal = self.journal.as_ref();
                write_until_parked(record.head(), &body, journal, controls).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            error!(error = %Chain(&error), "the journal could not be written");
        }
        outcome
    }

    /// After a success nothing of the instance is stuck any more.
    async fn after(&self, record: &AnyRecord) {
        // What worked since has mended, or taken away, what was stuck.
        if record.head().phase == Phase::Done {
            let uuid = record.head().instance_uuid;
            if let Err(error) = self.journal.forget_stuck(uuid).await {
                warn!(error = %Chain(&error), "stuck records of the instance are left");
            }
        }
    }
}

fn stuck_row(head: Head) -> Row {
    let step = head.failure.as_ref().map(|failure| failure.step.clone());
    Row {
        id: head.id,
        workflow: head.workflow,
        instance_uuid: head.instance_uuid,
        request_id: head.request_id,
        phase: head.phase.as_str().to_owned(),
        step: step.unwrap_or_else(|| "-".to_owned()),
        step_index: head.next + 1,
        steps: 0,
        started_at: head.started_at.to_string(),
        step_started_at: head.started_at.to_string(),
        done: 0,
        total: 0,
        failure: head.failure.map(|failure| failure.message),
        undo_failure: head.undo_failure,
    }
}
