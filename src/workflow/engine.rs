//! Runs any workflow, from wherever its record stands, to its end.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::board::Running;
use super::journal::{Failure, Head, Journal, JournalError, Phase, Record};
use super::{Backends, StepError, StepResult};
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::telemetry::Chain;

/// How often a step or an undo is asked, when asking again may help.
const ATTEMPTS: u32 = 5;

/// The pause before the second attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a step gets to work with.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    pub on: &'a Backends,
    pub context: &'a RequestContext,
    /// Where long copies report how far they are.
    pub running: &'a Running,
    /// Cancelled when a delete waits for this workflow's end.
    pub hurry: &'a CancellationToken,
    /// Cancelled when a delete waits and the step may still be given up: a long wait then ends with
    /// [`StepError::Cancelled`]. Never in an undo, nor from [`Workflow::COMMITTED_FROM`] on.
    pub give_up: &'a CancellationToken,
    /// Of an undo: why.
    pub failure: Option<&'a Failure>,
}

impl Stage<'_> {
    /// Does `work`, which must be safe to drop half-way, unless the step is given up.
    ///
    /// # Errors
    /// [`StepError::Cancelled`]; what `work` says.
    pub async fn unless_given_up<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, StepError>
    where
        StepError: From<E>,
    {
        let done = self.give_up.run_until_cancelled(work).await;
        Ok(done.ok_or(StepError::Cancelled)??)
    }
}

/// What becomes of an instance, as steps.
pub trait Workflow: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    type Step: Copy + Debug + Send + Sync + 'static;

    /// Its name in the journal, in logs and in metrics.
    const NAME: &'static str;

    /// The steps in order. They are on disk by position: reordering is a format change.
    const STEPS: &'static [Self::Step];

    /// The first step with no way back. From here on a failure is asked again, and never undone.
    const COMMITTED_FROM: usize = usize::MAX;

    /// Does `step` and writes what it learnt into `self`. Doing a done step again changes nothing.
    fn apply(
        &mut self,
        step: Self::Step,
        stage: &Stage<'_>,
    ) -> impl Future<Output = StepResult> + Send;

    /// Takes `step` back, whether it was done wholly, half or not at all.
    fn undo(
        &mut self,
        step: Self::Step,
        stage: &Stage<'_>,
    ) -> impl Future<Output = StepResult> + Send;

    /// It never started, and never will: takes away what was made for it before it was asked for. A
    /// repeat changes nothing.
    fn turned_away(&mut self, _stage: &Stage<'_>) -> impl Future<Output = StepResult> + Send {
        std::future::ready(Ok(()))
    }

    /// Tells the instance's record how it ended. A repeat changes nothing.
    fn settle(
        &mut self,
        ending: Ending<'_>,
        stage: &Stage<'_>,
    ) -> impl Future<Output = StepResult> + Send;
}

/// What stops a workflow between two steps, or in a step that only waits.
#[derive(Debug, Clone, Default)]
pub struct Controls {
    /// A delete arrived: what was done is undone.
    pub cancel: CancellationToken,
    /// The agent stops: the record stays as it is, and the next start goes on from there.
    pub park: CancellationToken,
}

