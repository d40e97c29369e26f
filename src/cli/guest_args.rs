//! The flags that describe a guest to be: what `boot` sends and `xml` shows.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::images::blank::FILE_SYSTEMS;

/// A guest's image, size and equipment.
#[derive(Debug, Clone, Args)]
pub struct GuestArgs {
    /// Disk image: a file of this host, or an http(s) URL that the agent fetches
    #[arg(long, value_name = "PATH|URL", value_hint = ValueHint::FilePath)]
    pub image: String,

    /// What the image must hash to: md5, sha1, sha256 or sha512
    #[arg(long, value_name = "ALGORITHM:HEX", value_hint = ValueHint::Other, value_parser = parse_checksum)]
    pub checksum: Option<DeclaredChecksum>,

    /// The image's format, checked against its content [default: by its name, or by its content]
    #[arg(long, value_name = "FORMAT", value_parser = ["raw", "qcow2", "iso", "vmdk", "vdi", "vhd", "vhdx", "ami"])]
    pub image_format: Option<String>,

    /// Kernel to boot directly, without a boot loader
    #[arg(long, value_name = "PATH|URL", value_hint = ValueHint::FilePath)]
    pub kernel: Option<String>,

    /// Ramdisk for the kernel
    #[arg(long, value_name = "PATH|URL", value_hint = ValueHint::FilePath, requires = "kernel")]
    pub ramdisk: Option<String>,

    /// Memory in MiB
    #[arg(long, value_name = "MIB", value_hint = ValueHint::Other, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: u32,

    /// Virtual CPUs
    #[arg(long, value_name = "N", value_hint = ValueHint::Other, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub vcpus: u32,

    /// Root disk in GiB; 0: as large as the image
    #[arg(long, value_name = "GIB", value_hint = ValueHint::Other, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub disk: u32,

    /// Ephemeral disk in GiB, with its file system (ext2, ext3, ext4, xfs) or the agent's own choice;
    /// once for each disk
    #[arg(long, value_name = "GIB[:FORMAT]", value_parser = parse_ephemeral)]
    pub ephemeral: Vec<EphemeralArg>,

    /// Swap disk in MiB
    #[arg(long, value_name = "MIB", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_073_741_824))]
    pub swap: u32,

    /// Network: user, none, bridge:NAME or network:NAME; once for each interface
    /// [default: the agent's own default]
    #[arg(long, value_name = "NETWORK", value_hint = ValueHint::Other)]
    pub network: Vec<String>,

    /// File with the ssh public key to put on the config drive
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,

    /// File with user data (a script or cloud-config) to put on the config drive
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<PathBuf>,

    /// Attach a config drive also without key and user data
    #[arg(long)]
    pub config_drive: bool,

    /// Image property such as hw_disk_bus=scsi or os_command_line=…; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_hint = ValueHint::Other, value_parser = parse_pair)]
    pub property: Vec<(String, String)>,

    /// Flavor extra spec such as hw:cpu_policy=dedicated; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_hint = ValueHint::Other, value_parser = parse_pair)]
    pub extra_spec: Vec<(String, String)>,
}

/// An ephemeral disk on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralArg {
    pub gib: u32,
    pub format: Option<String>,
}

fn parse_ephemeral(text: &str) -> Result<EphemeralArg, String> {
    let (size, format) = match text.split_once(':') {
        Some((size, format)) => (size, Some(format.to_owned())),
        None => (text, None),
    };
    if let Some(format) = format.as_deref().filter(|format| !FILE_SYSTEMS.contains(format)) {
        return Err(format!("{format} is none of {}", FILE_SYSTEMS.join(", ")));
    }
    match size.parse() {
        Ok(gib @ 1..=1_048_576) => Ok(EphemeralArg { gib, format }),
        _ => Err("expected GIB or GIB:FORMAT, such as 2 or 2:ext4".to_owned()),
    }
}

/// A checksum on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredChecksum {
    /// `md5`, `sha1`, `sha256`, `sha512`
    pub algorithm: String,
    /// Lower-case hexadecimal.
    pub value: String,
}

fn parse_checksum(text: &str) -> Result<DeclaredChecksum, String> {
    let (algorithm, value) =
        text.split_once(':').ok_or("expected ALGORITHM:HEX, such as sha256:9f86d0…")?;
    let digits = match algorithm {
        "md5" => 32,
        "sha1" => 40,
        "sha256" => 64,
        "sha512" => 128,
        _ => return Err(format!("{algorithm} is none of md5, sha1, sha256, sha512")),
    };
    if value.len() != digits || !value.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(format!("a {algorithm} checksum has {digits} hexadecimal digits"));
    }
    Ok(DeclaredChecksum { algorithm: algorithm.to_owned(), value: value.to_ascii_lowercase() })
}

pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_has_an_algorithm_and_its_length() {
        let sha1 = "DA39A3EE5E6B4B0D3255BFEF95601890AFD80709";
        let checksum = parse_checksum(&format!("sha1:{sha1}")).unwrap();
        assert_eq!(checksum.value, sha1.to_ascii_lowercase());
        for wrong in
            [sha1.to_owned(), format!("sha256:{sha1}"), format!("crc:{sha1}"), "md5:".into()]
        {
            assert!(parse_checksum(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_ephemeral_has_a_size_and_may_have_a_format() {
        let (gib, format) = (2, Some("ext4".to_owned()));
        assert_eq!(parse_ephemeral("2:ext4"), Ok(EphemeralArg { gib, format }));
        assert_eq!(parse_ephemeral("7"), Ok(EphemeralArg { gib: 7, format: None }));
        for wrong in ["", "0", "-1", "x", "1:", "1:ntfs", "1:ext4:x", ":ext4"] {
            assert!(parse_ephemeral(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pair_may_hold_further_equals_signs() {
        let pair = ("os_command_line".to_owned(), "root=/dev/vda".to_owned());
        assert_eq!(parse_pair("os_command_line=root=/dev/vda"), Ok(pair));
        assert!(parse_pair("key").is_err() && parse_pair("=value").is_err());
    }
}
