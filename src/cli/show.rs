//! `hypernova show`: all that the agent knows of one instance.

use clap::{Args, ValueHint};
use serde_json::Value;

use super::agent_client::{Agent, AgentRequest};
use super::output::{Failure, Output};
use super::resolve::find;
use super::table::Table;
use super::view::{Summary, detail, or_dash};

#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    #[arg(value_hint = ValueHint::Other)]
    pub name: String,

    /// Ask the hypervisor for the guest's counters too
    #[arg(long)]
    pub diagnostics: bool,
}

pub async fn run(args: &ShowArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let found = find(agent, &args.name).await?;
    let (summary, mut answer) = detail(agent, found.uuid).await?;
    if args.diagnostics {
        let request = [("instance", found.primitive.clone())];
        let request = AgentRequest::nova("get_instance_diagnostics", request);
        answer["diagnostics"] = agent.call(request).await?["nova_object.data"].take();
    }
    print(&summary, &answer, output)
}

/// Prints an instance with what the agent answered about it.
pub fn print(summary: &Summary, answer: &Value, output: &mut Output) -> Result<u8, Failure> {
    match output.is_json() {
        true => output.document(answer)?,
        false => output.table(&table(summary, answer))?,
    }
    Ok(0)
}

fn table(summary: &Summary, answer: &Value) -> Table {
    let mut pairs = vec![
        ("name", summary.name.clone()),
        ("uuid", summary.uuid.to_string()),
        ("state", summary.state()),
        ("power", summary.power_state.to_owned()),
        ("vcpus", or_dash(summary.vcpus)),
        ("memory", or_dash(summary.memory_mib.map(|mib| format!("{mib} MiB")))),
        ("disk", summary.disk()),
        ("image", or_dash(summary.image.as_ref())),
        ("host", or_dash(summary.host.as_ref())),
        ("created", or_dash(summary.created_at.as_ref())),
        ("launched", or_dash(summary.launched_at.as_ref())),
    ];
    if let Some(domain) = answer["domain"].as_object() {
        let field = |name: &str| domain.get(name).map_or_else(|| "-".into(), text);
        let about = format!("{}, {} ({})", field("name"), field("power_state"), field("reason"));
        pairs.push(("domain", about));
    }
    if let [host, port] = items(&answer["vnc"]) {
        pairs.push(("vnc", format!("{}:{}", text(host), text(port))));
    }
    for serial in items(&answer["serial"]) {
        pairs.push(("serial", items(serial).iter().map(text).collect::<Vec<_>>().join(":")));
    }
    for interface in items(&answer["interfaces"]) {
        let part = |name: &str| text(&interface[name]);
        pairs.push((
            "interface",
            format!("{} {} on {}", part("mac"), part("device"), part("network")),
        ));
    }
    for (name, key) in [("directory", "directory"), ("console log", "console_log")] {
        if let Some(path) = answer[key].as_str() {
            pairs.push((name, path.to_owned()));
        }
    }
    for event in items(&answer["events"]) {
        pairs.push(("event", event_line(event)));
    }
    for fault in items(&answer["faults"]) {
        pairs
            .push(("fault", format!("{} {}", text(&fault["created_at"]), text(&fault["message"]))));
    }
    if let Some(diagnostics) = answer["diagnostics"].as_object() {
        for (name, value) in diagnostics.iter().filter(|(_, value)| !value.is_null()) {
            pairs.push(("diagnostics", format!("{name}: {}", text(value))));
        }
    }
    Table::of_pairs(pairs)
}

fn event_line(event: &Value) -> String {
    let outcome = match (&event["failure"], &event["finished_at"]) {
        (Value::String(failure), _) => format!("failed: {failure}"),
        (_, Value::Null) => "under way".to_owned(),
        _ => "done".to_owned(),
    };
    format!("{} {} {outcome}", text(&event["started_at"]), text(&event["event"]))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A JSON value as a cell: a text without quotation marks, nothing as `-`.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instance_shows_its_consoles_events_and_faults() {
        let summary = Summary::read(json!({
            "nova_object.name": "Instance", "nova_object.version": "2.8",
            "nova_object.data": {
                "uuid": "24ef2f14-daa6-42b1-b7fa-7136169b5f1c", "display_name": "web",
                "vm_state": "active", "power_state": 1, "memory_mb": 512,
            },
        }))
        .unwrap();
        let answer = json!({
            "domain": {"name": "instance-00000001", "power_state": "running", "reason": "booted"},
            "vnc": ["127.0.0.1", 5900], "serial": [["127.0.0.1", 10000]],
            "interfaces": [{"mac": "fa:16:3e:00:00:01", "device": "tapx", "network": "br0"}],
            "directory": "/i/1", "console_log": null,
            "events": [
                {"event": "compute_build_and_run_instance", "started_at": "T1", "finished_at": "T2",
                 "failure": null},
                {"event": "compute_stop_instance", "started_at": "T3", "finished_at": null},
            ],
            "faults": [{"code": 500, "message": "no answer", "created_at": "T4"}],
        });
        let text = table(&summary, &answer).render(None);
        for line in [
            "name       web",
            "memory     512 MiB",
            "domain     instance-00000001, running (booted)",
            "vnc        127.0.0.1:5900",
            "serial     127.0.0.1:10000",
            "interface  fa:16:3e:00:00:01 tapx on br0",
            "directory  /i/1",
            "event      T1 compute_build_and_run_instance done",
            "event      T3 compute_stop_instance under way",
            "fault      T4 no answer",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
        }
    }
}
