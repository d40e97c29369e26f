//! Calls that stay inside libvirt for seconds or minutes: each on a connection of its own, so that
//! it doesn't use up the few requests libvirtd answers at once on the shared one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;
use virt::connect::Connect;

use super::connection::Handle;
use super::errors::{Fault, is_broken};
use super::{ATTEMPTS, Libvirt};
use crate::hypervisor::HypervisorError;

impl Libvirt {
    /// Runs one long call on a blocking thread and a new connection; otherwise as
    /// [`call`](Self::call): safe to repeat, plain data out, not cancelled when dropped.
    pub(super) async fn job<T, F>(
        &self,
        operation: &'static str,
        within: Duration,
        f: F,
    ) -> Result<T, HypervisorError>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + 'static,
    {
        self.job_with(&self.job_permits, operation, within, f).await
    }

    /// The same with other turns: [`Libvirt::memory_permits`] for a call that moves a guest's whole
    /// memory. Those wait for each other, and hold up nothing else.
    pub(super) async fn job_with<T, F>(
        &self,
        permits: &Arc<Semaphore>,
        operation: &'static str,
        within: Duration,
        f: F,
    ) -> Result<T, HypervisorError>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + 'static,
    {
        let started = Instant::now();
        let work = async {
            let permit = Arc::clone(permits).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let options = self.options.clone();
            let run = move || {
                let _permit = permit;
                let mut attempt = 1;
                loop {
                    let message = match Handle::open(
                        &options.uri,
                        options.keepalive,
                        options.reconnect_patience,
                    ) {
                        Err(message) => return Err(unreachable(&options.uri, message)),
                        Ok(handle) => match f(handle.connect()) {
                            Err(Fault::Virt(error)) if is_broken(&error) || !handle.is_alive() => {
                                error.message().to_owned()
                            }
                            result => return result.map_err(|fault| fault.into_error(operation)),
                        },
                    };
                    debug!(operation, attempt, error = message, "libvirt connection broke");
                    if attempt == ATTEMPTS {
                        return Err(unreachable(&options.uri, message));
                    }
                    attempt += 1;
                }
            };
            tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| {
                Err(HypervisorError::Garbled { operation, message: error.to_string() })
            })
        };
        let timed_out = Err(HypervisorError::TimedOut { operation, after: within });
        let result = timeout(within, work).await.unwrap_or(timed_out);
        self.observe(operation, started, &result);
        result
    }
}

fn unreachable(uri: &str, message: String) -> HypervisorError {
    HypervisorError::Unreachable { uri: uri.to_owned(), message }
}
