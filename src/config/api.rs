//! `[api]`: what guests learn of themselves.

use crate::config::opt::{Opt, section};

section! {
    /// What guests learn of themselves.
    Api in "api":

    /// The domain of guests' host names. Empty: none.
    dhcp_domain: String = Opt::text().default("novalocal");
}
