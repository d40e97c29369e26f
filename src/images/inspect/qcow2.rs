//! qcow2, versions 2 and 3.
//!
//! Beside the references to other files, the tables are followed to the end of the file: QEMU
//! reads what lies beyond it as zeros, so a truncated image would boot and lose data silently.
//!
//! ``qemu: docs/interop/qcow2.rst``; ``oslo_utils: QcowInspector``.

use super::bytes::{be32, be64, within};
use super::{Content, Format, Inspected, Verdict, read, refused};

/// Of the incompatible features: dirty (0) and compression type (3). Corrupt (1), external data
/// file (2), extended L2 entries (4) and what comes after are not taken.
const ALLOWED_FEATURES: u64 = 1 | 1 << 3;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;

const EXTENSION_END: u32 = 0;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// QEMU's own bounds: 32 MiB of L1 table, 8 MiB of refcount table, 65536 snapshots.
const MAX_L1_ENTRIES: u64 = 32 * 1024 * 1024 / 8;
const MAX_REFCOUNT_BYTES: u64 = 8 * 1024 * 1024;
const MAX_SNAPSHOTS: u32 = 65536;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

pub fn matches(head: &[u8]) -> bool {
    head.starts_with(b"QFI\xfb")
}

/// The fields that every version has.
struct Header {
    version: u32,
    backing_offset: u64,
    cluster_bits: u32,
    size: u64,
    encryption: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u32,
    snapshots: u32,
    snapshots_offset: u64,
}

impl Header {
    fn parse(head: &[u8]) -> Option<Self> {
        Some(Self {
            version: be32(head, 4)?,
            backing_offset: be64(head, 8)?,
            cluster_bits: be32(head, 20)?,
            size: be64(head, 24)?,
            encryption: be32(head, 32)?,
            l1_entries: be32(head, 36)?,
            l1_offset: be64(head, 40)?,
            refcount_offset: be64(head, 48)?,
            refcount_clusters: be32(head, 56)?,
            snapshots: be32(head, 60)?,
            snapshots_offset: be64(head, 64)?,
        })
    }
}

pub fn check(head: &[u8], content: &dyn Content) -> Verdict {
    let Some(header) = Header::parse(head) else {
        return refused("the qcow2 header is cut off");
    };
    if header.backing_offset != 0 {
        return refused("it has a backing file");
    }
    if header.encryption != 0 {
        return refused("it is encrypted");
    }
    let header_length = match header.version {
        2 => 72,
        3 => check_version_3(head)?,
        other => return refused(format!("qcow2 version {other} is not supported")),
    };
    if !(9..=21).contains(&header.cluster_bits) {
        return refused("its cluster size is out of bounds");
    }
    let cluster = 1u64 << header.cluster_bits;
    check_extensions(&read(content, 0, cluster as usize)?, header_length)?;
    check_tables(&header, cluster, content)?;
    check_clusters(&header, cluster, content)?;
    Ok(Inspected { format: Format::Qcow2, virtual_size: header.size, cluster_size: Some(cluster) })
}

/// The fields of version 3; returns the header's length.
fn check_version_3(head: &[u8]) -> Result<u64, super::InspectError> {
    let (Some(features), Some(refcount_order), Some(length)) =
        (be64(head, 72), be32(head, 96), be32(head, 100))
    else {
        return refused("the qcow2 header is cut off");
    };
    if features & DATA_FILE != 0 {
        return refused("it has an external data file");
    }
    if features & CORRUPT != 0 {
        return refused("it is marked as corrupt");
    }
    if features & !ALLOWED_FEATURES != 0 {
        return refused(format!("it has unknown incompatible features ({features:#x})"));
    }
    if refcount_order > 6 {
        return refused("its refcount width is out of bounds");
    }
    if length < 104 || !length.is_multiple_of(8) {
        return refused("its header length is out of bounds");
    }
    if length > 104 && head.get(104).is_none_or(|kind| *kind > 1) {
        return refused("its compression type is unknown");
    }
    Ok(u64::from(length))
}

