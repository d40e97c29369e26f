//! `qemu-img`, always told the format, and only after our own inspection of the file.
//!
//! ``nova: privsep/qemu.py`` (limits of `info`, cache mode of `convert`),
//! ``nova: virt/libvirt/utils.py, create_image``, ``nova: virt/disk/api.py, extend``.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::child::{Limits, Tool, path_arg};
use super::{ImageError, Progress};

/// How `qemu-img` runs.
#[derive(Debug, Clone)]
pub struct QemuImg {
    pub program: String,
    /// Address space in bytes. nova: `[libvirt] images_address_space_limit`, in GiB.
    pub memory_bytes: u64,
    /// CPU time of a look at a header, in seconds. nova: `[libvirt] images_cpu_time_limit`.
    pub cpu_seconds: u64,
    /// For `info`, `create` and `resize`.
    pub short_deadline: Duration,
    /// For copies of whole images.
    pub long_deadline: Duration,
}

impl Default for QemuImg {
    fn default() -> Self {
        Self {
            program: "qemu-img".into(),
            memory_bytes: 2 << 30,
            cpu_seconds: 30,
            short_deadline: Duration::from_secs(60),
            long_deadline: Duration::from_secs(3600),
        }
    }
}

/// What `qemu-img info` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    pub format: String,
    /// Bytes.
    pub virtual_size: u64,
    /// Bytes allocated.
    #[serde(default)]
    pub actual_size: u64,
    #[serde(default)]
    pub backing_filename: Option<String>,
    #[serde(default)]
    pub backing_filename_format: Option<String>,
    #[serde(default)]
    pub format_specific: Option<FormatSpecific>,
    /// Bytes; of a qcow2.
    #[serde(default)]
    pub cluster_size: Option<u64>,
}

/// What only one format has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FormatSpecific {
    #[serde(default)]
    pub data: Map<String, Value>,
}

impl Info {
    /// The other file that this one would make QEMU open, if there is one.
    pub fn refers_to(&self) -> Option<&str> {
        let specific = self.format_specific.as_ref();
        let data_file = specific.and_then(|s| s.data.get("data-file")).and_then(Value::as_str);
        self.backing_filename.as_deref().or(data_file)
    }
}

impl QemuImg {
    /// Reads a header as `format`. `-U`: a running guest may hold the image's lock.
    pub async fn info(&self, path: &Path, format: &str) -> Result<Info, ImageError> {
        let args: Vec<OsString> = vec![
            "info".into(),
            "-U".into(),
            "-f".into(),
            format.into(),
            "--output=json".into(),
            path_arg(path),
        ];
        let mut tool = self.tool("qemu-img info", args, None);
        tool.limits.cpu_seconds = Some(self.cpu_seconds);
        let out = tool.run().await?;
        serde_json::from_slice(&out).map_err(|e| ImageError::Command {
            command: "qemu-img info",
            message: format!("its answer can't be read: {e}"),
        })
    }

    /// Copies `source` into a new file, changing the format. `total_bytes` is for the progress.
    pub async fn convert(
        &self,
        source: (&Path, &str),
        target: (&Path, &str),
        total_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        self.convert_with(&[], source, target, total_bytes, progress).await
    }

    /// The same into a qcow2 file whose clusters are compressed.
    pub async fn compress(
        &self,
        source: (&Path, &str),
        target: &Path,
        total_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        self.convert_with(&["-c"], source, (target, "qcow2"), total_bytes, progress).await
    }

    async fn convert_with(
        &self,
        options: &[&str],
        (source, source_format): (&Path, &str),
        (target, target_format): (&Path, &str),
        total_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        let cache = cache_mode(target);
        let mut args: Vec<OsString> = vec!["convert".into(), "-p".into()];
        args.extend(options.iter().map(OsString::from));
        args.extend([
            "-t".into(),
            cache.into(),
            "-f".into(),
            source_format.into(),
            "-O".into(),
            target_format.into(),
            path_arg(source),
            path_arg(target),
        ]);
        let mut tool = self.tool("qemu-img convert", args, Some(target));
        tool.limits.deadline = self.long_deadline;
        let mut percent = Percent::default();
        tool.run_watched(|piece| {
            if let Some(share) = percent.feed(piece) {
                progress((total_bytes as f64 * share) as u64, Some(total_bytes));
            }
        })
        .await?;
        Ok(())
    }

    /// Makes a qcow2 overlay on `base`. `size_bytes` of `None`: as large as the base.
    pub async fn create_overlay(
        &self,
        overlay: &Path,
        (base, base_format): (&Path, &str),
        cluster_size: Option<u64>,
        size_bytes: Option<u64>,
    ) -> Result<(), ImageError> {
        let mut args: Vec<OsString> =
            vec!["create".into(), "-q".into(), "-f".into(), "qcow2".into()];
        args.extend(["-b".into(), path_arg(base), "-F".into(), base_format.into()]);
        if let Some(bytes) = cluster_size {
            args.extend(["-o".into(), format!("cluster_size={bytes}").into()]);
        }
        args.push(path_arg(overlay));
        args.extend(size_bytes.map(|bytes| bytes.to_string().into()));
        self.tool("qemu-img create", args, Some(overlay)).run().await?;
        Ok(())
    }

