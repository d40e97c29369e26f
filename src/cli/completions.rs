//! `hypernova completions`: a shell's completions, to standard output.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::output::{Failure, Output};

#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: Shell,
}

pub fn run(args: &CompletionsArgs, output: &mut Output) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hypernova", &mut script);
    output.bytes(&script)?;
    Ok(0)
}
