//! `[upgrade_levels]`: how new the messages to other services may be.

use crate::config::opt::{Opt, section};

section! {
    /// How new the messages to other services may be, while a control plane is upgraded: a
    /// release's name or a version of the interface.
    UpgradeLevels in "upgrade_levels":

    /// Of calls to nova-conductor. Unset: as new as this agent's.
    conductor: Option<String> = Opt::text();

    /// Of what the schedulers are told. Unset: as new as this agent's.
    scheduler: Option<String> = Opt::text();
}
