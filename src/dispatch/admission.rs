//! May this request start now? A table over request, `vm_state` and `task_state`.

use std::fmt;

use crate::model::fault::Fault;
use crate::model::state::{TaskState, VmState};
use crate::workflow::any::AnyRecord;
use crate::workflow::reboot::Kind;

/// The requests that change an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    Build,
    Delete,
    Stop,
    Start,
    RebootSoft,
    RebootHard,
    Pause,
    Unpause,
    Suspend,
    Resume,
    Snapshot,
    Backup,
    Quiesce,
    Unquiesce,
    SetPassword,
    CrashDump,
    SoftDelete,
    Restore,
    Rescue,
    Unrescue,
    Rebuild,
    Shelve,
    ShelveOffload,
    Unshelve,
    AttachVolume,
    DetachVolume,
    ReserveDevice,
    AttachInterface,
    DetachInterface,
    FixedIp,
    SwapVolume,
    RemoveConnection,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Run,
    /// What is asked for is so already.
    AlreadyDone,
}

/// The instance's state doesn't allow it. nova: InstanceInvalidState.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub request: RequestKind,
    pub vm_state: Option<VmState>,
    pub task_state: Option<TaskState>,
}

impl RequestKind {
    pub const ALL: [Self; 32] = [
        Self::Build,
        Self::Delete,
        Self::Stop,
        Self::Start,
        Self::RebootSoft,
        Self::RebootHard,
        Self::Pause,
        Self::Unpause,
        Self::Suspend,
        Self::Resume,
        Self::Snapshot,
        Self::Backup,
        Self::Quiesce,
        Self::Unquiesce,
        Self::SetPassword,
        Self::CrashDump,
        Self::SoftDelete,
        Self::Restore,
        Self::Rescue,
        Self::Unrescue,
        Self::Rebuild,
        Self::Shelve,
        Self::ShelveOffload,
        Self::Unshelve,
        Self::AttachVolume,
        Self::DetachVolume,
        Self::ReserveDevice,
        Self::AttachInterface,
        Self::DetachInterface,
        Self::FixedIp,
        Self::SwapVolume,
        Self::RemoveConnection,
    ];

    /// The request that a record came from.
    pub fn of(record: &AnyRecord) -> Self {
        match record {
            AnyRecord::Spawn(_) => Self::Build,
            AnyRecord::Terminate(_) => Self::Delete,
            AnyRecord::PowerOff(_) => Self::Stop,
            AnyRecord::PowerOn(record) => match record.workflow.is_restore() {
                true => Self::Restore,
                false => Self::Start,
            },
            AnyRecord::Reboot(record) => match record.workflow.kind() {
                Kind::Soft => Self::RebootSoft,
                Kind::Hard => Self::RebootHard,
            },
            AnyRecord::Pause(_) => Self::Pause,
            AnyRecord::Unpause(_) => Self::Unpause,
            AnyRecord::Suspend(_) => Self::Suspend,
            AnyRecord::Resume(_) => Self::Resume,
            AnyRecord::Snapshot(record) => match record.workflow.is_backup() {
                true => Self::Backup,
                false => Self::Snapshot,
            },
            AnyRecord::Quiesce(_) => Self::Quiesce,
            AnyRecord::Unquiesce(_) => Self::Unquiesce,
            AnyRecord::SetPassword(_) => Self::SetPassword,
            AnyRecord::CrashDump(_) => Self::CrashDump,
            AnyRecord::SoftDelete(_) => Self::SoftDelete,
            AnyRecord::Rescue(_) => Self::Rescue,
            AnyRecord::Unrescue(_) => Self::Unrescue,
            AnyRecord::Rebuild(_) => Self::Rebuild,
            AnyRecord::Shelve(_) => Self::Shelve,
            AnyRecord::ShelveOffload(_) => Self::ShelveOffload,
            AnyRecord::Unshelve(_) => Self::Unshelve,
            AnyRecord::AttachVolume(_) => Self::AttachVolume,
            AnyRecord::DetachVolume(_) => Self::DetachVolume,
            AnyRecord::ReserveDevice(_) => Self::ReserveDevice,
            AnyRecord::AttachInterface(_) => Self::AttachInterface,
            AnyRecord::DetachInterface(_) => Self::DetachInterface,
            AnyRecord::FixedIp(_) => Self::FixedIp,
            AnyRecord::SwapVolume(_) => Self::SwapVolume,
            AnyRecord::RemoveConnection(_) => Self::RemoveConnection,
        }
    }

