//! `hypernova delete`: instances go, with their disks.

use clap::Args;

use super::action::{self, Action, NamesArgs};
use super::agent_client::Agent;
use super::output::{Failure, Output};

#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub names: NamesArgs,
}

pub async fn run(args: &DeleteArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    action::run(&args.names, Action::Delete, agent, output).await
}
