//! Runs tasks, each on its own: no task waits for another, and no task runs twice at once.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info_span, warn};

use super::task::{First, Spacing, Task};
use crate::health::{Metrics, RunOutcome};
use crate::telemetry::Chain;

/// How much later than due a run may come, in parts of its interval: tasks of many hosts must not
/// fall into step. oslo.service: periodic_task.py, `_nearest_boundary`
const JITTER: u32 = 20;

/// `[DEFAULT] periodic_enable` and `periodic_fuzzy_delay`.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub enable: bool,
    /// The longest random delay before the first run.
    pub fuzzy_delay: Duration,
}

/// Runs tasks until it is stopped.
pub struct Scheduler {
    start: Start,
    metrics: Arc<Metrics>,
    running: TaskTracker,
    stop: CancellationToken,
}

impl Scheduler {
    pub fn new(start: Start, metrics: Arc<Metrics>) -> Self {
        Self { start, metrics, running: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Runs `task` from now on, if its spacing and the configuration let it.
    pub fn add(&self, task: Task) {
        let Spacing::Every(interval) = task.spacing else {
            debug!(task = task.name, "its interval is negative: it does not run");
            return;
        };
        if !(self.start.enable || task.always) {
            debug!(task = task.name, "periodic_enable is off: it does not run");
            return;
        }
        let fuzzy = fastrand::f64();
        let delay = match task.first {
            First::AtOnce => self.start.fuzzy_delay.mul_f64(fuzzy),
            First::AfterInterval => interval.max(self.start.fuzzy_delay.mul_f64(fuzzy)),
            First::After(delay) => delay,
        };
        let (metrics, stop) = (self.metrics.clone(), self.stop.clone());
        self.running.spawn(async move {
            stop.run_until_cancelled(run(task, interval, delay, &metrics)).await;
        });
    }

    /// Ends all tasks where they await, and returns when none runs any more.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

async fn run(task: Task, interval: Duration, delay: Duration, metrics: &Metrics) {
    let mut due = Instant::now() + delay;
    loop {
        tokio::time::sleep_until(due).await;
        run_once(&task, metrics).instrument(info_span!("periodic", task = task.name)).await;
        due = next(due, Instant::now(), interval) + (interval / JITTER).mul_f64(fastrand::f64());
    }
}

/// The next time on the grid that `due` is on: a run that took longer than the interval leaves
/// out those that fell into it.
fn next(due: Instant, now: Instant, interval: Duration) -> Instant {
    let next = due + interval;
    if next > now {
        return next;
    }
    let late = now.saturating_duration_since(due).as_nanos() % interval.as_nanos().max(1);
    now + interval - Duration::from_nanos(u64::try_from(late).unwrap_or(0))
}

/// One run: it ends by itself, or with its budget. Whatever happens in it, the next one comes.
async fn run_once(task: &Task, metrics: &Metrics) {
    let started = Instant::now();
    // The closure itself may panic, too.
    let work = AssertUnwindSafe(async { (task.work)().await }).catch_unwind();
    let outcome = match tokio::time::timeout(task.budget, work).await {
        Ok(Ok(Ok(()))) => RunOutcome::Done,
        Ok(Ok(Err(error))) => {
            warn!(error = %Chain(error.as_ref()), "the periodic task failed; it runs again");
            RunOutcome::Failed
        }
        Ok(Err(_)) => {
            warn!("the periodic task panicked; it runs again");
            RunOutcome::Failed
        }
        Err(_) => {
            warn!(budget = ?task.budget, "the periodic task took too long and was given up");
            RunOutcome::TimedOut
        }
    };
    let took = started.elapsed();
    debug!(elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), ?outcome, "ran");
    metrics.periodic_run(task.name, outcome, took);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::periodic::TaskError;

    const MINUTE: Duration = Duration::from_secs(60);

    fn scheduler(fuzzy_delay: Duration) -> Scheduler {
        Scheduler::new(Start { enable: true, fuzzy_delay }, Arc::new(Metrics::new()))
    }

    /// A task that notes when it ran, in seconds from the test's start.
    fn noting(every: Duration) -> (Task, Arc<Mutex<Vec<f64>>>) {
        let (noted, began) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let into = noted.clone();
        let task = Task::new("noting", Spacing::Every(every), move || {
            into.lock().unwrap().push(began.elapsed().as_secs_f64());
            std::future::ready(Ok(()))
        });
        (task, noted)
    }

    #[tokio::test(start_paused = true)]
    async fn runs_come_at_the_interval_with_little_jitter() {
        let scheduler = scheduler(Duration::ZERO);
        let (task, noted) = noting(MINUTE);
        scheduler.add(task);
        tokio::time::sleep(MINUTE * 60).await;
        let noted = noted.lock().unwrap().clone();
        assert!(noted.len() >= 55, "{noted:?}");
        let gaps: Vec<_> = noted.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (59.9..=63.1).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap > 60.1), "there is no jitter: {gaps:?}");
        assert!((59.9..=60.1).contains(&noted[0]), "the first run comes after one interval");
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_run_at_once_is_within_the_fuzzy_delay() {
        let mut delays = Vec::new();
        for _ in 0..20 {
            let scheduler = scheduler(MINUTE);
            let (task, noted) = noting(MINUTE * 10);
            scheduler.add(task.at_once());
            tokio::time::sleep(MINUTE + Duration::from_secs(1)).await;
            scheduler.stop().await;
            delays.extend(noted.lock().unwrap().clone());
        }
        assert_eq!(delays.len(), 20);
        let (least, most) =
            delays.iter().fold((f64::MAX, 0.0_f64), |(l, m), d| (l.min(*d), m.max(*d)));
        assert!(most - least > 1.0, "all at the same time: {delays:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_hangs_is_given_up_and_holds_up_nobody() {
        let metrics = Arc::new(Metrics::new());
        let start = Start { enable: true, fuzzy_delay: Duration::ZERO };
        let scheduler = Scheduler::new(start, metrics.clone());
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, peak) = (running.clone(), most.clone());
        let hanging = Task::new("hanging", Spacing::Every(MINUTE), move || {
            struct Leave(Arc<AtomicUsize>);
            impl Drop for Leave {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(now, Ordering::SeqCst);
            let leave = Leave(counted.clone());
            async move {
                let _leave = leave;
                std::future::pending::<Result<(), TaskError>>().await
            }
        });
        scheduler.add(hanging.within(MINUTE * 3));
        let (task, noted) = noting(MINUTE);
        scheduler.add(task);
        tokio::time::sleep(MINUTE * 30).await;
        assert!(noted.lock().unwrap().len() >= 27);
        assert_eq!(most.load(Ordering::SeqCst), 1, "two runs of one task at once");
        scheduler.stop().await;
        assert_eq!(running.load(Ordering::SeqCst), 0, "it still runs after the stop");
        let text = metrics.encode();
        let line = "hypernova_periodic_runs_total{task=\"hanging\",outcome=\"timed out\"} ";
        let count = text.lines().find_map(|l| l.strip_prefix(line)).expect(&text);
        assert!((5..=10).contains(&count.parse::<u32>().unwrap()), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_and_a_panic_do_not_end_a_task() {
        let scheduler = scheduler(Duration::ZERO);
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        scheduler.add(Task::new("bad", Spacing::Every(MINUTE), move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(run.is_multiple_of(2), "told to panic");
                Err("told to fail".into())
            }
        }));
        tokio::time::sleep(MINUTE * 6).await;
        assert!(runs.load(Ordering::SeqCst) >= 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_disabled_never_runs_but_for_what_always_does() {
        let start = Start { enable: false, fuzzy_delay: Duration::ZERO };
        let scheduler = Scheduler::new(start, Arc::new(Metrics::new()));
        let (task, noted) = noting(MINUTE);
        scheduler.add(task);
        let (task, always) = noting(MINUTE);
        scheduler.add(task.always().first_after(Duration::from_secs(5)));
        let (mut task, never) = noting(MINUTE);
        task.spacing = Spacing::Never;
        scheduler.add(task.always());
        tokio::time::sleep(MINUTE * 2).await;
        assert_eq!(noted.lock().unwrap().len() + never.lock().unwrap().len(), 0);
        assert_eq!(always.lock().unwrap().len(), 2);
        assert!((4.9..=5.1).contains(&always.lock().unwrap()[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_run_keeps_to_the_grid() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(next(start, after(10), MINUTE), after(60));
        assert_eq!(next(start, after(60), MINUTE), after(120));
        assert_eq!(next(start, after(150), MINUTE), after(180));
    }
}