    /// The task states that the request itself sets: nova-api before it sends the request, and
    /// the workflow while it runs.
    pub fn task_states(self) -> &'static [TaskState] {
        use TaskState::{
            BlockDeviceMapping, Deleting, ImageBackup, ImagePendingUpload, ImageSnapshot,
            ImageSnapshotPending, ImageUploading, Networking, Pausing, PoweringOff, PoweringOn,
            RebootPending, RebootPendingHard, RebootStarted, RebootStartedHard, Rebooting,
            RebootingHard, RebuildBlockDeviceMapping, RebuildSpawning, Rebuilding, Rescuing,
            Restoring, Resuming, Scheduling, Shelving, ShelvingImagePendingUpload,
            ShelvingImageUploading, ShelvingOffloading, SoftDeleting, Spawning, Suspending,
            Unpausing, Unrescuing, Unshelving, UpdatingPassword,
        };
        match self {
            Self::Build => &[Scheduling, Networking, BlockDeviceMapping, Spawning],
            Self::Delete => &[Deleting],
            Self::Stop => &[PoweringOff],
            Self::Start => &[PoweringOn],
            Self::RebootSoft => &[Rebooting, RebootPending, RebootStarted],
            Self::RebootHard => &[RebootingHard, RebootPendingHard, RebootStartedHard],
            Self::Pause => &[Pausing],
            Self::Unpause => &[Unpausing],
            Self::Suspend => &[Suspending],
            Self::Resume => &[Resuming],
            Self::Snapshot => {
                &[ImageSnapshotPending, ImageSnapshot, ImagePendingUpload, ImageUploading]
            }
            Self::Backup => &[ImageBackup, ImagePendingUpload, ImageUploading],
            Self::SetPassword => &[UpdatingPassword],
            Self::SoftDelete => &[SoftDeleting],
            Self::Restore => &[Restoring],
            Self::Rescue => &[Rescuing],
            Self::Unrescue => &[Unrescuing],
            Self::Rebuild => &[Rebuilding, RebuildBlockDeviceMapping, RebuildSpawning],
            Self::Shelve => &[Shelving, ShelvingImagePendingUpload, ShelvingImageUploading],
            // A guest that boots from a volume is offloaded without having been shelved.
            Self::ShelveOffload => &[Shelving, ShelvingOffloading],
            Self::Unshelve => &[Unshelving, Spawning],
            // nova-api sets none for them.
            Self::Quiesce
            | Self::Unquiesce
            | Self::CrashDump
            | Self::AttachVolume
            | Self::DetachVolume
            | Self::ReserveDevice
            | Self::SwapVolume
            | Self::RemoveConnection
            | Self::AttachInterface
            | Self::DetachInterface
            | Self::FixedIp => &[],
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Delete => "delete",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::RebootSoft => "reboot",
            Self::RebootHard => "reboot hard",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Snapshot => "snapshot",
            Self::Backup => "back up",
            Self::Quiesce => "quiesce",
            Self::Unquiesce => "unquiesce",
            Self::SetPassword => "set the password of",
            Self::CrashDump => "trigger a crash dump of",
            Self::SoftDelete => "soft-delete",
            Self::Restore => "restore",
            Self::Rescue => "rescue",
            Self::Unrescue => "unrescue",
            Self::Rebuild => "rebuild",
            Self::Shelve => "shelve",
            Self::ShelveOffload => "offload",
            Self::Unshelve => "unshelve",
            Self::AttachVolume => "attach a volume to",
            Self::DetachVolume => "detach a volume from",
            Self::ReserveDevice => "reserve a device of",
            Self::AttachInterface => "attach an interface to",
            Self::DetachInterface => "detach an interface from",
            Self::FixedIp => "change the addresses of",
            Self::SwapVolume => "swap a volume of",
            Self::RemoveConnection => "remove a volume's connection of",
        }
    }
}

