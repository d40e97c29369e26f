//! VHDX: a region table names the metadata region, whose items name the virtual size and whether
//! there is a parent. A disk with a parent is refused.
//!
//! ``oslo_utils: VHDXInspector``; Microsoft's MS-VHDX.

use super::bytes::{array, le16, le32, le64, within};
use super::{Content, Format, InspectError, Inspected, Verdict, read, refused};

const REGION_TABLE: u64 = 192 * 1024;
const TABLE_BYTES: usize = 64 * 1024;
const MAX_ENTRIES: usize = 2047;

/// GUIDs in their order on disk.
const METADATA_REGION: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
const VIRTUAL_DISK_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
const FILE_PARAMETERS: [u8; 16] = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
const PARENT_LOCATOR: [u8; 16] = guid(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);
const HAS_PARENT: u32 = 1 << 1;

const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

pub fn matches(head: &[u8]) -> bool {
    head.starts_with(b"vhdxfile")
}

pub fn check(content: &dyn Content) -> Verdict {
    let table = read(content, REGION_TABLE, TABLE_BYTES)?;
    if !table.starts_with(b"regi") {
        return refused("its region table is missing");
    }
    let count = le32(&table, 8).unwrap_or(0) as usize;
    if count > MAX_ENTRIES {
        return refused("its region table is out of bounds");
    }
    let mut metadata = None;
    for index in 0..count {
        let at = 16 + 32 * index;
        let (Some(id), Some(offset), Some(length)) =
            (array::<16>(&table, at), le64(&table, at + 16), le32(&table, at + 24))
        else {
            return refused("its region table is cut off");
        };
        if !within(offset, length.into(), content.size()) {
            return refused("it is truncated: its regions lie beyond its end");
        }
        if id == METADATA_REGION && metadata.replace(offset).is_some() {
            return refused("it has two metadata regions");
        }
    }
    match metadata {
        Some(offset) => check_metadata(offset, content),
        None => refused("it has no metadata region"),
    }
}

fn check_metadata(region: u64, content: &dyn Content) -> Verdict {
    let table = read(content, region, TABLE_BYTES)?;
    if !table.starts_with(b"metadata") {
        return refused("its metadata region is invalid");
    }
    let count = usize::from(le16(&table, 10).unwrap_or(0));
    if count > MAX_ENTRIES {
        return refused("its metadata table is out of bounds");
    }
    let mut size = None;
    for index in 0..count {
        let at = 32 + 32 * index;
        let (Some(id), Some(offset)) = (array::<16>(&table, at), le32(&table, at + 16)) else {
            return refused("its metadata table is cut off");
        };
        let Some(item) = region.checked_add(offset.into()) else {
            return refused("its metadata lie beyond its end");
        };
        match id {
            PARENT_LOCATOR => return refused("it has a parent"),
            FILE_PARAMETERS => {
                let parameters = item_bytes::<8>(content, item)?;
                if le32(&parameters, 4).is_none_or(|flags| flags & HAS_PARENT != 0) {
                    return refused("it has a parent");
                }
            }
            VIRTUAL_DISK_SIZE => {
                let value = u64::from_le_bytes(item_bytes(content, item)?);
                if size.replace(value).is_some() {
                    return refused("it names its size twice");
                }
            }
            _ => {}
        }
    }
    match size {
        Some(virtual_size) if virtual_size <= i64::MAX as u64 => {
            Ok(Inspected { format: Format::Vhdx, virtual_size, cluster_size: None })
        }
        _ => refused("its virtual size is missing or out of bounds"),
    }
}

fn item_bytes<const N: usize>(content: &dyn Content, at: u64) -> Result<[u8; N], InspectError> {
    match array(&read(content, at, N)?, 0) {
        Some(item) => Ok(item),
        None => refused("it is truncated: its metadata lie beyond its end"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example() -> Vec<u8> {
        let mut bytes = vec![0; 512 * 1024];
        bytes[..8].copy_from_slice(b"vhdxfile");
        let table = REGION_TABLE as usize;
        bytes[table..table + 4].copy_from_slice(b"regi");
        bytes[table + 8] = 1;
        bytes[table + 16..table + 32].copy_from_slice(&METADATA_REGION);
        let region = 320 * 1024;
        bytes[table + 32..table + 40].copy_from_slice(&(region as u64).to_le_bytes());
        bytes[table + 40..table + 44].copy_from_slice(&(128 * 1024u32).to_le_bytes());
        bytes[region..region + 8].copy_from_slice(b"metadata");
        bytes[region + 10] = 2;
        bytes[region + 32..region + 48].copy_from_slice(&FILE_PARAMETERS);
        bytes[region + 48..region + 52].copy_from_slice(&65536u32.to_le_bytes());
        bytes[region + 64..region + 80].copy_from_slice(&VIRTUAL_DISK_SIZE);
        bytes[region + 80..region + 84].copy_from_slice(&65544u32.to_le_bytes());
        bytes[region + 65544..region + 65552].copy_from_slice(&(1u64 << 30).to_le_bytes());
        bytes
    }

    #[test]
    fn the_size_is_found_through_the_tables() {
        assert_eq!(check(&&example()[..]).unwrap().virtual_size, 1 << 30);
    }

    #[test]
    fn a_parent_is_refused() {
        let mut bytes = example();
        bytes[320 * 1024 + 65536 + 4] = 2;
        assert!(check(&&bytes[..]).unwrap_err().to_string().contains("parent"));
    }

    #[test]
    fn a_truncated_file_is_refused() {
        for end in [100, 200 * 1024, 330 * 1024, 400 * 1024] {
            assert!(check(&&example()[..end]).is_err(), "{end}");
        }
    }
}
