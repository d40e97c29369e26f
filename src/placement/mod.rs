//! Placement: what this node offers, and who has been given how much of it.
//!
//! `client.rs` has the requests, one a method, `inventory.rs` and `traits.rs` say what is reported
//! (pure), `report.rs` compares that with what placement has and writes the difference.

use crate::model::class::Class;
use crate::openstack::ApiError;

pub mod allocations;
pub mod client;
#[cfg(test)]
pub(crate) mod fake;
pub mod inventory;
pub mod report;
pub mod traits;

pub use client::Placement;
pub use report::Reporter;

#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Somebody else changed it meanwhile: read it again. nova: ResourceProviderUpdateConflict
    #[error("{what} was changed by another: {message}")]
    Conflict { what: String, message: String },
    /// Resources that are given out can't be taken away. nova: InventoryInUse
    #[error("inventory in use: {0}")]
    InUse(String),
    /// A provider of that name and another UUID is there. nova: ResourceProviderCreationFailed
    #[error("placement has another provider with the name {name}: {message}")]
    NameTaken { name: String, message: String },
    #[error("placement's answer to {what} lacks {missing}")]
    Garbled { what: &'static str, missing: &'static str },
}

impl PlacementError {
    pub fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class(),
            Self::Conflict { .. } | Self::Garbled { .. } => Class::Transient,
            Self::InUse(_) | Self::NameTaken { .. } => Class::Refused,
        }
    }
}
