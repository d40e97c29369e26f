//! Blank disks: the ephemerals that come formatted, and swap.
//!
//! Which file system an ephemeral gets is nova's to decide: the operator's command for the
//! instance's `os_type` (`virt_mkfs`), else the format that the request names, else
//! `default_ephemeral_format`, else that of the `os_type`. What a user may name is a short list;
//! no shell sees any of it. ``nova: privsep/fs.py``, ``nova: virt/libvirt/driver.py,
//! _create_ephemeral, _create_swap``

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::ImageError;
use super::cache::gib_to_bytes;
use super::child::{Limits, Tool, path_arg};
use super::files::{blocking, io_error};

/// What a request may name: nova's `is_supported_fs_format`.
pub const FILE_SYSTEMS: [&str; 4] = ["ext2", "ext3", "ext4", "xfs"];

/// More than any guest swaps to, and less than what overflows.
const MAX_SWAP_MIB: u64 = 1 << 30;

/// A disk that is made of nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blank {
    Swap {
        size_mib: u64,
    },
    Ephemeral {
        size_gib: u64,
        /// Its number among the instance's ephemerals: the label is `ephemeral0`, …
        index: usize,
        /// `linux`, `windows`, …
        os_type: Option<String>,
        /// One of [`FILE_SYSTEMS`]; `None`: as the configuration has it.
        format: Option<String>,
    },
}

impl Blank {
    /// # Errors
    /// `InvalidInput` for a size that no disk has.
    pub fn size_bytes(&self) -> io::Result<u64> {
        match self {
            Self::Swap { size_mib } => match size_mib {
                1..=MAX_SWAP_MIB => Ok(size_mib << 20),
                _ => Err(io::ErrorKind::InvalidInput.into()),
            },
            Self::Ephemeral { size_gib: 0, .. } => Err(io::ErrorKind::InvalidInput.into()),
            Self::Ephemeral { size_gib, .. } => gib_to_bytes(*size_gib),
        }
    }
}

/// `[DEFAULT] default_ephemeral_format` and `virt_mkfs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystems {
    default_format: Option<String>,
    /// Commands by `os_type`; that of `default` is for all others.
    commands: BTreeMap<String, Vec<String>>,
}

impl FileSystems {
    /// # Errors
    /// `Unsupported` for a format that can't be one, or an entry that isn't `os_type=command`.
    pub fn new(default_format: Option<&str>, virt_mkfs: &[String]) -> Result<Self, ImageError> {
        let default_format = default_format.filter(|format| !format.is_empty());
        let is_name =
            |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if let Some(format) = default_format.filter(|format| !is_name(format)) {
            let message = format!("[DEFAULT] default_ephemeral_format = {format}");
            return Err(ImageError::Unsupported(message));
        }
        let mut commands = BTreeMap::new();
        for entry in virt_mkfs.iter().filter(|entry| !entry.is_empty()) {
            let (os_type, command) = entry.split_once('=').unwrap_or((entry, ""));
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                return Err(ImageError::Unsupported(format!("[DEFAULT] virt_mkfs = {entry}")));
            }
            commands.insert(os_type.trim().to_owned(), words);
        }
        Ok(Self { default_format: default_format.map(str::to_owned), commands })
    }

    /// How `blank` is made.
    ///
    /// # Errors
    /// `Unsupported` for a format that no request may name.
    pub fn recipe(&self, blank: &Blank) -> Result<Recipe, ImageError> {
        let Blank::Ephemeral { index, os_type, format, .. } = blank else {
            return Ok(Recipe::Swap);
        };
        let label = format!("ephemeral{index}");
        let os_type = os_type.as_deref().unwrap_or_default();
        if let Some(format) = format
            && !FILE_SYSTEMS.contains(&format.as_str())
        {
            return Err(ImageError::Unsupported(format!("{format} format")));
        }
        if let Some(words) = self.commands.get(os_type).or_else(|| self.commands.get("default")) {
            return Ok(Recipe::Command { words: words.clone(), label });
        }
        let usual = match os_type {
            "linux" => "ext4",
            "windows" => "ntfs",
            _ => "vfat",
        };
        let format = format.as_deref().or(self.default_format.as_deref()).unwrap_or(usual);
        Ok(Recipe::Format { format: format.to_owned(), label })
    }
}

