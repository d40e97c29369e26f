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

    /// How many disks a guest may have on a bus; negative: any number. An IDE bus has four.
    max_disk_devices_to_attach: i64 = Opt::integer(-1, u32::MAX as i64).default("-1");

    /// Host CPUs that guests share, such as 0-3,8-11,^2. Unset: all.
    cpu_shared_set: Option<String> = Opt::text();

    /// Host CPUs that are given out one by one, such as 4-7. They are reported to placement; a guest
    /// that asks for them is refused so far.
    cpu_dedicated_set: Option<String> = Opt::text();

    /// How long what placement says of this node is taken to be still so; 0: for ever.
    resource_provider_association_refresh: Duration = Opt::seconds(0).default("300");

    /// Disk formats of images that this host shouldn't get, such as qcow2.
    image_type_exclude_list: Vec<String> = Opt::list().default("");
}
