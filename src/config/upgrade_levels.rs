//! `[upgrade_levels]`: versions not to go beyond while a cloud is being upgraded.

use crate::config::opt::{Opt, section};

section! {
    /// Versions not to go beyond while a cloud is being upgraded.
    UpgradeLevels in "upgrade_levels":

    /// Of messages to other compute services: auto, a release's name, or a version.
    compute: Option<String> = Opt::text();

    /// Of messages to nova-conductor: a release's name, or a version.
    conductor: Option<String> = Opt::text();
}
