//! VirtualBox's VDI. Differencing images have a parent and are refused.

use super::bytes::{le32, le64, within};
use super::{Content, Format, Inspected, Verdict, refused};

const SIGNATURE: u32 = 0xbeda_107f;
/// Dynamic and static; undo and differencing images follow.
const ALLOWED_TYPES: [u32; 2] = [1, 2];

pub fn matches(head: &[u8]) -> bool {
    le32(head, 0x40) == Some(SIGNATURE)
}

/// ``qemu: block/vdi.c, VdiHeader``
pub fn check(head: &[u8], content: &dyn Content) -> Verdict {
    let fields = (
        le32(head, 0x4c),
        le32(head, 0x154),
        le64(head, 0x170),
        le32(head, 0x178),
        le32(head, 0x180),
    );
    let (Some(kind), Some(map_offset), Some(size), Some(block), Some(blocks)) = fields else {
        return refused("the VDI header is cut off");
    };
    if !ALLOWED_TYPES.contains(&kind) {
        return refused("only dynamic and static VDI are supported, without a parent");
    }
    // The UUIDs of the link and of the parent.
    if head.get(0x1a8..0x1c8).is_none_or(|link| link.iter().any(|b| *b != 0)) {
        return refused("it has a parent");
    }
    if block == 0 || u64::from(blocks) * u64::from(block) < size {
        return refused("its virtual size is out of bounds");
    }
    if !within(map_offset.into(), u64::from(blocks) * 4, content.size()) {
        return refused("it is truncated: its map lies beyond its end");
    }
    Ok(Inspected { format: Format::Vdi, virtual_size: size, cluster_size: None })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        for (at, value) in [
            (0x40, SIGNATURE),
            (0x4c, 1),
            (0x154, 512),
            (0x170, 1 << 20),
            (0x178, 1 << 20),
            (0x180, 1),
        ] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn verdict(bytes: &[u8]) -> Verdict {
        check(bytes, &bytes)
    }

    #[test]
    fn a_dynamic_image_is_taken() {
        assert_eq!(verdict(&example()).unwrap().virtual_size, 1 << 20);
    }

    #[test]
    fn a_parent_by_type_or_by_link_is_refused() {
        let mut bytes = example();
        bytes[0x4c] = 4;
        assert!(verdict(&bytes).is_err());
        let mut bytes = example();
        bytes[0x1a8] = 1;
        assert!(verdict(&bytes).is_err());
    }

    #[test]
    fn a_truncated_image_is_refused() {
        assert!(verdict(&example()[..512]).is_err());
    }
}
