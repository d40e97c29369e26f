//! Integers out of untrusted bytes: `None` past the end, never a panic.

/// `N` bytes at `at`.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

pub fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// Whether `length` bytes at `offset` lie within a file of `size` bytes.
pub fn within(offset: u64, length: u64, size: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_is_none() {
        assert_eq!(be32(&[0, 0, 1, 0], 0), Some(256));
        assert_eq!(be32(&[0, 0, 1, 0], 1), None);
        assert_eq!(le64(&[0; 8], usize::MAX), None);
    }

    #[test]
    fn a_range_that_overflows_is_not_within() {
        assert!(within(512, 512, 1024));
        assert!(!within(512, 513, 1024));
        assert!(!within(u64::MAX, 2, u64::MAX));
    }
}
