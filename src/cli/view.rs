//! What the commands show of the agent's answers, in an operator's words and units.
//!
//! A summary leaves out the instance's user data and keys: they are nobody's to print.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::agent_client::{Agent, AgentRequest, CallFailure};
use crate::model::object::{Instance, VersionedObject};
use crate::model::state::PowerState;
use crate::model::time::Timestamp;

/// An instance in a list, and the whole of it as the agent sent it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub uuid: Uuid,
    pub id: Option<i64>,
    pub name: String,
    pub vm_state: Option<String>,
    pub task_state: Option<String>,
    pub power_state: &'static str,
    pub vcpus: Option<i64>,
    pub memory_mib: Option<i64>,
    pub root_gib: Option<i64>,
    pub image: Option<String>,
    pub host: Option<String>,
    pub created_at: Option<String>,
    pub launched_at: Option<String>,
    /// The primitive that it was read from, to send back.
    #[serde(skip)]
    pub primitive: Value,
}

impl Summary {
    /// # Errors
    /// [`CallFailure`] when the agent's answer isn't an instance with a uuid.
    pub fn read(primitive: Value) -> Result<Self, CallFailure> {
        let unreadable = |reason: String| {
            CallFailure::new(
                "UnreadableAnswer",
                format!("the agent's answer is unreadable: {reason}"),
            )
        };
        let instance =
            Instance::from_primitive(&primitive).map_err(|error| unreadable(error.to_string()))?;
        let uuid =
            instance.uuid.get().ok_or_else(|| unreadable("an instance has no uuid".into()))?;
        let time = |time: Option<&Timestamp>| time.map(ToString::to_string);
        let power = instance.power_state.value().and_then(|n| PowerState::from_number(*n));
        Ok(Self {
            uuid: *uuid,
            id: instance.id.get().copied(),
            name: instance.display_name.value().cloned().unwrap_or_default(),
            vm_state: instance.vm_state.value().map(ToString::to_string),
            task_state: instance.task_state.value().map(ToString::to_string),
            power_state: power.unwrap_or(PowerState::NoState).name(),
            vcpus: instance.vcpus.value().copied(),
            memory_mib: instance.memory_mb.value().copied(),
            root_gib: instance.root_gb.value().copied(),
            image: instance.image_ref.value().cloned(),
            host: instance.host.value().cloned(),
            created_at: time(instance.created_at.value()),
            launched_at: time(instance.launched_at.value()),
            primitive,
        })
    }

    /// `active`, or `active (powering-off)` while a change is under way.
    pub fn state(&self) -> String {
        let vm_state = self.vm_state.as_deref().unwrap_or("-");
        match &self.task_state {
            Some(task_state) => format!("{vm_state} ({task_state})"),
            None => vm_state.to_owned(),
        }
    }

    /// The root disk's size; a flavor without one takes the image's.
    pub fn disk(&self) -> String {
        match self.root_gib {
            None => "-".to_owned(),
            Some(0) => "as image".to_owned(),
            Some(gib) => format!("{gib} GiB"),
        }
    }
}

/// A workflow as the agent lists it.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(default)]
pub struct WorkflowView {
    pub workflow: String,
    pub instance_uuid: Option<Uuid>,
    pub request_id: Option<String>,
    pub phase: String,
    pub step: Option<String>,
    /// From 1; 0 before the first.
    pub step_index: u64,
    pub steps: u64,
    /// ISO 8601.
    pub started_at: Option<String>,
    pub step_started_at: Option<String>,
    /// Bytes of a long copy; nothing, or 0, when the step doesn't count any.
    pub done: Option<u64>,
    pub total: Option<u64>,
    pub failure: Option<String>,
    pub undo_failure: Option<String>,
}

impl WorkflowView {
    /// Still at work, forward or back, or about to be.
    pub fn is_running(&self) -> bool {
        ["queued", "forward", "undoing"].iter().any(|phase| self.phase.eq_ignore_ascii_case(phase))
    }

    /// An undo failed: an operator has to look.
    pub fn is_stuck(&self) -> bool {
        self.phase.eq_ignore_ascii_case("stuck")
    }

    /// `3/9 FetchImage`
    pub fn position(&self) -> String {
        let step = self.step.as_deref().unwrap_or("-");
        match self.steps {
            // One that is stuck is known by its step's name.
            0 => step.to_owned(),
            steps => format!("{}/{steps} {step}", self.step_index),
        }
    }

    /// How much of a long copy is done.
    pub fn progress(&self) -> String {
        match (self.done, self.total) {
            (Some(done), Some(total)) if total > 0 => {
                let percent = u128::from(done) * 100 / u128::from(total);
                format!("{percent}% of {}", bytes(total))
            }
            (Some(done), _) if done > 0 => bytes(done),
            _ => "-".into(),
        }
    }
}

