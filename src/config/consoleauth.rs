//! `[consoleauth]`: the right to open a console.

use std::time::Duration;

use crate::config::opt::{Opt, section};

section! {
    /// The right to open a console.
    Consoleauth in "consoleauth":

    /// How long a console's token is good for.
    token_ttl: Duration = Opt::seconds(0).default("600").formerly(&[("DEFAULT", "console_token_ttl")]);
}
