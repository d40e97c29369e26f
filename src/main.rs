//! The binary: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use hypernova::cli::{self, Cli};
use hypernova::program::Program;

fn main() -> ExitCode {
    cli::run(&Cli::parse(), &Program)
}
