//! VMDK: only the kinds that are one file. A descriptor is text and may name any file as an
//! extent, so it is read line by line and refused at the first line we don't know.
//!
//! ``oslo_utils: VMDKInspector``; ``nova: virt/images.py, check_vmdk_image``.

use super::bytes::{le32, le64};
use super::{Content, Format, InspectError, Inspected, Policy, Verdict, read, refused};

const MAGIC: &[u8] = b"KDMV";
const SECTOR: u64 = 512;
const MAX_DESCRIPTOR: u64 = (1 << 20) - 1;
/// The directory is at the end: a footer repeats the header.
const AT_END: u64 = u64::MAX;
/// The kinds whose data is in the file itself.
const SINGLE_FILE: [&str; 2] = ["monolithicsparse", "streamoptimized"];

/// A sparse extent, or a descriptor that stands alone as text.
pub fn matches(head: &[u8]) -> bool {
    head.starts_with(MAGIC) || is_text_descriptor(head)
}

fn is_text_descriptor(head: &[u8]) -> bool {
    let start = &head[..head.len().min(512)];
    let text = start.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
    if !text {
        return false;
    }
    let lower = head.to_ascii_lowercase();
    let has = |needle: &[u8]| lower.windows(needle.len()).any(|window| window == needle);
    has(b"createtype=\"") || has(b"# disk descriptorfile")
}

pub fn check(head: &[u8], content: &dyn Content, policy: &Policy) -> Verdict {
    if !head.starts_with(MAGIC) {
        return refused("it is a VMDK descriptor alone: its data would be in other files");
    }
    let Some(sparse) = Sparse::parse(head) else {
        return refused("the VMDK header is cut off");
    };
    if !(1..=3).contains(&sparse.version) {
        return refused(format!("VMDK version {} is not supported", sparse.version));
    }
    if sparse.descriptor_sector != 1 {
        return refused("its descriptor isn't where it must be");
    }
    if sparse.directory == AT_END {
        check_footer(&sparse, content)?;
    }
    let length = sparse.descriptor_sectors.saturating_mul(SECTOR).min(MAX_DESCRIPTOR);
    let descriptor = read(content, SECTOR, length as usize)?;
    if (descriptor.len() as u64) < length {
        return refused("it is truncated: its descriptor lies beyond its end");
    }
    if sparse.directory != AT_END
        && sparse.directory.checked_mul(SECTOR).is_none_or(|at| at >= content.size())
    {
        return refused("it is truncated: its directory lies beyond its end");
    }
    check_descriptor(&descriptor, policy)?;
    match sparse.capacity.checked_mul(SECTOR).filter(|size| *size <= i64::MAX as u64) {
        Some(virtual_size) => {
            Ok(Inspected { format: Format::Vmdk, virtual_size, cluster_size: None })
        }
        None => refused("its virtual size is out of bounds"),
    }
}

/// The header of a sparse extent; a footer has the same form.
#[derive(PartialEq)]
struct Sparse {
    version: u32,
    capacity: u64,
    descriptor_sector: u64,
    descriptor_sectors: u64,
    directory: u64,
}

impl Sparse {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            version: le32(bytes, 4)?,
            capacity: le64(bytes, 12)?,
            descriptor_sector: le64(bytes, 28)?,
            descriptor_sectors: le64(bytes, 36)?,
            directory: le64(bytes, 56)?,
        })
    }
}

/// QEMU prefers the footer: it must say what the header says.
fn check_footer(header: &Sparse, content: &dyn Content) -> Result<(), InspectError> {
    let Some(at) = content.size().checked_sub(1536) else {
        return refused("it is truncated: its footer is missing");
    };
    let end = read(content, at, 1536)?;
    let footer = end.get(512..1024).filter(|f| f.starts_with(MAGIC)).and_then(Sparse::parse);
    let Some(footer) = footer else {
        return refused("it is truncated: its footer is missing");
    };
    let marker = |at: usize, kind: u32| {
        le32(&end, at + 8) == Some(0)
            && le32(&end, at + 12) == Some(kind)
            && end[at + 16..at + 512].iter().all(|b| *b == 0)
    };
    if !marker(0, 3) || !marker(1024, 0) || le64(&end, 1024) != Some(0) {
        return refused("its footer is invalid");
    }
    if footer.directory == AT_END || (Sparse { directory: AT_END, ..footer }) != *header {
        return refused("its footer contradicts its header");
    }
    if footer.directory.checked_mul(SECTOR).is_none_or(|at| at >= content.size()) {
        return refused("it is truncated: its directory lies beyond its end");
    }
    Ok(())
}

