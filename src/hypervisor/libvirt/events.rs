//! libvirt's event loop, and domain lifecycle events on a channel. The loop must be registered
//! before the first connection is opened, or that connection never hears an event nor keeps alive;
//! it runs for ever on a thread of its own.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use tokio::sync::broadcast;
use tracing::{error, warn};
use uuid::Uuid;
use virt::connect::Connect;
use virt_sys as sys;

use super::state::lifecycle;
use crate::hypervisor::DomainEvent;

/// Registers the loop and starts its thread, once in a process.
pub fn start_loop() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // libvirt prints each error to stderr unless told otherwise; ours go where they belong.
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl().map_err(|e| e.message().to_owned())?;
            std::thread::Builder::new()
                .name("libvirt-events".into())
                .spawn(|| {
                    loop {
                        if let Err(error) = virt::event::event_run_default_impl() {
                            error!(%error, "libvirt's event loop failed");
                            #[expect(
                                clippy::disallowed_methods,
                                reason = "the event loop has a thread of its own"
                            )]
                            std::thread::sleep(std::time::Duration::from_secs(1));
                        }
                    }
                })
                .map_err(|e| e.to_string())?;
            Ok(())
        })
        .clone()
}

/// A lifecycle callback on a connection.
#[derive(Debug)]
pub struct Registration(c_int);

impl Registration {
    /// Sends every lifecycle event of `connect` to `events`. `None` when the driver has no events:
    /// whoever waits then polls.
    pub fn new(connect: &Connect, events: &broadcast::Sender<DomainEvent>) -> Option<Self> {
        let sink = Box::into_raw(Box::new(events.clone()));
        // SAFETY: libvirt calls a lifecycle callback with the arguments of `on_lifecycle`; the
        // generic type is how its header spells "whichever callback fits the event's id".
        let callback = unsafe {
            std::mem::transmute::<
                sys::virConnectDomainEventCallback,
                sys::virConnectDomainEventGenericCallback,
            >(Some(on_lifecycle))
        };
        // SAFETY: `connect` is open for the length of the call, a null domain means all of them,
        // and `sink` stays valid until libvirt gives it to `free_sink`, after the last callback.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connect.as_ptr(),
                std::ptr::null_mut(),
                sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int,
                callback,
                sink.cast(),
                Some(free_sink),
            )
        };
        if id < 0 {
            warn!(error = %virt::error::Error::last_error(), "no domain events: states are polled");
            // SAFETY: a failed registration leaves the pointer ours; it came from `into_raw`.
            drop(unsafe { Box::from_raw(sink) });
            return None;
        }
        Some(Self(id))
    }

    /// Takes the callback away: it holds a reference to the connection, which would never close.
    pub fn remove(self, connect: &Connect) {
        // SAFETY: `connect` is open and the id is from a registration on it.
        let result = unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), self.0) };
        if result < 0 {
            // The daemon may be gone; libvirt has forgotten the callback on this side before it asks.
            tracing::debug!("a callback was removed on this side only");
        }
    }
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    sink: *mut c_void,
) -> c_int {
    let mut bytes = [0u8; 16];
    // SAFETY: libvirt's domain is valid during the callback and a UUID has 16 bytes.
    if unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } < 0 {
        return 0;
    }
    let Some((power_state, detail)) = u32::try_from(event).ok().and_then(|e| lifecycle(e, detail))
    else {
        return 0;
    };
    // SAFETY: the sink given at registration, which lives until `free_sink`.
    let events = unsafe { &*sink.cast::<broadcast::Sender<DomainEvent>>() };
    let instance_uuid = Uuid::from_bytes(bytes);
    // Nobody listening is fine. Sending allocates at most and doesn't panic.
    events.send(DomainEvent { instance_uuid, power_state, detail: detail.into() }).ok();
    0
}

unsafe extern "C" fn free_sink(sink: *mut c_void) {
    // SAFETY: libvirt gives back what was registered, once, after the last callback.
    drop(unsafe { Box::from_raw(sink.cast::<broadcast::Sender<DomainEvent>>()) });
}
