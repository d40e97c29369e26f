//! One line in the log for each change of an instance's states, whoever changed it here.

use tracing::info;
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::state::{PowerState, TaskState, VmState};

/// What a save is about to change of an instance's states.
pub(super) struct StateChange {
    uuid: Option<Uuid>,
    vm_state: Option<&'static str>,
    task_state: &'static str,
    power_state: Option<&'static str>,
}

impl StateChange {
    /// `None` when the states stay.
    pub fn of(instance: &Instance) -> Option<Self> {
        if !instance.vm_state.is_changed() && !instance.task_state.is_changed() {
            return None;
        }
        let power_state = instance.power_state.value().copied().and_then(PowerState::from_number);
        Some(Self {
            uuid: instance.uuid.get().copied(),
            vm_state: instance.vm_state.value().copied().map(VmState::as_str),
            task_state: instance.task_state.value().copied().map_or("none", TaskState::as_str),
            power_state: power_state.map(PowerState::name),
        })
    }

    /// Tells that it is on record. The ids are in the line itself: not every change is made in the
    /// course of a workflow, whose span would name them.
    pub fn tell(self, context: &RequestContext) {
        info!(
            instance_uuid = %self.uuid.unwrap_or_default(),
            vm_state = self.vm_state,
            task_state = self.task_state,
            power_state = self.power_state,
            request_id = context.request_id(),
            global_request_id = context.global_request_id.as_deref(),
            "instance state"
        );
    }
}
