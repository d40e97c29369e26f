//! Runs any workflow, from wherever its record stands, to its end.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::board::Running;
use super::journal::{Failure, Journal, JournalError, Phase, Record};
use super::{Backends, StepError, StepResult};
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::telemetry::Chain;

/// How often a step past the point of no return is asked again, and the pause before the first
/// repeat; it doubles each time.
const COMMITTED_ATTEMPTS: u32 = 5;
const COMMITTED_PAUSE: Duration = Duration::from_secs(1);

/// What a step gets to work with.
pub struct Stage<'a> {
    pub on: &'a Backends,
    pub context: &'a RequestContext,
    /// Where long copies report how far they are.
    pub running: &'a Running,
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

    /// Tells the instance's record how it ended. A repeat changes nothing.
    fn settle(
        &mut self,
        ending: Ending<'_>,
        stage: &Stage<'_>,
    ) -> impl Future<Output = StepResult> + Send;
}

/// What stops a workflow between two steps.
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

/// Runs `record` to its end from wherever it stands. Returns the error that stopped it, if one did
/// in this run.
///
/// # Errors
/// [`JournalError`] when a record can't be written: the workflow stops where it is, and the next
/// start takes it up.
///
/// # Cancel safety
/// Not cancel safe: a dropped step leaves its C call or child process running. `controls` are read
/// between steps.
pub async fn run<W: Workflow>(
    record: &mut Record<W>,
    journal: &dyn Journal,
    on: &Backends,
    running: &Running,
    controls: &Controls,
) -> Result<Option<StepError>, JournalError> {
    let context = record.context.clone();
    let stage = Stage { on, context: &context, running };
    let mut stopped_by = None;
    if record.head.phase == Phase::Queued {
        record.head.phase = Phase::Forward;
    }
    let mut attempt = 1;
    while record.head.phase == Phase::Forward && record.head.next < W::STEPS.len() {
        write(record, journal).await?;
        if controls.park.is_cancelled() {
            return Ok(None);
        }
        let position = record.head.next;
        let committed = position >= W::COMMITTED_FROM;
        let step = W::STEPS[position];
        running.at_step(position, &step);
        let result = if controls.cancel.is_cancelled() && !committed {
            Err(StepError::Cancelled)
        } else {
            timed(running, step, record.workflow.apply(step, &stage)).await
        };
        match result {
            Ok(()) => {
                record.head.next += 1;
                attempt = 1;
            }
            Err(error) if committed && worth_repeating(&error) && attempt < COMMITTED_ATTEMPTS => {
                tokio::time::sleep(COMMITTED_PAUSE * 2_u32.pow(attempt - 1)).await;
                attempt += 1;
            }
            Err(error) => {
                record.head.failure = Some(Failure {
                    message: Chain(&error).to_string(),
                    class: error.class(),
                    step: format!("{step:?}"),
                    cancelled: matches!(error, StepError::Cancelled),
                });
                record.head.phase = if committed { Phase::Stuck } else { Phase::Undoing };
                stopped_by = Some(error);
            }
        }
    }
    if record.head.phase == Phase::Forward {
        record.head.phase = Phase::Done;
    }
    while record.head.phase == Phase::Undoing {
        write(record, journal).await?;
        // A record that failed before its first step, or at its last, still names a step.
        if controls.park.is_cancelled() {
            return Ok(None);
        }
        let position = record.head.next.min(W::STEPS.len().saturating_sub(1));
        let step = W::STEPS[position];
        running.undoing_step(position, &step);
        match timed_undo(step, record.workflow.undo(step, &stage)).await {
            Ok(()) if position == 0 => record.head.phase = Phase::Undone,
            Ok(()) => record.head.next = position - 1,
            Err(error) => {
                record.head.undo_failure = Some(Chain(&error).to_string());
                record.head.phase = Phase::Stuck;
            }
        }
    }
    write(record, journal).await?;
    settle(record, journal, &stage).await?;
    Ok(stopped_by)
}

/// Tells the instance's record how the workflow ended, and the journal that it is told.
async fn settle<W: Workflow>(
    record: &mut Record<W>,
    journal: &dyn Journal,
    stage: &Stage<'_>,
) -> Result<(), JournalError> {
    let lost = Failure {
        message: "the failure was not recorded".to_owned(),
        class: Class::Refused,
        step: String::new(),
        cancelled: false,
    };
    let failure = record.head.failure.as_ref().unwrap_or(&lost);
    let ending = match record.head.phase {
        Phase::Undone => Ending::Undone(failure),
        Phase::Stuck => Ending::Stuck(failure),
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
    match record.workflow.settle(ending, stage).await {
        Ok(()) => record.head.settled = true,
        // The instance is gone from the records: there is nobody left to tell.
        Err(error) if error.class() == Class::Absent => record.head.settled = true,
        Err(error) => warn!(
            workflow = W::NAME,
            error = %Chain(&error),
            "the end could not be recorded; the next start tries again"
        ),
    }
    write(record, journal).await
}

fn worth_repeating(error: &StepError) -> bool {
    !matches!(error.class(), Class::Refused)
}

async fn write<W: Workflow>(record: &Record<W>, journal: &dyn Journal) -> Result<(), JournalError> {
    journal.write(&record.head, &body(record)?).await
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
