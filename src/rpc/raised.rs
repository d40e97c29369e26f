//! What else happens when a question is answered with an exception: it becomes the instance's fault,
//! and whoever listens is notified. Changes see to that themselves, in their workflows.
//! nova: exception_wrapper.py; compute/manager.py, wrap_instance_fault

use serde_json::{Map, Value};
use tracing::warn;
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::model::fault::{Fault, Raised};
use crate::notify::Event;
use crate::records::InstanceFault;
use crate::telemetry::Chain;
use crate::workflow::Backends;

/// A question as it was asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub context: RequestContext,
    pub method: String,
    /// Empty when nobody is notified.
    pub args: Map<String, Value>,
    /// Whom it is about.
    pub uuid: Option<Uuid>,
}

impl Asked {
    /// Tells that it was answered with `fault`. What can't be told is logged: the answer stands.
    pub async fn raised(&self, fault: &Fault, on: &Backends) {
        let Self { context, method, args, uuid } = self;
        let raised = Raised::new(fault.clone(), method, method, 1);
        if let Some(uuid) = uuid
            && fault.class != "InstanceNotFound"
        {
            let code = fault.code();
            let details = if code == 500 { raised.traceback() } else { String::new() };
            let record = InstanceFault { code, message: fault.shown().to_owned(), details };
            if let Err(error) = on.records.record_fault(context, *uuid, record).await {
                warn!(error = %Chain(&error), "the instance's fault is not recorded");
            }
        }
        on.notifier.notify(context, &Event::Exception { method, args, raised: &raised });
    }
}