/// Header extensions, up to the end of the first cluster.
fn check_extensions(first_cluster: &[u8], from: u64) -> Result<(), super::InspectError> {
    let mut at = usize::try_from(from).unwrap_or(usize::MAX);
    while let (Some(kind), Some(length)) =
        (be32(first_cluster, at), be32(first_cluster, at.saturating_add(4)))
    {
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_ENCRYPTION => return refused("it is encrypted"),
            EXTENSION_DATA_FILE => return refused("it names an external data file"),
            // The backing format's name alone opens nothing; bitmaps and names are harmless.
            _ => {}
        }
        let Some(next) =
            (length as usize).checked_next_multiple_of(8).and_then(|l| l.checked_add(at + 8))
        else {
            return refused("a header extension is out of bounds");
        };
        if next > first_cluster.len() {
            return refused("a header extension is out of bounds");
        }
        at = next;
    }
    Ok(())
}

/// Where the tables are, and that they are whole.
fn check_tables(
    header: &Header,
    cluster: u64,
    content: &dyn Content,
) -> Result<(), super::InspectError> {
    let l1_entries = u64::from(header.l1_entries);
    if header.size > i64::MAX as u64 {
        return refused("its virtual size is out of bounds");
    }
    if l1_entries > MAX_L1_ENTRIES || l1_entries < header.size.div_ceil(cluster * (cluster / 8)) {
        return refused("its L1 table doesn't fit its virtual size");
    }
    let refcount_bytes = u64::from(header.refcount_clusters) * cluster;
    if refcount_bytes > MAX_REFCOUNT_BYTES || header.snapshots > MAX_SNAPSHOTS {
        return refused("its tables are out of bounds");
    }
    let aligned = |offset: u64| offset.is_multiple_of(cluster);
    let size = content.size();
    let whole = (l1_entries == 0 || within(header.l1_offset, l1_entries * 8, size))
        && within(header.refcount_offset, refcount_bytes, size)
        && (header.snapshots == 0 || within(header.snapshots_offset, 40, size));
    if !whole {
        return refused("it is truncated: its tables lie beyond its end");
    }
    if !aligned(header.l1_offset) || !aligned(header.refcount_offset) {
        return refused("its tables are not aligned");
    }
    Ok(())
}

