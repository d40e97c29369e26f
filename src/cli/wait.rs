//! Waiting for what was asked for: the agent's workflows and the record are asked until the
//! instance is where it should be, or has settled anywhere else.

use std::cell::Cell;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::agent_client::{Agent, AgentRequest, CallFailure};
use super::output::Failure;
use super::progress::Bar;
use super::view::{Summary, WorkflowView, detail, workflows};
use crate::model::state::VmState;
use crate::model::time::Timestamp;

/// How often the agent is asked.
const POLL: Duration = Duration::from_millis(200);

/// How long a request that was cast may take to show, and an agent that restarts to be back.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where an instance should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    In(VmState),
    /// Whether it stays on its host is the agent's configuration's to say.
    Shelved,
    Gone,
}

/// What is waited for.
pub struct Wait<'a> {
    pub agent: &'a dyn Agent,
    pub uuid: Uuid,
    pub name: &'a str,
    pub goal: Goal,
    /// It was at its goal before, so that being there proves nothing: a reboot.
    pub was_there: bool,
    pub bar: Bar,
    /// When it was asked for: faults from before are of something else.
    pub since: Timestamp,
}

impl Wait<'_> {
    /// Calls the agent, with the bar moving until its answer is there, then waits for the goal.
    pub async fn call(&self, request: AgentRequest) -> Result<Option<(Summary, Value)>, Failure> {
        let (answered, answer) = (Cell::new(false), Notify::new());
        let call = async {
            let result = self.agent.call(request).await;
            answered.set(true);
            answer.notify_one();
            result
        };
        // Ends by itself: a call that is dropped half-way could leave its answer on the line.
        let watch = async {
            while !answered.get() {
                timeout(POLL, answer.notified()).await.ok();
                if !answered.get() {
                    self.show(&workflows(self.agent).await.unwrap_or_default());
                }
            }
        };
        match tokio::join!(call, watch).0 {
            Ok(_) => self.settle().await,
            // The agent went away in the middle: back again, it goes on with what it has begun.
            Err(failure) if failure.is_unreachable() => {
                let settled = self.settle().await?;
                match self.was_there {
                    // It may never have begun, and nothing would tell.
                    true => Err(failure.into()),
                    false => Ok(settled),
                }
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Waits until the instance is at its goal and returns what the agent then knows of it; `None`
    /// when it is gone.
    ///
    /// # Errors
    /// [`Failure`] when the instance settles elsewhere, its workflow is stuck, the request doesn't
    /// show, or the agent stays away.
    pub async fn settle(&self) -> Result<Option<(Summary, Value)>, Failure> {
        let begun = Instant::now();
        let (mut seen, mut answered_at) = (false, Instant::now());
        loop {
            match self.look(begun).await {
                Ok(Some(at_goal)) => return Ok(at_goal),
                Ok(None) => (seen, answered_at) = (true, Instant::now()),
                Err(Failure::Agent(failure)) if failure.is_unreachable() => {
                    if answered_at.elapsed() > PATIENCE {
                        return Err(failure.into());
                    }
                }
                Err(Failure::Agent(failure)) if is_absent(&failure) && !seen => {
                    answered_at = Instant::now();
                    if begun.elapsed() > PATIENCE {
                        let message =
                            format!("the agent didn't take the request for {}", self.name);
                        return Err(Failure::told(message).with_advice("its log says why"));
                    }
                }
                Err(failure) => return Err(failure),
            }
            sleep(POLL).await;
        }
    }

    /// Looks once. The workflows first: one that ends between the two questions has written its
    /// outcome to the record that the second one reads.
    async fn look(&self, begun: Instant) -> Result<Option<Option<(Summary, Value)>>, Failure> {
        let all = workflows(self.agent).await?;
        self.show(&all);
        let mut ours = all.iter().filter(|workflow| workflow.instance_uuid == Some(self.uuid));
        let running = ours.clone().any(WorkflowView::is_running);
        // One that was stuck before is no answer to this request.
        let stuck = ours.find(|workflow| {
            let started = workflow.started_at.as_deref().and_then(Timestamp::parse);
            workflow.is_stuck() && started.is_none_or(|started| started >= self.since)
        });
        let (summary, answer) = match detail(self.agent, self.uuid).await {
            Err(failure) if is_absent(&failure) && self.goal == Goal::Gone => {
                return Ok(Some(None));
            }
            other => other?,
        };
        if running {
            return Ok(None);
        }
        if let Some(stuck) = stuck {
            return Err(self.stuck(stuck));
        }
        if summary.task_state.is_some() {
            return Ok(None);
        }
        let vm_state = summary.vm_state.as_deref().and_then(VmState::parse);
        // A build's record may show before its workflow, which has begun between the two questions.
        if vm_state == Some(VmState::Building) && begun.elapsed() < PATIENCE {
            return Ok(None);
        }
        match (self.goal, vm_state) {
            (Goal::In(goal), Some(found)) if goal == found => Ok(Some(Some((summary, answer)))),
            (Goal::Shelved, Some(VmState::Shelved | VmState::ShelvedOffloaded)) => {
                Ok(Some(Some((summary, answer))))
            }
            (Goal::Gone, Some(VmState::Deleted)) => Ok(Some(None)),
            _ => Err(self.failed(&summary, &answer)),
        }
    }

    fn show(&self, all: &[WorkflowView]) {
        let ours = |workflow: &&WorkflowView| {
            workflow.instance_uuid == Some(self.uuid) && workflow.is_running()
        };
        self.bar.show(all.iter().find(ours));
    }

    fn stuck(&self, workflow: &WorkflowView) -> Failure {
        let failure = workflow.failure.as_deref().unwrap_or("its failure isn't known");
        let undo = workflow.undo_failure.as_deref().map(|undo| format!("; taking it back: {undo}"));
        let message = format!("{} of {} is stuck: {failure}", workflow.workflow, self.name);
        Failure::told(message + &undo.unwrap_or_default())
            .with_advice("put right what stands in its way; `hypernova delete` takes it away")
    }

    fn failed(&self, summary: &Summary, answer: &Value) -> Failure {
        let told = match latest_fault(answer, self.since) {
            Some(fault) => format!("{}: {fault}", self.name),
            None => {
                let wanted = match self.goal {
                    Goal::In(vm_state) => vm_state.as_str(),
                    Goal::Shelved => "shelved",
                    Goal::Gone => "gone",
                };
                format!("{} is {}, not {wanted}", self.name, summary.state())
            }
        };
        Failure::told(told)
            .with_advice(format!("`hypernova show {}` tells what happened to it", self.uuid))
    }
}

/// The agent says that there is no such instance.
pub fn is_absent(failure: &CallFailure) -> bool {
    failure.class == "InstanceNotFound"
}

/// What went wrong last, at `since` or later.
fn latest_fault(answer: &Value, since: Timestamp) -> Option<String> {
    let time = |fault: &Value| fault["created_at"].as_str().and_then(Timestamp::parse);
    let faults = answer["faults"].as_array()?.iter();
    let recent = faults.filter(|fault| time(fault).is_none_or(|time| time >= since));
    // Of two in one second the later one in the list.
    let latest = recent.max_by_key(|fault| time(fault))?;
    latest["message"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_fault_since_the_request_is_the_one() {
        let since = Timestamp::parse("2026-01-01T00:00:10Z").unwrap();
        let fault = |message: &str, at: &str| json!({"message": message, "created_at": at});
        let old = fault("old", "2026-01-01T00:00:09Z");
        let (one, two) = (fault("1", "2026-01-01T00:00:10Z"), fault("2", "2026-01-01T00:00:11Z"));
        assert_eq!(latest_fault(&json!({"faults": [old.clone()]}), since), None);
        assert_eq!(latest_fault(&json!({"faults": [one, two, old]}), since), Some("2".into()));
        assert_eq!(latest_fault(&json!({}), since), None);
    }
}
