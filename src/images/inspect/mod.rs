//! What an image is, read by ourselves before `qemu-img` ever sees the file.
//!
//! An image is hostile input. Most formats can name other files of the host (backing files, data
//! files, extents), and `qemu-img` would open them. So each format has a small reader here that
//! knows the few header fields that matter, bounds-checks every one, and refuses what it doesn't
//! know. After that the format is always passed to `qemu-img` explicitly.
//!
//! The rules are oslo.utils' and nova's (``oslo_utils: imageutils/format_inspector.py``;
//! ``nova: virt/images.py, do_image_deep_inspection``), with truncated files refused as well.

mod bytes;
mod iso;
mod luks;
mod qcow2;
mod qed;
mod raw;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What detection reads of every file: up to the end of an ISO's first volume descriptor.
const HEAD_BYTES: usize = 34 * 1024;

/// A format, as the content shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Nothing else matches.
    Raw,
    /// A whole disk with a partition table, GPT or MBR.
    Gpt,
    Iso,
    Qcow2,
    Vmdk,
    Vhd,
    Vhdx,
    Vdi,
    Qed,
    Luks,
    /// A format that QEMU would open and nova doesn't take.
    Other(&'static str),
}

impl Format {
    /// Glance's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Gpt => "gpt",
            Self::Iso => "iso",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Qed => "qed",
            Self::Luks => "luks",
            Self::Other(name) => name,
        }
    }

    /// QEMU's word for it: partition tables and ISOs are raw bytes, VHD is `vpc`.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Raw | Self::Gpt | Self::Iso => "raw",
            Self::Vhd => "vpc",
            other => other.name(),
        }
    }
}

/// What an acceptable image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    pub format: Format,
    /// Bytes, as a guest would see the disk.
    pub virtual_size: u64,
    /// Bytes; only qcow2 has clusters that an overlay should share.
    pub cluster_size: Option<u64>,
}

/// Why an image isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The content; the sentence is for the user.
    #[error("{0}")]
    Refused(String),
    #[error("can't read the image")]
    Io(#[from] io::Error),
}

/// Shorthand of the readers.
type Verdict = Result<Inspected, InspectError>;

fn refused<T>(reason: impl Into<String>) -> Result<T, InspectError> {
    Err(InspectError::Refused(reason.into()))
}

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `[compute] vmdk_allowed_types`; those that can name other files are refused in any case.
    pub vmdk_allowed_types: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { vmdk_allowed_types: vec!["streamOptimized".into(), "monolithicSparse".into()] }
    }
}

