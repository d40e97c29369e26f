//! A message's method and arguments, to a typed request. nova: compute/rpcapi.py, compute/manager.py

use serde_json::{Map, Value};
use uuid::Uuid;

use super::failure::Fault;
use super::image_argument;
use super::reply::object_fault;
use crate::dispatch::query::{GuestFacts, Tail};
use crate::model::context::RequestContext;
use crate::model::object::codec::FieldType;
use crate::model::object::{BlockDeviceMappingList, Instance, NetworkRequestList};
use crate::model::secret::Secret;
use crate::network::RequestedNetwork;
use crate::workflow::any::AnyRecord;
use crate::workflow::instance::Subject;
use crate::workflow::journal::Record;
use crate::workflow::pause::Pause;
use crate::workflow::power_off::PowerOff;
use crate::workflow::power_on::PowerOn;
use crate::workflow::reboot::{Kind, Reboot};
use crate::workflow::resume::Resume;
use crate::workflow::spawn::{Build, Spawn};
use crate::workflow::suspend::Suspend;
use crate::workflow::terminate::Terminate;
use crate::workflow::unpause::Unpause;

/// What is asked.
#[derive(Debug)]
pub enum Request {
    /// A change of an instance, as the record that its workflow starts from.
    Change(AnyRecord),
    Ask(Question),
}

/// A request that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    ConsoleOutput { uuid: Uuid, tail: Tail },
    VncConsole { uuid: Uuid, console_type: String },
    SerialConsole { uuid: Uuid, console_type: String },
    ValidateConsolePort { uuid: Uuid, port: String, console_type: String },
    Diagnostics { uuid: Uuid, guest: GuestFacts },
    LegacyDiagnostics { uuid: Uuid, guest: GuestFacts },
    HostUptime,
}

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
    method("get_console_output", &["instance", "tail_length"], &[]),
    method("get_vnc_console", &["console_type", "instance"], &[]),
    method("get_serial_console", &["console_type", "instance"], &[]),
    method("validate_console_port", &["instance", "port", "console_type"], &[]),
    method("get_diagnostics", &["instance"], &[]),
    method("get_instance_diagnostics", &["instance"], &[]),
    method("get_host_uptime", &[], &[]),
];

/// What nova's compute interface has and this agent doesn't: answered with `NotImplementedError`,
/// which nova-api passes on as "not supported".
pub const ABSENT: &[&str] = &[
    "add_fixed_ip_to_instance",
    "allow_share",
    "attach_interface",
    "attach_volume",
    "backup_instance",
    "cache_images",
    "check_can_live_migrate_destination",
    "check_can_live_migrate_source",
    "check_instance_shared_storage",
    "confirm_resize",
    "confirm_snapshot_based_resize_at_source",
    "deny_share",
    "detach_interface",
    "detach_volume",
    "drop_move_claim_at_destination",
    "external_instance_event",
    "finish_resize",
    "finish_revert_resize",
    "finish_revert_snapshot_based_resize_at_source",
    "finish_snapshot_based_resize_at_dest",
    "get_mks_console",
    "get_rdp_console",
    "get_spice_console",
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
    "quiesce_instance",
    "rebuild_instance",
    "remove_fixed_ip_from_instance",
    "remove_volume_connection",
    "rescue_instance",
    "reserve_block_device_name",
    "resize_instance",
    "restore_instance",
    "revert_resize",
    "revert_snapshot_based_resize_at_dest",
    "rollback_live_migration_at_destination",
    "set_admin_password",
    "set_host_enabled",
    "shelve_instance",
    "shelve_offload_instance",
    "snapshot_instance",
    "soft_delete_instance",
    "swap_volume",
    "trigger_crash_dump",
    "unquiesce_instance",
    "unrescue_instance",
    "unshelve_instance",
    "volume_snapshot_create",
    "volume_snapshot_delete",
];

