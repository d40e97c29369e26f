//! A build that failed here and may do elsewhere: what the conductor needs to try again.
//! nova: compute/manager.py, _do_build_and_run_instance, RescheduledException

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::journal::Failure;
use crate::model::fault::{Fault, Raised};
use crate::model::object::{Instance, VersionedObject};

/// Where nova builds: it is in the traceback of what went wrong.
pub const METHOD: &str = "_do_build_and_run_instance";

/// The build's arguments as they came, for the next host. They hold passwords: nothing of them is
/// ever printed, and the journal seals them.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildArguments(Map<String, Value>);

impl fmt::Debug for BuildArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BuildArguments(***)")
    }
}

/// What `build_instances` takes over from `build_and_run_instance` as it is.
const KEPT: [&str; 7] = [
    "image",
    "filter_properties",
    "admin_password",
    "injected_files",
    "requested_networks",
    "security_groups",
    "request_spec",
];

impl BuildArguments {
    /// Takes what a later build would need out of a request's arguments.
    pub fn of(args: &Map<String, Value>) -> Self {
        let names = KEPT.iter().copied().chain(["host_list"]);
        let kept = names.filter_map(|name| Some((name.to_owned(), args.get(name)?.clone())));
        Self(kept.collect())
    }

    /// Whether another host may be tried: the scheduler counts attempts, unless it was told not to.
    pub fn may_retry(&self) -> bool {
        self.0.get("filter_properties").and_then(|all| all.get("retry")).is_some_and(truthy)
    }

    /// The arguments of `build_instances` for the hosts that are left.
    pub fn build_instances(&self, instance: &Instance, failure: &Failure) -> Map<String, Value> {
        let mut args = Map::new();
        args.insert("instances".to_owned(), json!([instance.to_primitive()]));
        for name in KEPT {
            args.insert(name.to_owned(), self.0.get(name).cloned().unwrap_or(Value::Null));
        }
        if let Some(retry) = args.get_mut("filter_properties").and_then(|all| all.get_mut("retry"))
        {
            // The conductor makes the instance's fault of these when no host is left.
            let raised = failure.raised(METHOD);
            retry["exc_reason"] = json!(raised.fault.message);
            retry["exc"] = json!(rescheduled(instance, raised).parts());
        }
        let hosts = self.0.get("host_list").cloned().unwrap_or(Value::Null);
        args.insert("host_lists".to_owned(), json!([hosts]));
        args
    }
}

/// What nova raises for a build that another host may do. nova: RescheduledException
pub fn rescheduled(instance: &Instance, raised: Raised) -> Raised {
    let reason = &raised.fault.message;
    let message = format!("Build of instance {} was re-scheduled: {reason}", id(instance));
    let fault = build_fault("RescheduledException", message, instance, reason);
    raised.wrapped_in(fault)
}

/// Whether another host may do what failed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    Elsewhere,
    /// The instance's owner reads why.
    Never {
        reason: String,
    },
}

/// nova's decision. nova: compute/manager.py, `_build_and_run_instance`
pub fn retry(fault: &Fault, step: &str) -> Retry {
    let never = |reason: &str| Retry::Never { reason: reason.to_owned() };
    if step == "PrepareVolumes" {
        return never(&fault.message);
    }
    match &*fault.class {
        "NoMoreFixedIps" => never(&format!(
            "Failed to allocate the network(s) with error {}, not rescheduling.",
            fault.message
        )),
        "ExternalNetworkAttachForbidden"
        | "VirtualInterfaceCreateException"
        | "VirtualInterfaceMacAddressException"
        | "FixedIpInvalidOnHost"
        | "UnableToAutoAllocateNetwork"
        | "NetworksWithQoSPolicyNotSupported" => {
            never("Failed to allocate the network(s), not rescheduling.")
        }
        "FlavorDiskTooSmall"
        | "FlavorMemoryTooSmall"
        | "ImageNotActive"
        | "ImageUnacceptable"
        | "InvalidDiskInfo"
        | "InvalidDiskFormat"
        | "CertificateValidationFailed"
        | "SignatureVerificationError"
        | "VolumeEncryptionNotSupported"
        | "InvalidInput"
        | "RequestedVRamTooHigh"
        | "BuildAbortException"
        | "UnexpectedTaskStateError"
        | "InstanceUnacceptable"
        | "InvalidBDM" => never(&fault.message),
        // A guest of this identity is here already: a second one elsewhere would share its ports and
        // volumes.
        "InstanceExists" => never(&fault.message),
        _ if step == "MapBlockDevices" => never("Failure prepping block device."),
        _ => Retry::Elsewhere,
    }
}

