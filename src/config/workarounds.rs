//! `[workarounds]`: for what is broken elsewhere.

use crate::config::opt::{Opt, section};

section! {
    /// For what is broken elsewhere.
    Workarounds in "workarounds":

    /// Whether to start in a cell with computes that the control plane's release no longer works
    /// with.
    disable_compute_service_check_for_ffu: bool = Opt::boolean().default("false");

    /// Whether guests run without an APIC.
    libvirt_disable_apic: bool = Opt::boolean().default("false");

    /// Whether the image cache's size counts as reserved disk space.
    reserve_disk_resource_for_image_cache: bool = Opt::boolean().default("false");
}