/// Reads a request. `id` is the message's `_unique_id`; `from_root` says that it came through the
/// local socket.
///
/// # Errors
/// The exception that nova-compute would raise: `TypeError` for missing and unexpected arguments,
/// `NotImplementedError` for what is absent, and the object's own for one that can't be read.
pub fn decode(
    name: &str,
    mut args: Map<String, Value>,
    id: String,
    context: RequestContext,
    from_root: bool,
) -> Result<Request, Fault> {
    if ABSENT.contains(&name) {
        let message = format!("{name} is not supported by this agent");
        return Err(Fault::builtin("NotImplementedError", message));
    }
    let method = METHODS.iter().find(|method| method.name == name);
    let method = method.ok_or_else(|| Fault::no_such_method(name))?;
    check_arguments(method, &args)?;
    let change = |args: &mut Map<String, Value>, build: &dyn Fn(Subject) -> AnyInit| {
        let instance: Instance = take(args, "instance")?;
        let uuid = instance.uuid().map_err(|error| object_fault(&error))?;
        let subject = Subject::new(instance, name);
        let record = match build(subject) {
            AnyInit::Stop(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
            AnyInit::Start(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
            AnyInit::Reboot(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
            AnyInit::Pause(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
            AnyInit::Unpause(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
            AnyInit::Suspend(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
            AnyInit::Resume(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
            AnyInit::Terminate(w) => Record::queued(id.clone(), uuid, context.clone(), w).into(),
        };
        Ok(Request::Change(record))
    };
    match name {
        "build_and_run_instance" => decode_build(args, id, context, from_root),
        "terminate_instance" => change(&mut args, &|s| AnyInit::Terminate(Terminate::new(s))),
        "stop_instance" => {
            let clean = flag(&args, "clean_shutdown")?;
            change(&mut args, &|s| AnyInit::Stop(PowerOff::new(s, clean)))
        }
        "start_instance" => change(&mut args, &|s| AnyInit::Start(PowerOn::new(s))),
        "reboot_instance" => {
            let kind = match text(&args, "reboot_type")?.as_str() {
                "SOFT" => Kind::Soft,
                "HARD" => Kind::Hard,
                other => {
                    let message = format!("reboot type {other} is neither SOFT nor HARD");
                    return Err(Fault::nova("InvalidInput", message));
                }
            };
            change(&mut args, &|s| AnyInit::Reboot(Reboot::new(s, kind)))
        }
        "pause_instance" => change(&mut args, &|s| AnyInit::Pause(Pause::new(s))),
        "unpause_instance" => change(&mut args, &|s| AnyInit::Unpause(Unpause::new(s))),
        "suspend_instance" => change(&mut args, &|s| AnyInit::Suspend(Suspend::new(s))),
        "resume_instance" => change(&mut args, &|s| AnyInit::Resume(Resume::new(s))),
        _ => decode_question(name, args).map(Request::Ask),
    }
}

/// A workflow that needs nothing but its subject.
enum AnyInit {
    Stop(PowerOff),
    Start(PowerOn),
    Reboot(Reboot),
    Pause(Pause),
    Unpause(Unpause),
    Suspend(Suspend),
    Resume(Resume),
    Terminate(Terminate),
}

fn decode_question(name: &str, mut args: Map<String, Value>) -> Result<Question, Fault> {
    if name == "get_host_uptime" {
        return Ok(Question::HostUptime);
    }
    let instance: Instance = take(&mut args, "instance")?;
    let uuid = instance.uuid().map_err(|error| object_fault(&error))?;
    let console_type = || text(&args, "console_type");
    Ok(match name {
        "get_console_output" => {
            Question::ConsoleOutput { uuid, tail: tail(args.get("tail_length")) }
        }
        "get_vnc_console" => Question::VncConsole { uuid, console_type: console_type()? },
        "get_serial_console" => Question::SerialConsole { uuid, console_type: console_type()? },
        "validate_console_port" => {
            let port = match args.get("port") {
                Some(Value::Number(number)) => number.to_string(),
                _ => text(&args, "port")?,
            };
            Question::ValidateConsolePort { uuid, port, console_type: console_type()? }
        }
        "get_diagnostics" => Question::LegacyDiagnostics { uuid, guest: facts(&instance) },
        "get_instance_diagnostics" => Question::Diagnostics { uuid, guest: facts(&instance) },
        other => return Err(Fault::no_such_method(other)),
    })
}

fn facts(instance: &Instance) -> GuestFacts {
    GuestFacts {
        config_drive: instance.config_drive.value().is_some_and(|text| !text.is_empty()),
        launched_at: instance.launched_at.value().copied(),
    }
}

fn decode_build(
    mut args: Map<String, Value>,
    id: String,
    context: RequestContext,
    from_root: bool,
) -> Result<Request, Fault> {
    let instance: Instance = take(&mut args, "instance")?;
    let uuid = instance.uuid().map_err(|error| object_fault(&error))?;
    let image = args.remove("image").unwrap_or(Value::Null);
    let image = image_argument::read(&image, from_root)?;
    let networks: Option<NetworkRequestList> = take_optional(&mut args, "requested_networks")?;
    let mapping: Option<BlockDeviceMappingList> = take_optional(&mut args, "block_device_mapping")?;
    let volumes = mapping.iter().flat_map(|list| list.objects.get()).flatten();
    let from_volumes = volumes.filter(|device| device.is_volume()).count();
    let build = Build {
        image_meta: image.meta,
        image: image.request,
        kernel: image.kernel,
        ramdisk: image.ramdisk,
        networks: networks.map(requested).unwrap_or_default(),
        admin_password: args.get("admin_password").and_then(Value::as_str).map(Secret::new),
        injected_files: injected_files(args.get("injected_files"))?,
        from_volumes,
    };
    let subject = Subject::new(instance, "_do_build_and_run_instance");
    let spawn = Spawn::new(subject, build);
    Ok(Request::Change(Record::queued(id, uuid, context, spawn).into()))
}

fn requested(list: NetworkRequestList) -> Vec<RequestedNetwork> {
    let all = list.objects.get().map(Vec::as_slice).unwrap_or_default();
    let read = |request: &crate::model::object::NetworkRequest| RequestedNetwork {
        network_id: request.network_id.value().cloned(),
        port_id: request.port_id.value().copied(),
        address: request.address.value().cloned(),
        tag: request.tag.value().cloned(),
    };
    all.iter().map(read).collect()
}

fn injected_files(value: Option<&Value>) -> Result<Vec<(String, Secret)>, Fault> {
    let Some(Value::Array(files)) = value else { return Ok(Vec::new()) };
    let read = |file: &Value| match file.as_array().map(Vec::as_slice) {
        Some([Value::String(path), Value::String(content)]) => {
            Ok((path.clone(), Secret::new(content.clone())))
        }
        _ => {
            Err(Fault::builtin("ValueError", "injected_files must hold pairs of path and content"))
        }
    };
    files.iter().map(read).collect()
}

/// Python's complaints about a call that doesn't fit the function.
fn check_arguments(method: &Method, args: &Map<String, Value>) -> Result<(), Fault> {
    let Method { name, required, optional } = method;
    let known =
        |arg: &&String| required.contains(&arg.as_str()) || optional.contains(&arg.as_str());
    if let Some(extra) = args.keys().find(|arg| !known(arg)) {
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

fn take<T: FieldType>(args: &mut Map<String, Value>, name: &str) -> Result<T, Fault> {
    let value = args.remove(name).unwrap_or(Value::Null);
    T::decode(&value).map_err(|error| object_fault(&error.within(name)))
}

fn take_optional<T: FieldType>(
    args: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, Fault> {
    take::<Option<T>>(args, name)
}

fn text(args: &Map<String, Value>, name: &str) -> Result<String, Fault> {
    let found = args.get(name).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| Fault::builtin("TypeError", format!("{name} must be a string")))
}

fn flag(args: &Map<String, Value>, name: &str) -> Result<bool, Fault> {
    let found = args.get(name).and_then(Value::as_bool);
    found.ok_or_else(|| Fault::builtin("TypeError", format!("{name} must be a boolean")))
}

/// `null` is everything; what isn't a number counts as 0, as nova has it.
fn tail(value: Option<&Value>) -> Tail {
    match value {
        None | Some(Value::Null) => Tail::All,
        Some(Value::Number(number)) => Tail::Lines(number.as_i64().unwrap_or(0)),
        Some(Value::String(text)) => Tail::Lines(text.trim().parse().unwrap_or(0)),
        Some(_) => Tail::Lines(0),
    }
}
