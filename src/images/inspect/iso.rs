//! ISO 9660 and UDF: a CD-ROM's content, raw bytes to QEMU.

/// The first volume descriptor, in sector 16 of 2048 bytes.
const DESCRIPTOR: usize = 32 * 1024;

/// ``oslo_utils: ISOInspector`` (the descriptor must be there whole)
pub fn matches(head: &[u8]) -> bool {
    head.len() >= DESCRIPTOR + 2048
        && [b"CD001", b"NSR02", b"NSR03"]
            .iter()
            .any(|magic| head[DESCRIPTOR + 1..].starts_with(*magic))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example() -> Vec<u8> {
        let mut bytes = vec![0; 40 * 1024];
        bytes[DESCRIPTOR] = 1;
        bytes[DESCRIPTOR + 1..DESCRIPTOR + 6].copy_from_slice(b"CD001");
        bytes
    }

    #[test]
    fn a_descriptor_cut_off_is_no_iso() {
        assert!(matches(&example()));
        assert!(!matches(&example()[..DESCRIPTOR + 6]));
    }
}
