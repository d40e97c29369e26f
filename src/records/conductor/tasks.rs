//! What only the conductor can do for us: hand a build to another host.
//! nova: conductor/rpcapi.py, ComputeTaskAPI

use serde_json::{Map, Value};

use super::{Call, Conductor, ConductorError};
use crate::model::context::RequestContext;

const BUILD_INSTANCES: &str = "1.19";

impl Conductor {
    /// Gives a build back, to be tried on another host, with the arguments of `build_instances`.
    /// The instance must be saved without host, and its allocation gone, before.
    /// nova: compute/manager.py, _do_build_and_run_instance, RescheduledException
    ///
    /// # Errors
    /// `Unsent`: the conductor may have it all the same, but most likely has not.
    pub async fn build_instances(
        &self,
        context: &RequestContext,
        args: Map<String, Value>,
    ) -> Result<(), ConductorError> {
        let call = Call {
            topic: "conductor",
            namespace: Some("compute_task"),
            version: BUILD_INSTANCES,
            method: "build_instances",
            args,
            context,
        };
        self.tell(call, false).await
    }
}
