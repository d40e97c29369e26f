//! `hypernova check`: would the agent work on this host with this configuration? One line each,
//! with what to do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::bus_settings;
use crate::cli::check::{Finding, Verdict};
use crate::config::Config;
use crate::config::hypernova::ControlPlane;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::libvirt::Libvirt;
use crate::openstack::probe::{ProbeError, Probed};
use crate::openstack::{ApiError, Session};
use crate::rpc::bus::probe;
use crate::telemetry::Chain;

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long Keystone and all services together may take: they are asked again when they fail.
const CONTROL_PLANE_PATIENCE: Duration = Duration::from_secs(60);

fn finding(subject: &str, verdict: Verdict, message: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), verdict, message: message.into(), advice: None }
}

fn ok(subject: &str, message: impl Into<String>) -> Finding {
    finding(subject, Verdict::Ok, message)
}

fn warning(subject: &str, message: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { advice: Some(advice.into()), ..finding(subject, Verdict::Warning, message) }
}

fn failed(subject: &str, message: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { advice: Some(advice.into()), ..finding(subject, Verdict::Failed, message) }
}

/// Checks everything that the agent needs, and changes nothing but for files that it makes and
/// removes to see whether a directory can be written.
pub async fn run(config: &Config) -> Vec<Finding> {
    let mut findings = vec![ok("configuration", "every value is valid")];
    findings.extend(ignored(config));
    findings.extend(mode(config));
    findings.extend(hypervisor(config).await);
    findings.extend(programs(config).await);
    findings.extend(directories(config));
    findings.extend(broker(config).await);
    if config.hypernova.control_plane == ControlPlane::Nova {
        findings.extend(services(config).await);
    }
    findings
}

fn ignored(config: &Config) -> Vec<Finding> {
    let describe = |option: &crate::config::IgnoredOption| {
        let subject = format!("[{}] {}", option.section, option.name);
        let message = format!("not read ({}:{})", option.file.display(), option.line);
        match &option.meant {
            Some(meant) => warning(&subject, message, format!("did you mean {meant}?")),
            None => ok(&subject, message),
        }
    };
    config.ignored.iter().map(describe).collect()
}

fn mode(config: &Config) -> Option<Finding> {
    (config.hypernova.control_plane == ControlPlane::Nova).then(|| {
        let subject = "[hypernova] control_plane";
        failed(subject, "nova is not supported yet", "set it to standalone")
    })
}

async fn hypervisor(config: &Config) -> Vec<Finding> {
    let virt_type = config.libvirt.virt_type.as_str();
    if config.default_.compute_driver.starts_with("fake") {
        let advice = "set compute_driver = libvirt.LibvirtDriver for real guests";
        return vec![warning("hypervisor", "in memory only", advice)];
    }
    let options = match crate::agent::libvirt_options(config) {
        Ok(options) => options,
        Err(error) => {
            return vec![failed("libvirt", Chain(&error).to_string(), "choose kvm or qemu")];
        }
    };
    let libvirt = match Libvirt::open(options).await {
        Ok(libvirt) => libvirt,
        Err(error) => {
            let advice = "start libvirtd, or correct [libvirt] connection_uri";
            return vec![failed("libvirt", Chain(&error).to_string(), advice)];
        }
    };
    let info = match tokio::time::timeout(PATIENCE, libvirt.host_info()).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => {
            let advice = "start libvirtd, or correct [libvirt] connection_uri";
            return vec![failed("libvirt", Chain(&error).to_string(), advice)];
        }
        Err(_) => {
            let message = format!("no answer within {PATIENCE:?}");
            return vec![failed("libvirt", message, "restart libvirtd")];
        }
    };
    let version = info.hypervisor_version;
    let (major, minor) = (version / 1_000_000, version / 1_000 % 1_000);
    let found = format!("{} {major}.{minor} on {}", info.hypervisor_type, info.node);
    let usable = info.guests.iter().any(|(_, kind)| kind == virt_type);
    let subject = "[libvirt] virt_type";
    let can = if usable {
        ok(subject, format!("{virt_type} can be used"))
    } else {
        let advice = match virt_type {
            "kvm" => {
                "enable virtualization in the firmware, load kvm_intel or kvm_amd, or set it to qemu"
            }
            _ => "install its emulator, or choose another",
        };
        failed(subject, format!("{virt_type} can't be used on this host"), advice)
    };
    vec![ok("libvirt", found), can]
}

async fn programs(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (program, package) in
        [("qemu-img", "qemu-utils"), (config.default_.mkisofs_cmd.as_str(), "genisoimage")]
    {
        let mut command = tokio::process::Command::new(program);
        command.arg("--version").kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let install = format!("install the package {package}");
        findings.push(match output {
            Ok(Ok(output)) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout);
                ok(program, text.lines().next().unwrap_or_default().trim())
            }
            Ok(Ok(output)) => failed(program, format!("ended with {}", output.status), install),
            Ok(Err(error)) => failed(program, error.to_string(), install),
            Err(_) => failed(program, "no answer", "look at the host's load"),
        });
    }
    findings
}

