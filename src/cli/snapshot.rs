//! `hypernova snapshot`: an image of an instance's root disk, in a file of this host.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use url::Url;

use super::action::instance_argument;
use super::agent_client::{Agent, AgentRequest};
use super::output::{Failure, Output};
use super::progress::Bars;
use super::resolve::pick;
use super::table::Table;
use super::view::{bytes, instances};
use super::wait::{Goal, Wait};
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;

#[derive(Debug, Clone, Args)]
pub struct SnapshotArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    pub name: String,

    /// The file to make; it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,

    /// Don't wait until it is done
    #[arg(long)]
    pub no_wait: bool,
}

pub async fn run(
    args: &SnapshotArgs,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let (path, url) = target(&args.to)?;
    let primitive = instance_argument(&instance.primitive, TaskState::ImageSnapshotPending);
    let request = AgentRequest::nova(
        "snapshot_instance",
        [("instance", primitive), ("image_id", json!(url.as_str()))],
    );
    if args.no_wait {
        agent.cast(request).await?;
        let document = json!({"uuid": instance.uuid, "name": instance.name, "file": path});
        match output.is_json() {
            true => output.document(&document)?,
            false => output.line(&path.display().to_string())?,
        }
        return Ok(0);
    }
    let since = Timestamp::now();
    let vm_state = instance.vm_state.as_deref().and_then(VmState::parse);
    let goal = Goal::In(vm_state.unwrap_or(VmState::Active));
    let bars = Bars::for_output(output);
    let (name, bar) = (instance.name.as_str(), bars.add(&instance.name));
    let wait = Wait { agent, uuid: instance.uuid, name, goal, was_there: true, bar, since };
    let result = wait.call(request).await;
    drop(wait);
    let made = std::fs::metadata(&path).map_or(0, |found| found.len());
    match result {
        Ok(_) if made > 0 => {}
        Ok(_) => return Err(Failure::told(format!("no snapshot of {name} was made"))),
        // The agent went away in the middle; it has come back, and ended what it had begun.
        Err(Failure::Agent(failure)) if failure.is_unreachable() && made > 0 => {}
        Err(failure) => return Err(failure),
    }
    let document =
        json!({"uuid": instance.uuid, "name": instance.name, "file": path, "size": made});
    if output.is_json() {
        output.document(&document)?;
        return Ok(0);
    }
    let mut table = Table::new(["NAME", "UUID", "SIZE", "FILE"]);
    let (uuid, file) = (instance.uuid.to_string(), path.display().to_string());
    table.row([instance.name.clone(), uuid, bytes(made), file]);
    output.table(&table)?;
    Ok(0)
}

/// The file as the agent, which runs elsewhere, must be told of it.
pub fn target(to: &Path) -> Result<(PathBuf, Url), Failure> {
    let absolute = std::path::absolute(to);
    let absolute =
        absolute.map_err(|error| Failure::told(format!("can't name {}: {error}", to.display())))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Failure::told(format!("{} is no file", to.display())));
    };
    let parent = parent
        .canonicalize()
        .map_err(|error| Failure::told(format!("can't make {}: {error}", to.display())))?;
    let path = parent.join(name);
    if path.symlink_metadata().is_ok() {
        return Err(Failure::told(format!("there is a file {} already", path.display()))
            .with_advice("choose another name, or remove that one"));
    }
    match Url::from_file_path(&path) {
        Ok(url) => Ok((path, url)),
        Err(()) => Err(Failure::told(format!("{} has no usable path", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeAgent, run};

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_asked_for_as_nova_api_does_and_its_file_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().canonicalize().unwrap().join("my disk.qcow2");
        let file = file.to_str().unwrap();
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let ran = run(Some(&agent), ["snapshot", "web", "--to", file]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("5 B") && ran.out.contains(file), "{}", ran.out);
        let sent = agent.sent().remove(0);
        assert_eq!((sent.method, sent.version), ("snapshot_instance", "6.0"));
        let task_state = &sent.args["instance"]["nova_object.data"]["task_state"];
        assert_eq!(task_state, "image_snapshot_pending");
        assert!(sent.args["image_id"].as_str().unwrap().starts_with("file:///"));

        let ran = run(Some(&agent), ["snapshot", "web", "--to", file]).await;
        assert_eq!((ran.code, agent.sent().len()), (1, 1));
        assert!(ran.err.contains("already"), "{}", ran.err);
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_t_be_made_is_told_before_anything_is_asked() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        for file in ["/nowhere/at/all", "/"] {
            let ran = run(Some(&agent), ["snapshot", "web", "--to", file]).await;
            assert_eq!(ran.code, 1, "{file}");
        }
        assert!(agent.sent().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        agent.refuse("snapshot_instance", "InstanceInvalidState", "web is being rebuilt");
        let ran = run(Some(&agent), ["snapshot", "web", "--to", file.to_str().unwrap()]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.starts_with("hypernova: web is being rebuilt\n"), "{}", ran.err);
    }
}
