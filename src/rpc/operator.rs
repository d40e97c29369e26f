//! The operator's own questions: namespace `hypernova`, version 1.0, for the commands.
//!
//! What changes an instance goes through nova's own requests; these only look.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::failure::Fault;
use super::reply::journal_fault;
use crate::dispatch::Dispatcher;
use crate::hypervisor::DomainInfo;
use crate::model::context::RequestContext;
use crate::model::object::{Instance, VersionedObject};
use crate::records::history::{History, RecordedEvent, RecordedFault};
use crate::workflow::exception::{hypervisor_fault, object_fault, records_fault};
use crate::workflow::interfaces::known_vifs;

/// The namespace and version of these methods.
pub const NAMESPACE: &str = "hypernova";
pub const VERSION: &str = "1.0";
pub const METHODS: &[&str] = &["list_instances", "show_instance", "list_workflows", "show_node"];

/// Answers the operator.
pub struct Operator {
    dispatcher: Dispatcher,
    /// The standalone records; nova-conductor's history isn't shown.
    history: Option<Arc<dyn History>>,
    instances_path: std::path::PathBuf,
    started: Instant,
}

impl Operator {
    pub fn new(
        dispatcher: Dispatcher,
        history: Option<Arc<dyn History>>,
        instances_path: std::path::PathBuf,
    ) -> Self {
        Self { dispatcher, history, instances_path, started: Instant::now() }
    }

    /// # Errors
    /// `InstanceNotFound`, `InstanceExists` for an ambiguous name, and what the rooms say.
    pub async fn answer(&self, method: &str, args: &Map<String, Value>) -> Result<Value, Fault> {
        match method {
            "list_instances" => self.list_instances().await,
            "show_instance" => {
                let asked = args.get("instance").and_then(Value::as_str).unwrap_or_default();
                self.show_instance(asked).await
            }
            "list_workflows" => {
                let rows = self.dispatcher.rows().await.map_err(|error| journal_fault(&error))?;
                Ok(json!(rows))
            }
            "show_node" => self.show_node().await,
            other => Err(Fault::no_such_method(other)),
        }
    }

    async fn instances(&self) -> Result<Vec<Instance>, Fault> {
        let records = &self.dispatcher.backends().records;
        records
            .instances(&RequestContext::admin(), &[])
            .await
            .map_err(|error| records_fault(&error))
    }

    async fn list_instances(&self) -> Result<Value, Fault> {
        let instances = self.instances().await?;
        let domains = self.dispatcher.backends().hypervisor.domains().await;
        let domains = domains.map_err(|error| hypervisor_fault(&error))?;
        let row = |instance: &Instance| {
            let uuid = instance.uuid().ok();
            let domain = domains.iter().find(|domain| Some(domain.instance_uuid) == uuid);
            // The record's copy may be old; the list shows the domain as it is.
            let mut shown = instance.clone();
            let power_state = domain.map_or(0, |domain| domain.power_state.number());
            shown.power_state.load(Some(Some(power_state)));
            shown.user_data.load(None);
            shown.to_primitive()
        };
        Ok(instances.iter().map(row).collect())
    }

