//! The host's storage tools, run as child processes: argument vectors only, a deadline, no survivor, and
//! what they say in the error.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tracing::debug;

use crate::volumes::VolumeError;

/// Kept of what a tool says.
const LONGEST_MESSAGE: usize = 500;

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// `None`: killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// What it wrote.
    ///
    /// # Errors
    /// `Host`, saying that `operation` on `what` failed and why.
    pub fn success(self, operation: &'static str, what: &str) -> Result<String, VolumeError> {
        if self.is_success() {
            return Ok(self.stdout);
        }
        let said = self.stderr.trim();
        let message = match said {
            "" => format!("exit status {:?}", self.code),
            said => said.chars().take(LONGEST_MESSAGE).collect(),
        };
        Err(VolumeError::Host { operation, what: what.to_owned(), message })
    }
}

/// Who runs tools: the host, or a test with recorded output.
#[async_trait::async_trait]
pub trait Tools: Send + Sync {
    /// Runs `program` to its end, however it ends. The arguments aren't logged: they may hold a
    /// password.
    ///
    /// # Errors
    /// `Host` when it can't be run or gives no answer in time.
    ///
    /// # Cancel safety
    /// Dropping the future kills the child; what it has done by then is done.
    async fn run(&self, program: &'static str, args: &[String]) -> Result<Ended, VolumeError>;
}

/// The host's own, each with a deadline.
pub struct HostTools {
    pub within: Duration,
}

#[async_trait::async_trait]
impl Tools for HostTools {
    async fn run(&self, program: &'static str, args: &[String]) -> Result<Ended, VolumeError> {
        debug!(program, "running a storage tool");
        let failed = |message: String| VolumeError::Host {
            operation: "run",
            what: program.to_owned(),
            message,
        };
        let mut command = Command::new(program);
        command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(self.within, command.output()).await {
            Err(_) => Err(failed(format!("no answer within {:?}", self.within))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(output)) => Ok(Ended {
                code: output.status.code(),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }),
        }
    }
}

/// Arguments of a tool.
pub fn args<const N: usize>(args: [&str; N]) -> Vec<String> {
    args.map(str::to_owned).to_vec()
}
