//! `[key_manager]`: the keys of encrypted volumes.

use crate::config::opt::{Opt, section};
use crate::model::secret::Secret;

section! {
    /// The keys of encrypted volumes.
    KeyManager in "key_manager":

    /// One key for all volumes, in hexadecimal. Unset: encrypted volumes aren't attached.
    fixed_key: Option<Secret> = Opt::text().secret().formerly(&[("keymgr", "fixed_key")]);
}