/// Follows L1 and L2. Each L2 table is read once, so the cost is bounded by the file's length.
fn check_clusters(
    header: &Header,
    cluster: u64,
    content: &dyn Content,
) -> Result<(), super::InspectError> {
    const TRUNCATED: &str = "it is truncated: its clusters lie beyond its end";
    let size = content.size();
    let l1 = read(content, header.l1_offset, header.l1_entries as usize * 8)?;
    let mut tables: Vec<u64> = entries(&l1).map(|e| e & OFFSET_MASK).filter(|o| *o != 0).collect();
    tables.sort_unstable();
    tables.dedup();
    let compressed_mask = (1u64 << (62 - (header.cluster_bits - 8))) - 1;
    for table in tables {
        if !table.is_multiple_of(cluster) {
            return refused("its tables are not aligned");
        }
        if !within(table, cluster, size) {
            return refused(TRUNCATED);
        }
        for entry in entries(&read(content, table, cluster as usize)?) {
            let offset = if entry & COMPRESSED != 0 {
                entry & compressed_mask
            } else {
                let offset = entry & OFFSET_MASK;
                if !offset.is_multiple_of(cluster) {
                    return refused("its clusters are not aligned");
                }
                offset
            };
            // The last cluster may be shorter than a cluster, but it begins inside the file.
            if offset >= size {
                return refused(TRUNCATED);
            }
        }
    }
    Ok(())
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> {
    table.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// 1 MiB virtual in 64 KiB clusters: header, refcount table, L1, L2 and one data cluster.
    pub fn example() -> Vec<u8> {
        let mut bytes = vec![0; 5 * 65536];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        put32(&mut bytes, 4, 3);
        put32(&mut bytes, 20, 16);
        put64(&mut bytes, 24, 1 << 20);
        put32(&mut bytes, 36, 1);
        put64(&mut bytes, 40, 2 * 65536);
        put64(&mut bytes, 48, 65536);
        put32(&mut bytes, 56, 1);
        put32(&mut bytes, 96, 4);
        put32(&mut bytes, 100, 112);
        put64(&mut bytes, 2 * 65536, (3 * 65536) | (1 << 63));
        put64(&mut bytes, 3 * 65536, (4 * 65536) | (1 << 63));
        bytes
    }

    fn put32(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn put64(bytes: &mut [u8], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn reason(bytes: &[u8]) -> String {
        check(bytes, &bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_image_is_taken() {
        let bytes = example();
        let found = check(&bytes, &&bytes[..]).unwrap();
        assert_eq!((found.virtual_size, found.cluster_size), (1 << 20, Some(65536)));
    }

    #[test]
    fn version_2_has_no_features_to_check() {
        let mut bytes = example();
        put32(&mut bytes, 4, 2);
        put64(&mut bytes, 72, 0);
        assert!(check(&bytes, &&bytes[..]).is_ok());
    }

    #[test]
    fn versions_1_and_4_are_refused() {
        for version in [0, 1, 4] {
            let mut bytes = example();
            put32(&mut bytes, 4, version);
            assert!(reason(&bytes).contains("version"));
        }
    }

    #[test]
    fn a_backing_file_is_refused() {
        let mut bytes = example();
        put64(&mut bytes, 8, 512);
        assert!(reason(&bytes).contains("backing file"));
    }

    #[test]
    fn a_data_file_is_refused_by_its_bit_and_by_its_name() {
        let mut bytes = example();
        put64(&mut bytes, 72, DATA_FILE);
        assert!(reason(&bytes).contains("data file"));
        let mut bytes = example();
        put32(&mut bytes, 112, EXTENSION_DATA_FILE);
        put32(&mut bytes, 116, 11);
        assert!(reason(&bytes).contains("data file"));
    }

    #[test]
    fn every_unknown_incompatible_bit_is_refused() {
        for bit in (0..64).filter(|bit| ![0, 3].contains(bit)) {
            let mut bytes = example();
            put64(&mut bytes, 72, 1 << bit);
            assert!(check(&bytes, &&bytes[..]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn encryption_is_refused_by_its_field_and_by_its_extension() {
        let mut bytes = example();
        put32(&mut bytes, 32, 2);
        assert!(reason(&bytes).contains("encrypted"));
        let mut bytes = example();
        put32(&mut bytes, 112, EXTENSION_ENCRYPTION);
        put32(&mut bytes, 116, 16);
        assert!(reason(&bytes).contains("encrypted"));
    }

    #[test]
    fn bitmaps_are_taken() {
        let mut bytes = example();
        put32(&mut bytes, 112, 0x2385_2875);
        put32(&mut bytes, 116, 24);
        assert!(check(&bytes, &&bytes[..]).is_ok());
    }

    #[test]
    fn an_extension_that_runs_off_is_refused() {
        let mut bytes = example();
        put32(&mut bytes, 112, 0x6803_f857);
        put32(&mut bytes, 116, u32::MAX);
        assert!(reason(&bytes).contains("extension"));
    }

    #[test]
    fn a_truncated_file_is_refused_wherever_it_ends() {
        let bytes = example();
        // Inside the data cluster is no truncation that the tables could tell.
        for end in [72, 512, 65536, 2 * 65536, 3 * 65536, 4 * 65536] {
            assert!(check(&bytes[..end], &&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_virtual_size_beyond_the_l1_table_is_refused() {
        let mut bytes = example();
        put64(&mut bytes, 24, 1 << 40);
        assert!(reason(&bytes).contains("L1"));
        put64(&mut bytes, 24, u64::MAX);
        assert!(reason(&bytes).contains("virtual size"));
    }
}
