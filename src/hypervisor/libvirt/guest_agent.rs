//! What is asked of the agent inside a guest. It may hang: libvirt is told to wait for it no longer
//! than we do.

use std::ffi::c_int;
use std::time::Duration;

use tracing::debug;
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::Libvirt;
use super::domains::ours;
use super::errors::{Fault, is_no_agent};
use crate::hypervisor::HypervisorError;
use crate::model::class::Class;
use crate::model::secret::Secret;

/// For an answer of the guest agent: a freeze writes out all that the guest holds back.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// For the whole call: the connection, and libvirt's own five seconds to find out that the agent is
/// there at all.
const CALL_WITHIN: Duration = Duration::from_secs(90);

impl Libvirt {
    /// See [`Hypervisor::freeze`](crate::hypervisor::Hypervisor::freeze). A guest agent that has
    /// frozen its file systems takes nothing but a thaw then: it is thawed, and frozen anew.
    pub(super) async fn freeze_file_systems(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.ask_agent("freeze", uuid, |domain| match freeze(domain) {
            Err(error) if !is_no_agent(&error) => {
                match thaw(domain) {
                    Ok(()) => freeze(domain),
                    // The first error is the one that tells.
                    Err(_) => Err(error),
                }
            }
            result => result,
        })
        .await
    }

    /// See [`Hypervisor::thaw`](crate::hypervisor::Hypervisor::thaw).
    pub(super) async fn thaw_file_systems(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.ask_agent("thaw", uuid, thaw).await
    }

    /// See [`Hypervisor::set_user_password`](crate::hypervisor::Hypervisor::set_user_password).
    pub(super) async fn change_user_password(
        &self,
        uuid: Uuid,
        user: &str,
        password: &Secret,
    ) -> Result<(), HypervisorError> {
        let operation = "set user password";
        if [user, password.expose()].iter().any(|text| text.contains('\0')) {
            let message = "a NUL in a name or a password".to_owned();
            return Err(HypervisorError::Refused { operation, message, class: Class::Refused });
        }
        let (user, password) = (user.to_owned(), password.clone());
        self.job(operation, CALL_WITHIN, move |connect| {
            let domain = ours(connect, uuid)?;
            limit(&domain);
            domain.set_user_password(&user, password.expose(), 0)?;
            Ok(())
        })
        .await
    }

    /// A job: it may take as long as the agent does.
    async fn ask_agent(
        &self,
        operation: &'static str,
        uuid: Uuid,
        ask: impl Fn(&Domain) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), HypervisorError> {
        self.job(operation, CALL_WITHIN, move |connect| {
            let domain = ours(connect, uuid)?;
            limit(&domain);
            ask(&domain).map_err(|error| Fault::for_domain(error, uuid))
        })
        .await
    }
}

/// libvirt: virDomainFSFreeze
fn freeze(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid during the call; no mount points are all of them.
    match unsafe { sys::virDomainFSFreeze(domain.as_ptr(), std::ptr::null_mut(), 0, 0) } {
        0.. => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// libvirt: virDomainFSThaw
fn thaw(domain: &Domain) -> Result<(), Error> {
    // SAFETY: as above.
    match unsafe { sys::virDomainFSThaw(domain.as_ptr(), std::ptr::null_mut(), 0, 0) } {
        0.. => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// Has libvirt give up on an agent that hangs. It would wait for ever otherwise.
fn limit(domain: &Domain) {
    let seconds = c_int::try_from(ANSWER_WITHIN.as_secs()).unwrap_or(c_int::MAX);
    // SAFETY: the domain is valid during the call.
    if unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) } < 0 {
        debug!(error = %Error::last_error(), "the guest agent's answer is awaited without a limit");
    }
}
