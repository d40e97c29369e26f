//! libvirt: the one real hypervisor. Everything goes through [`Libvirt::call`] (short calls, on the
//! shared connection) or [`Libvirt::job`] (calls that take seconds or minutes, on a connection of
//! their own); nothing else in the crate blocks a runtime thread on libvirt.
//!
//! ```text
//! trait method ─▶ call ─▶ permit ─▶ connection (cached, tested) ─▶ blocking thread ─▶ plain data
//!                  └───── deadline over all of it; a broken connection: once more on a new one
//! ```
//!
//! libvirtd answers five requests of a connection at once and stops reading keepalives when more
//! wait: hence few permits on the shared connection, and other connections for long work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;
use tracing::debug;
use virt::connect::Connect;

use super::HypervisorError;
use super::host::Capabilities;
use connection::Connections;
use errors::{Fault, is_broken};

mod blocks;
mod caps;
mod connection;
mod domains;
mod errors;
mod events;
mod guest_agent;
mod host;
mod hotplug;
mod jobs;
mod nics;
mod observer;
mod saves;
mod secrets;
mod state;
mod stats;
mod swaps;
mod undefine;
pub mod xml;

pub use observer::Observer;

/// Long calls at once, each with a connection.
const JOBS: usize = 8;

/// Of those that save or restore a guest's memory: disks are the limit, and they may take minutes.
const MEMORY_JOBS: usize = 4;

/// How often a call is made anew because its connection broke.
const ATTEMPTS: u32 = 3;

/// Events kept for a slow receiver.
const EVENT_BACKLOG: usize = 1024;

/// How to reach libvirt, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct LibvirtOptions {
    pub uri: String,
    /// Deadline of a short call, waiting for its turn and for the connection included.
    pub call_timeout: Duration,
    /// Short calls at once on the shared connection; at least 1, and below libvirtd's
    /// `max_client_requests`.
    pub concurrent_calls: usize,
    /// Deadline of a start (a restore from managed save included), of a destroy, and of what makes
    /// libvirt ask QEMU for its capabilities: a definition, the host's own capabilities.
    pub job_timeout: Duration,
    /// Deadline of a start that restores a guest's memory from a managed save.
    pub restore_timeout: Duration,
    /// How long a lost libvirtd may take to come back before calls fail with `Unreachable`.
    pub reconnect_patience: Duration,
    /// Seconds between keepalives, and how many may go unanswered.
    pub keepalive: (u32, u32),
    /// Who is told how libvirt answers.
    pub observer: Option<Arc<dyn Observer>>,
}

impl LibvirtOptions {
    /// The usual deadlines at `uri`.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            call_timeout: Duration::from_secs(30),
            concurrent_calls: 4,
            job_timeout: Duration::from_secs(180),
            restore_timeout: Duration::from_secs(1800),
            reconnect_patience: Duration::from_secs(15),
            keepalive: (5, 3),
            observer: None,
        }
    }

    /// From `[libvirt] virt_type` and `connection_uri`.
    pub fn from_config(virt_type: &str, connection_uri: Option<&str>) -> Self {
        Self::new(connection_uri_for(virt_type, connection_uri))
    }
}

/// `connection_uri` if set, else the usual one of `virt_type`.
///
/// nova: virt/libvirt/driver.py, `_uri`; xen and uml as nova had them while it knew them
pub fn connection_uri_for(virt_type: &str, connection_uri: Option<&str>) -> String {
    if let Some(uri) = connection_uri.filter(|uri| !uri.is_empty()) {
        return uri.to_owned();
    }
    match virt_type {
        "lxc" => "lxc:///",
        "uml" => "uml:///system",
        "xen" => "xen:///",
        "parallels" => "parallels:///system",
        _ => "qemu:///system",
    }
    .to_owned()
}

/// A libvirt daemon or library driver.
#[derive(Debug)]
pub struct Libvirt {
    options: LibvirtOptions,
    connections: Arc<Connections>,
    permits: Arc<Semaphore>,
    job_permits: Arc<Semaphore>,
    memory_permits: Arc<Semaphore>,
    saves: saves::Saves,
    sinks: events::Sinks,
    capabilities: OnceCell<Arc<Capabilities>>,
}

