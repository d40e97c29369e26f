//! `hypernova completions`: a shell's completions, to standard output.

use std::fmt::Write as _;

use clap::{Arg, Args, Command, CommandFactory, ValueHint};
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
    let mut command = Cli::command();
    if args.shell == Shell::Zsh {
        command = without_colons(command);
    }
    clap_complete::generate(args.shell, &mut command, "hypernova", &mut script);
    if args.shell == Shell::Fish {
        script.extend(fish_arguments(&command).into_bytes());
    }
    output.bytes(&script)?;
    Ok(0)
}

/// In zsh's language a colon ends a value's name, and what follows is called as a function; in names
/// clap_complete lets it stand.
fn without_colons(command: Command) -> Command {
    let renamed = |arg: Arg| {
        let names = arg.get_value_names().unwrap_or_default().iter();
        let names: Vec<_> = names.map(|name| name.replace(':', "=")).collect();
        match names.iter().any(|name| name.contains('=')) {
            true => arg.value_names(names),
            false => arg,
        }
    };
    command.mut_args(renamed).mut_subcommands(without_colons)
}

/// What clap_complete leaves out for fish: arguments without a flag, for which fish offers file
/// names unless told otherwise.
fn fish_arguments(command: &Command) -> String {
    let mut lines = String::new();
    for subcommand in command.get_subcommands() {
        let takes_files = |arg: &Arg| {
            matches!(
                arg.get_value_hint(),
                ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath
            )
        };
        if subcommand.get_positionals().any(takes_files) {
            continue;
        }
        let values: Vec<_> = subcommand
            .get_positionals()
            .flat_map(Arg::get_possible_values)
            .map(|value| value.get_name().to_owned())
            .collect();
        let name = subcommand.get_name();
        let offer = match values.is_empty() {
            true => String::new(),
            false => format!(" -a \"{}\"", values.join(" ")),
        };
        writeln!(
            lines,
            "complete -c hypernova -n \"__fish_hypernova_using_subcommand {name}\" -f{offer}"
        )
        .expect("a string takes all");
    }
    lines
}
