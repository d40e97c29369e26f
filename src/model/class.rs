//! What a caller may do about an error, whatever its cause.

/// Every room's error has a class; workflows branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The thing isn't there. A delete takes it as success.
    Absent,
    /// Ask again, on this host.
    Transient,
    /// Not on this host; another may do.
    Reschedule,
    /// Not anywhere as asked: the user is told.
    Refused,
}