/// Says whether `request` may start now. No clock, no I/O, no logging.
///
/// The task state must be the request's own or none: another one means that something else is
/// under way. Only a delete goes over everything, and an unquiesce over every task: what is frozen must
/// be thawed, whatever has begun since. nova removes a volume's connection in any state.
///
/// The states are those from which nova-api lets the request through (compute/api.py,
/// `check_instance_state`), and those in which the request's end is reached already: a repeat then
/// does its steps again, which changes nothing and mends what a guest did by itself.
///
/// # Errors
/// [`Refusal`] with the state it was refused in.
pub fn admit(
    request: RequestKind,
    vm_state: Option<VmState>,
    task_state: Option<TaskState>,
) -> Result<Admission, Refusal> {
    use RequestKind::{
        AttachInterface, AttachVolume, Backup, Build, CrashDump, Delete, DetachInterface,
        DetachVolume, FixedIp, Pause, Quiesce, RebootHard, RebootSoft, Rebuild, RemoveConnection,
        Rescue, ReserveDevice, Restore, Resume, SetPassword, Shelve, ShelveOffload, Snapshot,
        SoftDelete, Start, Stop, Suspend, SwapVolume, Unpause, Unquiesce, Unrescue, Unshelve,
    };
    use VmState::{
        Active, Building, Deleted, Error, Paused, Rescued, Resized, Shelved, ShelvedOffloaded,
        SoftDeleted, Stopped, Suspended,
    };
    let free = task_state.is_none_or(|state| request.task_states().contains(&state));
    match (request, vm_state, free) {
        (Delete, Some(Deleted), _) => Ok(Admission::AlreadyDone),
        (Delete, ..) => Ok(Admission::Run),
        (Build, Some(Building), true)
        | (Stop, Some(Active | Stopped | Paused | Error), true)
        // Unshelving what is still on its host is starting it.
        | (Start, Some(Stopped | Active | Shelved), true)
        | (RebootSoft, Some(Active), true)
        | (RebootHard, Some(Active | Stopped | Paused | Suspended | Error), true)
        | (Pause, Some(Active | Paused), true)
        | (Unpause, Some(Paused | Active), true)
        | (Suspend, Some(Active | Suspended), true)
        | (Resume, Some(Suspended | Active), true)
        | (Snapshot | Backup, Some(Active | Stopped | Paused | Suspended), true)
        | (Quiesce | SetPassword, Some(Active), true)
        | (Unquiesce, Some(Active | Paused | Rescued | Error), _)
        | (CrashDump, Some(Active | Paused | Rescued | Error), true)
        | (
            SoftDelete,
            Some(
                Active | Stopped | Paused | Suspended | Rescued | Error | Shelved | SoftDeleted,
            ),
            true,
        )
        | (Restore, Some(SoftDeleted), true)
        | (Rescue | Rebuild, Some(Active | Stopped | Error), true)
        | (Unrescue, Some(Rescued), true)
        | (Shelve, Some(Active | Stopped | Paused | Suspended), true)
        | (ShelveOffload, Some(Shelved | Active | Stopped | Paused | Suspended), true)
        | (Unshelve, Some(ShelvedOffloaded), true)
        | (
            AttachVolume | DetachVolume | ReserveDevice,
            Some(Active | Paused | Stopped | Resized | SoftDeleted),
            true,
        )
        | (SwapVolume, Some(Active | Paused | Resized), true)
        // It ends a migration that has failed, whatever the instance is doing elsewhere.
        | (RemoveConnection, Some(_), _)
        | (AttachInterface | DetachInterface, Some(Active | Paused | Stopped), true)
        // nova-api looks at nothing but the lock.
        | (
            FixedIp,
            Some(
                Active | Paused | Stopped | Suspended | Rescued | Resized | Error | SoftDeleted | Shelved
                | ShelvedOffloaded,
            ),
            _,
        ) => Ok(Admission::Run),
        (
            Build | Stop | Start | RebootSoft | RebootHard | Pause | Unpause | Suspend | Resume
            | Snapshot | Backup | Quiesce | Unquiesce | SetPassword | CrashDump | SoftDelete
            | Restore | Rescue | Unrescue | Rebuild | Shelve | ShelveOffload | Unshelve
            | AttachVolume | DetachVolume | ReserveDevice | SwapVolume | AttachInterface
            | DetachInterface | FixedIp | RemoveConnection,
            ..,
        ) => Err(Refusal { request, vm_state, task_state }),
    }
}

impl Refusal {
    /// For a request that a delete overtook.
    pub fn being_deleted(request: RequestKind) -> Self {
        Self { request, vm_state: None, task_state: Some(TaskState::Deleting) }
    }

