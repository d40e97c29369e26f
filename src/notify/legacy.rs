//! Unversioned payloads. nova: notifications/base.py, info_from_instance;
//! compute/utils.py, notify_about_instance_usage

use serde_json::{Map, Value, json};

use super::python::repr_fault;
use super::{Action, InstanceEvent, Phase};
use crate::model::fault::Fault;
use crate::model::network::Vif;
use crate::model::object::codec::FieldType;
use crate::model::object::{Instance, VolumeUsage};
use crate::model::time::Timestamp;

/// The rest of the event's type; `None`: nova tells nothing of it unversioned.
pub fn name(action: Action, phase: Phase) -> Option<String> {
    match (action, phase) {
        (Action::VolumeAttach, Phase::End) => Some("volume.attach".to_owned()),
        (Action::VolumeDetach, Phase::End) => Some("volume.detach".to_owned()),
        (Action::VolumeAttach | Action::VolumeDetach | Action::VolumeSwap, _) => None,
        (Action::InterfaceAttach | Action::InterfaceDetach, _) => None,
        (action, phase) => Some(format!("{}.{}", action.name(), phase.name())),
    }
}

/// The payload of a phase of an action. `image_url` is where the instance's image is.
pub fn action(event: &InstanceEvent<'_>, image_url: &str) -> Value {
    let mut info = instance(event.instance, image_url);
    let details = &event.details;
    if let Some(name) = details.image_name {
        info.insert("image_name".to_owned(), name.into());
    }
    if let Some(name) = details.rescue_image_name {
        info.insert("rescue_image_name".to_owned(), name.into());
    }
    if let Some(volume_id) = details.volume_id {
        info.insert("volume_id".to_owned(), volume_id.into());
    }
    // Where nova has just asked for the network.
    let has_network = matches!(
        (event.action, event.phase),
        (Action::Create | Action::Rebuild | Action::CreateIp | Action::DeleteIp, Phase::End)
            | (Action::Rescue | Action::Unrescue, Phase::Start | Phase::End)
    );
    if has_network {
        info.insert("fixed_ips".to_owned(), fixed_ips(event.instance));
    }
    if (event.action, event.phase) == (Action::Create, Phase::End) {
        info.insert("message".to_owned(), "Success".into());
    }
    if let Some(raised) = details.raised {
        info.extend(fault(&raised.fault));
    }
    Value::Object(info)
}

/// The payload of `exists`.
pub fn exists(instance_: &Instance, period: (Timestamp, Timestamp), image_url: &str) -> Value {
    let mut info = instance(instance_, image_url);
    let plain = |time: Timestamp| time.to_string().replace('T', " ").replace('Z', "");
    info.insert("audit_period_beginning".to_owned(), plain(period.0).into());
    info.insert("audit_period_ending".to_owned(), plain(period.1).into());
    Value::Object(info)
}

/// How a guest has used a volume. nova: objects/volume_usage.py, `to_dict`
pub fn volume_usage(usage: &VolumeUsage) -> Value {
    let [reads, read_bytes, writes, write_bytes] = usage.sums();
    let refreshed = usage.last_refreshed().map(|time| time.encode());
    let refreshed = refreshed.as_ref().and_then(Value::as_str).unwrap_or_default();
    json!({
        "volume_id": usage.volume_id.get(),
        "tenant_id": usage.project_id.text(),
        "user_id": usage.user_id.text(),
        "availability_zone": usage.availability_zone.text(),
        "instance_id": usage.instance_uuid.value(),
        "last_refreshed": refreshed.replace('T', " ").replace('Z', "+00:00"),
        "reads": reads,
        "read_bytes": read_bytes,
        "writes": writes,
        "write_bytes": write_bytes,
    })
}

