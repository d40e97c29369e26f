//! `hypernova check`: configuration and host, one line for each thing that was looked at.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::ConfigArgs;
use super::output::{Failure, Output};
use super::table::Table;

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArgs,

    /// Check what the agent needs without a control plane
    #[arg(long)]
    pub standalone: bool,
}

/// What came of looking at one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// The agent runs, but an operator should know.
    Warning,
    /// The agent won't run, or not well.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Such as `libvirt` or `[libvirt] virt_type`.
    pub subject: String,
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Prints the findings; 1 when any has failed.
pub fn run(findings: Vec<Finding>, output: &mut Output) -> Result<u8, Failure> {
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Failed);
    if output.is_json() {
        output.document(&json!({"passed": !failed, "findings": findings}))?;
        return Ok(u8::from(failed));
    }
    // Nothing is cut: the advice is at the end of the line.
    let mut table = Table::new(["CHECK", "RESULT", "FOUND"]);
    for Finding { subject, verdict, message, advice } in findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED",
        };
        let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        table.row([subject, verdict.into(), message + &advice]);
    }
    output.bytes(table.render(None).as_bytes())?;
    Ok(u8::from(failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_finding_fails_the_check_and_a_warning_doesnt() {
        let finding = |verdict| Finding {
            subject: "libvirt".into(),
            verdict,
            message: "not reachable".into(),
            advice: Some("start libvirtd".into()),
        };
        let mut output = Output::to(false, Box::new(std::io::sink()), Box::new(std::io::sink()));
        for (verdict, code) in [(Verdict::Ok, 0), (Verdict::Warning, 0), (Verdict::Failed, 1)] {
            let findings = vec![finding(Verdict::Ok), finding(verdict), finding(Verdict::Ok)];
            assert_eq!(run(findings, &mut output).unwrap(), code, "{verdict:?}");
        }
    }
}
