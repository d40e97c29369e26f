//! `hypernova delete`: instances go, with their disks.

use clap::Args;

use super::action::{self, Action, NamesArgs};
use super::agent_client::Agent;
use super::output::{Failure, Output};

#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub names: NamesArgs,

    /// Only turn them off: `hypernova restore` brings them back until the agent reclaims them
    #[arg(long)]
    pub soft: bool,
}

pub async fn run(args: &DeleteArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let action = if args.soft { Action::SoftDelete } else { Action::Delete };
    action::run(&args.names, action, agent, output).await
}
