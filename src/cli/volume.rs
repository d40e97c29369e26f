//! `hypernova volume attach|detach|swap|grown`: a file or a block device of this host as a disk of an instance.
//!
//! Nova's requests carry it: a record is reserved first, as nova-api does, and then attached. The volume's
//! id is made of its path, so that a guest knows a file again that it had before.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::agent_client::{Agent, AgentRequest};
use super::output::{Failure, Output};
use super::resolve::pick;
use super::table::Table;
use super::view::{Summary, instances};

#[derive(Debug, Clone, Args)]
pub struct VolumeArgs {
    #[command(subcommand)]
    pub command: VolumeCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum VolumeCommand {
    /// Give a guest a file or a block device of this host as a disk
    Attach(AttachArgs),
    /// Take such a disk from its guest; the file or device stays as it is
    Detach(DetachArgs),
    /// Copy such a disk to another file or device while its guest runs, and let the guest go on there
    Swap(SwapArgs),
    /// Tell a guest that the file or device of such a disk has been made larger
    Grown(DetachArgs),
}

#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    pub name: String,

    /// The file or the block device
    pub path: PathBuf,

    /// What the file is; a block device is raw
    #[arg(long, value_enum, default_value = "raw")]
    pub format: Format,

    /// virtio, scsi, sata, … [default: as the instance's image has it]
    #[arg(long)]
    pub bus: Option<String>,

    /// The guest may only read it
    #[arg(long)]
    pub read_only: bool,

    /// It is encrypted with LUKS, and this file holds the passphrase, to its last byte; the guest sees what
    /// is inside
    #[arg(long)]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct SwapArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    pub name: String,

    /// The file or the block device that the guest has, or the volume's id
    pub old: String,

    /// The file or the block device to go on with: at least as large; what it holds is overwritten
    pub new: PathBuf,

    /// What the new file is; a block device is raw
    #[arg(long, value_enum, default_value = "raw")]
    pub format: Format,
}

#[derive(Debug, Clone, Args)]
pub struct DetachArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    pub name: String,

    /// The file or the block device, or the volume's id
    pub volume: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Raw,
    Qcow2,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

pub async fn run(args: &VolumeArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    match &args.command {
        VolumeCommand::Attach(args) => attach(args, agent, output).await,
        VolumeCommand::Detach(args) => detach(args, agent, output).await,
        VolumeCommand::Swap(args) => swap(args, agent, output).await,
        VolumeCommand::Grown(args) => grown(args, agent, output).await,
    }
}

async fn attach(args: &AttachArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let path = real(&args.path)?;
    let volume_id = volume_id(&path);
    let reserve = AgentRequest::nova(
        "reserve_block_device_name",
        [
            ("instance", argument(instance)),
            ("device", Value::Null),
            ("volume_id", json!(volume_id)),
            ("disk_bus", json!(args.bus)),
            ("device_type", Value::Null),
            ("tag", Value::Null),
            ("multiattach", json!(false)),
        ],
    );
    let mut device = agent.call(reserve).await?;
    let mut connection = connection(&path, args.format, volume_id);
    let data = &mut connection["data"];
    data["access_mode"] = if args.read_only { "ro" } else { "rw" }.into();
    if let Some(key_file) = &args.key_file {
        data["encrypted"] = true.into();
        data["key_file"] = json!(real(key_file)?);
    }
    device["nova_object.data"]["connection_info"] = json!(connection.to_string());
    let name = device["nova_object.data"]["device_name"].clone();
    let attach =
        AgentRequest::nova("attach_volume", [("instance", argument(instance)), ("bdm", device)]);
    agent.call(attach).await?;
    let document = json!({
        "uuid": instance.uuid, "name": instance.name, "path": path, "volume_id": volume_id,
        "device": name,
    });
    shown(&document, ["NAME", "DEVICE", "VOLUME", "PATH"], output)
}

async fn detach(args: &DetachArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let volume_id = named(&args.volume)?;
    let request = AgentRequest::nova(
        "detach_volume",
        [
            ("instance", argument(instance)),
            ("volume_id", json!(volume_id)),
            ("attachment_id", Value::Null),
        ],
    );
    agent.call(request).await?;
    let document = json!({"uuid": instance.uuid, "name": instance.name, "volume_id": volume_id});
    shown(&document, ["NAME", "VOLUME"], output)
}

async fn swap(args: &SwapArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let (old, path) = (named(&args.old)?, real(&args.new)?);
    let new = volume_id(&path);
    let connection = connection(&path, args.format, new);
    let request = AgentRequest::nova(
        "swap_volume",
        [
            ("instance", argument(instance)),
            ("old_volume_id", json!(old)),
            ("new_volume_id", json!(new)),
            ("new_attachment_id", Value::Null),
            ("new_connection_info", json!(connection.to_string())),
        ],
    );
    agent.call(request).await?;
    let document =
        json!({"uuid": instance.uuid, "name": instance.name, "path": path, "volume_id": new});
    shown(&document, ["NAME", "VOLUME", "PATH"], output)
}

