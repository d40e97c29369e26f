//! One suite over all kinds of records, so that none drifts from the others: in memory, SQLite, and
//! nova-conductor's, which is in memory too, or real with `HYPERNOVA_TEST_TRANSPORT_URL` set to the
//! broker of a control plane.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod entering;
mod saving;
mod telling;
mod upkeep;
mod worlds;
