//! Raw bytes: what is left when nothing else matches, and the partition tables found in them.

use super::bytes::le32;
use super::{Content, Format, InspectError, Inspected, Verdict, refused};

const PARTITIONS: usize = 446;
const PROTECTIVE: u8 = 0xee;

/// Raw in QEMU's eyes: as large as the file.
pub fn check(format: Format, content: &dyn Content) -> Verdict {
    Ok(Inspected { format, virtual_size: content.size(), cluster_size: None })
}

/// A master boot record in front, GPT's protective one included. A FAT file system's boot sector
/// has the same signature and isn't one (``oslo_utils: GPTInspector``).
pub fn is_partitioned(head: &[u8]) -> bool {
    let Some(sector) = head.get(..512) else { return false };
    let fat = sector[0x10] == 2 && sector[0x15] == 0xf8;
    sector[510..] == [0x55, 0xaa] && !fat
}

/// The sanity of a table that was declared to be one (``oslo_utils: check_mbr_partitions``).
pub fn check_partitions(head: &[u8]) -> Result<(), InspectError> {
    let mut used = Vec::new();
    let mut protective = false;
    for index in 0..4 {
        let at = PARTITIONS + 16 * index;
        let Some(entry) = head.get(at..at + 16) else {
            return refused("the partition table is cut off");
        };
        if entry[0] != 0 && entry[0] != 0x80 {
            return refused(format!("partition {index} has an invalid boot flag"));
        }
        if entry[4] != 0 {
            used.push(index);
        }
        if entry[4] == PROTECTIVE {
            protective = true;
            if entry[1..4] != [0, 2, 0] || le32(entry, 8) != Some(1) {
                return refused("the protective partition doesn't start where it must");
            }
        }
    }
    match used.as_slice() {
        [] => refused("the partition table has no partitions"),
        [0] => Ok(()),
        _ if protective => refused("partitions beside the protective one"),
        _ => Ok(()),
    }
}

/// Formats that QEMU's probing knows and nova doesn't take, by their magic.
pub fn foreign_format(head: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 5] = [
        (b"WithoutFreeSpace", "parallels"),
        (b"WithouFreSpacExt", "parallels"),
        (b"Bochs Virtual HD Image", "bochs"),
        (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
        (b"COWD", "vmdk3"),
    ];
    MAGICS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn protective_mbr() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[PARTITIONS + 2] = 2;
        bytes[PARTITIONS + 4] = PROTECTIVE;
        bytes[PARTITIONS + 8] = 1;
        bytes[510] = 0x55;
        bytes[511] = 0xaa;
        bytes
    }

    #[test]
    fn a_protective_partition_stands_alone() {
        let mut bytes = protective_mbr();
        assert!(check_partitions(&bytes).is_ok());
        bytes[PARTITIONS + 16 + 4] = 0x83;
        assert!(check_partitions(&bytes).is_err());
    }

    #[test]
    fn an_invalid_boot_flag_is_refused() {
        let mut bytes = protective_mbr();
        bytes[PARTITIONS] = 0x17;
        assert!(check_partitions(&bytes).is_err());
    }

    #[test]
    fn a_fat_boot_sector_is_not_a_partition_table() {
        let mut bytes = protective_mbr();
        assert!(is_partitioned(&bytes));
        bytes[0x10] = 2;
        bytes[0x15] = 0xf8;
        assert!(!is_partitioned(&bytes));
    }
}
