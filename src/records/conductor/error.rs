//! What can go wrong between the agent and nova-conductor.

use std::time::Duration;

use super::caller::Raised;
use crate::model::class::Class;
use crate::model::object::ObjectError;

/// Why the conductor didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ConductorError {
    /// nova: MessagingTimeout. It may have been carried out.
    #[error("nova-conductor gave no answer to {operation} in {attempts} tries of {each:?}")]
    NoAnswer { operation: String, attempts: u32, each: Duration },
    #[error("{operation} could not be sent to nova-conductor: {reason}")]
    Unsent { operation: String, reason: String },
    /// The method raised an exception.
    #[error("nova-conductor refused {operation}: {raised}")]
    Raised { operation: String, raised: Box<Raised> },
    #[error("nova-conductor's answer to {operation} can't be read")]
    Answer {
        operation: String,
        #[source]
        source: ObjectError,
    },
    /// `[upgrade_levels]` forbids what would have to be sent. nova: RPCVersionCapError
    #[error("{operation} needs version {version}, and [upgrade_levels] {level} = {cap}")]
    Capped { operation: String, version: &'static str, level: &'static str, cap: String },
}

impl ConductorError {
    pub fn class(&self) -> Class {
        match self {
            Self::NoAnswer { .. } | Self::Unsent { .. } => Class::Transient,
            Self::Answer { .. } | Self::Capped { .. } => Class::Refused,
            Self::Raised { raised, .. } => match raised.class.as_str() {
                class if class.ends_with("NotFound") => Class::Absent,
                // The conductor's own database or bus is away, or two writes met there.
                "MessagingTimeout" | "CellTimeout" | "InstanceUpdateConflict" => Class::Transient,
                class if class.starts_with("DB") => Class::Transient,
                _ => Class::Refused,
            },
        }
    }

    /// Whether the method raised this class of exception.
    pub fn is(&self, class: &str) -> bool {
        self.raised().is_some_and(|raised| raised.class == class)
    }

    /// Whether nobody knows if the method ran.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::Unsent { .. })
    }

    pub fn raised(&self) -> Option<&Raised> {
        match self {
            Self::Raised { raised, .. } => Some(raised),
            _ => None,
        }
    }
}

/// Turns "there is none", which conductor says by an exception, into `None`.
pub(super) fn absent<T>(
    result: Result<T, ConductorError>,
    classes: &[&str],
) -> Result<Option<T>, ConductorError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if classes.iter().any(|class| error.is(class)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(class: &str) -> ConductorError {
        let raised = Box::new(Raised::nova(class, "what it says\nTraceback"));
        ConductorError::Raised { operation: "Service.save".into(), raised }
    }

    #[test]
    fn an_exceptions_class_says_what_may_be_done() {
        for (class, expected) in [
            ("ServiceNotFound", Class::Absent),
            ("DBConnectionError", Class::Transient),
            ("MessagingTimeout", Class::Transient),
            ("ServiceTooOld", Class::Refused),
        ] {
            assert_eq!(raised(class).class(), expected, "{class}");
        }
        let lost = ConductorError::Unsent { operation: "x".into(), reason: "y".into() };
        assert_eq!(lost.class(), Class::Transient);
    }

    #[test]
    fn a_traceback_is_no_part_of_the_message() {
        assert_eq!(
            raised("ServiceTooOld").to_string(),
            "nova-conductor refused Service.save: ServiceTooOld: what it says"
        );
    }

    #[test]
    fn only_the_named_exceptions_mean_absence() {
        assert!(matches!(absent::<()>(Err(raised("ANotFound")), &["ANotFound"]), Ok(None)));
        assert!(absent::<()>(Err(raised("ANotFound")), &["BNotFound"]).is_err());
        assert!(matches!(absent(Ok(1), &[]), Ok(Some(1))));
    }
}
