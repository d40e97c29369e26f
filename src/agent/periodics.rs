//! Every periodic task of this agent, with the option that says how often.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::health::Metrics;
use crate::periodic::{Scheduler, Spacing, Start, Task};

/// How often the journal forgets what ended long ago.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Starts them. They end with [`Scheduler::stop`].
pub(super) fn start(config: &Config, metrics: Arc<Metrics>, dispatcher: &Dispatcher) -> Scheduler {
    let start = Start {
        enable: config.default_.periodic_enable,
        fuzzy_delay: config.default_.periodic_fuzzy_delay,
    };
    let scheduler = Scheduler::new(start, metrics);
    scheduler.add(prune_journal(dispatcher.clone()));
    scheduler
}

fn prune_journal(dispatcher: Dispatcher) -> Task {
    let prune = move || {
        let dispatcher = dispatcher.clone();
        async move { Ok(dispatcher.prune().await.map(drop)?) }
    };
    Task::new("prune_journal", Spacing::Every(PRUNE_EVERY), prune).always()
}
