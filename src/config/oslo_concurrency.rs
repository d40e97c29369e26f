//! `[oslo_concurrency]`: locks between processes.

use std::path::PathBuf;

use crate::config::opt::{Opt, section};

section! {
    /// Locks between processes.
    OsloConcurrency in "oslo_concurrency":

    /// The directory of lock files. The image cache's are in instances_path, as nova has them.
    lock_path: Option<PathBuf> = Opt::text().of_host(
        || std::env::var("OSLO_LOCK_PATH").unwrap_or_default(),
        "the environment's OSLO_LOCK_PATH",
    );
}
