//! `[image_cache]`: the cached base images.

use std::time::Duration;

use crate::config::opt::{Opt, section};

section! {
    /// The cached base images.
    ImageCache in "image_cache":

    /// How often the cache is looked through; -1: never, 0: every minute.
    manager_interval: i64 = Opt::integer(-1, 3_200_000_000).default("2400").unit("seconds")
        .formerly(&[("DEFAULT", "image_cache_manager_interval")]);

    /// The cache's directory, inside `[DEFAULT] instances_path`: a name, not a path.
    subdirectory_name: String = Opt::text().default("_base")
        .formerly(&[("DEFAULT", "image_cache_subdirectory_name")]);

    /// Whether images that no instance uses are removed.
    remove_unused_base_images: bool = Opt::boolean().default("true")
        .formerly(&[("DEFAULT", "remove_unused_base_images")]);

    /// How old an unused image must be before it is removed.
    remove_unused_original_minimum_age_seconds: Duration = Opt::seconds(0).default("86400")
        .formerly(&[("DEFAULT", "remove_unused_original_minimum_age_seconds")]);
}