/// Bytes to look at, wherever they are.
pub trait Content {
    /// Length in bytes.
    fn size(&self) -> u64;
    /// Reads at `offset`; fewer bytes than asked only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

impl Content for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// A file with its length taken once, so that all checks speak of the same length.
pub struct FileContent {
    file: File,
    size: u64,
}

impl FileContent {
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Content for FileContent {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

/// Up to `want` bytes from `offset`.
fn read(content: &dyn Content, offset: u64, want: usize) -> io::Result<Vec<u8>> {
    let left = content.size().saturating_sub(offset);
    let mut buf = vec![0; want.min(usize::try_from(left).unwrap_or(usize::MAX))];
    let n = content.read_at(offset, &mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

/// Inspects `content`, which its owner declares to be `declared` (Glance's `disk_format`; `None`:
/// whatever it turns out to be).
///
/// # Errors
/// `Refused` when the content isn't what it is declared to be, holds what an image may not, or
/// ends before its own tables do.
pub fn inspect(content: &dyn Content, declared: Option<&str>, policy: &Policy) -> Verdict {
    let head = read(content, 0, HEAD_BYTES)?;
    let found = detect(&head, content, declared)?;
    agree(found, declared)?;
    match found {
        Format::Raw | Format::Iso => raw::check(found, content),
        Format::Gpt => {
            if declared == Some("gpt") {
                raw::check_partitions(&head)?;
            }
            raw::check(found, content)
        }
        Format::Qcow2 => qcow2::check(&head, content),
        Format::Vmdk => vmdk::check(&head, content, policy),
        Format::Vhd => vhd::check(&head, content),
        Format::Vhdx => vhdx::check(content),
        Format::Vdi => vdi::check(&head, content),
        Format::Qed | Format::Luks | Format::Other(_) => {
            refused(format!("the format {} is not allowed", found.name()))
        }
    }
}

/// Names the one format that `head` shows. Two at once is how one header hides in another.
fn detect(
    head: &[u8],
    content: &dyn Content,
    declared: Option<&str>,
) -> Result<Format, InspectError> {
    let mut found = Vec::new();
    let mut found_if = |matches: bool, format| {
        if matches {
            found.push(format);
        }
    };
    found_if(qcow2::matches(head), Format::Qcow2);
    found_if(qed::matches(head), Format::Qed);
    found_if(vmdk::matches(head), Format::Vmdk);
    found_if(vhd::matches(head), Format::Vhd);
    found_if(vhdx::matches(head), Format::Vhdx);
    found_if(vdi::matches(head), Format::Vdi);
    found_if(luks::matches(head), Format::Luks);
    found_if(iso::matches(head), Format::Iso);
    found_if(raw::is_partitioned(head), Format::Gpt);
    if let Some(name) = raw::foreign_format(head) {
        found_if(true, Format::Other(name));
    }
    match found.as_slice() {
        // A fixed VHD is raw bytes with a footer: only its declaration tells it from a raw disk.
        [] | [Format::Gpt] if declared == Some("vhd") && vhd::has_footer(content)? => {
            Ok(Format::Vhd)
        }
        [] => Ok(Format::Raw),
        [one] => Ok(*one),
        // An ISO that boots as a block device has a partition table in front.
        [Format::Iso, Format::Gpt] => Ok(Format::Iso),
        many => {
            let names: Vec<_> = many.iter().map(|format| format.name()).collect();
            refused(format!("the content matches more than one format: {}", names.join(", ")))
        }
    }
}

/// Whether the content is what it is declared to be.
fn agree(found: Format, declared: Option<&str>) -> Result<(), InspectError> {
    let Some(declared) = declared else { return Ok(()) };
    let agrees = match declared {
        // Amazon's kernels, ramdisks and machines are bytes to us, so not what QEMU would open.
        "ami" | "aki" | "ari" => found.qemu_name() == "raw",
        "raw" => matches!(found, Format::Raw | Format::Gpt),
        "qcow2" | "vmdk" | "vhd" | "vhdx" | "vdi" | "iso" | "gpt" => found.name() == declared,
        _ => return refused(format!("the format {declared:?} is not supported")),
    };
    if agrees {
        Ok(())
    } else {
        refused(format!("the content is {}, declared is {declared}", found.name()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inspect_bytes(bytes: &[u8], declared: Option<&str>) -> Verdict {
        inspect(&bytes, declared, &Policy::default())
    }

    #[test]
    fn bytes_that_match_nothing_are_raw_and_as_large_as_they_are() {
        let found = inspect_bytes(&[7; 5000], Some("raw")).unwrap();
        assert_eq!((found.format, found.virtual_size), (Format::Raw, 5000));
    }

    #[test]
    fn content_must_be_what_it_is_declared_to_be() {
        let qcow2 = qcow2::tests::example();
        let gpt = raw::tests::protective_mbr();
        let iso = iso::tests::example();
        for (bytes, declared, ok) in [
            (&qcow2, "qcow2", true),
            (&qcow2, "raw", false),
            (&qcow2, "ami", false),
            (&qcow2, "vmdk", false),
            (&gpt, "raw", true),
            (&gpt, "gpt", true),
            (&gpt, "aki", true),
            (&gpt, "qcow2", false),
            (&iso, "iso", true),
            (&iso, "raw", false),
            (&iso, "ami", true),
            (&iso, "gpt", false),
            (&vec![0; 600], "qcow2", false),
            (&vec![0; 600], "iso", false),
            (&vec![0; 600], "raw", true),
            (&vec![0; 600], "ploop", false),
            (&vec![0; 600], "docker", false),
        ] {
            let verdict = inspect_bytes(bytes, Some(declared));
            assert_eq!(verdict.is_ok(), ok, "{declared}: {verdict:?}");
        }
    }

    #[test]
    fn an_iso_with_a_partition_table_is_an_iso() {
        let mut bytes = iso::tests::example();
        bytes[..512].copy_from_slice(&raw::tests::protective_mbr()[..512]);
        assert_eq!(inspect_bytes(&bytes, Some("iso")).unwrap().format, Format::Iso);
    }

    #[test]
    fn a_header_hidden_in_another_is_refused() {
        let mut bytes = qcow2::tests::example();
        bytes[32769..32774].copy_from_slice(b"CD001");
        for declared in [None, Some("qcow2"), Some("iso"), Some("raw")] {
            let error = inspect_bytes(&bytes, declared).unwrap_err();
            assert!(error.to_string().contains("more than one"), "{declared:?}: {error}");
        }
    }

    #[test]
    fn formats_that_nobody_may_use_are_refused_under_any_name() {
        let mut qed = vec![0; 1024];
        qed[..4].copy_from_slice(b"QED\0");
        let mut luks = vec![0; 1024];
        luks[..6].copy_from_slice(b"LUKS\xba\xbe");
        let mut parallels = vec![0; 1024];
        parallels[..16].copy_from_slice(b"WithoutFreeSpace");
        for bytes in [qed, luks, parallels] {
            for declared in [None, Some("raw"), Some("qed"), Some("luks"), Some("ami")] {
                assert!(inspect_bytes(&bytes, declared).is_err(), "{declared:?}");
            }
        }
    }

    fn examples() -> Vec<Vec<u8>> {
        vec![
            qcow2::tests::example(),
            vmdk::tests::example("monolithicSparse"),
            vhd::tests::example(3),
            vhdx::tests::example(),
            vdi::tests::example(),
            iso::tests::example(),
            raw::tests::protective_mbr(),
        ]
    }

    fn declared() -> impl Strategy<Value = Option<&'static str>> {
        prop::sample::select(vec![
            None,
            Some("raw"),
            Some("qcow2"),
            Some("vmdk"),
            Some("vhd"),
            Some("vhdx"),
            Some("vdi"),
            Some("iso"),
            Some("gpt"),
            Some("ami"),
        ])
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..4096),
            declared in declared(),
        ) {
            drop(inspect_bytes(&bytes, declared));
        }

        #[test]
        fn no_mutation_of_a_real_header_makes_it_panic(
            which in 0..7usize,
            changes in prop::collection::vec((0..600usize, any::<u8>()), 1..12),
            far in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            length in prop::option::of(any::<prop::sample::Index>()),
            declared in declared(),
        ) {
            let mut bytes = examples().swap_remove(which);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Some((at, value)) = far {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(length) = length {
                bytes.truncate(length.index(bytes.len()));
            }
            drop(inspect_bytes(&bytes, declared));
        }

        #[test]
        fn an_accepted_qcow2_never_has_a_backing_file_or_a_data_file(
            changes in prop::collection::vec((0..112usize, any::<u8>()), 1..6),
        ) {
            let mut bytes = qcow2::tests::example();
            for (at, value) in changes {
                bytes[at] = value;
            }
            if inspect_bytes(&bytes, Some("qcow2")).is_ok() {
                prop_assert_eq!(&bytes[8..16], &[0; 8]);
                prop_assert_eq!(&bytes[32..36], &[0; 4]);
                if bytes[7] == 3 {
                    prop_assert_eq!(bytes[79] & !0b1001, 0);
                }
            }
        }
    }
}
