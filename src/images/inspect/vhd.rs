//! VHD, which QEMU calls `vpc`: a footer of 512 bytes at the end, copied to the front unless the
//! disk is of fixed size. A differencing disk names its parent and is refused.

use super::bytes::{be32, be64};
use super::{Content, Format, Inspected, Verdict, read, refused};

const MAGIC: &[u8] = b"conectix";
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;

pub fn matches(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Whether the last sector is a footer.
pub fn has_footer(content: &dyn Content) -> std::io::Result<bool> {
    Ok(footer(content)?.starts_with(MAGIC))
}

fn footer(content: &dyn Content) -> std::io::Result<Vec<u8>> {
    match content.size().checked_sub(512) {
        Some(at) => read(content, at, 512),
        None => Ok(Vec::new()),
    }
}

pub fn check(head: &[u8], content: &dyn Content) -> Verdict {
    let footer = footer(content)?;
    if !footer.starts_with(MAGIC) {
        return refused("it is truncated: its footer is missing");
    }
    let dynamic = matches(head);
    let (Some(size), Some(kind)) = (be64(&footer, 48), be32(&footer, 60)) else {
        return refused("the VHD footer is cut off");
    };
    if dynamic && head.get(..512) != Some(&footer[..]) {
        return refused("its footer contradicts its header");
    }
    match (kind, dynamic) {
        (DYNAMIC, true) => {
            let table = be64(head, 16).unwrap_or(u64::MAX);
            if table.checked_add(1024).is_none_or(|end| end > content.size()) {
                return refused("it is truncated: its tables lie beyond its end");
            }
        }
        (FIXED, false) if content.size() - 512 >= size => {}
        (FIXED, false) => return refused("it is truncated"),
        _ => return refused("only fixed and dynamic VHD are supported, without a parent"),
    }
    if size > i64::MAX as u64 {
        return refused("its virtual size is out of bounds");
    }
    // QEMU derives the size from the geometry, or takes the larger field: count the larger.
    let original = be64(&footer, 40).unwrap_or(0);
    let geometry = footer.get(56..60).map_or(0, |chs| {
        u64::from(u16::from_be_bytes([chs[0], chs[1]]))
            * u64::from(chs[2])
            * u64::from(chs[3])
            * 512
    });
    let virtual_size = size.max(geometry).max(original.min(i64::MAX as u64));
    Ok(Inspected { format: Format::Vhd, virtual_size, cluster_size: None })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example(kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(MAGIC);
        footer[16..24].copy_from_slice(&512u64.to_be_bytes());
        footer[48..56].copy_from_slice(&4096u64.to_be_bytes());
        footer[63] = kind;
        bytes[..512].copy_from_slice(&footer);
        bytes[8192 - 512..].copy_from_slice(&footer);
        bytes
    }

    fn verdict(bytes: &[u8]) -> Verdict {
        check(bytes, &bytes)
    }

    #[test]
    fn a_dynamic_disk_is_taken_and_a_differencing_one_refused() {
        assert_eq!(verdict(&example(3)).unwrap().virtual_size, 4096);
        assert!(verdict(&example(4)).is_err());
    }

    #[test]
    fn a_fixed_disk_is_raw_bytes_and_a_footer() {
        let mut bytes = example(2);
        bytes[..512].fill(0);
        assert!(has_footer(&&bytes[..]).unwrap());
        assert!(verdict(&bytes).is_ok());
        assert!(verdict(&bytes[4096..]).is_err(), "shorter than it says");
    }

    #[test]
    fn a_missing_footer_is_a_truncation() {
        assert!(verdict(&example(3)[..4096]).is_err());
    }
}
