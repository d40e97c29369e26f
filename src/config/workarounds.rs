//! `[workarounds]`: for what is broken elsewhere.

use crate::config::opt::{Opt, section};

section! {
    /// For what is broken elsewhere.
    Workarounds in "workarounds":

    /// Whether guests run without an APIC.
    libvirt_disable_apic: bool = Opt::boolean().default("false");

    /// Whether snapshots are made of guests whose memory is saved meanwhile, and never of guests that
    /// run.
    disable_libvirt_livesnapshot: bool = Opt::boolean().default("false");

    /// Whether a guest that goes off by itself is noticed at once, by libvirt's events, and not only
    /// every sync_power_state_interval.
    handle_virt_lifecycle_events: bool = Opt::boolean().default("true");

    /// Kinds of ports (normal, direct, …) whose plug is awaited when a domain is made anew, too: for
    /// networks that plug late.
    wait_for_vif_plugged_event_during_hard_reboot: Vec<String> = Opt::list().default("");

    /// Whether the agent starts beside nova-compute services that are too old for the control
    /// plane's release.
    disable_compute_service_check_for_ffu: bool = Opt::boolean().default("false");

    /// Whether the image cache's size counts as reserved disk space.
    reserve_disk_resource_for_image_cache: bool = Opt::boolean().default("false");
}
