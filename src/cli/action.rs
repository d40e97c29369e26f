//! `stop start reboot pause unpause suspend resume unrescue restore offload`: nova's requests that change a guest's power,
//! as nova-api sends them. What sets them apart is a table; the rest is the same for all.

use clap::{Args, ValueHint};
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
    #[arg(required = true, value_name = "NAME", value_hint = ValueHint::Other)]
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
    SoftDelete,
    Restore,
    Unrescue,
    Offload,
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
            Self::SoftDelete => "soft-delete",
            Self::Restore => "restore",
            Self::Unrescue => "unrescue",
            Self::Offload => "offload",
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
            Self::SoftDelete => TaskState::SoftDeleting,
            Self::Restore => TaskState::Restoring,
            Self::Unrescue => TaskState::Unrescuing,
            Self::Offload => TaskState::ShelvingOffloading,
        }
    }

    fn goal(self) -> Goal {
        match self {
            Self::Stop { .. } => Goal::In(VmState::Stopped),
            Self::Start
            | Self::Reboot { .. }
            | Self::Unpause
            | Self::Resume
            | Self::Restore
            | Self::Unrescue => Goal::In(VmState::Active),
            Self::SoftDelete => Goal::In(VmState::SoftDeleted),
            Self::Offload => Goal::In(VmState::ShelvedOffloaded),
            Self::Pause => Goal::In(VmState::Paused),
            Self::Suspend => Goal::In(VmState::Suspended),
            Self::Delete => Goal::Gone,
        }
    }

    /// The request about an instance whose primitive is on record.
    pub fn request(self, primitive: &Value) -> AgentRequest {
        let instance = ("instance", instance_argument(primitive, self.task_state()));
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
            Self::SoftDelete => AgentRequest::nova("soft_delete_instance", [instance]),
            Self::Restore => AgentRequest::nova("restore_instance", [instance]),
            Self::Unrescue => AgentRequest::nova("unrescue_instance", [instance]),
            Self::Offload => AgentRequest::nova(
                "shelve_offload_instance",
                [instance, ("clean_shutdown", json!(true)), ("accel_uuids", json!([]))],
            ),
        }
    }
}

/// An instance on record, as nova-api sends it once it has set the task.
pub fn instance_argument(primitive: &Value, task_state: TaskState) -> Value {
    let mut instance = primitive.clone();
    if let Some(object) = instance.as_object_mut() {
        object.shift_remove("nova_object.changes");
    }
    instance["nova_object.data"]["task_state"] = json!(task_state.as_str());
    instance["nova_object.data"]["progress"] = json!(0);
    instance
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
    let asked = wanted.iter().map(|instance| {
        let request = action.request(&instance.primitive);
        let order = Order { request, task_state: action.task_state(), goal: action.goal() };
        ask(order, instance, args.no_wait, agent, &bars)
    });
    let outcomes = join_all(asked).await;
    drop(bars);
    show(action.name(), wanted.into_iter().zip(outcomes), output)
}

/// A request about one instance, and what it leads to.
pub struct Order {
    pub request: AgentRequest,
    /// What nova-api sets before it sends the request.
    pub task_state: TaskState,
    pub goal: Goal,
}

/// Asks for `order` on one instance, and shows where it ended.
pub async fn run_one(
    name: &str,
    instance: &Summary,
    order: Order,
    no_wait: bool,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let bars = Bars::for_output(output);
    let outcome = ask(order, instance, no_wait, agent, &bars).await;
    drop(bars);
    show(name, std::iter::once((instance, outcome)), output)
}

