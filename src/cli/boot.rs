//! `hypernova boot`: a guest from an image, in one command.

use clap::{Args, ValueHint};
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
    #[arg(value_hint = ValueHint::Other)]
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
    let wait =
        Wait { agent, uuid: build.uuid, name: &build.name, goal, was_there: false, bar, since };
    let settled = wait.settle().await?;
    drop(wait);
    match settled {
        Some((summary, answer)) => show::print(&summary, &answer, output),
        None => Err(Failure::told(format!("{} was deleted meanwhile", build.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeAgent, run};

    /// A file that stands for an image.
    fn image() -> tempfile::NamedTempFile {
        tempfile::Builder::new().suffix(".qcow2").tempfile().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_waits_until_the_guest_runs() {
        let (agent, image) = (FakeAgent::new(), image());
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["boot", "web", "--image", path, "--network", "none"]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("state      active"), "{}", ran.out);
        let sent = agent.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].method, sent[0].version), ("build_and_run_instance", "6.0"));
        assert_eq!(sent[0].args["node"], "n1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_that_fails_tells_its_fault() {
        let (agent, image) = (FakeAgent::new(), image());
        agent.fail_build("image is not acceptable: backing file");
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["boot", "web", "--image", path]).await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(
            ran.err.starts_with("hypernova: web: image is not acceptable: backing file\n"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("hypernova show"), "{}", ran.err);
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_outlives_a_restart_of_the_agent() {
        let (agent, image) = (FakeAgent::new(), image());
        agent.be_away_for(20);
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["--json", "boot", "web", "--image", path]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert_eq!(ran.json()["instance"]["vm_state"], "active");

        agent.be_away_for(10_000);
        let ran = run(Some(&agent), ["boot", "two", "--image", path]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.starts_with("hypernova: can't reach the agent at "), "{}", ran.err);
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_that_has_only_begun_has_not_failed() {
        let (agent, image) = (FakeAgent::new(), image());
        agent.hide_workflow();
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["--json", "boot", "web", "--image", path]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert_eq!(ran.json()["instance"]["vm_state"], "active");
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_that_the_agent_doesnt_take_ends() {
        let (agent, image) = (FakeAgent::new(), image());
        agent.be_deaf();
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["boot", "web", "--image", path]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("the agent didn't take the request for web"), "{}", ran.err);
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_without_waiting_tells_the_uuid() {
        let (agent, image) = (FakeAgent::new(), image());
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["boot", "web", "--image", path, "--no-wait"]).await;
        let uuid: uuid::Uuid = ran.out.trim().parse().unwrap();
        assert_eq!(agent.records.all()[0].uuid.get(), Some(&uuid));
    }

    #[tokio::test]
    async fn a_name_is_given_once() {
        let (agent, image) = (FakeAgent::new(), image());
        agent.add(1, "web").await;
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["boot", "web", "--image", path]).await;
        assert_eq!(ran.code, 1);
        assert!(agent.sent().is_empty());
    }

    #[tokio::test]
    async fn a_missing_image_asks_for_nothing() {
        let agent = FakeAgent::new();
        let ran = run(Some(&agent), ["boot", "web", "--image", "/nowhere.qcow2"]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("can't read image /nowhere.qcow2"), "{}", ran.err);
        assert!(agent.sent().is_empty());
    }
}
