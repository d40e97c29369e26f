//! One way to run a tool on images: with a deadline, limits, bounded output, and no survivor.
//!
//! A tool that reads hostile bytes may eat memory, spin or hang. The child gets `RLIMIT_AS` and
//! `RLIMIT_CPU` before it starts, is killed when the deadline passes, and is killed when the future
//! that waits for it is dropped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tracing::debug;

use super::ImageError;

/// Kept of what a child says: enough for an error, bounded whatever it writes.
const MAX_OUTPUT: usize = 64 * 1024;

/// What a child may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Killed when it takes longer.
    pub deadline: Duration,
    /// Bytes of address space; `None`: unlimited.
    pub memory_bytes: Option<u64>,
    /// Seconds on a CPU; `None`: only the deadline counts.
    pub cpu_seconds: Option<u64>,
}

/// A tool with its arguments.
pub struct Tool<'a> {
    /// What errors call it.
    pub name: &'static str,
    pub program: &'a str,
    pub args: Vec<OsString>,
    pub limits: Limits,
    /// Where it writes, for the error when that disk is full.
    pub writes_to: Option<PathBuf>,
}

impl Tool<'_> {
    /// Runs to the end and returns standard output, cut at 64 KiB.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, `NoSpace` when the tool says that the disk is full, `Command`
    /// when it can't be started, fails or is killed.
    ///
    /// # Cancel safety
    /// Dropping the future kills the child; what it wrote stays for the caller to remove.
    pub async fn run(self) -> Result<Vec<u8>, ImageError> {
        self.run_watched(|_| {}).await
    }

    /// Like [`Tool::run`]; `watch` is shown every piece of standard output as it comes.
    pub async fn run_watched(self, watch: impl FnMut(&[u8])) -> Result<Vec<u8>, ImageError> {
        let Self { name, program, args, limits, writes_to } = self;
        debug!(operation = name, ?args, "running");
        let failed = |message: String| ImageError::Command { command: name, message };
        let mut command = Command::new(program);
        command
            .args(&args)
            .env("LC_ALL", "C")
            .env("LANG", "C")
            // Each thread of glibc reserves an arena: many threads would hit the memory limit.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        limit(&mut command, limits);
        let mut child =
            command.spawn().map_err(|e| failed(format!("can't start {program}: {e}")))?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        let work = async {
            let (out, err, status) =
                tokio::join!(drain(stdout, watch), drain(stderr, |_| {}), child.wait());
            (out, err, status)
        };
        let Ok((out, err, status)) = tokio::time::timeout(limits.deadline, work).await else {
            child.kill().await.ok();
            return Err(ImageError::TimedOut { command: name, after: limits.deadline });
        };
        let status = status.map_err(|e| failed(e.to_string()))?;
        if status.success() {
            return Ok(out);
        }
        let message = String::from_utf8_lossy(&err).trim().to_owned();
        match writes_to {
            Some(path) if says_no_space(&message) => Err(ImageError::NoSpace { path }),
            _ if message.is_empty() => Err(failed(status.to_string())),
            _ => Err(failed(message)),
        }
    }
}

/// ENOSPC and EDQUOT, as tools spell them in the C locale.
fn says_no_space(message: &str) -> bool {
    message.contains("No space left on device") || message.contains("Disk quota exceeded")
}

#[expect(unsafe_code, reason = "resource limits are set between fork and exec")]
fn limit(command: &mut Command, limits: Limits) {
    let set = move || {
        if let Some(bytes) = limits.memory_bytes {
            setrlimit(Resource::RLIMIT_AS, bytes, bytes)?;
        }
        if let Some(seconds) = limits.cpu_seconds {
            setrlimit(Resource::RLIMIT_CPU, seconds, seconds)?;
        }
        // A full disk must not leave a core beside it.
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        Ok(())
    };
    // SAFETY: the closure only calls setrlimit, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(set) };
}

/// Reads to the end, keeping the first 64 KiB, so that a chatty child never blocks.
async fn drain(mut from: impl AsyncRead + Unpin, mut watch: impl FnMut(&[u8])) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        watch(&piece[..n]);
        let room = MAX_OUTPUT.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&piece[..room]);
    }
    kept
}

/// An argument that is a path. Ours are absolute, so none is taken for an option or a protocol.
pub fn path_arg(path: &Path) -> OsString {
    path.as_os_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Tool<'static> {
        Tool {
            name: "sh",
            program: "sh",
            args: vec!["-c".into(), script.into()],
            limits: Limits { deadline, memory_bytes: None, cpu_seconds: None },
            writes_to: Some("/full".into()),
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_failure_carries_what_the_tool_said() {
        let error = shell("echo oh no >&2; exit 3", LONG).run().await.unwrap_err();
        assert!(matches!(error, ImageError::Command { message, .. } if message == "oh no"));
    }

    #[tokio::test]
    async fn a_full_disk_is_recognised() {
        let script = "echo 'qemu-img: error: No space left on device' >&2; exit 1";
        let error = shell(script, LONG).run().await.unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { path } if path == Path::new("/full")));
    }

    #[tokio::test]
    async fn a_tool_that_hangs_is_killed_at_the_deadline() {
        let error = shell("exec sleep 1000", Duration::from_millis(50)).run().await.unwrap_err();
        assert!(matches!(error, ImageError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn a_tool_that_nobody_waits_for_any_more_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("echo ready; exec sleep 1000 > {}", fifo.display());
        let (ready, started) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        let run = tokio::spawn(shell(&script, LONG).run_watched(move |_| {
            ready.take().map(|ready| ready.send(()));
        }));
        started.await.unwrap();
        // Both opens wait for each other; the read ends when the child is gone.
        let reader = tokio::task::spawn_blocking(move || {
            let mut fifo = std::fs::File::open(fifo).unwrap();
            run.abort();
            std::io::Read::read_to_end(&mut fifo, &mut Vec::new()).unwrap()
        });
        assert_eq!(reader.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let out = shell("head -c 1000000 /dev/zero", LONG).run().await.unwrap();
        assert_eq!(out.len(), MAX_OUTPUT);
    }

    #[tokio::test]
    async fn memory_is_limited() {
        let mut tool = shell("head -c 300000000 /dev/zero | tail -c 300000000 | wc -c", LONG);
        tool.limits.memory_bytes = Some(64 << 20);
        let told = tool.run().await;
        assert!(told.is_err() || told.is_ok_and(|out| out != b"300000000\n"));
    }

    #[tokio::test]
    async fn an_absent_tool_is_named() {
        let mut tool = shell("", LONG);
        tool.program = "/nonexistent/tool";
        let error = tool.run().await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tool"), "{error}");
    }
}