/// What nova raises for a build that no host would do. nova: BuildAbortException
pub fn aborted(instance: &Instance, raised: Raised, reason: &str) -> Raised {
    let message = format!("Build of instance {} aborted: {reason}", id(instance));
    let fault = build_fault("BuildAbortException", message, instance, reason);
    raised.wrapped_in(fault)
}

fn build_fault(class: &'static str, message: String, instance: &Instance, reason: &str) -> Fault {
    Fault::nova(class, message).with("instance_uuid", id(instance)).with("reason", reason)
}

fn id(instance: &Instance) -> String {
    instance.uuid.get().map(ToString::to_string).unwrap_or_default()
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(all) => !all.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ClaimError;
    use crate::workflow::StepError;

    fn failure() -> Failure {
        let error = StepError::Claim(ClaimError::Insufficient("no memory".to_owned()));
        Failure::of(&error, "Claim".to_owned(), 3)
    }

    #[test]
    fn the_next_host_gets_the_arguments_and_the_reason() {
        let args = json!({
            "image": {"id": "i"}, "filter_properties": {"retry": {"num_attempts": 1}},
            "admin_password": "secret", "host_list": [{"x": 1}], "limits": {}, "node": "n",
        });
        let kept = BuildArguments::of(args.as_object().unwrap());
        assert!(kept.may_retry());
        assert!(!format!("{kept:?}").contains("secret"));
        let sent = Value::from(kept.build_instances(&Instance::default(), &failure()));
        assert_eq!(sent["image"], json!({"id": "i"}));
        let retry = &sent["filter_properties"]["retry"];
        assert_eq!(retry["exc_reason"], "Insufficient compute resources: no memory.");
        let last = retry["exc"].as_array().and_then(|parts| parts.last()?.as_str()).unwrap();
        assert!(last.starts_with("nova.exception.RescheduledException: Build of instance "));
        assert_eq!(sent["filter_properties"]["retry"]["num_attempts"], 1);
        assert_eq!(sent["host_lists"], json!([[{"x": 1}]]));
        assert_eq!(sent["request_spec"], Value::Null);
        assert!(sent.get("limits").is_none() && sent.get("node").is_none());
    }

    #[test]
    fn only_what_no_host_would_do_is_not_tried_elsewhere() {
        let never = |reason: &str| Retry::Never { reason: reason.to_owned() };
        let no_network = "Failed to allocate the network(s), not rescheduling.";
        for (fault, step, expected) in [
            (Fault::libvirt("XML error"), "DefineDomain", Retry::Elsewhere),
            (Fault::nova("ImageNotFound", "gone"), "FetchImage", Retry::Elsewhere),
            (Fault::nova("ComputeResourcesUnavailable", "full"), "Claim", Retry::Elsewhere),
            (Fault::nova("ImageUnacceptable", "no image"), "FetchImage", never("no image")),
            (Fault::nova("VirtualInterfaceCreateException", "x"), "StartDomain", never(no_network)),
            (Fault::nova("InstanceExists", "here"), "CheckAbsent", never("here")),
            (
                Fault::nova("NovaException", "x"),
                "MapBlockDevices",
                never("Failure prepping block device."),
            ),
        ] {
            assert_eq!(retry(&fault, step), expected, "{fault:?}");
        }
        let instance = Instance::default();
        let raised = Raised::new(Fault::nova("ImageUnacceptable", "long"), METHOD, "FetchImage", 6);
        let raised = aborted(&instance, raised, "short");
        assert_eq!(raised.fault.message, "Build of instance  aborted: short");
    }

    #[test]
    fn without_a_count_of_attempts_there_is_no_second() {
        for properties in [json!({}), json!({"retry": null}), json!({"retry": {}}), json!(null)] {
            let args = json!({"filter_properties": properties});
            assert!(!BuildArguments::of(args.as_object().unwrap()).may_retry(), "{args}");
        }
    }
}
