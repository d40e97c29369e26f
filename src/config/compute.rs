//! `[compute]`: host resources and how requests on instances behave.

use std::time::Duration;

use crate::config::opt::{Opt, section};

section! {
    /// Host resources and how requests on instances behave.
    Compute in "compute":

    /// How often a guest that is to shut down is asked again.
    shutdown_retry_interval: Duration = Opt::seconds(1).default("10");

    /// VMDK subtypes that an image may have. Empty: none.
    vmdk_allowed_types: Vec<String> = Opt::list().default("streamOptimized,monolithicSparse");

    /// Host CPUs that guests share, such as 0-3,8-11,^2. Unset: all.
    cpu_shared_set: Option<String> = Opt::text();
}
