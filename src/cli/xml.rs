//! `hypernova xml`: the domain XML for a flavor and an image, without booting.

use clap::{Args, ValueHint};
use serde_json::json;

use super::build_message::Build;
use super::guest_args::GuestArgs;
use super::output::{Failure, Output};
use super::{ConfigArgs, Daemon};

#[derive(Debug, Clone, Args)]
pub struct XmlArgs {
    /// The instance's name
    #[arg(default_value = "preview", value_hint = ValueHint::Other)]
    pub name: String,

    #[command(flatten)]
    pub guest: GuestArgs,

    #[command(flatten)]
    pub config: ConfigArgs,
}

pub async fn run(args: &XmlArgs, daemon: &dyn Daemon, output: &mut Output) -> Result<u8, Failure> {
    let host = nix::unistd::gethostname().map_err(|error| Failure::Output(error.into()))?;
    let host = host.to_string_lossy();
    let build = Build::prepare(&args.name, &args.guest, &host, &host)?;
    let xml = daemon.xml(&args.config, build.args()).await?;
    match output.is_json() {
        true => output.document(&json!({"uuid": build.uuid, "xml": xml}))?,
        false => output.bytes(format!("{}\n", xml.trim_end()).as_bytes())?,
    }
    Ok(0)
}