    /// nova's exception for it.
    pub fn fault(&self) -> Fault {
        let state = self.vm_state.map_or("unknown", VmState::as_str);
        Fault::nova("InstanceInvalidState", self.to_string())
            .with("attr", if self.task_state.is_some() { "task_state" } else { "vm_state" })
            .with("state", self.task_state.map_or(state, TaskState::as_str))
            .with("method", format!("{:?}", self.request).to_lowercase())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vm_state = self.vm_state.map_or("unknown", VmState::as_str);
        let task_state = self.task_state.map_or("none", TaskState::as_str);
        let verb = self.request.verb();
        write!(f, "can't {verb} an instance in vm_state {vm_state}, task_state {task_state}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every cell of the table.
    fn cells() -> impl Iterator<Item = (RequestKind, Option<VmState>, Option<TaskState>)> {
        let vm_states = || VmState::ALL.iter().copied().map(Some).chain([None]);
        let task_states = || TaskState::ALL.iter().copied().map(Some).chain([None]);
        RequestKind::ALL.into_iter().flat_map(move |request| {
            vm_states().flat_map(move |vm| task_states().map(move |task| (request, vm, task)))
        })
    }

    #[test]
    fn a_delete_is_never_refused() {
        for (request, vm, task) in cells().filter(|(request, ..)| *request == RequestKind::Delete) {
            assert!(admit(request, vm, task).is_ok(), "{request:?} {vm:?} {task:?}");
        }
    }

    #[test]
    fn what_starts_while_something_else_is_under_way_is_named() {
        let over = [
            RequestKind::Delete,
            RequestKind::Unquiesce,
            RequestKind::FixedIp,
            RequestKind::RemoveConnection,
        ];
        for (request, vm, task) in cells() {
            let foreign = task.is_some_and(|task| !request.task_states().contains(&task));
            let goes_over = over.contains(&request);
            if foreign && !goes_over {
                let refused = Err(Refusal { request, vm_state: vm, task_state: task });
                assert_eq!(admit(request, vm, task), refused);
            }
        }
    }

    #[test]
    fn a_task_state_of_its_own_changes_no_answer() {
        for (request, vm, task) in cells() {
            if task.is_some_and(|task| request.task_states().contains(&task)) {
                assert_eq!(admit(request, vm, task).is_ok(), admit(request, vm, None).is_ok());
            }
        }
    }

    #[test]
    fn the_table_is_this_one() {
        let row = |request| {
            let allowed = VmState::ALL.iter().filter(|vm| admit(request, Some(**vm), None).is_ok());
            allowed.map(|vm| vm.as_str()).collect::<Vec<_>>().join(" ")
        };
        let all = VmState::ALL.iter().map(|vm| vm.as_str()).collect::<Vec<_>>().join(" ");
        for (request, expected) in [
            (RequestKind::Build, "building"),
            (RequestKind::Delete, all.as_str()),
            (RequestKind::Stop, "active paused stopped error"),
            (RequestKind::Start, "active stopped shelved"),
            (RequestKind::RebootSoft, "active"),
            (RequestKind::RebootHard, "active paused suspended stopped error"),
            (RequestKind::Pause, "active paused"),
            (RequestKind::Unpause, "active paused"),
            (RequestKind::Suspend, "active suspended"),
            (RequestKind::Resume, "active suspended"),
            (RequestKind::Snapshot, "active paused suspended stopped"),
            (RequestKind::Backup, "active paused suspended stopped"),
            (RequestKind::Quiesce, "active"),
            (RequestKind::Unquiesce, "active paused rescued error"),
            (RequestKind::SetPassword, "active"),
            (RequestKind::CrashDump, "active paused rescued error"),
            (
                RequestKind::SoftDelete,
                "active paused suspended stopped rescued soft-delete error shelved",
            ),
            (RequestKind::Restore, "soft-delete"),
            (RequestKind::Rescue, "active stopped error"),
            (RequestKind::Unrescue, "rescued"),
            (RequestKind::Rebuild, "active stopped error"),
            (RequestKind::Shelve, "active paused suspended stopped"),
            (RequestKind::ShelveOffload, "active paused suspended stopped shelved"),
            (RequestKind::Unshelve, "shelved_offloaded"),
            (RequestKind::AttachVolume, "active paused stopped resized soft-delete"),
            (RequestKind::DetachVolume, "active paused stopped resized soft-delete"),
            (RequestKind::ReserveDevice, "active paused stopped resized soft-delete"),
            (RequestKind::AttachInterface, "active paused stopped"),
            (RequestKind::DetachInterface, "active paused stopped"),
            (
                RequestKind::FixedIp,
                "active paused suspended stopped rescued resized soft-delete error shelved shelved_offloaded",
            ),
            (RequestKind::SwapVolume, "active paused resized"),
            (RequestKind::RemoveConnection, all.as_str()),
        ] {
            assert_eq!(row(request), expected, "{request:?}");
        }
    }

    #[test]
    fn a_delete_of_a_deleted_instance_is_already_done() {
        let answer = admit(RequestKind::Delete, Some(VmState::Deleted), None);
        assert_eq!(answer, Ok(Admission::AlreadyDone));
    }

    #[test]
    fn an_instance_without_a_state_takes_only_a_delete() {
        for request in RequestKind::ALL {
            assert_eq!(admit(request, None, None).is_ok(), request == RequestKind::Delete);
        }
    }
}
