//! What is told of an instance to its owner: events of its actions, and faults.
//! nova: objects/{instance_action,instance_fault}.py

use serde_json::{Value, json};
use uuid::Uuid;

use super::services::decode;
use super::{Conductor, ConductorError, Repeat};
use crate::model::context::RequestContext;
use crate::model::object::{
    InstanceAction, InstanceActionEvent, InstanceActionEventList, InstanceFault,
};

impl Conductor {
    /// Adds an event to the action that this request is. Each call that is carried out adds one.
    ///
    /// # Errors
    /// `InstanceActionNotFound` when the request has no action, and isn't the agent's own.
    pub(super) async fn start_event(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
        host: &str,
    ) -> Result<(), ConductorError> {
        let args = json!([uuid.to_string(), event]);
        let kwargs = json!({"want_result": false, "host": host});
        let method = "event_start";
        let started =
            self.class_action::<InstanceActionEvent>(context, method, args, kwargs, Repeat::Never);
        started.await.map(drop)
    }

    /// Ends an event. `failure`: its message and a traceback.
    ///
    /// # Errors
    /// `InstanceActionNotFound`, `InstanceActionEventNotFound`
    pub(super) async fn finish_event(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
        failure: Option<(&str, &str)>,
    ) -> Result<(), ConductorError> {
        let args = json!([uuid.to_string(), event]);
        let (message, details) = failure.unzip();
        let kwargs = json!({"exc_val": message, "exc_tb": details, "want_result": false});
        let method = "event_finish_with_failure";
        let finished = self.class_action::<InstanceActionEvent>(
            context,
            method,
            args,
            kwargs,
            Repeat::Harmless,
        );
        finished.await.map(drop)
    }

    /// Whether the request's action has this event of this host already.
    pub(super) async fn has_event(
        &self,
        context: &RequestContext,
        uuid: Uuid,
        event: &str,
        host: &str,
    ) -> Result<bool, ConductorError> {
        let args = json!([uuid.to_string(), context.request_id()]);
        let method = "get_by_request_id";
        let action =
            self.class_action::<InstanceAction>(context, method, args, json!({}), Repeat::Harmless);
        let action: Option<InstanceAction> =
            decode("InstanceAction.get_by_request_id", &action.await?)?;
        let Some(id) = action.and_then(|action| action.id.get().copied()) else {
            return Ok(false);
        };
        let (method, args) = ("get_by_action", json!([id]));
        let events: InstanceActionEventList =
            self.fetch::<InstanceActionEventList, _>(context, method, args, json!({})).await?;
        let same = |found: &InstanceActionEvent| {
            found.event.text() == Some(event) && found.host.text() == Some(host)
        };
        Ok(events.items().iter().any(same))
    }

    /// Records a fault. When nobody knows whether the first try did, the latest fault on record
    /// tells.
    pub(super) async fn create_fault(
        &self,
        context: &RequestContext,
        mut fault: InstanceFault,
    ) -> Result<(), ConductorError> {
        let error = match self.create_object(context, &mut fault).await {
            Err(error) if error.is_unanswered() => error,
            result => return result,
        };
        let Some(uuid) = fault.instance_uuid.get() else { return Err(error) };
        let (method, args) = ("get_latest_for_instance", json!([uuid.to_string()]));
        let latest =
            self.class_action::<InstanceFault>(context, method, args, json!({}), Repeat::Harmless);
        let latest: Option<InstanceFault> =
            decode("InstanceFault.get_latest_for_instance", &latest.await?)?;
        let same = |found: InstanceFault| {
            found.host.get() == fault.host.get()
                && found.code.get() == fault.code.get()
                && found.message.text() == fault.message.text()
        };
        match latest.is_some_and(same) {
            true => Ok(()),
            false => self.create_object(context, &mut fault).await,
        }
    }

    /// Creates the record of an object, in one try, and fills in what the database has added.
    pub(super) async fn create_object<T>(
        &self,
        context: &RequestContext,
        object: &mut T,
    ) -> Result<(), ConductorError>
    where
        T: crate::model::object::VersionedObject + Clone,
    {
        let primitive: Value = object.to_primitive();
        self.object_action(context, object, primitive, "create", json!({}), Repeat::Never).await?;
        object.reset_changes();
        Ok(())
    }
}
