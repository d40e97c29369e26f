//! Work that nobody asks for: each task has its interval, and runs beside the requests.
//!
//! ```text
//! start ─▶ delay, at random ─▶ run, within its budget ─▶ wait for the interval, with jitter ─┐
//!                               ▲                                                            │
//!                               └────────────────────────────────────────────────────────────┘
//! ```
//!
//! `scheduler.rs` keeps the time, `task.rs` says what a task is. Tasks are closures: any room can
//! have one, and `agent/periodics.rs` registers them all. A task that changes an instance hands that
//! to the dispatcher, as a request would be.
//!
//! nova: `oslo_service.periodic_task` and service.py, whose one thread runs all tasks in turn; here
//! a slow one keeps no other waiting.

pub mod deleted;
pub mod heal;
pub mod image_cache;
pub mod lifecycle;
pub mod overdue;
pub mod power_rules;
pub mod power_sync;
pub mod scheduler;
pub mod task;
pub mod volume_usage;

pub use scheduler::{Scheduler, Start};
pub use task::{Spacing, Task, TaskError};
