//! What happened to an instance, for the commands.

use async_trait::async_trait;
use serde_json::json;
use uuid::Uuid;

use super::ConductorRecords;
use crate::model::context::RequestContext;
use crate::model::object::{
    InstanceAction, InstanceActionEvent, InstanceActionEventList, InstanceActionList,
    InstanceFault, InstanceFaultList,
};
use crate::model::time::Timestamp;
use crate::records::RecordsError;
use crate::records::history::{History, RecordedEvent, RecordedFault};

/// The actions whose events are read at most, the latest ones.
const ACTIONS: usize = 20;

#[async_trait]
impl History for ConductorRecords {
    async fn events(&self, uuid: Uuid) -> Result<Vec<RecordedEvent>, RecordsError> {
        let context = RequestContext::admin();
        let (method, args) = ("get_by_instance_uuid", json!([uuid.to_string()]));
        let conductor = self.conductor();
        let actions: InstanceActionList =
            conductor.fetch::<InstanceActionList, _>(&context, method, args, json!({})).await?;
        let mut actions = actions.into_items();
        actions.sort_by_key(|action| action.id.get().copied());
        let mut events = Vec::new();
        for action in actions.iter().rev().take(ACTIONS).rev() {
            let (method, args) = ("get_by_action", json!([action.id.get()]));
            let found: InstanceActionEventList = conductor
                .fetch::<InstanceActionEventList, _>(&context, method, args, json!({}))
                .await?;
            let mut found = found.into_items();
            found.sort_by_key(|event| event.id.get().copied());
            events.extend(found.into_iter().map(|event| recorded(action, event)));
        }
        Ok(events)
    }

    async fn faults(&self, uuid: Uuid) -> Result<Vec<RecordedFault>, RecordsError> {
        let context = RequestContext::admin();
        let (method, args) = ("get_by_instance_uuids", json!([[uuid.to_string()]]));
        let found: InstanceFaultList = self
            .conductor()
            .fetch::<InstanceFaultList, _>(&context, method, args, json!({}))
            .await?;
        let mut faults = found.into_items();
        faults.sort_by_key(|fault| fault.id.get().copied());
        Ok(faults.into_iter().map(fault).collect())
    }
}

fn recorded(action: &InstanceAction, event: InstanceActionEvent) -> RecordedEvent {
    let failed = event.result.text() == Some("Error");
    let started_at = event.start_time.value().copied();
    RecordedEvent {
        event: event.event.text().unwrap_or_default().to_owned(),
        request_id: action.request_id.text().unwrap_or("-").to_owned(),
        started_at: started_at.unwrap_or(Timestamp::from_second(0)),
        finished_at: event.finish_time.value().copied(),
        failure: failed.then(|| event.details.text().unwrap_or_default().to_owned()),
        details: failed.then(|| event.traceback.text().unwrap_or_default().to_owned()),
    }
}

fn fault(fault: InstanceFault) -> RecordedFault {
    RecordedFault {
        code: fault.code.get().and_then(|code| u16::try_from(*code).ok()).unwrap_or(500),
        message: fault.message.text().unwrap_or_default().to_owned(),
        details: fault.details.text().unwrap_or_default().to_owned(),
        created_at: fault.created_at.value().copied().unwrap_or(Timestamp::from_second(0)),
    }
}