impl Libvirt {
    /// Connects. Afterwards a lost connection is made anew by the calls that need it.
    ///
    /// # Errors
    /// `Unreachable` at once when there is no libvirt at the URI, `TimedOut` when it doesn't
    /// answer within the call's deadline.
    pub async fn open(options: LibvirtOptions) -> Result<Self, HypervisorError> {
        let sinks = events::Sinks::new(EVENT_BACKLOG);
        let connections = Arc::new(Connections::new(&options, sinks.clone())?);
        let libvirt = Self {
            connections,
            permits: Arc::new(Semaphore::new(options.concurrent_calls)),
            job_permits: Arc::new(Semaphore::new(JOBS)),
            memory_permits: Arc::new(Semaphore::new(MEMORY_JOBS)),
            saves: saves::Saves::default(),
            sinks,
            capabilities: OnceCell::new(),
            options,
        };
        let after = libvirt.options.call_timeout;
        timeout(after, libvirt.connections.get())
            .await
            .unwrap_or(Err(HypervisorError::TimedOut { operation: "open", after }))?;
        Ok(libvirt)
    }

    /// Where this is connected to.
    pub fn uri(&self) -> &str {
        &self.options.uri
    }

    /// Runs one short libvirt call on a blocking thread; few run at once on the connection.
    ///
    /// `f` returns plain owned data: a `Domain` that left `f` would be freed on an async thread.
    /// It runs once more when the connection broke under it, so it must be safe to repeat: an
    /// operation that changes something looks first whether that is done.
    ///
    /// # Cancel safety
    /// C can't be cancelled. After a timeout or a drop the call runs on, and its thread keeps its
    /// permit until it returns: stuck calls use up permits, not threads.
    async fn call<T, F>(&self, operation: &'static str, f: F) -> Result<T, HypervisorError>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, Fault> + Send + Sync + 'static,
    {
        let started = Instant::now();
        let f = Arc::new(f);
        let work = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await;
            let permit = Arc::new(permit.expect("the semaphore is never closed"));
            let mut attempt = 1;
            loop {
                let handle = self.connections.get().await?;
                let (f, permit, used) = (Arc::clone(&f), Arc::clone(&permit), Arc::clone(&handle));
                let result = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    // A connection that is already known to be gone needs no call to find out.
                    if !used.is_alive() {
                        return Err(Broken("the connection is closed".into()));
                    }
                    match f(used.connect()) {
                        Err(Fault::Virt(error)) if is_broken(&error) || !used.is_alive() => {
                            Err(Broken(error.message().to_owned()))
                        }
                        result => Ok(result),
                    }
                })
                .await
                .map_err(|error| HypervisorError::Garbled {
                    operation,
                    message: error.to_string(),
                })?;
                match result {
                    Ok(result) => return result.map_err(|fault| fault.into_error(operation)),
                    Err(Broken(message)) => {
                        debug!(operation, attempt, error = message, "libvirt connection broke");
                        self.connections.discard(&handle);
                        if attempt == ATTEMPTS {
                            let uri = self.options.uri.clone();
                            return Err(HypervisorError::Unreachable { uri, message });
                        }
                        attempt += 1;
                    }
                }
            }
        };
        let after = self.options.call_timeout;
        let timed_out = Err(HypervisorError::TimedOut { operation, after });
        let result = timeout(after, work).await.unwrap_or(timed_out);
        self.observe(operation, started, &result);
        result
    }
}

/// The connection was lost under a call, in libvirt's words.
struct Broken(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_virt_type_has_its_uri_and_configuration_wins() {
        for (virt_type, uri) in [
            ("kvm", "qemu:///system"),
            ("qemu", "qemu:///system"),
            ("lxc", "lxc:///"),
            ("xen", "xen:///"),
            ("uml", "uml:///system"),
        ] {
            assert_eq!(connection_uri_for(virt_type, None), uri);
            assert_eq!(connection_uri_for(virt_type, Some("")), uri);
        }
        assert_eq!(connection_uri_for("kvm", Some("qemu+tcp://h/system")), "qemu+tcp://h/system");
    }
}
