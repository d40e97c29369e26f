//! QED: recognised so that it can be refused. It names backing files and nobody uses it.

/// ``qemu: docs/interop/qed_spec.rst``
pub fn matches(head: &[u8]) -> bool {
    head.starts_with(b"QED\0")
}
