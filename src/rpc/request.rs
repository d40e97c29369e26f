//! A message's method and arguments, to a typed request. nova: compute/rpcapi.py, compute/manager.py

use serde_json::{Map, Value};
use uuid::Uuid;

use super::failure::Fault;
use super::image_argument;
use super::methods::{ABSENT, METHODS, check_arguments};
use super::network_arguments;
use super::shelf_arguments;
use super::snapshot_arguments::{target_image, volume_snapshots};
use super::volume_arguments;
use crate::dispatch::console::ConsoleKind;
use crate::dispatch::events::InstanceEvent;
use crate::dispatch::query::{GuestFacts, Tail};
use crate::model::context::RequestContext;
use crate::model::object::codec::FieldType;
use crate::model::object::{BlockDeviceMappingList, Instance, SchedulerLimits};
use crate::model::secret::Secret;
use crate::model::state::VmState;
use crate::workflow::any::AnyRecord;
use crate::workflow::attach_interface::AttachInterface;
use crate::workflow::attach_volume::AttachVolume;
use crate::workflow::crash_dump::CrashDump;
use crate::workflow::detach_interface::DetachInterface;
use crate::workflow::detach_volume::DetachVolume;
use crate::workflow::engine::Workflow;
use crate::workflow::exception::object_fault;
use crate::workflow::fixed_ip::{Change, FixedIp};
use crate::workflow::instance::Subject;
use crate::workflow::journal::Record;
use crate::workflow::pause::Pause;
use crate::workflow::power_off::PowerOff;
use crate::workflow::power_on::PowerOn;
use crate::workflow::quiesce::Quiesce;
use crate::workflow::reboot::{Kind, Reboot};
use crate::workflow::rebuild::Rebuild;
use crate::workflow::remove_connection::RemoveConnection;
use crate::workflow::reschedule::{BuildArguments, METHOD};
use crate::workflow::rescue::Rescue;
use crate::workflow::reserve_device::ReserveDevice;
use crate::workflow::resume::Resume;
use crate::workflow::set_password::SetPassword;
use crate::workflow::shelve::Shelve;
use crate::workflow::shelve_offload::ShelveOffload;
use crate::workflow::snapshot::{Kind as SnapshotKind, Snapshot};
use crate::workflow::soft_delete::SoftDelete;
use crate::workflow::spawn::{Build, Spawn};
use crate::workflow::suspend::Suspend;
use crate::workflow::swap_volume::SwapVolume;
use crate::workflow::terminate::Terminate;
use crate::workflow::unpause::Unpause;
use crate::workflow::unquiesce::Unquiesce;
use crate::workflow::unrescue::Unrescue;
use crate::workflow::unshelve::Unshelve;

/// What is asked.
#[derive(Debug)]
pub enum Request {
    /// A change of an instance, as the record that its workflow starts from.
    Change(AnyRecord),
    Ask(Question),
    /// What others report.
    Events(Vec<InstanceEvent>),
    /// Images that are to be fetched ahead, by their ids.
    CacheImages(Vec<String>),
}

/// A request that changes no instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    ConsoleOutput {
        uuid: Uuid,
        tail: Tail,
    },
    /// `building`: the instance may have no domain yet.
    Console {
        uuid: Uuid,
        kind: ConsoleKind,
        console_type: String,
        building: bool,
    },
    ValidateConsolePort {
        uuid: Uuid,
        port: String,
        console_type: String,
    },
    Diagnostics {
        uuid: Uuid,
        guest: GuestFacts,
    },
    LegacyDiagnostics {
        uuid: Uuid,
        guest: GuestFacts,
    },
    HostUptime,
    SetHostEnabled(bool),
}

impl Question {
    /// The instance that it is about.
    pub fn uuid(&self) -> Option<Uuid> {
        match self {
            Self::ConsoleOutput { uuid, .. }
            | Self::Console { uuid, .. }
            | Self::ValidateConsolePort { uuid, .. }
            | Self::Diagnostics { uuid, .. }
            | Self::LegacyDiagnostics { uuid, .. } => Some(*uuid),
            Self::HostUptime | Self::SetHostEnabled(_) => None,
        }
    }
}