async fn grown(args: &DetachArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let volume_id = named(&args.volume)?;
    let event = json!({
        "nova_object.name": "InstanceExternalEvent",
        "nova_object.namespace": "nova",
        "nova_object.version": "1.5",
        "nova_object.data": {
            "instance_uuid": instance.uuid, "name": "volume-extended", "status": "completed",
            "tag": volume_id.to_string(), "data": {},
        },
    });
    let instances = json!([argument(instance)]);
    let arguments = [("instances", instances), ("events", json!([event]))];
    agent.call(AgentRequest::nova("external_instance_event", arguments)).await?;
    let document = json!({"uuid": instance.uuid, "name": instance.name, "volume_id": volume_id});
    shown(&document, ["NAME", "VOLUME"], output)
}

fn real(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize()
        .map_err(|error| Failure::told(format!("can't use {}: {error}", path.display())))
}

/// How such a volume is reached.
fn connection(path: &Path, format: Format, volume_id: Uuid) -> Value {
    let data = json!({"device_path": path, "format": format.name()});
    json!({"driver_volume_type": "local", "data": data, "serial": volume_id})
}

/// The volume that is named by its id, or by its path. A file that is gone has its path still.
fn named(volume: &str) -> Result<Uuid, Failure> {
    if let Ok(id) = volume.parse::<Uuid>() {
        return Ok(id);
    }
    let path = Path::new(volume);
    let real = path.canonicalize().or_else(|_| std::path::absolute(path));
    let real = real.map_err(|error| Failure::told(format!("can't name {volume}: {error}")))?;
    Ok(volume_id(&real))
}

fn shown<const N: usize>(
    document: &Value,
    columns: [&'static str; N],
    output: &mut Output,
) -> Result<u8, Failure> {
    if output.is_json() {
        output.document(document)?;
        return Ok(0);
    }
    let mut table = Table::new(columns);
    let key = |column: &str| match column {
        "VOLUME" => "volume_id".to_owned(),
        other => other.to_lowercase(),
    };
    table.row(
        columns.map(|column| document[key(column).as_str()].as_str().unwrap_or("-").to_owned()),
    );
    output.table(&table)?;
    Ok(0)
}

/// The instance as nova-api sends it with a request that sets no task.
fn argument(instance: &Summary) -> Value {
    let mut primitive = instance.primitive.clone();
    if let Some(object) = primitive.as_object_mut() {
        object.shift_remove("nova_object.changes");
    }
    primitive
}

/// What a file of this host is called as a volume.
fn volume_id(path: &Path) -> Uuid {
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeAgent, run};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_reserved_and_attached_as_nova_api_does() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        let path = path.to_str().unwrap();
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let line = ["volume", "attach", "web", path, "--read-only"];
        let ran = run(Some(&agent), line).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("/dev/vdb") && ran.out.contains(path), "{}", ran.out);
        let sent = agent.sent();
        let methods: Vec<_> = sent.iter().map(|request| request.method).collect();
        assert_eq!(methods, ["reserve_block_device_name", "attach_volume"]);
        let info = &sent[1].args["bdm"]["nova_object.data"]["connection_info"];
        let info: Value = serde_json::from_str(info.as_str().unwrap()).unwrap();
        assert_eq!(info["data"]["device_path"], path);
        assert_eq!(info["data"]["access_mode"], "ro");
        let id = sent[0].args["volume_id"].clone();
        assert_eq!(info["serial"], id);

        let ran = run(Some(&agent), ["volume", "detach", "web", path]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let sent = agent.sent();
        assert_eq!((sent[2].method, &sent[2].args["volume_id"]), ("detach_volume", &id));
    }

    #[tokio::test(start_paused = true)]
    async fn one_file_for_another_and_one_that_has_grown() {
        let (old, new) =
            (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let name = |file: &tempfile::NamedTempFile| file.path().canonicalize().unwrap().to_owned();
        let (old, new) = (name(&old), name(&new));
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let line = ["volume", "swap", "web", old.to_str().unwrap(), new.to_str().unwrap()];
        let ran = run(Some(&agent), line).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let sent = agent.sent();
        assert_eq!(sent[0].method, "swap_volume");
        assert_eq!(sent[0].args["old_volume_id"], json!(volume_id(&old)));
        assert_eq!(sent[0].args["new_volume_id"], json!(volume_id(&new)));
        let info = sent[0].args["new_connection_info"].as_str().unwrap();
        let info: Value = serde_json::from_str(info).unwrap();
        assert_eq!(info["data"]["device_path"], json!(new));

        let ran = run(Some(&agent), ["volume", "grown", "web", new.to_str().unwrap()]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let event = &agent.sent()[1].args["events"][0]["nova_object.data"];
        assert_eq!(event["tag"], json!(volume_id(&new)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_not_asked_for() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let ran = run(Some(&agent), ["volume", "attach", "web", "/nonexistent/disk"]).await;
        assert_eq!((ran.code, agent.sent().len()), (1, 0));
        assert!(ran.err.contains("/nonexistent/disk"), "{}", ran.err);
    }
}
