//! `hypernova list`: the instances of this host.

use serde_json::json;

use super::agent_client::Agent;
use super::output::{Failure, Output};
use super::table::Table;
use super::view::{Summary, instances, or_dash, since};
use crate::model::time::Timestamp;

pub async fn run(agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    match output.is_json() {
        true => output.document(&json!(all))?,
        false => output.table(&table(&all, Timestamp::now()))?,
    }
    Ok(0)
}

fn table(all: &[Summary], now: Timestamp) -> Table {
    let mut table =
        Table::new(["NAME", "UUID", "STATE", "POWER", "VCPUS", "MEMORY", "DISK", "AGE"]);
    for instance in all {
        table.row([
            instance.name.clone(),
            instance.uuid.to_string(),
            instance.state(),
            instance.power_state.to_owned(),
            or_dash(instance.vcpus),
            or_dash(instance.memory_mib.map(|mib| format!("{mib} MiB"))),
            instance.disk(),
            since(instance.created_at.as_deref(), now),
        ]);
    }
    table
}
