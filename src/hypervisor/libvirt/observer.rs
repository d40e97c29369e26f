//! How libvirt answers, told to whoever counts it. The agent counts it in its metrics.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use super::Libvirt;
use crate::hypervisor::HypervisorError;

/// Who is told. Its methods are called between libvirt's calls: they must be quick.
pub trait Observer: Debug + Send + Sync {
    /// libvirt answered, well or badly. `took` includes waiting for a turn and for the connection.
    fn answered(&self, operation: &'static str, took: Duration);

    /// libvirt didn't answer before the deadline.
    fn timed_out(&self, operation: &'static str);

    /// The shared connection broke.
    fn connection_lost(&self);
}

impl Libvirt {
    pub(super) fn observe<T>(
        &self,
        operation: &'static str,
        started: Instant,
        result: &Result<T, HypervisorError>,
    ) {
        let Some(observer) = &self.options.observer else { return };
        match result {
            Err(HypervisorError::TimedOut { .. }) => observer.timed_out(operation),
            // Nobody was there to answer.
            Err(HypervisorError::Unreachable { .. }) => {}
            _ => observer.answered(operation, started.elapsed()),
        }
    }
}
