//! nova's versioned objects, typed: a file for each family, and the codec they share.

mod action;
mod block_device;
pub mod codec;
mod compute_node;
mod console;
mod device_metadata;
mod diagnostics;
mod error;
mod field;
mod field_types;
mod flavor;
mod group;
mod images;
mod instance;
mod instance_parts;
mod migration;
mod name;
mod network;
mod numa;
mod pci;
mod request_spec;
mod resources;
mod service;
mod updates;
mod volume_usage;

pub use action::*;
pub use block_device::*;
pub use codec::manifest;
pub use codec::{AnyObject, Extra, Field, FieldType, ObjectError, VersionedObject, Versions};
pub use compute_node::*;
pub use console::*;
pub use device_metadata::*;
pub use diagnostics::*;
pub use error::clip;
pub use field_types::{FlexibleBoolean, SubclassOf};
pub use flavor::*;
pub use group::*;
pub use images::*;
pub use instance::*;
pub use instance_parts::*;
pub use migration::*;
pub use name::{NameError, NameTemplate};
pub use network::*;
pub use numa::*;
pub use pci::*;
pub use request_spec::*;
pub use resources::*;
pub use service::*;
pub use updates::{apply_action_result, apply_updates};

/// Whether this build has a class of that name, among those that requests lead to.
fn is_known_class(name: &str) -> bool {
    let families = [
        manifest::<InstanceList>(),
        manifest::<BlockDeviceMappingList>(),
        manifest::<NetworkRequestList>(),
        manifest::<RequestSpec>(),
        manifest::<MigrationList>(),
        manifest::<ComputeNodeList>(),
        manifest::<ServiceList>(),
    ];
    families.iter().any(|family| family.contains_key(name))
}
