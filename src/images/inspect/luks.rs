//! LUKS: recognised so that it can be refused. Without its secret nothing can be said of what is
//! inside, and a guest's disk made of it would be useless.

/// LUKS 1 and 2 share the magic.
pub fn matches(head: &[u8]) -> bool {
    head.starts_with(b"LUKS\xba\xbe")
}
