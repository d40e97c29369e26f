//! Versioned payloads: objects of nova's, at the versions of 33.0.2.
//! nova: notifications/objects/{instance,flavor,exception,keypair,libvirt}.py

use serde_json::{Map, Value, json};

use super::{Action, InstanceEvent};
use crate::model::context::RequestContext;
use crate::model::fault::Raised;
use crate::model::object::codec::FieldType;
use crate::model::object::{BlockDeviceMapping, Flavor, Instance, NameTemplate, VolumeUsage};
use crate::model::state::PowerState;
use crate::model::time::Timestamp;

/// The payload of a phase of an action.
pub fn action(
    context: &RequestContext,
    event: &InstanceEvent<'_>,
    name_template: &NameTemplate,
) -> Value {
    let mut data = instance(context, event.instance);
    data["fault"] = event.details.raised.map(exception).unwrap_or_default();
    if let Some(devices) = event.details.block_devices {
        data["block_devices"] = devices.iter().filter_map(block_device).collect();
    }
    if event.action == Action::Snapshot {
        data["snapshot_image_id"] = json!(event.details.snapshot_image_id);
        return object("InstanceActionSnapshotPayload", "1.10", data);
    }
    if event.action == Action::Rescue {
        data["rescue_image_ref"] = json!(event.details.rescue_image_ref);
        return object("InstanceActionRescuePayload", "1.4", data);
    }
    if event.action == Action::Rebuild {
        data["trusted_image_certificates"] = trusted_certificates(event.instance);
        return object("InstanceActionRebuildPayload", "1.10", data);
    }
    if let Some(volume_id) = event.details.volume_id {
        data["volume_id"] = volume_id.into();
        return object("InstanceActionVolumePayload", "1.7", data);
    }
    if let Some((old, new)) = event.details.swapped {
        data["old_volume_id"] = old.into();
        data["new_volume_id"] = new.into();
        return object("InstanceActionVolumeSwapPayload", "1.9", data);
    }
    if event.action != Action::Create {
        return object("InstanceActionPayload", "1.9", data);
    }
    let (keypairs, tags) = (event.instance.keypairs.get(), event.instance.tags.get());
    data["keypairs"] = keypairs.iter().flat_map(|list| list.items()).map(keypair).collect();
    data["tags"] = tags.iter().flat_map(|list| list.items()).map(|tag| tag.tag.text()).collect();
    data["trusted_image_certificates"] = trusted_certificates(event.instance);
    data["instance_name"] = json!(event.instance.name(name_template).ok());
    object("InstanceCreatePayload", "1.13", data)
}

fn trusted_certificates(instance: &Instance) -> Value {
    json!(instance.trusted_certs.value().and_then(|certificates| certificates.ids.get()))
}

/// The payload of `exists`.
pub fn exists(
    context: &RequestContext,
    instance_: &Instance,
    period: (Timestamp, Timestamp),
) -> Value {
    let mut data = instance(context, instance_);
    let period = json!({
        "audit_period_beginning": period.0.encode(),
        "audit_period_ending": period.1.encode(),
    });
    data["audit_period"] = object("AuditPeriodPayload", "1.0", period);
    object("InstanceExistsPayload", "2.1", data)
}

/// An exception at its place. The traceback's parts are joined by commas, as nova joins them.
pub fn exception(raised: &Raised) -> Value {
    let data = json!({
        "module_name": format!("hypernova.{}", raised.module),
        "function_name": raised.function,
        "exception": raised.fault.class,
        "exception_message": raised.fault.message,
        "traceback": raised.parts().join(","),
    });
    object("ExceptionPayload", "1.1", data)
}

/// How a guest has used a volume. nova: notifications/objects/volume.py
pub fn volume_usage(usage: &VolumeUsage) -> Value {
    let [reads, read_bytes, writes, write_bytes] = usage.sums();
    let data = json!({
        "volume_id": usage.volume_id.get(),
        "project_id": usage.project_id.text(),
        "user_id": usage.user_id.text(),
        "availability_zone": usage.availability_zone.text(),
        "instance_uuid": usage.instance_uuid.value(),
        "last_refreshed": usage.last_refreshed().map(|time| time.encode()),
        "reads": reads,
        "read_bytes": read_bytes,
        "writes": writes,
        "write_bytes": write_bytes,
    });
    object("VolumeUsagePayload", "1.0", data)
}

/// The hypervisor of the host at `ip` can't be reached.
pub fn libvirt_error(ip: &str, raised: &Raised) -> Value {
    object("LibvirtErrorPayload", "1.0", json!({"ip": ip, "reason": exception(raised)}))
}

