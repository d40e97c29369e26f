//! nova's versioned objects, typed: a file for each family, and the codec they share.

pub mod codec;
mod images;
mod instance;

pub use codec::{Field, ObjectError, VersionedObject};
pub use images::*;
pub use instance::*;
