//! `hypernova boot`: a guest from an image, in one command.

use clap::Args;
use serde_json::json;

use super::agent_client::{Agent, AgentRequest};
use super::build_message::Build;
use super::guest_args::GuestArgs;
use super::node;
use super::output::{Failure, Output};
use super::progress::Bars;
use super::show;
use super::view::instances;
use super::wait::{Goal, Wait};
use crate::model::state::VmState;
use crate::model::time::Timestamp;

#[derive(Debug, Clone, Args)]
pub struct BootArgs {
    /// The instance's name; the guest's host name is made of it
    pub name: String,

    #[command(flatten)]
    pub guest: GuestArgs,

    /// Wait until the guest runs (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,

    /// Return once the agent has the request
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
}

pub async fn run(args: &BootArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    if let Some(other) = instances(agent).await?.into_iter().find(|other| other.name == args.name) {
        let message = format!("there is an instance {} already: {}", args.name, other.uuid);
        return Err(Failure::told(message).with_advice("choose another name, or delete that one"));
    }
    let (host, node) = node::names(agent).await?;
    let build = Build::prepare(&args.name, &args.guest, &host, &node)?;
    let since = Timestamp::now();
    let mut request = AgentRequest::nova("build_and_run_instance", []);
    request.args = build.args();
    agent.cast(request).await?;
    if args.no_wait {
        match output.is_json() {
            true => output.document(&json!({"uuid": build.uuid, "name": build.name}))?,
            false => output.line(&build.uuid.to_string())?,
        }
        return Ok(0);
    }
    let bars = Bars::for_output(output);
    let goal = Goal::In(VmState::Active);
    let bar = bars.add(&build.name);
    let wait = Wait { agent, uuid: build.uuid, name: &build.name, goal, bar, since };
    let settled = wait.settle().await?;
    drop(wait);
    match settled {
        Some((summary, answer)) => show::print(&summary, &answer, output),
        None => Err(Failure::told(format!("{} was deleted meanwhile", build.name))),
    }
}
