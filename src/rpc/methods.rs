//! nova's compute interface: its methods, what each needs, and what this agent hasn't.
//! nova: compute/rpcapi.py, compute/manager.py

use serde_json::{Map, Value};

use super::failure::Fault;
use crate::model::object::clip;

/// A method: its name, the arguments it needs, and those it may have.
pub struct Method {
    pub name: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
}

const fn method(
    name: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
) -> Method {
    Method { name, required, optional }
}

/// What this agent serves of nova's compute interface.
pub const METHODS: &[Method] = &[
    method(
        "build_and_run_instance",
        &["instance", "image", "request_spec", "filter_properties"],
        &[
            "accel_uuids",
            "admin_password",
            "injected_files",
            "requested_networks",
            "security_groups",
            "block_device_mapping",
            "node",
            "limits",
            "host_list",
        ],
    ),
    method("terminate_instance", &["instance", "bdms"], &[]),
    method("stop_instance", &["instance", "clean_shutdown"], &[]),
    method("start_instance", &["instance"], &[]),
    method("reboot_instance", &["instance", "block_device_info", "reboot_type"], &[]),
    method("pause_instance", &["instance"], &[]),
    method("unpause_instance", &["instance"], &[]),
    method("suspend_instance", &["instance"], &[]),
    method("resume_instance", &["instance"], &[]),
    method("snapshot_instance", &["image_id", "instance"], &[]),
    method("backup_instance", &["image_id", "instance", "backup_type", "rotation"], &[]),
    method("quiesce_instance", &["instance"], &[]),
    method("unquiesce_instance", &["instance"], &["mapping"]),
    method("set_admin_password", &["instance", "new_pass"], &[]),
    method("trigger_crash_dump", &["instance"], &[]),
    method("soft_delete_instance", &["instance"], &[]),
    method("restore_instance", &["instance"], &[]),
    method(
        "rescue_instance",
        &["instance", "rescue_password", "rescue_image_ref", "clean_shutdown"],
        &[],
    ),
    method("unrescue_instance", &["instance"], &[]),
    method(
        "rebuild_instance",
        &[
            "instance",
            "orig_image_ref",
            "image_ref",
            "injected_files",
            "new_pass",
            "orig_sys_metadata",
            "bdms",
            "recreate",
            "on_shared_storage",
            "preserve_ephemeral",
            "migration",
            "scheduled_node",
            "limits",
            "request_spec",
        ],
        &["accel_uuids", "reimage_boot_volume", "target_state"],
    ),
    method("shelve_instance", &["instance", "image_id", "clean_shutdown"], &["accel_uuids"]),
    method("shelve_offload_instance", &["instance", "clean_shutdown"], &["accel_uuids"]),
    method(
        "unshelve_instance",
        &["instance", "image", "filter_properties", "node"],
        &["request_spec", "accel_uuids"],
    ),
    method("attach_volume", &["instance", "bdm"], &[]),
    method("attach_interface", &["instance", "network_id", "port_id", "requested_ip", "tag"], &[]),
    method("detach_interface", &["instance", "port_id"], &[]),
    method("add_fixed_ip_to_instance", &["network_id", "instance"], &[]),
    method("remove_fixed_ip_from_instance", &["address", "instance"], &[]),
    method("detach_volume", &["volume_id", "instance", "attachment_id"], &[]),
    method(
        "swap_volume",
        &["old_volume_id", "new_volume_id", "instance", "new_attachment_id"],
        // nova has none of it: see volume_arguments.
        &["new_connection_info"],
    ),
    method("remove_volume_connection", &["volume_id", "instance"], &["delete_attachment"]),
    method(
        "reserve_block_device_name",
        &["instance", "device", "volume_id", "disk_bus", "device_type", "tag", "multiattach"],
        &[],
    ),
    method("get_console_output", &["instance", "tail_length"], &[]),
    method("get_vnc_console", &["console_type", "instance"], &[]),
    method("get_spice_console", &["console_type", "instance"], &[]),
    method("get_serial_console", &["console_type", "instance"], &[]),
    method("validate_console_port", &["instance", "port", "console_type"], &[]),
    method("get_diagnostics", &["instance"], &[]),
    method("get_instance_diagnostics", &["instance"], &[]),
    method("get_host_uptime", &[], &[]),
    method("set_host_enabled", &["enabled"], &[]),
    method("cache_images", &["image_ids"], &[]),
    method("external_instance_event", &["instances", "events"], &[]),
];

/// What nova's compute interface has and this agent doesn't: answered with `NotImplementedError`,
/// which nova-api passes on as "not supported".
pub const ABSENT: &[&str] = &[
    "allow_share",
    "check_can_live_migrate_destination",
    "check_can_live_migrate_source",
    "check_instance_shared_storage",
    "confirm_resize",
    "confirm_snapshot_based_resize_at_source",
    "deny_share",
    "drop_move_claim_at_destination",
    "finish_resize",
    "finish_revert_resize",
    "finish_revert_snapshot_based_resize_at_source",
    "finish_snapshot_based_resize_at_dest",
    "get_mks_console",
    "get_rdp_console",
    "host_maintenance_mode",
    "host_power_action",
    "inject_network_info",
    "live_migration",
    "live_migration_abort",
    "live_migration_force_complete",
    "post_live_migration_at_destination",
    "pre_live_migration",
    "prep_resize",
    "prep_snapshot_based_resize_at_dest",
    "prep_snapshot_based_resize_at_source",
    "resize_instance",
    "revert_resize",
    "revert_snapshot_based_resize_at_dest",
    "rollback_live_migration_at_destination",
    "volume_snapshot_create",
    "volume_snapshot_delete",
];

/// Python's complaints about a call that doesn't fit the function.
pub(super) fn check_arguments(method: &Method, args: &Map<String, Value>) -> Result<(), Fault> {
    let Method { name, required, optional } = method;
    let known =
        |arg: &&String| required.contains(&arg.as_str()) || optional.contains(&arg.as_str());
    if let Some(extra) = args.keys().find(|arg| !known(arg)) {
        let extra = clip(extra);
        let message = format!("{name}() got an unexpected keyword argument '{extra}'");
        return Err(Fault::builtin("TypeError", message));
    }
    let missing: Vec<_> = required.iter().filter(|arg| !args.contains_key(**arg)).collect();
    match missing.as_slice() {
        [] => Ok(()),
        [one] => {
            let message = format!("{name}() missing 1 required positional argument: '{one}'");
            Err(Fault::builtin("TypeError", message))
        }
        many => {
            let names: Vec<_> = many.iter().map(|arg| format!("'{arg}'")).collect();
            let count = many.len();
            let names = names.join(", ");
            let message =
                format!("{name}() missing {count} required positional arguments: {names}");
            Err(Fault::builtin("TypeError", message))
        }
    }
}
