//! A workflow that does another one's steps as its own: a shelving makes a snapshot, a rebuild builds.

use std::mem::swap;

use super::StepResult;
use super::engine::{Stage, Workflow};
use super::instance::Subject;

/// A workflow whose steps another one may do.
pub trait Part: Workflow {
    fn subject(&mut self) -> &mut Subject;
}

/// Does a step of `part`'s on the instance of the whole. What the step learns of the instance, and what
/// it has told, is the whole's.
///
/// # Cancel safety
/// As for any step: it must not be dropped half-way.
pub async fn apply<P: Part>(
    whole: &mut Subject,
    part: &mut P,
    step: P::Step,
    stage: &Stage<'_>,
) -> StepResult {
    swap(whole, part.subject());
    // A future inside a future inside another would not fit a thread's stack.
    let done = Box::pin(part.apply(step, stage)).await;
    swap(whole, part.subject());
    done
}

/// Takes such a step back.
///
/// # Cancel safety
/// As for [`apply`].
pub async fn undo<P: Part>(
    whole: &mut Subject,
    part: &mut P,
    step: P::Step,
    stage: &Stage<'_>,
) -> StepResult {
    swap(whole, part.subject());
    let undone = Box::pin(part.undo(step, stage)).await;
    swap(whole, part.subject());
    undone
}

/// The subject of a part, where the whole's will be.
pub fn nobody() -> Subject {
    Subject::new(Default::default(), "")
}
