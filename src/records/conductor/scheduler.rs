//! News for the schedulers: which instances this host has. They are casts to every scheduler;
//! one that is lost is made up for by the next [`Conductor::sync_instance_info`].
//! nova: scheduler/rpcapi.py

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Call, Conductor, ConductorError, levels, map};
use crate::model::context::RequestContext;
use crate::model::object::{Instance, InstanceList, VersionedObject};

const VERSION: &str = "4.2";

impl Conductor {
    /// Tells of instances that have come or changed.
    pub async fn update_instance_info(
        &self,
        context: &RequestContext,
        host: &str,
        instances: Vec<Instance>,
    ) -> Result<(), ConductorError> {
        let info = InstanceList::from(instances).to_primitive();
        let args = json!({"host_name": host, "instance_info": info});
        self.tell_schedulers(context, "update_instance_info", args).await
    }

    /// Tells of an instance that is gone from here.
    pub async fn delete_instance_info(
        &self,
        context: &RequestContext,
        host: &str,
        instance: Uuid,
    ) -> Result<(), ConductorError> {
        let args = json!({"host_name": host, "instance_uuid": instance.to_string()});
        self.tell_schedulers(context, "delete_instance_info", args).await
    }

    /// Tells which instances there are: schedulers that know others ask for all of them.
    pub async fn sync_instance_info(
        &self,
        context: &RequestContext,
        host: &str,
        instances: &[Uuid],
    ) -> Result<(), ConductorError> {
        let uuids: Vec<String> = instances.iter().map(Uuid::to_string).collect();
        let args = json!({"host_name": host, "instance_uuids": uuids});
        self.tell_schedulers(context, "sync_instance_info", args).await
    }

    async fn tell_schedulers(
        &self,
        context: &RequestContext,
        method: &'static str,
        args: Value,
    ) -> Result<(), ConductorError> {
        levels::check(self.options.scheduler_cap.as_ref(), VERSION, "scheduler", method)?;
        let (topic, namespace, version) = ("scheduler", None, VERSION);
        let call = Call { topic, namespace, version, method, args: map(args), context };
        self.tell(call, true).await
    }
}
