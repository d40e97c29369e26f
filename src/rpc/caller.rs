//! The records' way to the conductor, over the bus.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::client::{CallError, Client, Target, Wait};
use crate::records::conductor::{Call, CallFailure, Caller, Raised};

#[async_trait]
impl Caller for Client {
    async fn call(&self, call: Call<'_>, within: Duration) -> Result<Value, CallFailure> {
        let target = target(&call);
        self.call(&target, call.method, call.args, call.context, Wait::of(within))
            .await
            .map_err(failure)
    }

    async fn cast(&self, call: Call<'_>, within: Duration) -> Result<(), CallFailure> {
        let target = target(&call);
        self.cast(&target, call.method, call.args, call.context, within).await.map_err(failure)
    }

    async fn fanout(&self, call: Call<'_>, within: Duration) -> Result<(), CallFailure> {
        let target = target(&call);
        self.fanout(&target, call.method, call.args, call.context, within).await.map_err(failure)
    }
}

fn target(call: &Call<'_>) -> Target {
    let target = Target::new(call.topic, call.version);
    match call.namespace {
        Some(namespace) => target.in_namespace(namespace),
        None => target,
    }
}

fn failure(error: CallError) -> CallFailure {
    match error {
        CallError::Timeout { .. } => CallFailure::NoAnswer,
        CallError::Transport { reason, .. } => CallFailure::Unsent(reason),
        CallError::Remote(remote) => CallFailure::Raised(Box::new(Raised {
            class: remote.class,
            module: remote.module,
            message: remote.message,
            kwargs: remote.kwargs,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::failure::RemoteFailure;

    #[test]
    fn what_the_other_side_raised_keeps_its_name_and_its_arguments() {
        let wire = serde_json::json!({"class": "UnexpectedTaskStateError_Remote",
            "module": "nova.exception_Remote", "message": "no",
            "kwargs": {"actual": {"task_state": "deleting"}}});
        let remote = RemoteFailure::from_wire(&wire);
        let CallFailure::Raised(raised) = failure(CallError::Remote(Box::new(remote))) else {
            panic!("it was raised")
        };
        assert_eq!(
            (raised.class.as_str(), raised.module.as_str()),
            ("UnexpectedTaskStateError", "nova.exception")
        );
        assert_eq!(raised.kwargs["actual"]["task_state"], "deleting");
    }
}
