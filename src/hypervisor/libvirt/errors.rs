//! libvirt's error numbers in our words.

use uuid::Uuid;
use virt::error::{Error, ErrorDomain, ErrorNumber};

use crate::hypervisor::HypervisorError;
use crate::model::class::Class;

/// Why a closure given to `call` or `job` ended early: libvirt said no, or we did.
#[derive(Debug)]
pub enum Fault {
    Virt(Error),
    Ours(HypervisorError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Virt(error)
    }
}

impl From<HypervisorError> for Fault {
    fn from(error: HypervisorError) -> Self {
        Self::Ours(error)
    }
}

impl Fault {
    pub fn into_error(self, operation: &'static str) -> HypervisorError {
        match self {
            Self::Ours(error) => error,
            Self::Virt(error) => refused(operation, &error),
        }
    }

    /// The same, but a missing domain is `uuid`'s.
    pub fn for_domain(error: Error, uuid: Uuid) -> Self {
        match error.code() {
            ErrorNumber::NoDomain => Self::Ours(HypervisorError::NoDomain(uuid)),
            _ => Self::Virt(error),
        }
    }
}

fn refused(operation: &'static str, error: &Error) -> HypervisorError {
    if is_no_agent(error) {
        return HypervisorError::NoAgent { operation, message: error.message().to_owned() };
    }
    match class_of(error.code()) {
        None => HypervisorError::NotSupported { operation },
        Some(class) => {
            HypervisorError::Refused { operation, message: error.message().to_owned(), class }
        }
    }
}

/// Whether the guest agent isn't there, or hangs.
pub fn is_no_agent(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorNumber::AgentUnresponsive
            | ErrorNumber::AgentUnsynced
            | ErrorNumber::AgentCommandTimeout
    )
}

/// What a caller may do about an error of libvirt; `None`: this driver can't do it at all.
fn class_of(code: ErrorNumber) -> Option<Class> {
    use ErrorNumber as E;
    Some(match code {
        E::NoSupport | E::OperationUnsupported | E::ArgumentUnsupported => return None,
        E::NoDomain | E::NoDomainSnapshot | E::NoDomainMetadata => Class::Absent,
        // Another job holds the domain, or it changes state under us.
        E::OperationTimeout | E::ResourceBusy | E::OperationAborted => Class::Transient,
        // The definition itself is wrong: no host takes it.
        E::XmlError | E::XmlDetail | E::XmlInvalidSchema | E::InvalidMac => Class::Refused,
        // The domain isn't in a state for this: asking another host doesn't help.
        E::OperationInvalid | E::DomExist => Class::Refused,
        // QEMU didn't start, no memory, no device, a permission, …: this host's trouble.
        _ => Class::Reschedule,
    })
}

/// Whether the connection itself is gone.
///
/// nova: virt/libvirt/host.py, `_test_connection`
pub fn is_broken(error: &Error) -> bool {
    let of_transport = matches!(error.domain(), ErrorDomain::Remote | ErrorDomain::Rpc);
    let code = error.code();
    of_transport
        && matches!(code, ErrorNumber::SystemError | ErrorNumber::InternalError | ErrorNumber::Rpc)
        || code == ErrorNumber::InvalidConn
}

/// Whether an open failed because nobody listens: a daemon that restarts, or died in mid-greeting.
pub fn is_unreachable(error: &Error) -> bool {
    is_broken(error) || error.code() == ErrorNumber::NoConnect
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_class_that_helps() {
        assert_eq!(class_of(ErrorNumber::NoDomain), Some(Class::Absent));
        assert_eq!(class_of(ErrorNumber::OperationTimeout), Some(Class::Transient));
        assert_eq!(class_of(ErrorNumber::XmlError), Some(Class::Refused));
        assert_eq!(class_of(ErrorNumber::InternalError), Some(Class::Reschedule));
        assert_eq!(class_of(ErrorNumber::ConfigUnsupported), Some(Class::Reschedule));
        assert_eq!(class_of(ErrorNumber::NoSupport), None);
    }
}
