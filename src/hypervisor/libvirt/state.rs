//! libvirt's states and reasons as nova's power states and as words (`virsh domstate --reason`'s).

use crate::model::state::PowerState;

/// nova: virt/libvirt/guest.py, `LIBVIRT_POWER_STATE`. A state libvirt may add later counts as none.
pub fn power_state(state: u32) -> PowerState {
    match state {
        // Running; blocked (Xen's idle)
        1 | 2 => PowerState::Running,
        3 => PowerState::Paused,
        // Shutting down; shut off, saved or not
        4 | 5 => PowerState::Shutdown,
        6 => PowerState::Crashed,
        7 => PowerState::Suspended,
        _ => PowerState::NoState,
    }
}

/// Why the domain is in that state.
pub fn reason(state: u32, reason: i32) -> &'static str {
    let words: &[&str] = match state {
        1 => &[
            "unknown",
            "booted",
            "migrated",
            "restored",
            "from snapshot",
            "unpaused",
            "migration canceled",
            "save canceled",
            "event wakeup",
            "crashed",
            "post-copy",
            "post-copy failed",
        ],
        3 => &[
            "unknown",
            "user",
            "migrating",
            "saving",
            "dumping",
            "I/O error",
            "watchdog",
            "from snapshot",
            "shutting down",
            "creating snapshot",
            "crashed",
            "starting up",
            "post-copy",
            "post-copy failed",
            "api error",
        ],
        4 => &["unknown", "user"],
        5 => &[
            "unknown",
            "shutdown",
            "destroyed",
            "crashed",
            "migrated",
            "saved",
            "failed",
            "from snapshot",
            "daemon",
        ],
        6 => &["unknown", "panicked"],
        _ => &["unknown"],
    };
    usize::try_from(reason).ok().and_then(|index| words.get(index)).copied().unwrap_or("unknown")
}

/// What a lifecycle event says: the state it leads to and why; `None` for events that change no
/// power state, such as a definition. "Shutdown" is one of them: the guest has let go, but the
/// domain isn't off before "stopped" follows, and could not be started yet.
pub fn lifecycle(event: u32, detail: i32) -> Option<(PowerState, &'static str)> {
    let (state, words): (_, &[&str]) = match event {
        2 => (
            PowerState::Running,
            &["booted", "migrated", "restored", "from snapshot", "wakeup", "recovered"],
        ),
        3 => (
            PowerState::Paused,
            &[
                "paused",
                "migrated",
                "I/O error",
                "watchdog",
                "restored",
                "from snapshot",
                "api error",
                "post-copy",
                "post-copy failed",
            ],
        ),
        4 => (
            PowerState::Running,
            &["unpaused", "migrated", "from snapshot", "post-copy", "post-copy failed"],
        ),
        5 => (
            PowerState::Shutdown,
            &["shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot"],
        ),
        7 => (PowerState::Suspended, &["memory", "disk"]),
        8 => (PowerState::Crashed, &["panicked", "crash loaded"]),
        _ => return None,
    };
    let word = usize::try_from(detail).ok().and_then(|index| words.get(index));
    Some((state, word.copied().unwrap_or("unknown")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_novas() {
        use PowerState::*;
        let states: Vec<_> = (0..9).map(power_state).collect();
        let nova =
            [NoState, Running, Running, Paused, Shutdown, Shutdown, Crashed, Suspended, NoState];
        assert_eq!(states, nova);
    }

    #[test]
    fn reasons_libvirt_may_add_are_unknown() {
        assert_eq!(reason(5, 5), "saved");
        assert_eq!(reason(1, 99), "unknown");
        assert_eq!(reason(1, -1), "unknown");
        assert_eq!(lifecycle(5, 4), Some((PowerState::Shutdown, "saved")));
        assert_eq!(lifecycle(0, 0), None);
        assert_eq!(lifecycle(6, 1), None);
    }
}
