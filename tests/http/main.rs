//! The OpenStack clients against real HTTP servers that behave, and that don't.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod certificates;
mod cloud;
mod glance;
mod plane;
mod server;
mod session;
mod sink;
mod tokens;
mod upload;
