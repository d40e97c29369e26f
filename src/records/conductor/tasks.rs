//! What conductor's task manager is asked for: to build an instance elsewhere.
//! nova: conductor/rpcapi.py, ComputeTaskAPI

use serde_json::{Value, json};

use super::{Call, Conductor, ConductorError, map};
use crate::model::context::RequestContext;
use crate::model::object::{Instance, VersionedObject};

/// The newest version of which `build_instances` has these arguments.
const BUILD_INSTANCES: &str = "1.19";

/// A build that this host gives up and another may try: the arguments that it came with.
#[derive(Debug, Clone)]
pub struct Reschedule<'a> {
    pub instance: &'a Instance,
    /// The image as the request had it.
    pub image: Value,
    /// With `retry`: the hosts that have tried, and why the last one failed.
    pub filter_properties: Value,
    pub admin_password: Value,
    pub injected_files: Value,
    pub requested_networks: Value,
    pub security_groups: Value,
    pub request_spec: Value,
    /// The alternates that are left.
    pub host_list: Value,
}

impl Conductor {
    /// Gives a build back, to be tried on another host. The instance must be saved without host,
    /// and its allocation gone, before.
    /// nova: compute/manager.py, _do_build_and_run_instance, RescheduledException
    ///
    /// # Errors
    /// `Unsent`: the conductor may have it all the same, but most likely has not.
    pub async fn build_instances(
        &self,
        context: &RequestContext,
        build: Reschedule<'_>,
    ) -> Result<(), ConductorError> {
        let args = json!({
            "instances": [build.instance.to_primitive()],
            "image": build.image,
            "filter_properties": build.filter_properties,
            "admin_password": build.admin_password,
            "injected_files": build.injected_files,
            "requested_networks": build.requested_networks,
            "security_groups": build.security_groups,
            "request_spec": build.request_spec,
            "host_lists": [build.host_list],
        });
        let call = Call {
            topic: "conductor",
            namespace: Some("compute_task"),
            version: BUILD_INSTANCES,
            method: "build_instances",
            args: map(args),
            context,
        };
        self.tell(call, false).await
    }
}
