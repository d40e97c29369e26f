//! What follows when an instance's power isn't what its record says: a table.
//! nova: compute/manager.py, `_sync_instance_power_state`

use crate::model::state::{PowerState, VmState};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: it is as it should be, or nobody can say.
    Nothing,
    /// Tell the operator, and leave it.
    Warn(&'static str),
    /// The guest went off by itself: it is stopped on record too, or deleted if that is what its
    /// end means.
    StopOrDelete(&'static str),
    Stop(&'static str),
}

/// Says what to do with an instance that has no task. `power` is the hypervisor's word, `NoState`
/// when it knows no domain.
pub fn remedy(vm_state: Option<VmState>, power: PowerState) -> Remedy {
    use PowerState::{Crashed, NoState, Paused, Running, Shutdown, Suspended};
    use VmState::{
        Active, Building, Deleted, Error, Rescued, Resized, Shelved, ShelvedOffloaded, SoftDeleted,
        Stopped, Suspended as SavedToDisk,
    };
    match (vm_state, power) {
        (Some(Active), Shutdown | Crashed) => Remedy::StopOrDelete("the guest went off by itself"),
        (Some(Active), Suspended) => Remedy::Stop("the guest is suspended unexpectedly"),
        // It may be somebody's tool, which lets it go on.
        (Some(Active), Paused) => Remedy::Warn("the guest is paused unexpectedly"),
        // libvirtd may be restarting.
        (Some(Active), NoState) => Remedy::Warn("the instance has no domain"),
        (Some(Active), Running) => Remedy::Nothing,
        (Some(Stopped), Running | Paused | Suspended) => Remedy::Stop("the guest isn't stopped"),
        (Some(Stopped), NoState | Shutdown | Crashed) => Remedy::Nothing,
        (Some(VmState::Paused), Shutdown | Crashed) => {
            Remedy::Stop("the paused guest went off by itself")
        }
        (Some(VmState::Paused), NoState | Running | Paused | Suspended) => Remedy::Nothing,
        // nova: `_cleanup_running_deleted_instances` sees to it.
        (Some(SoftDeleted | Deleted), Running | Paused | Crashed | Suspended) => {
            Remedy::Warn("the deleted instance is not off")
        }
        (Some(SoftDeleted | Deleted), NoState | Shutdown) => Remedy::Nothing,
        (
            Some(Building | Rescued | Resized | SavedToDisk | Error | Shelved | ShelvedOffloaded)
            | None,
            _,
        ) => Remedy::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POWER: [PowerState; 6] = [
        PowerState::NoState,
        PowerState::Running,
        PowerState::Paused,
        PowerState::Shutdown,
        PowerState::Crashed,
        PowerState::Suspended,
    ];

    #[test]
    fn the_table_is_this_one() {
        let cell = |vm_state: VmState, power| match remedy(Some(vm_state), power) {
            Remedy::Nothing => "-",
            Remedy::Warn(_) => "warn",
            Remedy::StopOrDelete(_) => "stop/delete",
            Remedy::Stop(_) => "stop",
        };
        let row = |vm_state: &VmState| {
            let cells: Vec<_> = POWER.iter().map(|power| cell(*vm_state, *power)).collect();
            format!("{vm_state}: {}", cells.join(" "))
        };
        let table: Vec<_> = VmState::ALL.iter().map(row).collect();
        let expected = [
            //      NoState Running Paused Shutdown Crashed Suspended
            "active: warn - warn stop/delete stop/delete stop",
            "building: - - - - - -",
            "paused: - - - stop stop -",
            "suspended: - - - - - -",
            "stopped: - stop stop - - stop",
            "rescued: - - - - - -",
            "resized: - - - - - -",
            "soft-delete: - warn warn - warn warn",
            "deleted: - warn warn - warn warn",
            "error: - - - - - -",
            "shelved: - - - - - -",
            "shelved_offloaded: - - - - - -",
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn an_instance_without_a_state_is_left_alone() {
        assert!(POWER.iter().all(|power| remedy(None, *power) == Remedy::Nothing));
    }
}