/// The instance's state and its power.
type Outcome = Result<(String, &'static str), Failure>;

fn show<'a>(
    requested: &str,
    outcomes: impl Iterator<Item = (&'a Summary, Outcome)>,
    output: &mut Output,
) -> Result<u8, Failure> {
    let mut table = Table::new(["NAME", "UUID", "STATE", "POWER"]);
    let mut documents = Vec::new();
    let mut code = 0;
    for (instance, outcome) in outcomes {
        let mut document = json!({
            "uuid": instance.uuid, "name": instance.name, "requested": requested,
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
    order: Order,
    instance: &Summary,
    no_wait: bool,
    agent: &dyn Agent,
    bars: &Bars,
) -> Outcome {
    let since = Timestamp::now();
    let Order { request, task_state, goal } = order;
    if no_wait {
        agent.cast(request).await?;
        let state = format!("{} ({})", instance.state(), task_state);
        return Ok((state, instance.power_state));
    }
    let name = instance.name.as_str();
    let vm_state = instance.vm_state.as_deref().and_then(VmState::parse);
    let was_there = vm_state.is_some_and(|vm_state| goal == Goal::In(vm_state));
    let wait =
        Wait { agent, uuid: instance.uuid, name, goal, was_there, bar: bars.add(name), since };
    Ok(match wait.call(request).await? {
        Some((summary, _)) => (summary.state(), summary.power_state),
        None => ("deleted".to_owned(), "-"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::fake::{FakeAgent, run};
    use super::*;

    fn only_request(agent: &FakeAgent) -> AgentRequest {
        let sent = agent.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.into_iter().next().unwrap()
    }

    /// Arguments and task states as nova-api sent them when it was recorded.
    #[tokio::test(start_paused = true)]
    async fn every_action_sends_novas_request() {
        for (line, method, task_state, others) in [
            (vec!["stop", "web"], "stop_instance", "powering-off", vec!["clean_shutdown"]),
            (vec!["start", "web"], "start_instance", "powering-on", vec![]),
            (
                vec!["reboot", "web"],
                "reboot_instance",
                "rebooting",
                vec!["block_device_info", "reboot_type"],
            ),
            (
                vec!["reboot", "--hard", "web"],
                "reboot_instance",
                "rebooting_hard",
                vec!["block_device_info", "reboot_type"],
            ),
            (vec!["pause", "web"], "pause_instance", "pausing", vec![]),
            (vec!["unpause", "web"], "unpause_instance", "unpausing", vec![]),
            (vec!["suspend", "web"], "suspend_instance", "suspending", vec![]),
            (vec!["resume", "web"], "resume_instance", "resuming", vec![]),
            (vec!["delete", "web"], "terminate_instance", "deleting", vec!["bdms"]),
            (vec!["restore", "web"], "restore_instance", "restoring", vec![]),
            (vec!["unrescue", "web"], "unrescue_instance", "unrescuing", vec![]),
            (
                vec!["offload", "web"],
                "shelve_offload_instance",
                "shelving_offloading",
                vec!["clean_shutdown", "accel_uuids"],
            ),
        ] {
            let agent = FakeAgent::new();
            agent.add(1, "web").await;
            let mut words = line.clone();
            words.resize(3, "--json");
            let ran = run(Some(&agent), [words[0], words[1], words[2]]).await;
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line:?}");
            let request = only_request(&agent);
            assert_eq!((request.method, request.version), (method, "6.0"));
            let names: BTreeSet<_> = request.args.keys().map(String::as_str).collect();
            assert_eq!(names, ["instance"].into_iter().chain(others).collect(), "{line:?}");
            let instance = &request.args["instance"];
            assert_eq!(instance["nova_object.data"]["task_state"], task_state);
            assert!(instance.get("nova_object.changes").is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_hard_is_said_in_the_arguments() {
        for (line, argument, value) in [
            (["stop", "web", "--hard"], "clean_shutdown", json!(false)),
            (["reboot", "web", "--hard"], "reboot_type", json!("HARD")),
            (["reboot", "web", "--json"], "reboot_type", json!("SOFT")),
        ] {
            let agent = FakeAgent::new();
            agent.add(1, "web").await;
            run(Some(&agent), line).await;
            assert_eq!(only_request(&agent).args[argument], value, "{line:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_shows_where_it_ended() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let ran = run(Some(&agent), ["stop", "web"]).await;
        assert_eq!(
            ran.out,
            "NAME  UUID                                  STATE    POWER\n\
             web   00000000-0000-0000-0000-000000000001  stopped  shutdown\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_and_the_others_go_on() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        agent.add(2, "db").await;
        agent.refuse("stop_instance", "InstanceInvalidState", "web is being rebuilt");
        let ran = run(Some(&agent), ["--json", "stop", "web", "db"]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.starts_with("hypernova: web is being rebuilt\n"), "{}", ran.err);
        let documents = ran.json();
        assert_eq!(documents[0]["error"], "web is being rebuilt");
        assert_eq!(documents[1]["state"], "stopped");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_goes_away_is_asked_again_what_came_of_it() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        agent.refuse("stop_instance", "AgentUnreachable", "the connection was closed");
        let ran = run(Some(&agent), ["stop", "web"]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.starts_with("hypernova: web is active, not stopped\n"), "{}", ran.err);
        agent.refuse("reboot_instance", "AgentUnreachable", "the connection was closed");
        let ran = run(Some(&agent), ["reboot", "web"]).await;
        assert_eq!(ran.code, 1, "active it was before");
        assert!(ran.err.starts_with("hypernova: the connection was closed\n"), "{}", ran.err);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_name_keeps_all_from_being_asked() {
        let agent = FakeAgent::new();
        agent.add(1, "twin").await;
        agent.add(2, "twin").await;
        agent.add(3, "web").await;
        for (names, told) in
            [(["web", "nope"], "no instance nope"), (["web", "twin"], "any of 0000")]
        {
            let ran = run(Some(&agent), ["delete", names[0], names[1]]).await;
            assert_eq!(ran.code, 1);
            assert!(ran.err.contains(told), "{}", ran.err);
        }
        assert!(agent.sent().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delete_waits_until_the_instances_are_gone() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        agent.add(2, "db").await;
        let ran = run(Some(&agent), ["delete", "web", "db", "web"]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert_eq!(agent.sent().len(), 2, "named twice, asked once");
        assert!(agent.records.all().iter().all(|instance| instance.deleted.get() == Some(&true)));
    }
}