/// How a workflow ended.
#[derive(Debug, Clone, Copy)]
pub enum Ending<'a> {
    Done,
    /// Taken back: the host is as it was before.
    Undone(&'a Failure),
    /// Left half-way; the record must say so.
    Stuck(&'a Failure),
}

/// Does [`Workflow::turned_away`] for a record that was refused.
///
/// # Errors
/// The workflow's.
pub async fn turn_away<W: Workflow>(
    record: &mut Record<W>,
    on: &Backends,
    running: &Running,
) -> StepResult {
    let (context, never) = (record.context.clone(), CancellationToken::new());
    let (hurry, give_up) = (&never, &never);
    let stage = Stage { on, context: &context, running, hurry, give_up, failure: None };
    record.workflow.turned_away(&stage).await
}

/// Runs `record` to its end from wherever it stands. Returns the error that stopped it, if one did
/// in this run.
///
/// A step or an undo that fails is asked again, with growing pauses, where that may help: past the
/// point of no return and in an undo for every error but a refusal, before it for a transient one.
/// The journal and the instance's record are asked again until they answer: what comes after must
/// not overtake a workflow that stands half-way.
///
/// # Errors
/// [`JournalError`] when a record can't be written and the agent stops: the next start takes the
/// workflow up.
///
/// # Cancel safety
/// Not cancel safe: a dropped step leaves its C call or child process running. `controls` are read
/// between steps, and by steps that do nothing but wait.
pub async fn run<W: Workflow>(
    record: &mut Record<W>,
    journal: &dyn Journal,
    on: &Backends,
    running: &Running,
    controls: &Controls,
) -> Result<Option<StepError>, JournalError> {
    let context = record.context.clone();
    let (hurry, never) = (&controls.cancel, CancellationToken::new());
    let firm = Stage { on, context: &context, running, hurry, give_up: &never, failure: None };
    let early = Stage { give_up: hurry, ..firm };
    let mut stopped_by = None;
    if record.head.phase == Phase::Queued {
        record.head.phase = Phase::Forward;
    }
    let mut attempt = 1;
    while record.head.phase == Phase::Forward && record.head.next < W::STEPS.len() {
        write(record, journal, controls).await?;
        if controls.park.is_cancelled() {
            return Ok(None);
        }
        let position = record.head.next;
        let committed = position >= W::COMMITTED_FROM;
        let stage = if committed { &firm } else { &early };
        let step = W::STEPS[position];
        running.at_step(position, &step);
        let result = if controls.cancel.is_cancelled() && !committed {
            Err(StepError::Cancelled)
        } else {
            timed(running, step, record.workflow.apply(step, stage)).await
        };
        match result {
            Ok(()) => {
                record.head.next += 1;
                attempt = 1;
            }
            Err(error) if attempt < ATTEMPTS && may_pass(&error, committed) => {
                stage.give_up.run_until_cancelled(pause(attempt, controls)).await;
                attempt += 1;
            }
            Err(error) => {
                let number = record.head.next + 1;
                record.head.failure = Some(Failure::of(&error, format!("{step:?}"), number));
                record.head.phase = if committed { Phase::Stuck } else { Phase::Undoing };
                stopped_by = Some(error);
            }
        }
    }
    if record.head.phase == Phase::Forward {
        record.head.phase = Phase::Done;
    }
    attempt = 1;
    let failure = record.head.failure.clone();
    let undoing = Stage { failure: failure.as_ref(), ..firm };
    while record.head.phase == Phase::Undoing {
        write(record, journal, controls).await?;
        if controls.park.is_cancelled() {
            return Ok(None);
        }
        // A record that failed before its first step, or at its last, still names a step.
        let position = record.head.next.min(W::STEPS.len().saturating_sub(1));
        let step = W::STEPS[position];
        running.undoing_step(position, &step);
        match timed_undo(step, record.workflow.undo(step, &undoing)).await {
            Ok(()) if position == 0 => record.head.phase = Phase::Undone,
            Ok(()) => {
                record.head.next = position - 1;
                attempt = 1;
            }
            Err(error) if attempt < ATTEMPTS && may_pass(&error, true) => {
                pause(attempt, controls).await;
                attempt += 1;
            }
            Err(error) => {
                record.head.undo_failure = Some(Chain(&error).to_string());
                record.head.phase = Phase::Stuck;
            }
        }
    }
    write(record, journal, controls).await?;
    settle(record, journal, &firm, controls).await?;
    Ok(stopped_by)
}

/// Tells the instance's record how the workflow ended, and the journal that it is told.
async fn settle<W: Workflow>(
    record: &mut Record<W>,
    journal: &dyn Journal,
    stage: &Stage<'_>,
    controls: &Controls,
) -> Result<(), JournalError> {
    let lost = Failure {
        message: "the failure was not recorded".to_owned(),
        class: Class::Refused,
        step: String::new(),
        cancelled: false,
        number: 0,
        fault: None,
    };
    let failure = record.head.failure.clone().unwrap_or(lost);
    let ending = match record.head.phase {
        Phase::Undone => Ending::Undone(&failure),
        Phase::Stuck => Ending::Stuck(&failure),
        _ => Ending::Done,
    };
    if let Phase::Stuck = record.head.phase {
        error!(
            workflow = W::NAME,
            error = %failure.message,
            undo_error = record.head.undo_failure.as_deref().unwrap_or("-"),
            "workflow is stuck: look at the instance, then delete or reset it"
        );
    }
    let mut attempt = 1;
    loop {
        match record.workflow.settle(ending, stage).await {
            Ok(()) => break,
            // The instance is gone from the records: there is nobody left to tell.
            Err(error) if error.class() == Class::Absent => break,
            Err(error) if error.class() == Class::Refused => {
                error!(workflow = W::NAME, error = %Chain(&error), "the end can't be recorded");
                break;
            }
            Err(error) => {
                warn!(workflow = W::NAME, error = %Chain(&error), attempt, "the end isn't recorded yet");
            }
        }
        if controls.park.is_cancelled() {
            // It stays unsettled: the next start tells.
            return Ok(());
        }
        pause(attempt, controls).await;
        attempt += 1;
    }
    record.head.settled = true;
    write(record, journal, controls).await
}

/// Whether asking again may help.
fn may_pass(error: &StepError, committed: bool) -> bool {
    match error.class() {
        Class::Transient => true,
        Class::Refused => false,
        Class::Absent | Class::Reschedule => committed,
    }
}

/// The pause before the next attempt: it doubles each time up to its limit, and ends with the
/// agent.
pub async fn pause(attempt: u32, controls: &Controls) {
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempt - 1)).min(LONGEST_PAUSE);
    controls.park.run_until_cancelled(tokio::time::sleep(pause)).await;
}