/// Reads a request. `id` is the message's `_unique_id`; `from_root` says that it came through the
/// local socket.
///
/// # Errors
/// The exception that nova-compute would raise: `TypeError` for missing and unexpected arguments,
/// `NotImplementedError` for what is absent, and the object's own for one that can't be read.
pub fn decode(
    name: &str,
    args: Map<String, Value>,
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
    let mut message = Message { name, args, id, context };
    match name {
        "build_and_run_instance" => decode_build(message, from_root),
        "terminate_instance" => {
            let disks: Option<BlockDeviceMappingList> = take_optional(&mut message.args, "bdms")?;
            let disks = disks.map(BlockDeviceMappingList::into_items).unwrap_or_default();
            message.change(|subject| Terminate::new(subject.with_disks(&disks)))
        }
        "stop_instance" => {
            let clean = flag(&message.args, "clean_shutdown")?;
            message.change(|subject| PowerOff::new(subject, clean))
        }
        "start_instance" => message.change(PowerOn::new),
        "reboot_instance" => {
            let kind = match text(&message.args, "reboot_type")?.as_str() {
                "SOFT" => Kind::Soft,
                "HARD" => Kind::Hard,
                other => {
                    let problem = format!("reboot type {other} is neither SOFT nor HARD");
                    return Err(Fault::nova("InvalidInput", problem));
                }
            };
            message.change(|subject| Reboot::new(subject, kind))
        }
        "pause_instance" => message.change(Pause::new),
        "unpause_instance" => message.change(Unpause::new),
        "suspend_instance" => message.change(Suspend::new),
        "resume_instance" => message.change(Resume::new),
        "snapshot_instance" => {
            let image = target_image(&message.args, from_root)?;
            message.change(|subject| Snapshot::new(subject, SnapshotKind::Snapshot, image))
        }
        "backup_instance" => {
            let image = target_image(&message.args, from_root)?;
            let backup_type = text(&message.args, "backup_type")?;
            let rotation = count(&message.args, "rotation")?;
            let kind = SnapshotKind::Backup { backup_type, rotation };
            message.change(|subject| Snapshot::new(subject, kind, image))
        }
        "quiesce_instance" => message.change(Quiesce::new),
        "unquiesce_instance" => {
            let snapshots = volume_snapshots(message.args.get("mapping"));
            message.change(|subject| Unquiesce::new(subject, snapshots))
        }
        "set_admin_password" => {
            let password = Secret::new(text(&message.args, "new_pass")?);
            message.change(|subject| SetPassword::new(subject, password))
        }
        "trigger_crash_dump" => message.change(CrashDump::new),
        "soft_delete_instance" => message.change(SoftDelete::new),
        "restore_instance" => message.change(PowerOn::restoring),
        "rescue_instance" => {
            let asked = shelf_arguments::rescue(&message.args, from_root)?;
            message.change(|subject| Rescue::new(subject, asked))
        }
        "unrescue_instance" => message.change(Unrescue::new),
        "rebuild_instance" => {
            let asked = shelf_arguments::rebuild(&mut message.args, from_root)?;
            message.change(|subject| Rebuild::new(subject, asked))
        }
        "shelve_instance" => {
            let image = target_image(&message.args, from_root)?;
            let clean = flag(&message.args, "clean_shutdown")?;
            message.change(|subject| Shelve::new(subject, image, clean))
        }
        "shelve_offload_instance" => {
            let clean = flag(&message.args, "clean_shutdown")?;
            message.change(|subject| ShelveOffload::new(subject, clean))
        }
        "unshelve_instance" => {
            let build = shelf_arguments::unshelve(&mut message.args, from_root)?;
            message.change(|subject| Unshelve::new(subject, build))
        }
        "attach_volume" => {
            let device = volume_arguments::attached(&mut message.args, from_root)?;
            message.change(|subject| AttachVolume::new(subject, device))
        }
        "attach_interface" => {
            let asked = network_arguments::attached(&message.args)?;
            message.change(|subject| AttachInterface::new(subject, asked))
        }
        "detach_interface" => {
            let port_id = text(&message.args, "port_id")?;
            message.change(|subject| DetachInterface::new(subject, port_id))
        }
        "add_fixed_ip_to_instance" => {
            let network_id = text(&message.args, "network_id")?;
            message.change(|subject| FixedIp::new(subject, Change::Add { network_id }))
        }
        "remove_fixed_ip_from_instance" => {
            let address = text(&message.args, "address")?;
            message.change(|subject| FixedIp::new(subject, Change::Remove { address }))
        }
        "detach_volume" => {
            let volume_id = text(&message.args, "volume_id")?;
            message.change(|subject| DetachVolume::new(subject, volume_id))
        }
        "swap_volume" => {
            let swap = volume_arguments::swapped(&message.args, from_root)?;
            message.change(|subject| SwapVolume::new(subject, swap))
        }
        "remove_volume_connection" => {
            let volume_id = text(&message.args, "volume_id")?;
            let closes = message.args.get("delete_attachment").and_then(Value::as_bool);
            let closes = closes.unwrap_or(false);
            message.change(|subject| RemoveConnection::new(subject, volume_id, closes))
        }
        "reserve_block_device_name" => {
            let asked = volume_arguments::reserved(&message.args)?;
            message.change(|subject| ReserveDevice::new(subject, asked))
        }
        "external_instance_event" => network_arguments::events(message.args).map(Request::Events),
        "cache_images" => image_ids(&message.args).map(Request::CacheImages),
        _ => decode_question(name, message.args).map(Request::Ask),
    }
}

