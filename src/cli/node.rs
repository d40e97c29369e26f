//! `hypernova node`: this compute node, its hypervisor and its resources.

use clap::Args;
use serde_json::Value;

use super::agent_client::{Agent, AgentRequest, CallFailure};
use super::output::{Failure, Output};
use super::show::text;
use super::table::Table;
use super::view::{bytes, duration};

#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// What to do: there is one node, and it can be shown
    #[arg(value_parser = ["show"], default_value = "show", hide_default_value = true)]
    pub action: String,
}

pub async fn run(agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let mut answer = agent.call(AgentRequest::own("show_node", [])).await?;
    answer["host_uptime"] = agent.call(AgentRequest::nova("get_host_uptime", [])).await?;
    match output.is_json() {
        true => output.document(&answer)?,
        false => output.table(&table(&answer))?,
    }
    Ok(0)
}

/// The host and the node that the agent is.
pub async fn names(agent: &dyn Agent) -> Result<(String, String), CallFailure> {
    let answer = agent.call(AgentRequest::own("show_node", [])).await?;
    let name = |key: &str| {
        let unreadable = || CallFailure::new("UnreadableAnswer", format!("the node has no {key}"));
        answer[key].as_str().map(str::to_owned).ok_or_else(unreadable)
    };
    Ok((name("host")?, name("node")?))
}

fn table(answer: &Value) -> Table {
    let part = |key: &str| text(&answer[key]);
    let mib = |key: &str| answer[key].as_u64().map_or("-".into(), |mib| bytes(mib << 20));
    let guests = answer["guests"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let guest = |pair: &Value| format!("{} ({})", text(&pair[0]), text(&pair[1]));
    let uptime = answer["uptime_s"].as_i64().map_or("-".into(), duration);
    let resident = answer["rss_bytes"].as_u64().map_or("-".into(), bytes);
    Table::of_pairs([
        ("node", part("node")),
        ("host", part("host")),
        (
            "hypervisor",
            format!("{} {}", part("hypervisor_type"), version(&answer["hypervisor_version"])),
        ),
        ("libvirt", version(&answer["libvirt_version"])),
        ("guests", guests.map(guest).collect::<Vec<_>>().join(", ")),
        ("instances", part("instances")),
        ("vcpus", format!("{} used of {} CPUs", part("vcpus_used"), part("cpus"))),
        ("memory", format!("{} used of {}", mib("memory_used_mib"), mib("memory_mib"))),
        ("disk", format!("{} GiB free of {} GiB", part("disk_free_gib"), part("disk_total_gib"))),
        ("host uptime", part("host_uptime").trim().to_owned()),
        ("agent", format!("hypernova {}, up {uptime}, {resident} resident", part("version"))),
    ])
}

/// libvirt's numbers are `1000000 * major + 1000 * minor + release`.
fn version(value: &Value) -> String {
    match value.as_u64() {
        Some(number) => {
            format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
        }
        None => text(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_is_read_as_libvirt_counts() {
        assert_eq!(version(&json!(9_000_000)), "9.0.0");
        assert_eq!(version(&json!(7_002_015)), "7.2.15");
        assert_eq!(version(&json!("9.0.0")), "9.0.0");
    }

    #[test]
    fn a_sparse_answer_still_makes_a_table() {
        let text = table(&json!({"node": "n1", "guests": [["x86_64", "hvm"]]})).render(None);
        assert!(text.contains("n1") && text.contains("x86_64 (hvm)"), "{text}");
    }
}
