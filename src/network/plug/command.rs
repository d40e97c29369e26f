//! The tools that change the host's network, run as child processes: argument vectors only, a
//! deadline, no survivor, and what they say in the error.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tracing::debug;

use crate::network::NetworkError;

/// Kept of what a tool says.
const LONGEST_MESSAGE: usize = 500;

/// Runs `program` and returns what it wrote.
///
/// # Errors
/// [`NetworkError::Host`], saying that `operation` on `device` failed and why.
///
/// # Cancel safety
/// Dropping the future kills the child; what it has done by then is done.
pub async fn run(
    operation: &'static str,
    device: &str,
    within: Duration,
    program: &str,
    args: &[&str],
) -> Result<String, NetworkError> {
    debug!(operation, ?args, "running {program}");
    let failed = |message: String| NetworkError::Host {
        operation,
        device: device.to_owned(),
        message: message.chars().take(LONGEST_MESSAGE).collect(),
    };
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(within, command.output()).await {
        Err(_) => Err(failed(format!("{program} gave no answer within {within:?}"))),
        Ok(Err(error)) => Err(failed(format!("{program} can't be run: {error}"))),
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(failed(if said.is_empty() { output.status.to_string() } else { said }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, within: Duration) -> Result<String, NetworkError> {
        run("test", "dev0", within, "sh", &["-c", script]).await
    }

    #[tokio::test]
    async fn a_failure_carries_what_the_tool_said() {
        let long = Duration::from_secs(60);
        assert_eq!(shell("echo yes", long).await.unwrap(), "yes\n");
        let error = shell("echo oh no >&2; exit 3", long).await.unwrap_err().to_string();
        assert_eq!(error, "can't test dev0: oh no");
        let error = run("test", "dev0", long, "/nonexistent", &[]).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent can't be run"), "{error}");
    }

    #[tokio::test]
    async fn a_tool_that_hangs_is_given_up() {
        let error = shell("exec sleep 1000", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("no answer within"), "{error}");
    }
}
