//! `[filter_scheduler]`: the schedulers, as far as a compute node feeds them.

use crate::config::opt::{Opt, section};

section! {
    /// The schedulers, as far as a compute node feeds them.
    FilterScheduler in "filter_scheduler":

    /// Whether the schedulers are told of each instance that comes or goes.
    track_instance_changes: bool = Opt::boolean()
        .default("true")
        .formerly(&[("DEFAULT", "scheduler_tracks_instance_changes")]);
}
