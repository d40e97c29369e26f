//! `[upgrade_levels]`: limits for what is sent, while the control plane is being upgraded.

use crate::config::opt::{Opt, section};

section! {
    /// The newest versions that may be sent, while the control plane is being upgraded: `N.N`, or
    /// the name of a release. Unset: any.
    UpgradeLevels in "upgrade_levels":

    /// To nova-conductor: 3.0 at least.
    conductor: Option<String> = Opt::text();

    /// To nova-scheduler: 4.2 at least.
    scheduler: Option<String> = Opt::text();
}
