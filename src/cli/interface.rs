//! `hypernova interface attach|detach`: a network interface more for an instance, or one less.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::agent_client::{Agent, AgentRequest};
use super::output::{Failure, Output};
use super::resolve::pick;
use super::table::Table;
use super::view::{Summary, instances};

#[derive(Debug, Clone, Args)]
pub struct InterfaceArgs {
    #[command(subcommand)]
    pub command: InterfaceCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum InterfaceCommand {
    /// Give a guest one more network interface, while it runs or before it starts
    Attach(AttachArgs),
    /// Take a network interface from its guest
    Detach(DetachArgs),
}

#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    pub name: String,

    /// The network: bridge:NAME, network:NAME, user, or an id of Neutron's [default: the host's]
    pub network: Option<String>,

    /// A port of Neutron's that is there already
    #[arg(long, conflicts_with = "network")]
    pub port: Option<uuid::Uuid>,

    /// The address to have on the network
    #[arg(long, requires = "network")]
    pub fixed_ip: Option<std::net::IpAddr>,

    /// A name by which the guest finds the interface in its metadata
    #[arg(long)]
    pub tag: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct DetachArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    pub name: String,

    /// The interface: its MAC address, or its port's id
    pub interface: String,
}

pub async fn run(
    args: &InterfaceArgs,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    match &args.command {
        InterfaceCommand::Attach(args) => attach(args, agent, output).await,
        InterfaceCommand::Detach(args) => detach(args, agent, output).await,
    }
}

async fn attach(args: &AttachArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let request = AgentRequest::nova(
        "attach_interface",
        [
            ("instance", argument(instance)),
            ("network_id", json!(args.network)),
            ("port_id", json!(args.port)),
            ("requested_ip", json!(args.fixed_ip)),
            ("tag", json!(args.tag)),
        ],
    );
    let vif = agent.call(request).await?;
    shown(instance, &vif, output)
}

async fn detach(args: &DetachArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let named = |vif: &&Value| {
        let is = |key: &str| {
            vif[key].as_str().is_some_and(|own| own.eq_ignore_ascii_case(&args.interface))
        };
        is("id") || is("address")
    };
    let vifs = interfaces(instance);
    let vif = vifs.iter().find(named).ok_or_else(|| {
        Failure::told(format!("{} has no interface {}", instance.name, args.interface))
    })?;
    let request = AgentRequest::nova(
        "detach_interface",
        [("instance", argument(instance)), ("port_id", vif["id"].clone())],
    );
    agent.call(request).await?;
    shown(instance, vif, output)
}

/// What is recorded of the instance's network.
fn interfaces(instance: &Summary) -> Vec<Value> {
    let data = &instance.primitive["nova_object.data"]["info_cache"]["nova_object.data"];
    let text = data["network_info"].as_str().unwrap_or("[]");
    serde_json::from_str(text).unwrap_or_default()
}

fn shown(instance: &Summary, vif: &Value, output: &mut Output) -> Result<u8, Failure> {
    if output.is_json() {
        let document = json!({
            "uuid": instance.uuid, "name": instance.name, "port_id": vif["id"],
            "mac_address": vif["address"], "network": vif["network"]["label"],
            "device": vif["devname"],
        });
        output.document(&document)?;
        return Ok(0);
    }
    let mut table = Table::new(["NAME", "MAC", "NETWORK", "PORT"]);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    table.row([
        instance.name.clone(),
        text(&vif["address"]),
        text(&vif["network"]["label"]),
        text(&vif["id"]),
    ]);
    output.table(&table)?;
    Ok(0)
}

/// The instance as nova-api sends it with a request that sets no task.
fn argument(instance: &Summary) -> Value {
    let mut primitive = instance.primitive.clone();
    if let Some(object) = primitive.as_object_mut() {
        object.shift_remove("nova_object.changes");
    }
    primitive
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeAgent, run};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_interface_is_attached_as_nova_api_does_and_shown() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let line = ["interface", "attach", "web", "bridge:br0", "--tag", "data"];
        let ran = run(Some(&agent), line).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("fa:16:3e:00:00:01") && ran.out.contains("bridge:br0"));
        let sent = agent.sent();
        assert_eq!(sent[0].method, "attach_interface");
        assert_eq!(sent[0].args["network_id"], "bridge:br0");
        assert_eq!(sent[0].args["tag"], "data");
        assert_eq!(
            (&sent[0].args["port_id"], &sent[0].args["requested_ip"]),
            (&Value::Null, &Value::Null)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_interface_that_the_instance_doesn_t_have_is_not_asked_for() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let ran = run(Some(&agent), ["interface", "detach", "web", "fa:16:3e:00:00:09"]).await;
        assert_eq!((ran.code, agent.sent().len()), (1, 0));
        assert!(ran.err.contains("no interface"), "{}", ran.err);
    }
}
