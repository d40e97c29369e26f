//! `hypernova xml`: the domain that a build request would define, without building it.

use std::path::Path;

use serde_json::{Map, Value};

use super::failure::Fault;
use super::request::{Request, decode};
use crate::hypervisor::libvirt::xml::domain_xml;
use crate::model::context::RequestContext;
use crate::network::Network;
use crate::workflow::Settings;
use crate::workflow::any::AnyRecord;
use crate::workflow::exception::step_fault;

/// The XML of the domain, with the paths that the build would use.
///
/// # Errors
/// What the build itself would fail with.
pub async fn xml(
    settings: &Settings,
    instances_path: &Path,
    network: &dyn Network,
    build: Map<String, Value>,
) -> Result<String, Fault> {
    let id = "preview".to_owned();
    let request = decode("build_and_run_instance", build, id, RequestContext::admin(), true)?;
    let Request::Change(AnyRecord::Spawn(record)) = request else {
        return Err(Fault::no_such_method("build_and_run_instance"));
    };
    let uuid = record.head.instance_uuid;
    let directory = instances_path.join(uuid.to_string());
    let spawn = &record.workflow;
    let instance = &spawn.subject.instance;
    let vifs = network.allocate(&record.context, instance, spawn.wanted()).await;
    let vifs = vifs.map_err(|error| step_fault(&error.into()))?;
    let spec = spawn.preview(settings, &directory, &vifs).map_err(|error| step_fault(&error))?;
    Ok(domain_xml(&spec))
}
