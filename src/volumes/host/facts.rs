//! What volume services are told of this host. os-brick: initiator/connector.py,
//! `get_connector_properties`

use serde_json::{Value, json};

use super::HostOptions;
use super::tool::{HostTools, Tools, args};

/// Where open-iscsi keeps this host's name.
const INITIATOR: &str = "/etc/iscsi/initiatorname.iscsi";

/// The host as it is now.
pub async fn connector(options: &HostOptions) -> Value {
    let multipath = options.use_multipath && has_multipath(options).await;
    let initiator = tokio::fs::read_to_string(INITIATOR).await.ok();
    build(options, multipath, initiator.as_deref().and_then(initiator_name))
}

fn build(options: &HostOptions, multipath: bool, initiator: Option<&str>) -> Value {
    let mut all = json!({
        "platform": std::env::consts::ARCH,
        "os_type": std::env::consts::OS,
        "ip": options.ip,
        "host": options.host,
        "multipath": multipath,
        // nova asks for it whatever is configured.
        "enforce_multipath": true,
    });
    if let Some(initiator) = initiator {
        all["initiator"] = initiator.into();
    }
    all["do_local_attach"] = false.into();
    all["nvme_native_multipath"] = false.into();
    all
}

/// Whether multipathd answers.
async fn has_multipath(options: &HostOptions) -> bool {
    let tools = HostTools { within: options.tool_timeout };
    let ended = tools.run("multipathd", &args(["show", "status"])).await;
    ended.is_ok_and(|ended| ended.is_success() && !ended.stdout.contains("error receiving packet"))
}

fn initiator_name(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName=")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initiator_s_name_is_found_below_comments() {
        let text = "## DO NOT EDIT\n#InitiatorName=x\nInitiatorName=iqn.1993-08.org.debian:01:ab\n";
        assert_eq!(initiator_name(text), Some("iqn.1993-08.org.debian:01:ab"));
        assert_eq!(initiator_name(""), None);
    }
}
