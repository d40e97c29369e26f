//! `[workarounds]`: for what is broken elsewhere.

use crate::config::opt::{Opt, section};

section! {
    /// For what is broken elsewhere.
    Workarounds in "workarounds":

    /// Whether guests run without an APIC.
    libvirt_disable_apic: bool = Opt::boolean().default("false");
}
