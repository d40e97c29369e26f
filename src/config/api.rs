//! `[api]`: what guests learn of themselves.

use std::path::PathBuf;

use crate::config::opt::{Opt, section};

section! {
    /// What guests learn of themselves.
    Api in "api":

    /// The domain of guests' host names. Empty: none.
    dhcp_domain: String = Opt::text().default("novalocal");

    /// Where the operator's words to every guest come from: StaticJSON is the file below.
    vendordata_providers: Vec<String> = Opt::list().default("StaticJSON");

    /// A JSON file that goes on every config drive, as vendor_data.json.
    vendordata_jsonfile_path: Option<PathBuf> = Opt::text();
}