/// Writes the record, for as long as it takes or until the agent stops.
async fn write<W: Workflow>(
    record: &Record<W>,
    journal: &dyn Journal,
    controls: &Controls,
) -> Result<(), JournalError> {
    let body = body(record)?;
    write_until_parked(&record.head, &body, journal, controls).await
}

/// Writes a record, for as long as it takes or until the agent stops.
///
/// # Errors
/// The journal's last one.
pub async fn write_until_parked(
    head: &Head,
    body: &[u8],
    journal: &dyn Journal,
    controls: &Controls,
) -> Result<(), JournalError> {
    let mut attempt = 1;
    loop {
        match journal.write(head, body).await {
            Ok(()) => return Ok(()),
            Err(error) if controls.park.is_cancelled() => return Err(error),
            Err(error) => {
                error!(error = %Chain(&error), attempt, "the journal can't be written: waiting for it");
                pause(attempt, controls).await;
                attempt += 1;
            }
        }
    }
}

/// The part of a record that only its workflow understands.
///
/// # Errors
/// [`JournalError::Unreadable`] when it can't be serialised.
pub fn body<W: Workflow>(record: &Record<W>) -> Result<Vec<u8>, JournalError> {
    serde_json::to_vec(&(&record.context, &record.workflow)).map_err(|error| {
        JournalError::Unreadable { id: record.head.id.clone(), message: error.to_string() }
    })
}

async fn timed(
    running: &Running,
    step: impl Debug,
    work: impl Future<Output = StepResult>,
) -> StepResult {
    let span = info_span!("step", ?step);
    let started = Instant::now();
    let result = work.instrument(span.clone()).await;
    running.step_ended(&step, started.elapsed());
    let elapsed_ms = elapsed_ms(started);
    span.in_scope(|| match &result {
        Ok(()) => info!(elapsed_ms, "step done"),
        Err(error) => warn!(elapsed_ms, error = %Chain(error), "step failed"),
    });
    result
}

async fn timed_undo(step: impl Debug, work: impl Future<Output = StepResult>) -> StepResult {
    let span = info_span!("undo", ?step);
    let started = Instant::now();
    let result = work.instrument(span.clone()).await;
    let elapsed_ms = elapsed_ms(started);
    span.in_scope(|| match &result {
        Ok(()) => info!(elapsed_ms, "step undone"),
        Err(error) => warn!(elapsed_ms, error = %Chain(error), "undo failed"),
    });
    result
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