/// What every payload says of an instance. What isn't loaded counts as null.
fn instance(instance: &Instance, image_url: &str) -> Map<String, Value> {
    let flavor = instance.flavor.get();
    let size = |pick: fn(&crate::model::object::Flavor) -> Option<&i64>| {
        flavor.and_then(pick).copied().unwrap_or(0)
    };
    let (root_gib, ephemeral_gib) = (size(|f| f.root_gb.get()), size(|f| f.ephemeral_gb.get()));
    let progress = instance.progress.value().copied().filter(|progress| *progress != 0);
    let info = json!({
        "tenant_id": instance.project_id.text(),
        "user_id": instance.user_id.text(),
        "instance_id": instance.uuid.get(),
        "display_name": instance.display_name.text(),
        "reservation_id": instance.reservation_id.text(),
        "hostname": instance.hostname.text(),
        "instance_type": flavor.and_then(|f| f.name.text()).unwrap_or_default(),
        "instance_type_id": instance.instance_type_id.value(),
        "instance_flavor_id": flavor.and_then(|f| f.flavorid.text()).unwrap_or_default(),
        "architecture": instance.architecture.text(),
        "memory_mb": size(|f| f.memory_mb.get()),
        "disk_gb": root_gib.saturating_add(ephemeral_gib),
        "vcpus": size(|f| f.vcpus.get()),
        "root_gb": root_gib,
        "ephemeral_gb": ephemeral_gib,
        "host": instance.host.text(),
        "node": instance.node.text(),
        "availability_zone": instance.availability_zone.text(),
        "cell_name": instance.cell_name.text().unwrap_or_default(),
        "created_at": created_at(instance.created_at.value()),
        "terminated_at": time(instance.terminated_at.value()),
        "deleted_at": time(instance.deleted_at.value()),
        "launched_at": time(instance.launched_at.value()),
        "image_ref_url": image_url,
        "os_type": instance.os_type.text(),
        "kernel_id": instance.kernel_id.text(),
        "ramdisk_id": instance.ramdisk_id.text(),
        "state": instance.vm_state.value().map(|state| state.as_str()),
        "state_description": instance.task_state.value().map_or("", |state| state.as_str()),
        "progress": progress.map_or(json!(""), Value::from),
        "access_ip_v4": instance.access_ip_v4.text(),
        "access_ip_v6": instance.access_ip_v6.text(),
        "image_meta": image_meta(instance),
        "metadata": instance.metadata.get().cloned().unwrap_or_default(),
    });
    match info {
        Value::Object(info) => info,
        _ => Map::new(),
    }
}

/// Python's `str` of a point in time, and of none.
fn created_at(time: Option<&Timestamp>) -> String {
    match time {
        Some(time) => time.to_string().replace('T', " ").replace('Z', "+00:00"),
        None => "None".to_owned(),
    }
}

/// nova: utils.py, strtime. Finer parts than seconds don't reach this agent.
fn time(time: Option<&Timestamp>) -> String {
    time.map(|time| time.to_string().replace('Z', ".000000")).unwrap_or_default()
}

/// What the system metadata keep of the image.
fn image_meta(instance: &Instance) -> Map<String, Value> {
    let all = instance.system_metadata.get().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.strip_prefix("image_")?.to_owned(), json!(value))))
        .collect()
}

/// The instance's addresses, each with its network's name and its port's MAC.
fn fixed_ips(instance: &Instance) -> Value {
    let vifs = instance.vifs().unwrap_or_default();
    vifs.iter().flat_map(|vif| vif.fixed_ips().map(move |ip| fixed_ip(vif, ip))).collect()
}

fn fixed_ip(vif: &Vif, ip: &crate::model::network::FixedIp) -> Value {
    let mut item = serde_json::to_value(ip).unwrap_or_default();
    item["label"] = json!(vif.network.as_ref().and_then(|network| network.label.as_deref()));
    item["vif_mac"] = json!(vif.address);
    item
}

/// nova: compute/utils.py, exception_to_dict
fn fault(fault: &Fault) -> Map<String, Value> {
    let mut info = Map::new();
    info.insert("exception".to_owned(), repr_fault(fault).into());
    info.insert("message".to_owned(), fault.shown().into());
    info.insert("code".to_owned(), fault.code().into());
    info
}
