//! `hypernova shelve` and `unshelve`: an instance's disk becomes a file of this host, and an instance
//! again.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::{Map, Value, json};
use url::Url;

use super::action::{Action, Order, instance_argument, run_one};
use super::agent_client::{Agent, AgentRequest};
use super::image_source::ImageSource;
use super::output::{Failure, Output};
use super::resolve::pick;
use super::snapshot::target;
use super::view::{Summary, instances};
use super::wait::Goal;
use crate::model::state::{TaskState, VmState};

#[derive(Debug, Clone, Args)]
pub struct ShelveArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    #[arg(value_hint = ValueHint::Other)]
    pub name: String,

    /// The file that its disk becomes; it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,

    /// Cut the power, without asking the guest
    #[arg(long)]
    pub hard: bool,

    /// Don't wait until it is done
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Clone, Args)]
pub struct UnshelveArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    #[arg(value_hint = ValueHint::Other)]
    pub name: String,

    /// Don't wait until it is done
    #[arg(long)]
    pub no_wait: bool,
}

pub async fn run(args: &ShelveArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let (_, url) = target(&args.to)?;
    let task_state = TaskState::Shelving;
    let request = AgentRequest::nova(
        "shelve_instance",
        [
            ("instance", instance_argument(&instance.primitive, task_state)),
            ("image_id", json!(url.as_str())),
            ("clean_shutdown", json!(!args.hard)),
            ("accel_uuids", json!([])),
        ],
    );
    let order = Order { request, task_state, goal: Goal::Shelved };
    run_one("shelve", instance, order, args.no_wait, agent, output).await
}

pub async fn unshelve(
    args: &UnshelveArgs,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let file = shelved_file(instance);
    let goal = Goal::In(VmState::Active);
    // What is still here only has to be started. nova: conductor/manager.py, `unshelve_instance`
    let order = if instance.vm_state.as_deref() == Some(VmState::Shelved.as_str()) {
        let request = Action::Start.request(&instance.primitive);
        Order { request, task_state: TaskState::PoweringOn, goal }
    } else {
        let task_state = TaskState::Unshelving;
        let Some(file) = &file else {
            return Err(Failure::told(format!("{} is not shelved", instance.name)));
        };
        let image = ImageSource::find(&file.to_string_lossy(), None)?;
        let request = AgentRequest::nova(
            "unshelve_instance",
            [
                ("instance", instance_argument(&instance.primitive, task_state)),
                ("image", image.described(&properties(instance))),
                ("filter_properties", json!({"limits": {}})),
                ("node", Value::Null),
                ("request_spec", Value::Null),
                ("accel_uuids", json!([])),
            ],
        );
        Order { request, task_state, goal }
    };
    let code = run_one("unshelve", instance, order, args.no_wait, agent, output).await?;
    if let Some(file) = file.filter(|_| code == 0 && !args.no_wait)
        && file.exists()
    {
        // The agent removes images from its own directories only; this one is whoever named it's.
        let path = file.display();
        std::fs::remove_file(&file)
            .map_err(|error| Failure::told(format!("can't remove {path}: {error}")))?;
    }
    Ok(code)
}

fn system_metadata(instance: &Summary) -> Option<&Map<String, Value>> {
    instance.primitive["nova_object.data"]["system_metadata"].as_object()
}

/// The file that it was shelved as.
fn shelved_file(instance: &Summary) -> Option<PathBuf> {
    let url = system_metadata(instance)?.get("shelved_image_id")?.as_str()?;
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "file")?;
    url.to_file_path().ok()
}

/// Its image's properties, as its record has them: nova-api gives them to the image.
fn properties(instance: &Summary) -> Vec<(String, String)> {
    let image = |(key, value): (&String, &Value)| {
        let key = key.strip_prefix("image_")?;
        let own = key.starts_with("hw_") || key.starts_with("os_") || key.starts_with("img_");
        own.then(|| Some((key.to_owned(), value.as_str()?.to_owned()))).flatten()
    };
    system_metadata(instance).into_iter().flatten().filter_map(image).collect()
}
