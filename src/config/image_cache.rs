//! `[image_cache]`: the cached base images.

use std::time::Duration;

use crate::config::opt::{Opt, section};

section! {
    /// The cached base images.
    ImageCache in "image_cache":

    /// The cache's directory, inside `[DEFAULT] instances_path`: a name, not a path.
    subdirectory_name: String = Opt::text().default("_base")
        .formerly(&[("DEFAULT", "image_cache_subdirectory_name")]);

    /// How often unused images are looked for. 0: once a minute; -1: never.
    manager_interval: i64 = Opt::integer(-1, 3_200_000_000).default("2400").unit("seconds")
        .formerly(&[("DEFAULT", "image_cache_manager_interval")]);

    /// Whether unused images are removed.
    remove_unused_base_images: bool = Opt::boolean().default("true")
        .formerly(&[("DEFAULT", "remove_unused_base_images")]);

    /// How long an image must have been unused.
    remove_unused_original_minimum_age_seconds: Duration = Opt::seconds(0).default("86400")
        .formerly(&[("DEFAULT", "remove_unused_original_minimum_age_seconds")]);

    /// How long a resized copy of an image, as older novas made them, must have been unused.
    remove_unused_resized_minimum_age_seconds: Duration = Opt::seconds(0).default("3600")
        .formerly(&[("libvirt", "remove_unused_resized_minimum_age_seconds")]);
}