fn directories(config: &Config) -> Vec<Finding> {
    let parent = |path: &Path| path.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let hypernova = &config.hypernova;
    let mut all = vec![
        ("instances_path", config.default_.instances_path.clone()),
        ("[hypernova] journal", parent(&hypernova.journal)),
        ("[hypernova] socket", parent(&hypernova.socket)),
    ];
    if hypernova.control_plane == ControlPlane::Standalone {
        all.push(("[hypernova] records", parent(&hypernova.records)));
    }
    all.into_iter().map(|(name, path)| directory(name, &path)).collect()
}

/// Tries to make a file where the agent will: in the directory, or in the nearest one that exists.
fn directory(name: &str, path: &Path) -> Finding {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let shown = path.display();
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == path => ok(name, format!("{shown} can be written")),
        Ok(_) => ok(name, format!("{shown} will be made")),
        Err(error) => failed(
            name,
            format!("{shown} can't be written: {error}"),
            "run as root, or correct the directory's owner and mode",
        ),
    }
}

async fn broker(config: &Config) -> Vec<Finding> {
    let subject = "RabbitMQ";
    let advice = "start the broker, or correct host, user, password and virtual host in \
                  [DEFAULT] transport_url";
    let settings = match bus_settings(config) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            return vec![ok(subject, "transport_url is not set: only the socket is served")];
        }
        Err(error) => return vec![failed(subject, Chain(&error).to_string(), advice)],
    };
    match tokio::time::timeout(PATIENCE, probe(&settings.url, &settings.options)).await {
        Ok(Ok(brokers)) => {
            let describe = |(broker, result): (String, Result<(), String>)| match result {
                Ok(()) => ok(subject, format!("{broker} answers")),
                Err(error) => failed(subject, format!("{broker}: {error}"), advice),
            };
            brokers.into_iter().map(describe).collect()
        }
        Ok(Err(error)) => vec![failed(subject, Chain(&error).to_string(), advice)],
        Err(_) => vec![failed(subject, format!("no answer within {PATIENCE:?}"), advice)],
    }
}

/// Keystone and the services that it names.
async fn services(config: &Config) -> Vec<Finding> {
    let session = match Session::from_config(config, None) {
        Ok(session) => session,
        Err(error) => {
            let advice = "correct the option";
            return vec![failed("keystone", Chain(&error).to_string(), advice)];
        }
    };
    match tokio::time::timeout(CONTROL_PLANE_PATIENCE, session.probe()).await {
        Ok(probed) => probed.into_iter().map(service).collect(),
        Err(_) => {
            let message = format!("no answer within {CONTROL_PLANE_PATIENCE:?}");
            vec![failed("control plane", message, "look at Keystone and its services")]
        }
    }
}

fn service(Probed { subject, result }: Probed) -> Finding {
    let error = match result {
        Ok(found) => return ok(subject, found),
        Err(error) => error,
    };
    let message = Chain(&error).to_string();
    let section = format!("[{subject}]");
    match &error {
        // Users' requests bring their own tokens.
        ProbeError::NoCredentials(section) if matches!(subject, "glance" | "cinder") => {
            let advice = format!(
                "set [{section}] auth_type and its options: work that goes on after a user's token \
                 has ended needs them"
            );
            warning(subject, message, advice)
        }
        ProbeError::NoCredentials(section) => {
            failed(subject, message, format!("set [{section}] auth_type and its options"))
        }
        ProbeError::Api(ApiError::NoEndpoint { .. }) => {
            let advice = format!("correct region_name or valid_interfaces in {section}");
            failed(subject, message, advice)
        }
        ProbeError::Api(ApiError::Unauthorized { .. }) => {
            let advice = "correct user, password, project and domains where auth_type stands";
            failed(subject, message, advice)
        }
        ProbeError::Api(_) => {
            let advice = "start the service, or correct its address, cafile or proxy settings";
            failed(subject, message, advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_lacks_is_said_with_what_to_do() {
        let verdict = |subject, error: ProbeError| {
            let finding = service(Probed { subject, result: Err(error) });
            (finding.verdict, finding.advice.unwrap())
        };
        let (cinder, advice) = verdict("cinder", ProbeError::NoCredentials("cinder"));
        assert!(cinder == Verdict::Warning && advice.contains("[cinder] auth_type"), "{advice}");
        let (placement, _) = verdict("placement", ProbeError::NoCredentials("placement"));
        assert_eq!(placement, Verdict::Failed);
        let absent = ApiError::NoEndpoint { service: "neutron", message: "none".into() };
        let (neutron, advice) = verdict("neutron", absent.into());
        assert!(neutron == Verdict::Failed && advice.contains("[neutron]"), "{advice}");
        let found = service(Probed { subject: "glance", result: Ok("http://g answers".into()) });
        assert_eq!(found.verdict, Verdict::Ok);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_checked_where_it_will_be_made() {
        let directory_ = tempfile::tempdir().unwrap();
        let deep = directory_.path().join("a/b");
        assert_eq!(directory("x", &deep).verdict, Verdict::Ok);
        assert!(!deep.exists());
        assert_eq!(directory("x", Path::new("/proc/nowhere")).verdict, Verdict::Failed);
    }
}
