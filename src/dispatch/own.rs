//! Requests that the agent makes on its own behalf: what nova-api does before it sends a request,
//! and then the request, in the same queue as everybody's.

use std::sync::Arc;

use tracing::{info, warn};
use uuid::Uuid;

use super::Dispatcher;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::{Instance, ObjectError};
use crate::model::state::TaskState;
use crate::records::upkeep::Upkeep;
use crate::records::{Expected, RecordsError};
use crate::telemetry::Chain;
use crate::workflow::Backends;
use crate::workflow::any::AnyRecord;
use crate::workflow::engine::Workflow;
use crate::workflow::instance::Subject;
use crate::workflow::journal::{JournalError, Record};
use crate::workflow::power_off::PowerOff;
use crate::workflow::shelve_offload::ShelveOffload;
use crate::workflow::terminate::Terminate;
use crate::workflow::unrescue::Unrescue;

/// Why a request of the agent's own wasn't made. It changes nothing then; whoever wants it asks
/// again at its next turn.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the instance's record is incomplete")]
    Object(#[from] ObjectError),
}

impl OwnError {
    pub fn class(&self) -> Class {
        match self {
            Self::Records(error) => error.class(),
            Self::Journal(_) => Class::Transient,
            Self::Object(_) => Class::Refused,
        }
    }
}

/// Makes requests for the agent itself.
#[derive(Clone)]
pub struct OwnRequests {
    dispatcher: Dispatcher,
    upkeep: Arc<dyn Upkeep>,
}

impl OwnRequests {
    pub fn new(dispatcher: Dispatcher, upkeep: Arc<dyn Upkeep>) -> Self {
        Self { dispatcher, upkeep }
    }

    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    pub fn backends(&self) -> &Backends {
        self.dispatcher.backends()
    }

    pub fn upkeep(&self) -> &dyn Upkeep {
        &*self.upkeep
    }

    /// Stops an instance that has no task. nova: compute/api.py, `force_stop`
    ///
    /// # Errors
    /// `Records(UnexpectedTaskState)` when somebody else was faster.
    pub async fn stop(
        &self,
        context: &RequestContext,
        mut instance: Instance,
    ) -> Result<(), OwnError> {
        self.begin(context, &mut instance, TaskState::PoweringOff, "stop").await?;
        let stop = |subject| PowerOff::new(subject, true);
        self.submit_begun(context, instance, "stop_instance", stop).await
    }

    /// Deletes an instance that has no task. nova: compute/api.py, `_delete`
    ///
    /// # Errors
    /// `Records(UnexpectedTaskState)` when somebody else was faster.
    pub async fn delete(
        &self,
        context: &RequestContext,
        mut instance: Instance,
    ) -> Result<(), OwnError> {
        self.begin(context, &mut instance, TaskState::Deleting, "delete").await?;
        self.submit_begun(context, instance, "terminate_instance", Terminate::new).await
    }

    /// Unrescues an instance that has no task. nova: compute/api.py, `unrescue`
    ///
    /// # Errors
    /// `Records(UnexpectedTaskState)` when somebody else was faster.
    pub async fn unrescue(
        &self,
        context: &RequestContext,
        mut instance: Instance,
    ) -> Result<(), OwnError> {
        self.begin(context, &mut instance, TaskState::Unrescuing, "unrescue").await?;
        self.submit_begun(context, instance, "unrescue_instance", Unrescue::new).await
    }

    /// Has a shelved instance without a task leave this host.
    /// nova: compute/manager.py, `_poll_shelved_instances`
    ///
    /// # Errors
    /// `Records(UnexpectedTaskState)` when somebody else was faster.
    pub async fn offload(
        &self,
        context: &RequestContext,
        mut instance: Instance,
    ) -> Result<(), OwnError> {
        instance.task_state.set(Some(TaskState::ShelvingOffloading));
        let free = Expected::OneOf(vec![None]);
        self.backends().records.save(context, &mut instance, free).await?;
        let offload = |subject| ShelveOffload::new(subject, false);
        self.submit_begun(context, instance, "shelve_offload_instance", offload).await
    }

    /// Hands a workflow on `instance` to its queue, and doesn't wait for its end. `method` is the
    /// request's, for the instance's event.
    pub async fn submit<W: Workflow>(
        &self,
        context: &RequestContext,
        instance: Instance,
        method: &str,
        workflow: impl FnOnce(Subject) -> W,
    ) -> Result<(), OwnError>
    where
        AnyRecord: From<Record<W>>,
    {
        let uuid = instance.uuid()?;
        let workflow = workflow(Subject::new(instance, method));
        let id = Uuid::new_v4().simple().to_string();
        let record = Record::queued(id, uuid, context.clone(), workflow);
        info!(instance_uuid = %uuid, method, "the agent asks for it itself");
        // Whoever asked doesn't wait: the instance's record tells how it ended.
        drop(self.dispatcher.submit(record.into()).await?);
        Ok(())
    }

    /// Takes the instance, if nobody else has, and records the action.
    async fn begin(
        &self,
        context: &RequestContext,
        instance: &mut Instance,
        task_state: TaskState,
        action: &str,
    ) -> Result<(), OwnError> {
        let uuid = instance.uuid()?;
        instance.task_state.set(Some(task_state));
        instance.progress.set(Some(0));
        let free = Expected::OneOf(vec![None]);
        self.backends().records.save(context, instance, free).await?;
        if let Err(error) = self.upkeep.action_started(context, uuid, action).await {
            // Only the history misses it: the instance must not be left with its task.
            warn!(instance_uuid = %uuid, action, error = %Chain(&error), "the action isn't recorded");
        }
        Ok(())
    }

    /// Submits what [`Self::begin`] began; a journal that refuses it gives the instance back.
    async fn submit_begun<W: Workflow>(
        &self,
        context: &RequestContext,
        mut instance: Instance,
        method: &str,
        workflow: impl FnOnce(Subject) -> W,
    ) -> Result<(), OwnError>
    where
        AnyRecord: From<Record<W>>,
    {
        let submitted = self.submit(context, instance.clone(), method, workflow).await;
        if submitted.is_err() {
            let ours = Expected::OneOf(vec![instance.task_state.value().copied()]);
            instance.task_state.set(None);
            self.backends().records.save(context, &mut instance, ours).await?;
        }
        submitted
    }
}
