//! `[consoleauth]`: console access.

use std::time::Duration;

use crate::config::opt::{Opt, section};

section! {
    /// Console access.
    ConsoleAuth in "consoleauth":

    /// How long a console's access token holds.
    token_ttl: Duration = Opt::seconds(0).default("600").formerly(&[("DEFAULT", "console_token_ttl")]);
}
