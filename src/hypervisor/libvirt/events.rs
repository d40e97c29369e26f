//! libvirt's event loop, and what it tells of domains, of jobs on their disks and of devices that go, on channels. The loop must be registered
//! before the first connection is opened, or that connection never hears an event nor keeps alive;
//! it runs for ever on a thread of its own.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use tokio::sync::broadcast;
use tracing::{error, warn};
use uuid::Uuid;
use virt::connect::Connect;
use virt_sys as sys;

use super::state::lifecycle;
use crate::hypervisor::DomainEvent;
use crate::hypervisor::block::{BlockJobEvent, DeviceEvent};

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

/// Where events go.
#[derive(Debug, Clone)]
pub struct Sinks {
    pub states: broadcast::Sender<DomainEvent>,
    pub block_jobs: broadcast::Sender<BlockJobEvent>,
    pub devices: broadcast::Sender<DeviceEvent>,
}

impl Sinks {
    pub fn new(backlog: usize) -> Self {
        Self {
            states: broadcast::channel(backlog).0,
            block_jobs: broadcast::channel(backlog).0,
            devices: broadcast::channel(backlog).0,
        }
    }
}

/// The callbacks on a connection, by their ids.
#[derive(Debug)]
pub struct Registration(Vec<c_int>);

impl Registration {
    /// Sends every event of `connect` to `sinks`. `None` when the driver has no events: whoever
    /// waits then polls.
    pub fn new(connect: &Connect, sinks: &Sinks) -> Option<Self> {
        // SAFETY: libvirt calls a callback with the arguments that belong to the event's id, and
        // these are those of `on_lifecycle`; the generic type is how its header spells "whichever
        // callback fits".
        let lifecycle = unsafe {
            std::mem::transmute::<
                sys::virConnectDomainEventCallback,
                sys::virConnectDomainEventGenericCallback,
            >(Some(on_lifecycle))
        };
        // SAFETY: as above, with those of `on_block_job`.
        let block_job = unsafe {
            std::mem::transmute::<
                sys::virConnectDomainEventBlockJobCallback,
                sys::virConnectDomainEventGenericCallback,
            >(Some(on_block_job))
        };
        // SAFETY: as above, with those of `on_device_removed`.
        let removed = unsafe {
            std::mem::transmute::<
                sys::virConnectDomainEventDeviceRemovedCallback,
                sys::virConnectDomainEventGenericCallback,
            >(Some(on_device_removed))
        };
        // SAFETY: as above, with those of `on_removal_failed`.
        let not_removed = unsafe {
            std::mem::transmute::<
                sys::virConnectDomainEventDeviceRemovalFailedCallback,
                sys::virConnectDomainEventGenericCallback,
            >(Some(on_removal_failed))
        };
        let wanted = [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
            (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, block_job),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, removed),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, not_removed),
        ];
        let ids =
            wanted.map(|(event, callback)| register(connect, event as c_int, callback, sinks));
        let ids: Vec<_> = ids.into_iter().flatten().collect();
        (!ids.is_empty()).then_some(Self(ids))
    }

    /// Takes the callbacks away: they hold a reference to the connection, which would never close.
    pub fn remove(self, connect: &Connect) {
        for id in self.0 {
            // SAFETY: `connect` is open and the id is from a registration on it.
            let result = unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), id) };
            if result < 0 {
                // The daemon may be gone; libvirt has forgotten the callback on this side before it
                // asks.
                tracing::debug!("a callback was removed on this side only");
            }
        }
    }
}

/// The callback's id; `None` when the driver doesn't have the event.
fn register(
    connect: &Connect,
    event: c_int,
    callback: sys::virConnectDomainEventGenericCallback,
    sinks: &Sinks,
) -> Option<c_int> {
    let sink = Box::into_raw(Box::new(sinks.clone()));
    // SAFETY: `connect` is open for the length of the call, a null domain means all of them, and
    // `sink` stays valid until libvirt gives it to `free_sink`, after the last callback.
    let id = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            std::ptr::null_mut(),
            event,
            callback,
            sink.cast(),
            Some(free_sink),
        )
    };
    if id < 0 {
        warn!(event, error = %virt::error::Error::last_error(), "no such events: polling instead");
        // SAFETY: a failed registration leaves the pointer ours; it came from `into_raw`.
        drop(unsafe { Box::from_raw(sink) });
        return None;
    }
    Some(id)
}

/// The UUID of a callback's domain.
///
/// # Safety
/// `domain` must be valid, as libvirt's is during a callback.
unsafe fn uuid_of(domain: sys::virDomainPtr) -> Option<Uuid> {
    let mut bytes = [0u8; 16];
    // SAFETY: the domain is valid, and a UUID has 16 bytes.
    let found = unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } >= 0;
    found.then(|| Uuid::from_bytes(bytes))
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    sink: *mut c_void,
) -> c_int {
    // SAFETY: libvirt's domain is valid during the callback.
    let Some(instance_uuid) = (unsafe { uuid_of(domain) }) else { return 0 };
    let Some((power_state, detail)) = u32::try_from(event).ok().and_then(|e| lifecycle(e, detail))
    else {
        return 0;
    };
    // SAFETY: the sink given at registration, which lives until `free_sink`.
    let sinks = unsafe { &*sink.cast::<Sinks>() };
    // Nobody listening is fine. Sending allocates at most and doesn't panic.
    sinks.states.send(DomainEvent { instance_uuid, power_state, detail: detail.into() }).ok();
    0
}

unsafe extern "C" fn on_block_job(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _disk: *const c_char,
    _kind: c_int,
    _status: c_int,
    sink: *mut c_void,
) {
    // SAFETY: libvirt's domain is valid during the callback.
    let Some(instance_uuid) = (unsafe { uuid_of(domain) }) else { return };
    // SAFETY: the sink given at registration, which lives until `free_sink`.
    let sinks = unsafe { &*sink.cast::<Sinks>() };
    // As for a lifecycle event.
    sinks.block_jobs.send(BlockJobEvent { instance_uuid }).ok();
}

unsafe extern "C" fn on_device_removed(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    sink: *mut c_void,
) {
    // SAFETY: the arguments of the event, valid during the callback.
    unsafe { tell_of_device(domain, alias, true, sink) }
}

unsafe extern "C" fn on_removal_failed(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    sink: *mut c_void,
) {
    // SAFETY: the arguments of the event, valid during the callback.
    unsafe { tell_of_device(domain, alias, false, sink) }
}

/// # Safety
/// `domain`, `alias` and `sink` must be those of a callback that runs.
unsafe fn tell_of_device(
    domain: sys::virDomainPtr,
    alias: *const c_char,
    removed: bool,
    sink: *mut c_void,
) {
    // SAFETY: libvirt's domain is valid during the callback.
    let Some(instance_uuid) = (unsafe { uuid_of(domain) }) else { return };
    if alias.is_null() {
        return;
    }
    // SAFETY: libvirt's text ends with a NUL, and is valid during the callback.
    let alias = unsafe { CStr::from_ptr(alias) }.to_string_lossy().into_owned();
    // SAFETY: the sink given at registration, which lives until `free_sink`.
    let sinks = unsafe { &*sink.cast::<Sinks>() };
    // As for a lifecycle event.
    sinks.devices.send(DeviceEvent { instance_uuid, alias, removed }).ok();
}

unsafe extern "C" fn free_sink(sink: *mut c_void) {
    // SAFETY: libvirt gives back what was registered, once, after the last callback.
    drop(unsafe { Box::from_raw(sink.cast::<Sinks>()) });
}