/// The instances of the host.
pub async fn instances(agent: &dyn Agent) -> Result<Vec<Summary>, CallFailure> {
    match agent.call(AgentRequest::own("list_instances", [])).await? {
        Value::Array(items) => items.into_iter().map(Summary::read).collect(),
        _ => Err(CallFailure::new("UnreadableAnswer", "the agent's answer is not a list")),
    }
}

/// The agent's workflows, as it sends them.
pub async fn raw_workflows(agent: &dyn Agent) -> Result<Value, CallFailure> {
    agent.call(AgentRequest::own("list_workflows", [])).await
}

/// The agent's workflows.
pub async fn workflows(agent: &dyn Agent) -> Result<Vec<WorkflowView>, CallFailure> {
    read_workflows(&raw_workflows(agent).await?)
}

/// # Errors
/// [`CallFailure`] when `answer` isn't a list of workflows.
pub fn read_workflows(answer: &Value) -> Result<Vec<WorkflowView>, CallFailure> {
    Vec::deserialize(answer).map_err(|error| {
        CallFailure::new("UnreadableAnswer", format!("the agent's answer is unreadable: {error}"))
    })
}

/// All the agent knows of one instance, with the summary in the primitive's place.
pub async fn detail(agent: &dyn Agent, uuid: Uuid) -> Result<(Summary, Value), CallFailure> {
    let args = [("instance", Value::from(uuid.to_string()))];
    let mut answer = agent.call(AgentRequest::own("show_instance", args)).await?;
    let summary = Summary::read(answer["instance"].take())?;
    answer["instance"] = serde_json::to_value(&summary).unwrap_or_default();
    Ok((summary, answer))
}

/// `1.5 GiB`
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{size:.1} {}", units[unit]),
    }
}

/// `1h 02m`, of whole seconds.
pub fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s:02}s"),
        (0, h, m, _) => format!("{h}h {m:02}m"),
        (d, h, ..) => format!("{d}d {h:02}h"),
    }
}

/// How long ago a point in time was, as the agent spelt it; `-` for one that it didn't.
pub fn since(time: Option<&str>, now: Timestamp) -> String {
    match time.and_then(Timestamp::parse) {
        Some(time) => duration(now.as_second() - time.as_second()),
        None => "-".into(),
    }
}

/// A cell: the text, or `-`.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_holds_no_secret() {
        let primitive = json!({
            "nova_object.name": "Instance", "nova_object.namespace": "nova",
            "nova_object.version": "2.8",
            "nova_object.data": {
                "uuid": "24ef2f14-daa6-42b1-b7fa-7136169b5f1c", "display_name": "web",
                "vm_state": "active", "task_state": "powering-off", "power_state": 1,
                "user_data": "c2VjcmV0", "key_data": "ssh-ed25519 AAAA",
            },
        });
        let summary = Summary::read(primitive).unwrap();
        assert_eq!(summary.state(), "active (powering-off)");
        assert_eq!(summary.power_state, "running");
        let text = serde_json::to_string(&summary).unwrap();
        assert!(!text.contains("c2VjcmV0") && !text.contains("AAAA"), "{text}");
    }

    #[test]
    fn an_answer_of_another_kind_is_told_and_not_trusted() {
        for answer in [json!(null), json!({"nova_object.name": "Flavor"}), json!([1])] {
            assert_eq!(Summary::read(answer).unwrap_err().class, "UnreadableAnswer");
        }
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1_610_612_736), "1.5 GiB");
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(3725), "1h 02m");
        assert_eq!(duration(-3), "0s");
        let now = Timestamp::parse("2026-11-20T23:09:41Z").unwrap();
        assert_eq!(since(Some("2026-11-20T23:08:00Z"), now), "1m 41s");
        assert_eq!(since(Some("soon"), now), "-");
    }

    #[test]
    fn a_workflow_says_where_it_is() {
        let workflow = WorkflowView {
            phase: "Forward".into(),
            step: Some("FetchImage".into()),
            step_index: 2,
            steps: 7,
            done: Some(512),
            total: Some(1024),
            ..WorkflowView::default()
        };
        assert!(workflow.is_running() && !workflow.is_stuck());
        assert_eq!(workflow.position(), "2/7 FetchImage");
        assert_eq!(workflow.progress(), "50% of 1.0 KiB");
        let idle = WorkflowView { done: Some(0), total: Some(0), ..workflow };
        assert_eq!(idle.progress(), "-");
        let stuck = WorkflowView { phase: "stuck".into(), steps: 0, ..idle };
        assert!(stuck.is_stuck() && !stuck.is_running());
        assert_eq!(stuck.position(), "FetchImage");
    }
}
