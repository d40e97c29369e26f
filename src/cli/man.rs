//! `hypernova man`: the manual page, or that of one command, to standard output.

use clap::{Args, CommandFactory, ValueHint};
use clap_mangen::Man;

use super::Cli;
use super::output::{Failure, Output};

#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// The command whose page to print [default: the page of all]
    #[arg(value_hint = ValueHint::Other)]
    pub command: Option<String>,
}

pub fn run(args: &ManArgs, output: &mut Output) -> Result<u8, Failure> {
    let mut all = Cli::command();
    all.build();
    let page = match &args.command {
        None => all,
        Some(name) => {
            let found = all.find_subcommand(name).cloned();
            let unknown = || Failure::told(format!("there is no command {name}"));
            // The page's own name, as `man hypernova-boot` would look for it.
            found.ok_or_else(unknown)?.name(format!("hypernova-{name}"))
        }
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    output.bytes(&text)?;
    Ok(0)
}