    /// Makes an empty disk of `size_bytes`.
    pub async fn create(
        &self,
        path: &Path,
        format: &str,
        size_bytes: u64,
    ) -> Result<(), ImageError> {
        let args: Vec<OsString> = vec![
            "create".into(),
            "-q".into(),
            "-f".into(),
            format.into(),
            path_arg(path),
            size_bytes.to_string().into(),
        ];
        self.tool("qemu-img create", args, Some(path)).run().await?;
        Ok(())
    }

    /// Has an overlay stand on another base, or on none, with its content as it was.
    pub async fn rebase(
        &self,
        overlay: &Path,
        base: Option<(&Path, &str)>,
    ) -> Result<(), ImageError> {
        let mut args: Vec<OsString> =
            vec!["rebase".into(), "-q".into(), "-f".into(), "qcow2".into()];
        match base {
            Some((base, format)) => {
                args.extend(["-b".into(), path_arg(base), "-F".into(), format.into()]);
            }
            None => args.extend(["-b".into(), "".into()]),
        }
        args.push(path_arg(overlay));
        self.tool("qemu-img rebase", args, Some(overlay)).run().await?;
        Ok(())
    }

    /// Grows a disk; the caller knows that `size_bytes` is no less than it is now.
    pub async fn resize(
        &self,
        path: &Path,
        format: &str,
        size_bytes: u64,
    ) -> Result<(), ImageError> {
        let args: Vec<OsString> = vec![
            "resize".into(),
            "-q".into(),
            "-f".into(),
            format.into(),
            path_arg(path),
            size_bytes.to_string().into(),
        ];
        self.tool("qemu-img resize", args, Some(path)).run().await?;
        Ok(())
    }

    fn tool(&self, name: &'static str, args: Vec<OsString>, target: Option<&Path>) -> Tool<'_> {
        Tool {
            name,
            program: &self.program,
            args,
            limits: Limits {
                deadline: self.short_deadline,
                memory_bytes: Some(self.memory_bytes),
                cpu_seconds: None,
            },
            writes_to: target.map(Path::to_owned),
        }
    }
}

/// `none` puts the copy on the disk before the command ends; file systems without `O_DIRECT`
/// need `writeback`, which syncs at the end (``nova: privsep/qemu.py, unprivileged_convert_image``).
fn cache_mode(target: &Path) -> &'static str {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let Some(directory) = target.parent() else { return "writeback" };
    let probe = directory.join(format!(".directio.{:016x}", fastrand::u64(..)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&probe)
        .and_then(|mut file| file.write_all(&Page([0; 4096]).0));
    // An open that O_DIRECT failed may still have made the file.
    std::fs::remove_file(&probe).ok();
    if written.is_ok() { "none" } else { "writeback" }
}

/// Reads `-p`'s `    (12.34/100%)\r` out of pieces cut anywhere.
#[derive(Default)]
struct Percent(Vec<u8>);

impl Percent {
    /// The share done, between 0 and 1, when `piece` completes one.
    fn feed(&mut self, piece: &[u8]) -> Option<f64> {
        self.0.extend_from_slice(piece);
        let mut found = None;
        while let Some(end) = self.0.iter().position(|b| *b == b'/') {
            let text: Vec<u8> = self.0.drain(..=end).collect();
            let start = text.iter().rposition(|b| *b == b'(').map_or(0, |at| at + 1);
            let number = std::str::from_utf8(&text[start..end]).ok().and_then(|t| t.parse().ok());
            found = number.map(|percent: f64| (percent / 100.0).clamp(0.0, 1.0)).or(found);
        }
        if self.0.len() > 64 {
            self.0.clear();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_wherever_the_pieces_are_cut() {
        let mut percent = Percent::default();
        assert_eq!(percent.feed(b"    (0.0"), None);
        assert_eq!(percent.feed(b"0/100%)\r    (12.5"), Some(0.0));
        assert_eq!(percent.feed(b"0/100%)\r    (50.00/100%)\r    ("), Some(0.5));
        assert_eq!(percent.feed(b"100.00/100%)\n"), Some(1.0));
        assert_eq!(percent.feed(b"nonsense/"), None);
    }

    #[test]
    fn an_answer_of_qemu_img_is_read() {
        let info: Info = serde_json::from_str(
            r#"{"virtual-size": 1048576, "filename": "/x", "format": "qcow2", "actual-size": 1,
                "backing-filename": "/b", "backing-filename-format": "raw", "new": {"a": []}}"#,
        )
        .unwrap();
        assert_eq!(info.backing_filename.as_deref(), Some("/b"));
        assert_eq!(info.virtual_size, 1 << 20);
        assert_eq!(info.refers_to(), Some("/b"));
        let info: Info = serde_json::from_str(
            r#"{"virtual-size": 1, "format": "qcow2",
                "format-specific": {"type": "qcow2", "data": {"data-file": "/d", "compat": "1.1"}}}"#,
        )
        .unwrap();
        assert_eq!(info.refers_to(), Some("/d"));
    }
}