/// How a blank disk is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    Swap,
    Format {
        format: String,
        label: String,
    },
    /// The operator's own command, in words, with `%(fs_label)s` and `%(target)s`.
    Command {
        words: Vec<String>,
        label: String,
    },
}

impl Recipe {
    /// The names in the cache of a base with this content, the first first: nova's own, then one of
    /// ours. nova's says nothing of the label, and where nova-compute has worked nothing of the file
    /// system either; what is found under it must be looked at.
    ///
    /// ``nova: privsep/fs.py, get_file_extension_for_os_type``
    pub fn base_names(&self, blank: &Blank) -> Vec<String> {
        let (size_gib, index) = match blank {
            Blank::Swap { size_mib } => return vec![format!("swap_{size_mib}")],
            Blank::Ephemeral { size_gib, index, .. } => (size_gib, index),
        };
        let (content, label) = match self {
            Self::Swap => ("swap".to_owned(), ""),
            Self::Format { format, label } => (format.clone(), label.as_str()),
            Self::Command { words, label } => (words.join(" "), label.as_str()),
        };
        let name = |content: &str| {
            let hash: String =
                Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("ephemeral_{size_gib}_{}", &hash[..7])
        };
        let own = name(&format!("{content} {label}"));
        if *index == 0 { vec![name(&content), own] } else { vec![own] }
    }