/// What every payload says of an instance. What isn't loaded is null.
fn instance(context: &RequestContext, instance: &Instance) -> Value {
    // nova leaves the id of periodic work out, which nobody asked for.
    let asked = context.project_id.is_some() && context.user_id.is_some();
    let auto_disk_config = match instance.auto_disk_config.get() {
        Some(true) => "AUTO",
        _ => "MANUAL",
    };
    json!({
        "uuid": instance.uuid.get(),
        "user_id": instance.user_id.text(),
        "tenant_id": instance.project_id.text(),
        "reservation_id": instance.reservation_id.text(),
        "display_name": instance.display_name.text(),
        "display_description": instance.display_description.text(),
        "host_name": instance.hostname.text(),
        "host": instance.host.text(),
        "node": instance.node.text(),
        "os_type": instance.os_type.text(),
        "architecture": instance.architecture.text(),
        "availability_zone": instance.availability_zone.text(),
        "flavor": instance.flavor.get().map(flavor),
        "image_uuid": instance.image_ref.text(),
        "key_name": instance.key_name.text(),
        "kernel_id": instance.kernel_id.text(),
        "ramdisk_id": instance.ramdisk_id.text(),
        "created_at": time(instance.created_at.value()),
        "launched_at": time(instance.launched_at.value()),
        "terminated_at": time(instance.terminated_at.value()),
        "deleted_at": time(instance.deleted_at.value()),
        "updated_at": time(instance.updated_at.value()),
        "state": instance.vm_state.value().map(|state| state.as_str()),
        "power_state": power_state(instance),
        "task_state": instance.task_state.value().map(|state| state.as_str()),
        "progress": instance.progress.value(),
        "ip_addresses": ip_addresses(instance),
        "block_devices": null,
        "metadata": instance.metadata.get().cloned().unwrap_or_default(),
        "locked": instance.locked.get().copied().unwrap_or(false),
        "auto_disk_config": auto_disk_config,
        "request_id": context.request_id.as_ref().filter(|_| asked),
        "action_initiator_user": context.user_id,
        "action_initiator_project": context.project_id,
        "locked_reason": instance.system_metadata("locked_reason"),
        "shares": null,
    })
}

fn time(time: Option<&Timestamp>) -> Value {
    time.map(FieldType::encode).unwrap_or_default()
}

fn power_state(instance: &Instance) -> Option<&'static str> {
    let number = instance.power_state.value()?;
    PowerState::from_number(*number).map(PowerState::name)
}

fn flavor(flavor: &Flavor) -> Value {
    let data = json!({
        "flavorid": flavor.flavorid.text(),
        "memory_mb": flavor.memory_mb.get(),
        "vcpus": flavor.vcpus.get(),
        "root_gb": flavor.root_gb.get(),
        "ephemeral_gb": flavor.ephemeral_gb.get(),
        "name": flavor.name.text(),
        "swap": flavor.swap.get(),
        "rxtx_factor": flavor.rxtx_factor.value(),
        "vcpu_weight": flavor.vcpu_weight.value(),
        "disabled": flavor.disabled.get(),
        "is_public": flavor.is_public.get(),
        "extra_specs": flavor.extra_specs.get(),
        "projects": flavor.projects.get(),
        "description": flavor.description.text(),
    });
    object("FlavorPayload", "1.4", data)
}

/// The addresses of an instance's record; none when it can't be read.
fn ip_addresses(instance: &Instance) -> Vec<Value> {
    let mut addresses = Vec::new();
    for vif in instance.vifs().unwrap_or_default() {
        for ip in vif.fixed_ips() {
            let data = json!({
                "label": vif.network.as_ref().and_then(|network| network.label.as_deref()),
                "mac": vif.address,
                "meta": vif.meta,
                "port_uuid": vif.id,
                "version": ip.version,
                "address": ip.address,
                "device_name": vif.devname,
            });
            addresses.push(object("IpPayload", "1.0", data));
        }
    }
    addresses
}

/// A disk, if it is a volume.
fn block_device(device: &BlockDeviceMapping) -> Option<Value> {
    let volume_id = device.volume_id.text()?;
    let data = json!({
        "device_name": device.device_name.text(),
        "boot_index": device.boot_index.value(),
        "delete_on_termination": device.delete_on_termination.get().copied().unwrap_or(false),
        "volume_id": volume_id,
        "tag": device.tag.text(),
    });
    Some(object("BlockDevicePayload", "1.0", data))
}

fn keypair(keypair: &crate::model::object::KeyPair) -> Value {
    let data = json!({
        "user_id": keypair.user_id.text(),
        "name": keypair.name.text(),
        "public_key": keypair.public_key.text(),
        "fingerprint": keypair.fingerprint.text(),
        "type": keypair.kind.text(),
    });
    object("KeypairPayload", "1.0", data)
}

fn object(name: &str, version: &str, data: Value) -> Value {
    let mut primitive = Map::new();
    primitive.insert("nova_object.name".to_owned(), name.into());
    primitive.insert("nova_object.namespace".to_owned(), "nova".into());
    primitive.insert("nova_object.version".to_owned(), version.into());
    primitive.insert("nova_object.data".to_owned(), data);
    Value::Object(primitive)
}