    async fn find(&self, asked: &str) -> Result<Instance, Fault> {
        let instances = self.instances().await?;
        let uuid = |instance: &Instance| instance.uuid().map(|u| u.to_string()).unwrap_or_default();
        let exact = |instance: &&Instance| {
            uuid(instance) == asked
                || instance.display_name.value().is_some_and(|name| name == asked)
        };
        let mut found: Vec<_> = instances.iter().filter(exact).collect();
        if found.is_empty() && !asked.is_empty() {
            found = instances.iter().filter(|i| uuid(i).starts_with(asked)).collect();
        }
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Fault::nova("InstanceNotFound", format!("Instance {asked} was not found."))
                .with("instance_id", asked)
                .with("code", 404)),
            many => {
                let all: Vec<_> = many.iter().map(|instance| uuid(instance)).collect();
                let message = format!("{asked} names {} instances: {}", many.len(), all.join(", "));
                Err(Fault::nova("MultipleInstancesFound", message))
            }
        }
    }

    async fn show_instance(&self, asked: &str) -> Result<Value, Fault> {
        let mut instance = self.find(asked).await?;
        let uuid = instance.uuid().map_err(|error| object_fault(&error))?;
        let on = self.dispatcher.backends();
        let domain = on.hypervisor.domain(uuid).await.map_err(|error| hypervisor_fault(&error))?;
        let running = domain.as_ref().is_some_and(|domain| domain.id.is_some());
        let consoles = match running {
            true => on.hypervisor.console_endpoints(uuid).await.unwrap_or_default(),
            false => Default::default(),
        };
        let (faults, events) = self.history(uuid).await?;
        let interfaces: Vec<_> = known_vifs(&instance).iter().map(interface).collect();
        instance.user_data.load(None);
        Ok(json!({
            "instance": instance.to_primitive(),
            "domain": domain.as_ref().map(shown_domain),
            "vnc": consoles.vnc,
            "serial": consoles.serial,
            "faults": faults,
            "events": events,
            "directory": self.instances_path.join(uuid.to_string()),
            "console_log": on.images.console_log(uuid),
            "interfaces": interfaces,
        }))
    }

    async fn history(&self, uuid: Uuid) -> Result<(Value, Value), Fault> {
        let Some(records) = &self.history else { return Ok((json!([]), json!([]))) };
        let faults = records.faults(uuid).await.map_err(|error| records_fault(&error))?;
        let events = records.events(uuid).await.map_err(|error| records_fault(&error))?;
        let faults = faults.iter().map(shown_fault).collect();
        let events = events.iter().map(shown_event).collect();
        Ok((faults, events))
    }

    async fn show_node(&self) -> Result<Value, Fault> {
        let on = self.dispatcher.backends();
        let host = on.hypervisor.host_info().await.map_err(|error| hypervisor_fault(&error))?;
        let domains = on.hypervisor.domains().await.map_err(|error| hypervisor_fault(&error))?;
        let instances = self.instances().await?;
        let sum = |value: fn(&crate::model::object::Flavor) -> Option<i64>| -> i64 {
            instances.iter().filter_map(|i| i.flavor.get().and_then(value)).sum()
        };
        let path = self.instances_path.clone();
        let disk = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&path));
        let disk = disk.await.ok().and_then(Result::ok);
        let gib =
            |blocks: u64| disk.map(|disk| blocks.saturating_mul(disk.fragment_size()) / (1 << 30));
        Ok(json!({
            "node": host.node,
            "host": on.settings.host,
            "hypervisor_type": host.hypervisor_type,
            "hypervisor_version": host.hypervisor_version,
            "libvirt_version": host.library_version,
            "cpus": host.cpus,
            "memory_mib": host.memory_mib,
            "memory_used_mib": sum(|flavor| flavor.memory_mb.get().copied()),
            "vcpus_used": sum(|flavor| flavor.vcpus.get().copied()),
            "disk_total_gib": disk.and_then(|disk| gib(disk.blocks())),
            "disk_free_gib": disk.and_then(|disk| gib(disk.blocks_available())),
            "instances": instances.len(),
            "domains": domains.len(),
            "guests": host.guests,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
            "rss_bytes": crate::health::resident_bytes(),
        }))
    }
}

fn shown_fault(fault: &RecordedFault) -> Value {
    json!({
        "code": fault.code,
        "message": fault.reason(),
        "details": fault.details,
        "created_at": fault.created_at.to_string(),
    })
}

fn shown_event(event: &RecordedEvent) -> Value {
    json!({
        "event": event.event,
        "request_id": event.request_id,
        "started_at": event.started_at.to_string(),
        "finished_at": event.finished_at.map(|time| time.to_string()),
        "failure": event.failure,
        "details": event.details,
    })
}

fn shown_domain(domain: &DomainInfo) -> Value {
    json!({
        "name": domain.name,
        "id": domain.id,
        "power_state": domain.power_state.name(),
        "reason": domain.reason,
        "managed_save": domain.managed_save,
    })
}

fn interface(vif: &crate::network::Vif) -> Value {
    json!({
        "port": vif.id,
        "mac": vif.address,
        "device": vif.device_name(),
        "type": vif.vif_type,
        "network": vif.network.as_ref().and_then(|network| network.label.clone()),
    })
}
