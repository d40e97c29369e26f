//! A task: its name, how often it runs, how long it may take, and what it does.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// oslo.service's interval for an option that is 0.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// How long a task may take that doesn't say so itself.
const DEFAULT_BUDGET: Duration = Duration::from_secs(300);

/// Why a run failed: any room's error. The scheduler logs it with its chain.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

type Run = Pin<Box<dyn Future<Output = Result<(), TaskError>> + Send>>;

/// How often a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    Every(Duration),
    Never,
}

impl Spacing {
    /// From a nova option that counts seconds: 0 is once a minute, and a negative number never.
    /// oslo.service: periodic_task.py, `_add_periodic_task`
    pub fn of_option(seconds: i64) -> Self {
        match u64::try_from(seconds) {
            Err(_) => Self::Never,
            Ok(0) => Self::Every(DEFAULT_INTERVAL),
            Ok(seconds) => Self::Every(Duration::from_secs(seconds)),
        }
    }
}

/// When a task runs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// After the random delay. oslo.service: `run_immediately`
    AtOnce,
    /// After the random delay or one interval, whichever is longer.
    AfterInterval,
    /// After this long, whatever the delay.
    After(Duration),
}

/// Something that is done again and again.
pub struct Task {
    pub(super) name: &'static str,
    pub(super) spacing: Spacing,
    pub(super) first: First,
    pub(super) budget: Duration,
    pub(super) always: bool,
    pub(super) work: Box<dyn Fn() -> Run + Send + Sync>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, spacing, first, budget, always, work: _ } = self;
        let mut text = f.debug_struct("Task");
        text.field("name", name).field("spacing", spacing).field("first", first);
        text.field("budget", budget).field("always", always).finish_non_exhaustive()
    }
}

impl Task {
    /// A task that runs `work` first after one interval. `name` is its label in logs and metrics.
    ///
    /// # Cancel safety
    /// A run is dropped where it awaits, when its budget is over or the agent stops. What must not be
    /// cut off belongs into a task of its own.
    pub fn new<F, W>(name: &'static str, spacing: Spacing, work: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let work = Box::new(move || Box::pin(work()) as Run);
        let (first, budget) = (First::AfterInterval, DEFAULT_BUDGET);
        Self { name, spacing, first, budget, always: false, work }
    }

    /// It runs for the first time when the agent has started and its random delay is over.
    pub fn at_once(mut self) -> Self {
        self.first = First::AtOnce;
        self
    }

    /// It runs for the first time `delay` after the start: no random delay.
    pub fn first_after(mut self, delay: Duration) -> Self {
        self.first = First::After(delay);
        self
    }

    /// How long one run may take; longer ones are dropped.
    pub fn within(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// It runs also with `periodic_enable = false`: it is no periodic task of nova's, but part of how
    /// the agent lives, such as the heartbeat.
    pub fn always(mut self) -> Self {
        self.always = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_0_is_a_minute_and_a_negative_one_never() {
        assert_eq!(Spacing::of_option(600), Spacing::Every(Duration::from_secs(600)));
        assert_eq!(Spacing::of_option(0), Spacing::Every(Duration::from_secs(60)));
        assert_eq!(Spacing::of_option(-1), Spacing::Never);
    }
}
