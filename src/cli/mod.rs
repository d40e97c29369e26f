//! The commands: an operator's side of the agent. One file a command.
//!
//! `serve`, `check` and `xml` are the agent's own work, which [`Daemon`] stands for; every other
//! command asks the running agent over its socket and shows the answer.

mod action;
pub mod agent_client;
mod boot;
mod build_message;
pub mod check;
mod completions;
mod console;
mod delete;
#[cfg(test)]
mod fake;
mod guest_args;
mod image_source;
mod interface;
mod list;
mod man;
mod node;
pub mod output;
mod progress;
mod rebuild;
mod rescue;
pub mod resolve;
pub mod serve;
mod shelve;
mod show;
mod snapshot;
mod table;
mod view;
mod volume;
mod wait;
mod workflows;
pub mod xml;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use clap::{Parser, Subcommand};
use serde_json::{Map, Value};

use self::agent_client::{Agent, CallFailure};
use self::output::{Failure, Output};
pub use crate::config::args::ConfigArgs;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/hypernova/hypernova.sock";

/// The compute-node agent and its commands
#[derive(Debug, Parser)]
#[command(name = "hypernova", version, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub struct Cli {
    /// The agent's socket [default: $HYPERNOVA_SOCKET, or /run/hypernova/hypernova.sock]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Everywhere")]
    pub socket: Option<PathBuf>,

    /// Print JSON: one document, or one a line with --watch and --follow
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest
    Boot(Box<boot::BootArgs>),
    /// List the instances of this host
    List,
    /// Show an instance: its state, consoles, interfaces, events and faults
    Show(show::ShowArgs),
    /// Shut guests down, by asking them first
    Stop(action::StopArgs),
    /// Start stopped guests
    Start(action::NamesArgs),
    /// Reboot guests
    Reboot(action::RebootArgs),
    /// Stop guests' CPUs, keeping their memory
    Pause(action::NamesArgs),
    /// Let paused guests run on
    Unpause(action::NamesArgs),
    /// Save guests' memory to disk and stop them
    Suspend(action::NamesArgs),
    /// Let suspended guests run on
    Resume(action::NamesArgs),
    /// Make an image of an instance's root disk, also while its guest runs
    Snapshot(snapshot::SnapshotArgs),
    /// Boot a guest from another image, with its own disk beside it
    Rescue(rescue::RescueArgs),
    /// Give rescued guests their own disks and definition back
    Unrescue(action::NamesArgs),
    /// Give an instance new disks of an image
    Rebuild(rebuild::RebuildArgs),
    /// Turn a guest off, keeping its disk as an image
    Shelve(shelve::ShelveArgs),
    /// Free what shelved instances still have on this host
    Offload(action::NamesArgs),
    /// Let a shelved instance go on from its image
    Unshelve(shelve::UnshelveArgs),
    /// Give guests disks, or take them away, while they run
    Volume(volume::VolumeArgs),
    /// Give guests network interfaces, or take them away, while they run
    Interface(interface::InterfaceArgs),
    /// Show what a guest wrote to its serial console
    Console(console::ConsoleArgs),
    /// Delete instances with their disks
    Delete(delete::DeleteArgs),
    /// Bring soft-deleted instances back
    Restore(action::NamesArgs),
    /// Show this compute node: its hypervisor and its resources
    Node(node::NodeArgs),
    /// Show what the agent is doing
    Workflows(workflows::WorkflowsArgs),
    /// Check configuration and host
    Check(check::CheckArgs),
    /// Print the domain XML that a guest would get, without booting it
    Xml(Box<xml::XmlArgs>),
    /// Print a shell's completions
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    Man(man::ManArgs),
    /// Run the agent
    Serve(serve::ServeArgs),
}

/// What the agent's program does besides asking a running agent.
#[async_trait]
pub trait Daemon: Send + Sync {
    /// Runs the agent until it is told to stop. Called outside of any async runtime.
    /// `socket`: as given on the command line or in the environment, if it was.
    fn serve(&self, args: &serve::ServeArgs, socket: Option<&Path>) -> ExitCode;

    /// Checks configuration and host; one finding for each thing that was looked at.
    async fn check(&self, args: &check::CheckArgs) -> Vec<check::Finding>;

    /// The domain XML for a `build_and_run_instance` with the arguments `build`.
    async fn xml(
        &self,
        config: &ConfigArgs,
        build: Map<String, Value>,
    ) -> Result<String, CallFailure>;

    /// Connects to the running agent; [`CallFailure::unreachable`] when there is none.
    async fn connect(&self, socket: &Path) -> Result<Arc<dyn Agent>, CallFailure>;
}

