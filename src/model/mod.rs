//! The shared words, without I/O. Every room imports them; they import none.

pub mod class;
pub mod context;
pub mod diagnostics;
pub mod fault;
pub mod image;
pub mod network;
pub mod object;
pub mod secret;
pub mod state;
pub mod time;
pub mod trace;
