//! `[workarounds]`: for what is broken elsewhere.

use crate::config::opt::{Opt, section};

section! {
    /// For what is broken elsewhere.
    Workarounds in "workarounds":

    /// Whether a guest that stops or starts by itself changes its instance's state.
    handle_virt_lifecycle_events: bool = Opt::boolean().default("true");

    /// Whether guests run without an APIC.
    libvirt_disable_apic: bool = Opt::boolean().default("false");
}