/// nova-api takes as many as a database column has room for.
const MAX_IMAGES: usize = 1000;

fn image_ids(args: &Map<String, Value>) -> Result<Vec<String>, Fault> {
    let wrong = || Fault::nova("InvalidInput", "image_ids is not a list of images' ids");
    let ids = args.get("image_ids").and_then(Value::as_array).ok_or_else(wrong)?;
    if ids.len() > MAX_IMAGES {
        return Err(wrong());
    }
    ids.iter().map(|id| id.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

/// A message whose method and argument names are checked.
struct Message<'a> {
    name: &'a str,
    args: Map<String, Value>,
    id: String,
    context: RequestContext,
}

impl Message<'_> {
    /// A change that needs nothing but its instance.
    fn change<W: Workflow>(mut self, workflow: impl FnOnce(Subject) -> W) -> Result<Request, Fault>
    where
        AnyRecord: From<Record<W>>,
    {
        let instance: Instance = take(&mut self.args, "instance")?;
        let uuid = instance.uuid().map_err(|error| object_fault(&error))?;
        let workflow = workflow(Subject::new(instance, self.name));
        Ok(Request::Change(Record::queued(self.id, uuid, self.context, workflow).into()))
    }
}

/// Whether it is a question that is asked.
pub fn is_question(name: &str) -> bool {
    name.starts_with("get_") || name.starts_with("validate_")
}

