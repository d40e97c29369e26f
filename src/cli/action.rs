//! `stop start reboot pause unpause suspend resume`: nova's requests that change a guest's power,
//! as nova-api sends them. What sets them apart is a table; the rest is the same for all.

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::agent_client::{Agent, AgentRequest};
use super::output::{Failure, Output};
use super::progress::Bars;
use super::resolve::pick;
use super::table::Table;
use super::view::{Summary, instances};
use super::wait::{Goal, Wait};
use crate::model::state::{TaskState, VmState};
use crate::model::time::Timestamp;

#[derive(Debug, Clone, Args)]
pub struct NamesArgs {
    /// The instances: names, uuids, or beginnings of uuids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,

    /// Don't wait until it is done
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub names: NamesArgs,

    /// Cut the power, without asking the guest
    #[arg(long)]
    pub hard: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RebootArgs {
    #[command(flatten)]
    pub names: NamesArgs,

    /// Power off and on, with the domain defined anew, without asking the guest
    #[arg(long)]
    pub hard: bool,
}

/// A request about an instance that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Stop { clean: bool },
    Start,
    Reboot { hard: bool },
    Pause,
    Unpause,
    Suspend,
    Resume,
    Delete,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop { .. } => "stop",
            Self::Start => "start",
            Self::Reboot { .. } => "reboot",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Delete => "delete",
        }
    }

    /// What nova-api sets before it sends the request. nova: compute/api.py
    fn task_state(self) -> TaskState {
        match self {
            Self::Stop { .. } => TaskState::PoweringOff,
            Self::Start => TaskState::PoweringOn,
            Self::Reboot { hard: false } => TaskState::Rebooting,
            Self::Reboot { hard: true } => TaskState::RebootingHard,
            Self::Pause => TaskState::Pausing,
            Self::Unpause => TaskState::Unpausing,
            Self::Suspend => TaskState::Suspending,
            Self::Resume => TaskState::Resuming,
            Self::Delete => TaskState::Deleting,
        }
    }

    fn goal(self) -> Goal {
        match self {
            Self::Stop { .. } => Goal::In(VmState::Stopped),
            Self::Start | Self::Reboot { .. } | Self::Unpause | Self::Resume => {
                Goal::In(VmState::Active)
            }
            Self::Pause => Goal::In(VmState::Paused),
            Self::Suspend => Goal::In(VmState::Suspended),
            Self::Delete => Goal::Gone,
        }
    }

    /// The request about an instance whose primitive is on record.
    pub fn request(self, primitive: &Value) -> AgentRequest {
        let mut instance = primitive.clone();
        if let Some(object) = instance.as_object_mut() {
            object.shift_remove("nova_object.changes");
        }
        instance["nova_object.data"]["task_state"] = json!(self.task_state().as_str());
        instance["nova_object.data"]["progress"] = json!(0);
        let instance = ("instance", instance);
        match self {
            Self::Stop { clean } => {
                AgentRequest::nova("stop_instance", [instance, ("clean_shutdown", json!(clean))])
            }
            Self::Start => AgentRequest::nova("start_instance", [instance]),
            Self::Reboot { hard } => AgentRequest::nova(
                "reboot_instance",
                [
                    instance,
                    ("block_device_info", Value::Null),
                    ("reboot_type", json!(if hard { "HARD" } else { "SOFT" })),
                ],
            ),
            Self::Pause => AgentRequest::nova("pause_instance", [instance]),
            Self::Unpause => AgentRequest::nova("unpause_instance", [instance]),
            Self::Suspend => AgentRequest::nova("suspend_instance", [instance]),
            Self::Resume => AgentRequest::nova("resume_instance", [instance]),
            Self::Delete => {
                let bdms = super::build_message::empty_list("BlockDeviceMappingList", "1.18");
                AgentRequest::nova("terminate_instance", [instance, ("bdms", bdms)])
            }
        }
    }
}

pub async fn stop(args: &StopArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    run(&args.names, Action::Stop { clean: !args.hard }, agent, output).await
}

pub async fn reboot(
    args: &RebootArgs,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    run(&args.names, Action::Reboot { hard: args.hard }, agent, output).await
}

/// Asks for `action` on every instance that is named, all at once. Nothing is asked for when one
/// of the names is wrong; one that fails doesn't keep the others from going on.
pub async fn run(
    args: &NamesArgs,
    action: Action,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let mut wanted: Vec<&Summary> = Vec::new();
    for name in &args.names {
        let found = pick(&all, name)?;
        if wanted.iter().all(|other| other.uuid != found.uuid) {
            wanted.push(found);
        }
    }
    let bars = Bars::for_output(output);
    let asked = wanted.iter().map(|instance| ask(action, instance, args.no_wait, agent, &bars));
    let outcomes = join_all(asked).await;
    drop(bars);

    let mut table = Table::new(["NAME", "UUID", "STATE", "POWER"]);
    let mut documents = Vec::new();
    let mut code = 0;
    for (instance, outcome) in wanted.iter().zip(outcomes) {
        let mut document = json!({
            "uuid": instance.uuid, "name": instance.name, "requested": action.name(),
        });
        match outcome {
            Ok((state, power)) => {
                document["state"] = json!(state);
                document["power_state"] = json!(power);
                let name = instance.name.clone();
                table.row([name, instance.uuid.to_string(), state, power.to_owned()]);
            }
            Err(failure) => {
                document["error"] = json!(failure.to_string());
                code = output.failure(&failure);
            }
        }
        documents.push(document);
    }
    match output.is_json() {
        true => output.document(&Value::Array(documents))?,
        false if table.is_empty() => {}
        false => output.table(&table)?,
    }
    Ok(code)
}

/// The instance's state and power when it is done, or what was asked for when nobody waits.
async fn ask(
    action: Action,
    instance: &Summary,
    no_wait: bool,
    agent: &dyn Agent,
    bars: &Bars,
) -> Result<(String, &'static str), Failure> {
    let since = Timestamp::now();
    let request = action.request(&instance.primitive);
    if no_wait {
        agent.cast(request).await?;
        let state = format!("{} ({})", instance.state(), action.task_state());
        return Ok((state, instance.power_state));
    }
    let (name, goal) = (instance.name.as_str(), action.goal());
    let wait = Wait { agent, uuid: instance.uuid, name, goal, bar: bars.add(name), since };
    Ok(match wait.call(request).await? {
        Some((summary, _)) => (summary.state(), summary.power_state),
        None => ("deleted".to_owned(), "-"),
    })
}