    /// Makes the new file `disk`, raw and sparse, `size_bytes` large, and formats it.
    ///
    /// # Errors
    /// `Command` and its kin: a half-made file is the caller's to remove.
    pub async fn make(
        &self,
        disk: &Path,
        size_bytes: u64,
        deadline: Duration,
    ) -> Result<(), ImageError> {
        blocking("create", disk, move |disk| {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o644).open(disk)?.set_len(size_bytes)
        })
        .await?;
        let (name, mut words) = self.command(disk);
        let program = words.remove(0);
        let program = program.to_str().ok_or_else(|| {
            io_error("format", disk, io::Error::new(io::ErrorKind::InvalidInput, "its command"))
        })?;
        let limits = Limits { deadline, memory_bytes: None, cpu_seconds: None };
        let writes_to = Some(disk.to_owned());
        Tool { name, program, args: words, limits, writes_to }.run().await?;
        blocking("check", disk, move |disk| match std::fs::metadata(disk)?.len() {
            length if length == size_bytes => Ok(()),
            _ => Err(io::Error::other("its size has changed")),
        })
        .await
    }

    /// (what errors call it, the words)
    fn command(&self, disk: &Path) -> (&'static str, Vec<OsString>) {
        match self {
            Self::Swap => ("mkswap", vec!["mkswap".into(), path_arg(disk)]),
            Self::Format { format, label } => {
                let mut words: Vec<OsString> = vec!["mkfs".into(), "-t".into(), format.into()];
                match format.as_str() {
                    // A plain file is asked about otherwise.
                    "ext2" | "ext3" | "ext4" => words.push("-F".into()),
                    // A sparse file is zeros already.
                    "ntfs" => words.extend(["-F".into(), "-Q".into()]),
                    _ => {}
                }
                let flag = if matches!(format.as_str(), "msdos" | "vfat") { "-n" } else { "-L" };
                words.extend([flag.into(), label.into(), path_arg(disk)]);
                ("mkfs", words)
            }
            Self::Command { words, label } => {
                // Word by word, so that nothing in a path or a label makes two words of one.
                let fill = |word: &String| -> OsString {
                    if word == "%(target)s" {
                        return path_arg(disk);
                    }
                    let target = disk.to_string_lossy();
                    let filled = word.replace("%(fs_label)s", label);
                    filled.replace("%(target)s", &target).replace("%%", "%").into()
                };
                ("virt_mkfs", words.iter().map(fill).collect())
            }
        }
    }

    /// Whether a base that is there can be what this recipe makes, `size_bytes` large.
    pub fn made(&self, base: &File, size_bytes: u64) -> io::Result<bool> {
        let found = base.metadata()?;
        if !found.is_file() || found.len() != size_bytes {
            return Ok(false);
        }
        let holds = |offset, magic: &[u8]| {
            let mut bytes = vec![0; magic.len()];
            match base.read_exact_at(&mut bytes, offset) {
                Ok(()) => Ok(bytes == magic),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(error) => Err(error),
            }
        };
        match self {
            Self::Swap => holds(4086, b"SWAPSPACE2"),
            Self::Command { .. } => Ok(true),
            Self::Format { format, .. } => match format.as_str() {
                "ext2" | "ext3" | "ext4" => holds(1080, &[0x53, 0xef]),
                "xfs" => holds(0, b"XFSB"),
                "ntfs" => holds(3, b"NTFS    "),
                "vfat" => Ok(holds(54, b"FAT")? || holds(82, b"FAT")?),
                _ => Ok(true),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ephemeral(index: usize, os_type: &str, format: &str) -> Blank {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Blank::Ephemeral { size_gib: 1, index, os_type: some(os_type), format: some(format) }
    }

    fn format_of(systems: &FileSystems, os_type: &str, format: &str) -> String {
        match systems.recipe(&ephemeral(0, os_type, format)).unwrap() {
            Recipe::Format { format, label } => format!("{format} {label}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_system_is_the_requests_then_the_operators_then_the_systems() {
        let none = FileSystems::default();
        let configured = FileSystems::new(Some("ext3"), &[]).unwrap();
        for (systems, os_type, format, expected) in [
            (&none, "linux", "", "ext4 ephemeral0"),
            (&none, "windows", "", "ntfs ephemeral0"),
            (&none, "", "", "vfat ephemeral0"),
            (&none, "linux", "xfs", "xfs ephemeral0"),
            (&configured, "linux", "", "ext3 ephemeral0"),
            (&configured, "linux", "ext2", "ext2 ephemeral0"),
        ] {
            assert_eq!(format_of(systems, os_type, format), expected);
        }
    }

    #[test]
    fn what_no_request_may_name_is_refused() {
        for bad in ["ntfs", "swap", "ext4 -d /etc", "--help", "../../x"] {
            let blank = ephemeral(0, "linux", bad);
            let error = FileSystems::default().recipe(&blank).unwrap_err();
            assert!(matches!(error, ImageError::Unsupported(_)), "{bad}");
        }
        for bad in ["ext4 -d /etc", "-x", "EXT4"] {
            assert!(FileSystems::new(Some(bad), &[]).is_err(), "{bad}");
        }
        for bad in ["linux", "linux=", "=  "] {
            assert!(FileSystems::new(None, &[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_operators_command_is_words_and_wins() {
        let commands = [
            "default=mkfs.ext3 -L %(fs_label)s -F %(target)s".to_owned(),
            "windows=mkfs.ntfs --fast --label=%(fs_label)s %(target)s".to_owned(),
        ];
        let systems = FileSystems::new(Some("xfs"), &commands).unwrap();
        let disk = Path::new("/i/with space/disk.eph1");
        let words =
            |os_type| systems.recipe(&ephemeral(1, os_type, "ext4")).unwrap().command(disk).1;
        assert_eq!(
            words("linux"),
            ["mkfs.ext3", "-L", "ephemeral1", "-F", "/i/with space/disk.eph1"]
        );
        assert_eq!(
            words("windows"),
            ["mkfs.ntfs", "--fast", "--label=ephemeral1", "/i/with space/disk.eph1"]
        );
    }

    #[test]
    fn bases_have_novas_names() {
        let names = |blank: &Blank| FileSystems::default().recipe(blank).unwrap().base_names(blank);
        assert_eq!(names(&Blank::Swap { size_mib: 512 }), ["swap_512"]);
        assert_eq!(names(&ephemeral(0, "linux", ""))[0], "ephemeral_1_40d1d2c");
        assert_eq!(names(&ephemeral(0, "", ""))[0], "ephemeral_1_0706d66");
        assert_eq!(names(&ephemeral(0, "", "ext4"))[0], "ephemeral_1_40d1d2c");
        // Another label is another base.
        let second = names(&ephemeral(1, "linux", ""));
        assert!(second.len() == 1 && !names(&ephemeral(0, "linux", "")).contains(&second[0]));
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(Blank::Swap { size_mib: 64 }.size_bytes().unwrap(), 64 << 20);
        assert!(Blank::Swap { size_mib: 0 }.size_bytes().is_err());
        assert!(Blank::Swap { size_mib: u64::MAX }.size_bytes().is_err());
        let ephemeral =
            |size_gib| Blank::Ephemeral { size_gib, index: 0, os_type: None, format: None };
        assert_eq!(ephemeral(2).size_bytes().unwrap(), 2 << 30);
        assert!(ephemeral(0).size_bytes().is_err());
        assert!(ephemeral(u64::MAX).size_bytes().is_err());
    }
}