fn check_descriptor(bytes: &[u8], policy: &Policy) -> Result<(), InspectError> {
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    let Some(text) = std::str::from_utf8(text).ok().filter(|text| text.is_ascii()) else {
        return refused("its descriptor isn't text");
    };
    let mut create_type = None;
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') || line.starts_with("ddb") {
            continue;
        }
        let lower = line.to_ascii_lowercase();
        let first = lower.split(' ').next().unwrap_or_default();
        if ["rw", "rdonly", "noaccess"].contains(&first) {
            extents += 1;
            check_extent(line)?;
        } else if let Some((key, value)) = lower.split_once('=').filter(|(k, _)| !k.contains(' ')) {
            match key {
                "createtype" if create_type.is_some() => {
                    return refused("its descriptor names its type twice");
                }
                "createtype" => create_type = Some(value.trim_matches('"').to_owned()),
                "parentfilenamehint" => return refused("it has a parent"),
                "parentcid" if value != "ffffffff" => return refused("it has a parent"),
                _ => {}
            }
        } else {
            return refused("its descriptor has lines of unknown meaning");
        }
    }
    match create_type {
        None => return refused("its descriptor has no createType"),
        Some(kind)
            if !SINGLE_FILE.contains(&kind.as_str())
                || !policy.vmdk_allowed_types.iter().any(|t| t.eq_ignore_ascii_case(&kind)) =>
        {
            return refused("its createType is not allowed");
        }
        Some(_) => {}
    }
    match extents {
        1 => Ok(()),
        0 => refused("its descriptor names no extent"),
        _ => refused("its descriptor names other extents"),
    }
}

/// One extent is the file itself, under the name that it had once.
fn check_extent(line: &str) -> Result<(), InspectError> {
    let mut words = line.split_ascii_whitespace().skip(2);
    if !words.next().is_some_and(|kind| kind.eq_ignore_ascii_case("sparse")) {
        return refused("its descriptor names an extent of another kind");
    }
    if line.contains(['/', '\\']) {
        return refused("its descriptor names a file elsewhere");
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example(kind: &str) -> Vec<u8> {
        with_descriptor(&format!(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
             createType=\"{kind}\"\n\nRW 2048 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n"
        ))
    }

    fn with_descriptor(text: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 1024];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = 1;
        bytes[12..20].copy_from_slice(&2048u64.to_le_bytes());
        bytes[28] = 1;
        bytes[36] = 20;
        bytes[56] = 26;
        bytes[512..512 + text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    fn verdict(bytes: &[u8]) -> Verdict {
        check(bytes, &bytes, &Policy::default())
    }

    #[test]
    fn the_kinds_of_one_file_are_taken() {
        for kind in ["monolithicSparse", "streamOptimized"] {
            assert_eq!(verdict(&example(kind)).unwrap().virtual_size, 1 << 20);
        }
    }

    #[test]
    fn other_kinds_are_refused_even_where_the_operator_lists_them() {
        let policy = Policy { vmdk_allowed_types: vec!["monolithicFlat".into()] };
        let flat = example("monolithicFlat");
        assert!(check(&flat, &&flat[..], &policy).is_err());
        let sparse = example("monolithicSparse");
        assert!(check(&sparse, &&sparse[..], &policy).is_err());
    }

    #[test]
    fn extents_elsewhere_are_refused() {
        for extent in [
            "RW 2048 SPARSE \"/etc/passwd\"",
            "RW 2048 FLAT \"passwd\" 0",
            "RW 2048 SPARSE \"a.vmdk\"\nRW 2048 SPARSE \"b.vmdk\"",
            "RW 2048 SPARSE \"..\\x\"",
            "",
        ] {
            let bytes = with_descriptor(&format!("createType=\"monolithicSparse\"\n{extent}\n"));
            assert!(verdict(&bytes).is_err(), "{extent}");
        }
    }

    #[test]
    fn a_parent_and_unknown_lines_are_refused() {
        for line in ["parentFileNameHint=\"base.vmdk\"", "parentCID=12345678", "what is this"] {
            let bytes = with_descriptor(&format!(
                "createType=\"monolithicSparse\"\n{line}\nRW 2048 SPARSE \"a.vmdk\"\n"
            ));
            assert!(verdict(&bytes).is_err(), "{line}");
        }
    }

    #[test]
    fn a_descriptor_alone_is_recognised_and_refused() {
        let text =
            b"# Disk DescriptorFile\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/passwd\" 0\n";
        assert!(matches(text));
        assert!(verdict(text).is_err());
        assert!(!matches(b"#!/bin/sh\necho hello\n"));
    }

    #[test]
    fn a_footer_must_be_there_when_the_header_says_so() {
        let mut bytes = example("streamOptimized");
        bytes[56..64].copy_from_slice(&AT_END.to_le_bytes());
        assert!(verdict(&bytes).is_err());
        let end = bytes.len() - 1536;
        bytes.copy_within(0..512, end + 512);
        bytes[end + 12] = 3;
        bytes[end + 512 + 56..end + 512 + 64].copy_from_slice(&26u64.to_le_bytes());
        assert!(verdict(&bytes).is_ok());
        bytes[end + 512 + 36] = 21;
        assert!(verdict(&bytes).is_err());
    }
}