fn decode_question(name: &str, mut args: Map<String, Value>) -> Result<Question, Fault> {
    if name == "get_host_uptime" {
        return Ok(Question::HostUptime);
    }
    if name == "set_host_enabled" {
        return Ok(Question::SetHostEnabled(flag(&args, "enabled")?));
    }
    let instance: Instance = take(&mut args, "instance")?;
    let uuid = instance.uuid().map_err(|error| object_fault(&error))?;
    let console_type = || text(&args, "console_type");
    let building = instance.vm_state.value() == Some(&VmState::Building);
    let opens = |kind, console_type| Question::Console { uuid, kind, console_type, building };
    Ok(match name {
        "get_console_output" => {
            Question::ConsoleOutput { uuid, tail: tail(args.get("tail_length")) }
        }
        "get_vnc_console" => opens(ConsoleKind::Vnc, console_type()?),
        "get_spice_console" => opens(ConsoleKind::Spice, console_type()?),
        "get_serial_console" => opens(ConsoleKind::Serial, console_type()?),
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

fn decode_build(message: Message<'_>, from_root: bool) -> Result<Request, Fault> {
    let Message { mut args, id, context, .. } = message;
    let instance: Instance = take(&mut args, "instance")?;
    let uuid = instance.uuid().map_err(|error| object_fault(&error))?;
    let arguments = BuildArguments::of(&args);
    let image = args.remove("image").unwrap_or(Value::Null);
    let image = image_argument::read(&image, from_root)?;
    let wanted = network_arguments::wanted(&mut args)?;
    let mapping = volume_arguments::mapping(&mut args, from_root)?;
    let limits = limits(&mut args)?;
    let build = Build {
        image_meta: image.meta,
        image: image.request,
        kernel: image.kernel,
        ramdisk: image.ramdisk,
        wanted,
        admin_password: args.get("admin_password").and_then(Value::as_str).map(Secret::new),
        injected_files: injected_files(args.get("injected_files"))?,
        block_devices: mapping,
        limits,
        arguments,
    };
    let subject = Subject::new(instance, METHOD);
    let spawn = Spawn::new(subject, build);
    Ok(Request::Change(Record::queued(id, uuid, context, spawn).into()))
}

/// What the scheduler counted on: an object from 2023.1 on, `{}` where there are no limits.
pub(super) fn limits(args: &mut Map<String, Value>) -> Result<Option<SchedulerLimits>, Fault> {
    match args.get("limits") {
        Some(Value::Object(all)) if all.is_empty() => Ok(None),
        _ => take_optional(args, "limits"),
    }
}

pub(super) fn injected_files(value: Option<&Value>) -> Result<Vec<(String, Secret)>, Fault> {
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

pub(super) fn take<T: FieldType>(args: &mut Map<String, Value>, name: &str) -> Result<T, Fault> {
    let value = args.remove(name).unwrap_or(Value::Null);
    T::decode(&value).map_err(|error| object_fault(&error.within(name)))
}

pub(super) fn take_optional<T: FieldType>(
    args: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, Fault> {
    take::<Option<T>>(args, name)
}

pub(super) fn text(args: &Map<String, Value>, name: &str) -> Result<String, Fault> {
    let found = args.get(name).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| Fault::builtin("TypeError", format!("{name} must be a string")))
}

pub(super) fn flag(args: &Map<String, Value>, name: &str) -> Result<bool, Fault> {
    let found = args.get(name).and_then(Value::as_bool);
    found.ok_or_else(|| Fault::builtin("TypeError", format!("{name} must be a boolean")))
}

fn count(args: &Map<String, Value>, name: &str) -> Result<u64, Fault> {
    let found = args.get(name).and_then(Value::as_u64);
    let wrong = || Fault::builtin("TypeError", format!("{name} must be a number, 0 or more"));
    found.ok_or_else(wrong)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::methods::Method;
    use super::*;
    use crate::dispatch::admission::RequestKind;
    use crate::records::history::History;
    use crate::workflow::world::{MemoryJournal, World};

    fn decoded(method: &str, args: Value) -> Result<Request, Fault> {
        let args = args.as_object().unwrap().clone();
        decode(method, args, "id".to_owned(), RequestContext::admin(), false)
    }

    fn fixture(name: &str) -> (String, Map<String, Value>) {
        let path = format!("{}/tests/fixtures/rpc/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let message: Value = serde_json::from_str(&text).unwrap();
        let method = message["method"].as_str().unwrap().to_owned();
        (method, message["args"].as_object().unwrap().clone())
    }

    #[test]
    fn every_recorded_request_becomes_what_it_asks() {
        for (name, kind) in [
            ("build_and_run_instance", RequestKind::Build),
            ("build_and_run_instance_ami", RequestKind::Build),
            ("build_and_run_instance_config_drive", RequestKind::Build),
            ("build_and_run_instance_volume", RequestKind::Build),
            ("terminate_instance", RequestKind::Delete),
            ("stop_instance", RequestKind::Stop),
            ("start_instance", RequestKind::Start),
            ("reboot_instance_soft", RequestKind::RebootSoft),
            ("reboot_instance_hard", RequestKind::RebootHard),
            ("pause_instance", RequestKind::Pause),
            ("unpause_instance", RequestKind::Unpause),
            ("suspend_instance", RequestKind::Suspend),
            ("resume_instance", RequestKind::Resume),
            ("snapshot_instance", RequestKind::Snapshot),
            ("backup_instance", RequestKind::Backup),
            ("trigger_crash_dump", RequestKind::CrashDump),
            ("rescue_instance", RequestKind::Rescue),
            ("unrescue_instance", RequestKind::Unrescue),
            ("rebuild_instance", RequestKind::Rebuild),
            ("shelve_instance", RequestKind::Shelve),
            ("unshelve_instance", RequestKind::Unshelve),
        ] {
            let (method, args) = fixture(name);
            let request = decode(&method, args, "id".into(), RequestContext::admin(), false);
            match request {
                Ok(Request::Change(record)) => assert_eq!(RequestKind::of(&record), kind, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_of_a_volume_that_is_gone_ends_in_an_error_that_its_user_reads() {
        let (method, args) = fixture("build_and_run_instance_volume");
        let context = RequestContext::admin();
        let Ok(Request::Change(AnyRecord::Spawn(record))) =
            decode(&method, args, "id".into(), context, false)
        else {
            panic!("it is a build");
        };
        let world = World::new();
        let mut record = world.record(record.workflow).await;
        world.run(&mut record, &MemoryJournal::default()).await.unwrap();
        let records = world.records.all();
        assert_eq!(records[0].vm_state.value(), Some(&VmState::Error));
        let faults = world.records.faults(records[0].uuid().unwrap()).await.unwrap();
        assert!(faults[0].message.contains("could not be found"), "{faults:?}");
        assert_eq!(world.leftovers().await, Vec::<String>::new());
    }

    #[test]
    fn recorded_questions_are_questions() {
        for name in ["get_console_output", "get_vnc_console", "get_instance_diagnostics"] {
            let (method, args) = fixture(name);
            let request = decode(&method, args, "id".into(), RequestContext::admin(), false);
            assert!(matches!(request, Ok(Request::Ask(_))), "{name}: {request:?}");
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_a_type_error_in_pythons_words() {
        for (args, words) in [
            (json!({}), "pause_instance() missing 1 required positional argument: 'instance'"),
            (json!({"instance": 1, "x": 2}), "got an unexpected keyword argument 'x'"),
        ] {
            let fault = decoded("pause_instance", args).unwrap_err();
            assert_eq!(fault.class, "TypeError");
            assert!(fault.message.contains(words), "{}", fault.message);
        }
        let fault = decoded("stop_instance", json!({})).unwrap_err();
        let words = "missing 2 required positional arguments: 'instance', 'clean_shutdown'";
        assert!(fault.message.contains(words), "{}", fault.message);
    }

    #[test]
    fn an_argument_s_name_is_echoed_in_part() {
        let name = "x\n".repeat(10_000);
        let fault = decoded("pause_instance", json!({"instance": 1, name: 2})).unwrap_err();
        assert!(fault.message.len() < 300, "{}", fault.message.len());
        assert!(!fault.message.contains('\n'));
    }

    #[test]
    fn an_object_that_nobody_knows_is_unsupported() {
        let (method, mut args) = fixture("pause_instance");
        let decoded = |args: &Map<String, Value>| {
            let (args, id) = (args.clone(), "id".to_owned());
            decode(&method, args, id, RequestContext::admin(), false).unwrap_err()
        };
        args["instance"]["nova_object.name"] = json!("Frobnicator");
        let fault = decoded(&args);
        assert_eq!(
            (&*fault.module, &*fault.class, &fault.kwargs["objtype"]),
            ("oslo_versionedobjects.exception", "UnsupportedObjectError", &json!("Frobnicator"))
        );
        args["instance"]["nova_object.name"] = json!("Flavor");
        assert_eq!(decoded(&args).class, "ValueError");
        args["instance"]["nova_object.namespace"] = json!("ironic");
        assert_eq!(decoded(&args).kwargs["objtype"], "ironic.Flavor");
    }

    #[test]
    fn questions_are_known_by_their_names() {
        for Method { name, .. } in METHODS {
            let args = |name: &str| fixture(name).1;
            let question = match *name {
                "get_host_uptime" => true,
                name => {
                    let mut all = args("pause_instance");
                    for extra in ["tail_length", "port", "console_type"] {
                        all.insert(extra.to_owned(), json!("1"));
                    }
                    decode_question(name, all).is_ok()
                }
            };
            assert_eq!(is_question(name), question, "{name}");
        }
    }

    #[test]
    fn what_is_absent_says_so_and_what_is_unknown_is_no_method() {
        let fault = decoded("live_migration", json!({})).unwrap_err();
        assert_eq!((&*fault.class, &*fault.module), ("NotImplementedError", "builtins"));
        assert_eq!(decoded("frobnicate", json!({})).unwrap_err().class, "NoSuchMethod");
    }

    #[test]
    fn an_object_of_another_major_version_is_incompatible() {
        let (method, mut args) = fixture("pause_instance");
        args["instance"]["nova_object.version"] = json!("3.0");
        let fault = decode(&method, args, "id".into(), RequestContext::admin(), false).unwrap_err();
        assert_eq!(fault.class, "IncompatibleObjectVersion");
    }

    #[test]
    fn a_tail_is_a_number_in_any_spelling_or_everything() {
        let read = |value: Value| tail(Some(&value));
        assert_eq!(read(json!(null)), Tail::All);
        assert_eq!(read(json!(3)), Tail::Lines(3));
        assert_eq!(read(json!("4")), Tail::Lines(4));
        assert_eq!(read(json!("many")), Tail::Lines(0));
        assert_eq!(read(json!([1])), Tail::Lines(0));
    }
}
