//! `hypernova rescue`: a guest boots from another image, and finds its own disk beside it.

use clap::{Args, ValueHint};
use serde_json::{Value, json};

use super::action::{Order, instance_argument, run_one};
use super::agent_client::{Agent, AgentRequest};
use super::image_source::ImageSource;
use super::output::{Failure, Output};
use super::resolve::pick;
use super::view::instances;
use super::wait::Goal;
use crate::model::state::{TaskState, VmState};

#[derive(Debug, Clone, Args)]
pub struct RescueArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    #[arg(value_hint = ValueHint::Other)]
    pub name: String,

    /// Image to boot: a file of this host, or an http(s) URL that the agent fetches [default: the
    /// instance's own, as it is in the agent's cache]
    #[arg(long, value_name = "PATH|URL", value_hint = ValueHint::FilePath)]
    pub image: Option<String>,

    /// Keep all of the guest's disks where they are, and add the rescue disk as a device of this kind
    #[arg(long, value_name = "KIND", value_parser = ["disk", "cdrom"], requires = "image")]
    pub device: Option<String>,

    /// The bus of that device
    #[arg(long, value_name = "BUS", value_parser = ["virtio", "scsi", "ide", "sata", "usb"], requires = "image")]
    pub bus: Option<String>,

    /// Cut the power, without asking the guest
    #[arg(long)]
    pub hard: bool,

    /// Don't wait until it is done
    #[arg(long)]
    pub no_wait: bool,
}

pub async fn run(args: &RescueArgs, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let all = instances(agent).await?;
    let instance = pick(&all, &args.name)?;
    let image = match &args.image {
        None => Value::Null,
        Some(place) => {
            let properties = [("hw_rescue_device", &args.device), ("hw_rescue_bus", &args.bus)];
            let set =
                |(key, value): (&str, &Option<String>)| Some((key.to_owned(), value.clone()?));
            let properties: Vec<_> = properties.into_iter().filter_map(set).collect();
            ImageSource::find(place, None)?.described(&properties)
        }
    };
    let request = AgentRequest::nova(
        "rescue_instance",
        [
            ("instance", instance_argument(&instance.primitive, TaskState::Rescuing)),
            ("rescue_password", Value::Null),
            ("rescue_image_ref", image),
            ("clean_shutdown", json!(!args.hard)),
        ],
    );
    let (task_state, goal) = (TaskState::Rescuing, Goal::In(VmState::Rescued));
    let order = Order { request, task_state, goal };
    run_one("rescue", instance, order, args.no_wait, agent, output).await
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeAgent, run};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rescue_describes_its_image() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let image = tempfile::Builder::new().suffix(".qcow2").tempfile().unwrap();
        let path = image.path().to_str().unwrap();
        let ran = run(Some(&agent), ["rescue", "web", "--image", path, "--bus", "usb"]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
        let sent = agent.sent().remove(0);
        assert_eq!(sent.method, "rescue_instance");
        let described = &sent.args["rescue_image_ref"];
        assert_eq!(described["properties"], json!({"hw_rescue_bus": "usb"}));
        assert_eq!(described["disk_format"], "qcow2");
        assert_eq!(sent.args["clean_shutdown"], true);
        assert!(ran.out.contains("rescued"), "{}", ran.out);
    }
}
