//! `hypernova serve`: the flags of the agent itself.

use clap::Args;

use super::ConfigArgs;

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,

    /// Serve the commands on this host alone, without a control plane
    #[arg(long)]
    pub standalone: bool,
}
