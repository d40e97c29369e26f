//! The cached connection. A caller clones the handle out of the mutex and lets go of it before any
//! libvirt call; a broken connection is thrown out by whoever noticed, and one thread alone opens
//! the next while every caller waits, each with its own deadline. A daemon that hangs during the
//! open so costs one thread, however many wait.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info, warn};
use virt::connect::Connect;

use super::errors::is_unreachable;
use super::events::{self, Registration, Sinks};
use super::{LibvirtOptions, Observer};
use crate::hypervisor::HypervisorError;

/// Between two attempts to reach a daemon that is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// An open connection. Dropping it closes it on a thread of its own: closing talks to the daemon,
/// which may hang.
pub struct Handle {
    connect: Option<Connect>,
    registration: Option<Registration>,
}

impl Handle {
    /// Opens `uri`, trying for as long as `patience` while the daemon isn't there. Blocks.
    pub fn open(
        uri: &str,
        (interval, count): (u32, u32),
        patience: Duration,
    ) -> Result<Self, String> {
        events::start_loop()?;
        let started = Instant::now();
        loop {
            match Connect::open(Some(uri)) {
                Ok(connect) => {
                    let interval = i32::try_from(interval).unwrap_or(i32::MAX);
                    // Drivers inside the library have nobody to keep alive and refuse this.
                    if let Err(error) = connect.set_keep_alive(interval, count) {
                        debug!(%error, "no keepalive on this connection");
                    }
                    return Ok(Self { connect: Some(connect), registration: None });
                }
                Err(error) if is_unreachable(&error) && started.elapsed() < patience => {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "connecting runs on a blocking thread"
                    )]
                    std::thread::sleep(RETRY_INTERVAL);
                }
                Err(error) => return Err(error.message().to_owned()),
            }
        }
    }

    pub fn connect(&self) -> &Connect {
        self.connect.as_ref().expect("only drop takes it")
    }

    /// Whether the connection is still open, as far as this side knows. No message is sent.
    pub fn is_alive(&self) -> bool {
        self.connect().is_alive().unwrap_or(false)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let (connect, registration) = (self.connect.take(), self.registration.take());
        let close = move || {
            let Some(mut connect) = connect else { return };
            if let Some(registration) = registration {
                registration.remove(&connect);
            }
            if let Err(error) = connect.close() {
                debug!(%error, "closing a libvirt connection failed");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("libvirt-close".into()).spawn(close) {
            warn!(%error, "a libvirt connection stays open: no thread to close it");
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// The end of an open under way, for everyone who waits for it.
type Opening = watch::Receiver<Option<Result<Arc<Handle>, String>>>;

/// The shared connection and whoever opens the next.
#[derive(Debug)]
pub struct Connections {
    uri: String,
    keepalive: (u32, u32),
    patience: Duration,
    sinks: Sinks,
    observer: Option<Arc<dyn Observer>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    live: Option<Arc<Handle>>,
    opening: Option<Opening>,
    /// The first open has no patience: at start a missing libvirtd is said at once.
    opened_before: bool,
}

impl Connections {
    pub fn new(options: &LibvirtOptions, sinks: Sinks) -> Result<Self, HypervisorError> {
        let unreachable =
            |message| HypervisorError::Unreachable { uri: options.uri.clone(), message };
        events::start_loop().map_err(unreachable)?;
        Ok(Self {
            uri: options.uri.clone(),
            keepalive: options.keepalive,
            patience: options.reconnect_patience,
            sinks,
            observer: options.observer.clone(),
            state: Mutex::default(),
        })
    }

    /// The live connection, or the next one once it is open. The caller puts the deadline on it.
    pub async fn get(self: &Arc<Self>) -> Result<Arc<Handle>, HypervisorError> {
        let mut opening = {
            let mut state = self.lock();
            if let Some(live) = &state.live {
                return Ok(Arc::clone(live));
            }
            match &state.opening {
                Some(opening) => opening.clone(),
                None => {
                    let opening = self.start_opening(state.opened_before)?;
                    state.opening.insert(opening).clone()
                }
            }
        };
        let result = opening.wait_for(Option::is_some).await.map(|result| result.clone());
        match result {
            Ok(Some(Ok(handle))) => Ok(handle),
            Ok(Some(Err(message))) => Err(self.unreachable(message)),
            Ok(None) | Err(_) => Err(self.unreachable("the opening thread ended early".into())),
        }
    }

    /// Throws `broken` out; one that took its place meanwhile stays.
    pub fn discard(&self, broken: &Arc<Handle>) {
        let lost = self.lock().live.take_if(|live| Arc::ptr_eq(live, broken));
        if let (Some(_), Some(observer)) = (lost, &self.observer) {
            observer.connection_lost();
        }
    }

    fn start_opening(self: &Arc<Self>, again: bool) -> Result<Opening, HypervisorError> {
        let (done, opening) = watch::channel(None);
        let this = Arc::clone(self);
        let open = move || {
            let patience = if again { this.patience } else { Duration::ZERO };
            let result = Handle::open(&this.uri, this.keepalive, patience).map(|mut handle| {
                handle.registration = Registration::new(handle.connect(), &this.sinks);
                Arc::new(handle)
            });
            if again && result.is_ok() {
                info!(uri = this.uri, "connected to libvirt again");
            }
            let mut state = this.lock();
            state.opening = None;
            if let Ok(handle) = &result {
                state.live = Some(Arc::clone(handle));
                state.opened_before = true;
            }
            drop(state);
            done.send_replace(Some(result));
        };
        std::thread::Builder::new()
            .name("libvirt-open".into())
            .spawn(open)
            .map_err(|error| self.unreachable(error.to_string()))?;
        Ok(opening)
    }

    fn unreachable(&self, message: String) -> HypervisorError {
        HypervisorError::Unreachable { uri: self.uri.clone(), message }
    }

    /// Nothing that can panic runs under the mutex; its data stays sound either way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
