//! `hypernova rebuild`: an instance gets new disks of an image.

use clap::{Args, ValueHint};
use serde_json::{Value, json};

use super::action::{Order, instance_argument, run_one};
use super::agent_client::{Agent, AgentRequest};
use super::guest_args::parse_pair;
use super::image_source::ImageSource;
use super::output::{Failure, Output};
use super::resolve::pick;
use super::view::instances;
use super::wait::Goal;
use crate::model::state::{TaskState, VmState};

#[derive(Debug, Clone, Args)]
pub struct RebuildArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    #[arg(value_hint = ValueHint::Other)]
    pub name: String,

    /// Image to make the disks of: a file of this host, or an http(s) URL that the agent fetches
    /// [default: the instance's own, as it is in the agent's cache]
    #[arg(long, value_name = "PATH|URL", value_hint = ValueHint::FilePath)]
    pub image: Option<String>,

    /// Image property such as hw_disk_bus=scsi; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_hint = ValueHint::Other, value_parser = parse_pair, requires = "image")]
    pub property: Vec<(String, String)>,

    /// Keep what is on the ephemeral disks
    #[arg(long)]
    pub preserve_ephemeral: bool,

    /// Don't wait until it is done
    #[arg(long)]
    pub no_wait: bool,
}

pub async fn run(
    args: &RebuildArgs,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let own = instance.image.clone();
    let image = match (&args.image, &own) {
        (Some(place), _) => ImageSource::find(place, None)?.described(&args.property),
        (None, Some(id)) => json!(id),
        (None, None) => {
            let message = format!("{} was not made of an image", instance.name);
            return Err(Failure::told(message).with_advice("name one with --image"));
        }
    };
    let request = AgentRequest::nova(
        "rebuild_instance",
        [
            ("instance", instance_argument(&instance.primitive, TaskState::Rebuilding)),
            ("orig_image_ref", json!(own)),
            ("image_ref", image),
            ("injected_files", json!([])),
            ("new_pass", json!("")),
            ("orig_sys_metadata", Value::Null),
            ("bdms", Value::Null),
            ("recreate", json!(false)),
            ("on_shared_storage", json!(false)),
            ("preserve_ephemeral", json!(args.preserve_ephemeral)),
            ("migration", Value::Null),
            ("scheduled_node", Value::Null),
            ("limits", json!({})),
            ("request_spec", Value::Null),
        ],
    );
    // A stopped guest is stopped again.
    let was_stopped = instance.vm_state.as_deref() == Some(VmState::Stopped.as_str());
    let goal = Goal::In(if was_stopped { VmState::Stopped } else { VmState::Active });
    let order = Order { request, task_state: TaskState::Rebuilding, goal };
    run_one("rebuild", instance, order, args.no_wait, agent, output).await
}