/// Does what the command line says and returns how the process ends.
pub fn run(cli: &Cli, daemon: &dyn Daemon) -> ExitCode {
    let named = cli.socket.clone().or_else(|| {
        std::env::var_os("HYPERNOVA_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
    });
    if let Command::Serve(args) = &cli.command {
        return daemon.serve(args, named.as_deref());
    }
    let mut output = Output::standard(cli.json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime {
        Ok(runtime) => {
            let socket = named.unwrap_or_else(|| DEFAULT_SOCKET.into());
            runtime.block_on(execute(&cli.command, daemon, &socket, &mut output))
        }
        Err(error) => output.failure(&Failure::Output(error)),
    };
    ExitCode::from(code)
}

/// Runs any command but `serve`, whose work isn't a command's; returns the exit code.
pub async fn execute(
    command: &Command,
    daemon: &dyn Daemon,
    socket: &Path,
    output: &mut Output,
) -> u8 {
    match dispatch(command, daemon, socket, output).await {
        Ok(code) => code,
        Err(failure) => output.failure(&failure),
    }
}

async fn dispatch(
    command: &Command,
    daemon: &dyn Daemon,
    socket: &Path,
    output: &mut Output,
) -> Result<u8, Failure> {
    match command {
        Command::Check(args) => return check::run(daemon.check(args).await, output),
        Command::Xml(args) => return xml::run(args, daemon, output).await,
        Command::Completions(args) => return completions::run(args, output),
        Command::Man(args) => return man::run(args, output),
        _ => {}
    }
    let agent = daemon.connect(socket).await?;
    let agent = agent.as_ref();
    match command {
        Command::Boot(args) => boot::run(args, agent, output).await,
        Command::List => list::run(agent, output).await,
        Command::Show(args) => show::run(args, agent, output).await,
        Command::Stop(args) => action::stop(args, agent, output).await,
        Command::Start(args) => action::run(args, action::Action::Start, agent, output).await,
        Command::Reboot(args) => action::reboot(args, agent, output).await,
        Command::Pause(args) => action::run(args, action::Action::Pause, agent, output).await,
        Command::Unpause(args) => action::run(args, action::Action::Unpause, agent, output).await,
        Command::Suspend(args) => action::run(args, action::Action::Suspend, agent, output).await,
        Command::Resume(args) => action::run(args, action::Action::Resume, agent, output).await,
        Command::Snapshot(args) => snapshot::run(args, agent, output).await,
        Command::Rescue(args) => rescue::run(args, agent, output).await,
        Command::Unrescue(args) => action::run(args, action::Action::Unrescue, agent, output).await,
        Command::Rebuild(args) => rebuild::run(args, agent, output).await,
        Command::Shelve(args) => shelve::run(args, agent, output).await,
        Command::Offload(args) => action::run(args, action::Action::Offload, agent, output).await,
        Command::Unshelve(args) => shelve::unshelve(args, agent, output).await,
        Command::Restore(args) => action::run(args, action::Action::Restore, agent, output).await,
        Command::Volume(args) => volume::run(args, agent, output).await,
        Command::Interface(args) => interface::run(args, agent, output).await,
        Command::Console(args) => console::run(args, agent, output).await,
        Command::Delete(args) => delete::run(args, agent, output).await,
        Command::Node(_) => node::run(agent, output).await,
        Command::Workflows(args) => workflows::run(args, agent, output).await,
        Command::Check(_)
        | Command::Xml(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Serve(_) => unreachable!("these need no agent and were run before"),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::fake::{FakeAgent, run};
    use super::{Cli, Path};

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["hypernova --json --socket /x list", "hypernova list --json --socket /x"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.json && cli.socket.as_deref() == Some(Path::new("/x")), "{line}");
        }
    }

    #[tokio::test]
    async fn without_an_agent_the_operator_is_told_what_to_do() {
        let ran = run(None, ["list"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(ran.err.starts_with("hypernova: can't reach the agent at /fake.sock: "));
        assert!(ran.err.contains("hypernova serve"), "{}", ran.err);
    }

    #[tokio::test]
    async fn instances_are_listed_as_a_table_or_as_json() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let ran = run(Some(&agent), ["list"]).await;
        assert!(ran.out.starts_with("NAME  UUID  "), "{}", ran.out);
        assert!(ran.out.contains("web   00000000-0000-0000-0000-000000000001  active  running"));
        let ran = run(Some(&agent), ["list", "--json"]).await;
        assert_eq!(ran.json()[0]["name"], "web");
    }

    #[tokio::test]
    async fn an_instance_and_the_node_are_shown() {
        let agent = FakeAgent::new();
        agent.add(0x24ef << 112, "web").await;
        let ran = run(Some(&agent), ["show", "24ef", "--diagnostics"]).await;
        assert!(ran.out.contains("diagnostics  driver: libvirt"), "{}", ran.out);
        let ran = run(Some(&agent), ["node", "--json"]).await;
        assert_eq!((&ran.json()["node"], ran.code), (&"n1".into(), 0));
    }

    #[tokio::test]
    async fn what_needs_no_agent_does_without() {
        for shell in ["bash", "zsh", "fish"] {
            let ran = run(None, ["completions", shell]).await;
            assert!(ran.code == 0 && ran.out.contains("workflows"), "{shell}");
        }
        let ran = run(None, ["man"]).await;
        assert!(ran.code == 0 && ran.out.contains(".TH hypernova 1"), "{}", ran.out);
        let ran = run(None, ["man", "boot"]).await;
        assert!(ran.code == 0 && ran.out.contains("\\-\\-image"), "{}", ran.out);
        assert_eq!(run(None, ["man", "fly"]).await.code, 1);
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path().to_str().unwrap();
        let ran = run(None, ["xml", "web", "--image", path]).await;
        assert_eq!(ran.out, "<domain><title>web</title></domain>\n");
    }

    #[test]
    fn wrong_usage_ends_with_2() {
        for line in [
            "hypernova fly",
            "hypernova boot web",
            "hypernova boot web --image x --memory 0",
            "hypernova boot web --image x --checksum sha256:12",
            "hypernova boot web --image x --ramdisk y",
            "hypernova stop",
            "hypernova console web --until x --timeout soon",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
