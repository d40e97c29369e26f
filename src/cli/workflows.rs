//! `hypernova workflows`: what the agent is doing, at which step, for how long, how far.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::agent_client::Agent;
use super::output::{Failure, Output};
use super::table::Table;
use super::view::{WorkflowView, or_dash, raw_workflows, read_workflows, since};
use crate::model::time::Timestamp;

/// How often `--watch` looks.
const REFRESH: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Args)]
pub struct WorkflowsArgs {
    /// Keep looking, and show each change
    #[arg(long)]
    pub watch: bool,
}

pub async fn run(
    args: &WorkflowsArgs,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let mut shown: Option<Value> = None;
    loop {
        let answer = raw_workflows(agent).await?;
        let workflows = read_workflows(&answer)?;
        let changed = shown.as_ref() != Some(&answer);
        match (output.is_json(), args.watch) {
            (true, false) => output.document(&answer)?,
            (true, true) if changed => output.line_document(&answer)?,
            // At a terminal the times go on.
            (false, true) if output.is_terminal() => {
                output.clear()?;
                output.table(&table(&workflows, Timestamp::now()))?;
            }
            (false, watch) if changed || !watch => {
                output.table(&table(&workflows, Timestamp::now()))?;
            }
            _ => {}
        }
        if !args.watch {
            return Ok(0);
        }
        shown = Some(answer);
        tokio::time::sleep(REFRESH).await;
    }
}

fn table(workflows: &[WorkflowView], now: Timestamp) -> Table {
    let mut table = Table::new([
        "INSTANCE", "WORKFLOW", "PHASE", "STEP", "RUNNING", "IN STEP", "PROGRESS", "FAILURE",
    ]);
    for workflow in workflows {
        let failure = match (&workflow.failure, &workflow.undo_failure) {
            (Some(failure), Some(undo)) => Some(format!("{failure}; taking it back: {undo}")),
            (failure, undo) => failure.clone().or(undo.clone()),
        };
        table.row([
            or_dash(workflow.instance_uuid),
            workflow.workflow.clone(),
            workflow.phase.clone(),
            workflow.position(),
            since(workflow.started_at.as_deref(), now),
            since(workflow.step_started_at.as_deref(), now),
            workflow.progress(),
            or_dash(failure),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fake::{FakeAgent, run};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn watching_shows_each_change_once_until_the_agent_goes() {
        let agent = FakeAgent::new();
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path().to_str().unwrap();
        run(Some(&agent), ["boot", "web", "--image", path, "--no-wait"]).await;
        let gone = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            agent.refuse("list_workflows", "AgentUnreachable", "gone");
        };
        let watch = run(Some(&agent), ["workflows", "--watch", "--json"]);
        let (ran, ()) = tokio::join!(watch, gone);
        assert_eq!(ran.code, 1);
        let lines: Vec<Value> =
            ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "three steps and nothing: {}", ran.out);
        assert_eq!(lines[2][0]["step_index"], 3);
        assert_eq!(lines[3], json!([]));
    }

    #[test]
    fn a_workflow_shows_its_step_and_both_failures() {
        let workflows = read_workflows(&json!([{
            "id": 7, "workflow": "spawn", "instance_uuid": "24ef2f14-daa6-42b1-b7fa-7136169b5f1c",
            "request_id": "req-1", "phase": "stuck", "step": "PlugVifs", "step_index": 5,
            "steps": 9, "started_at": "2026-11-20T23:00:00Z",
            "step_started_at": "2026-11-20T23:01:00Z", "done": null, "total": null,
            "failure": "no bridge", "undo_failure": "no answer",
        }]))
        .unwrap();
        let now = Timestamp::parse("2026-11-20T23:01:05Z").unwrap();
        let text = table(&workflows, now).render(None);
        let cells: Vec<_> = text
            .lines()
            .last()
            .unwrap()
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        assert_eq!(
            cells,
            [
                "24ef2f14-daa6-42b1-b7fa-7136169b5f1c",
                "spawn",
                "stuck",
                "5/9 PlugVifs",
                "1m 05s",
                "5s",
                "-",
                "no bridge; taking it back: no answer"
            ]
        );
    }
}
