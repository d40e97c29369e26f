//! `[image_cache]`: the cached base images.

use crate::config::opt::{Opt, section};

section! {
    /// The cached base images.
    ImageCache in "image_cache":

    /// The cache's directory, inside `[DEFAULT] instances_path`: a name, not a path.
    subdirectory_name: String = Opt::text().default("_base")
        .formerly(&[("DEFAULT", "image_cache_subdirectory_name")]);
}
