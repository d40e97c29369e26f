//! What the host's guests can have, asked of the hypervisor for placement's traits. It may take long
//! on a host whose hypervisor nobody has asked before, and is never waited for by a request.

use std::collections::BTreeSet;

use tracing::debug;

use crate::hypervisor::host::{Capabilities, HostState};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::model::class::Class;
use crate::placement::traits::HostFacts;
use crate::telemetry::Chain;

/// The part of the configuration that shapes traits: `[libvirt]` and `[compute]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureOptions {
    pub virt_type: String,
    /// `None`: as the virt type and the architecture have it.
    pub cpu_mode: Option<String>,
    pub cpu_models: Vec<String>,
    pub cpu_model_extra_flags: Vec<String>,
    /// `x86_64=q35`, …
    pub hw_machine_type: Vec<String>,
    pub excluded_image_types: Vec<String>,
}

/// Asks for everything that traits tell.
///
/// # Errors
/// The hypervisor's, but for what it can't do at all.
pub async fn host_facts(
    hypervisor: &dyn Hypervisor,
    host: &Capabilities,
    state: &HostState,
    options: &FeatureOptions,
) -> Result<HostFacts, HypervisorError> {
    let mut facts = HostFacts {
        virt_type: options.virt_type.clone(),
        architecture: host.cpu.architecture.clone(),
        cpu_features: cpu_features(hypervisor, host, options).await?,
        hyperthreading: host.has_hyperthreading(),
        library_version: state.library_version,
        hypervisor_version: state.hypervisor_version,
        excluded_image_types: options.excluded_image_types.clone(),
        ..HostFacts::default()
    };
    for guest in &host.guests {
        let architecture = guest.architecture.as_str();
        let default = default_machine(options, architecture);
        let aliases = guest.aliases.iter().map(String::as_str).map(Some);
        let machines: BTreeSet<Option<&str>> = aliases.chain([default]).collect();
        for machine in machines {
            let asked = hypervisor.domain_capabilities(architecture, machine, &options.virt_type);
            let offered = match asked.await {
                Ok(offered) => offered,
                // KVM runs no foreign architectures, and not every QEMU has each machine.
                Err(error) if !is_passing(&error) => {
                    debug!(architecture, ?machine, error = %Chain(&error), "no such guests here");
                    continue;
                }
                Err(error) => return Err(error),
            };
            facts.guest_architectures.insert(architecture.to_owned());
            facts.disk_buses.extend(offered.disk_buses);
            facts.video_models.extend(offered.video_models);
            facts.secure_boot |= offered.secure_boot && architecture == host.cpu.architecture;
        }
    }
    Ok(facts)
}

/// Whether asking again may help.
fn is_passing(error: &HypervisorError) -> bool {
    match error {
        HypervisorError::TimedOut { .. } | HypervisorError::Unreachable { .. } => true,
        error => error.class() == Class::Transient,
    }
}

/// nova: virt/libvirt/utils.py, `get_default_machine_type`
fn default_machine<'a>(options: &'a FeatureOptions, architecture: &str) -> Option<&'a str> {
    let configured = options.hw_machine_type.iter().find_map(|mapping| {
        let (of, machine) = mapping.split_once('=')?;
        (of.trim() == architecture && !machine.is_empty()).then_some(machine.trim())
    });
    configured.or(match architecture {
        "armv7" | "armv7l" | "aarch64" => Some("virt"),
        "ppc64le" => Some("pseries"),
        "s390" | "s390x" => Some("s390-ccw-virtio"),
        "i686" | "x86_64" => Some("pc"),
        _ => None,
    })
}

/// What guests get of the CPU. nova: virt/libvirt/driver.py, `_get_cpu_feature_traits`
async fn cpu_features(
    hypervisor: &dyn Hypervisor,
    host: &Capabilities,
    options: &FeatureOptions,
) -> Result<Option<BTreeSet<String>>, HypervisorError> {
    let cpu = &host.cpu;
    let is_qemu = matches!(options.virt_type.as_str(), "kvm" | "qemu");
    let is_arm = cpu.architecture == "aarch64";
    let mode = match options.cpu_mode.as_deref() {
        None | Some("none") if !is_qemu => return Ok(None),
        None if is_arm => "host-passthrough",
        None => "host-model",
        Some(mode) => mode,
    };
    let extra = extra_features(&options.cpu_model_extra_flags);
    let models: Vec<&str> = match mode {
        "host-model" | "host-passthrough" => {
            return Ok(Some(&cpu.features | &extra));
        }
        "custom" if options.cpu_models.is_empty() && is_arm => vec!["max"],
        "custom" => options.cpu_models.iter().map(String::as_str).collect(),
        _ => vec![default_model(&cpu.architecture)],
    };
    let mut features = match mode {
        "custom" => extra,
        _ => BTreeSet::new(),
    };
    for model in models {
        features.extend(hypervisor.model_features(cpu, model).await?.unwrap_or_default());
    }
    Ok(Some(features))
}

/// nova: virt/libvirt/utils.py, `get_cpu_model_from_arch`
fn default_model(architecture: &str) -> &'static str {
    match architecture {
        "i686" => "qemu32",
        "ppc64le" => "POWER8",
        "aarch64" => "max",
        _ => "qemu64",
    }
}

/// The names of the flags, those that take a feature away included, as nova counts them.
fn extra_features(flags: &[String]) -> BTreeSet<String> {
    let name = |flag: &String| {
        let flag = flag.to_lowercase();
        flag.strip_prefix(['+', '-']).map_or(flag.clone(), str::to_owned)
    };
    flags.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::fake::FakeHypervisor;

    async fn facts(options: FeatureOptions) -> HostFacts {
        let hypervisor = FakeHypervisor::default();
        let mut host = (*hypervisor.capabilities().await.unwrap()).clone();
        host.cpu.features = ["avx2".to_owned()].into();
        let state = hypervisor.host_state().await.unwrap();
        host_facts(&hypervisor, &host, &state, &options).await.unwrap()
    }

    fn names(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[tokio::test]
    async fn guests_features_are_the_hosts_and_what_the_operator_adds() {
        let options = FeatureOptions {
            virt_type: "kvm".into(),
            cpu_model_extra_flags: vec!["+PCID".into(), "-vmx".into(), "aes".into()],
            ..FeatureOptions::default()
        };
        let facts = facts(options.clone()).await;
        assert_eq!(facts.cpu_features, names(&["avx2", "pcid", "vmx", "aes"]));
        assert_eq!(facts.guest_architectures, names(&["x86_64"]).unwrap());
        assert!(facts.disk_buses.contains("virtio") && facts.video_models.contains("vga"));
    }

    #[tokio::test]
    async fn a_named_model_has_its_own_features_and_containers_have_none() {
        let of = |virt_type: &str, cpu_mode: Option<&str>| {
            facts(FeatureOptions {
                virt_type: virt_type.into(),
                cpu_mode: cpu_mode.map(str::to_owned),
                cpu_models: vec!["EPYC".into()],
                cpu_model_extra_flags: vec!["pcid".into()],
                ..FeatureOptions::default()
            })
        };
        assert_eq!(of("qemu", Some("custom")).await.cpu_features, names(&["avx2", "pcid"]));
        assert_eq!(of("qemu", Some("none")).await.cpu_features, names(&["avx2"]));
        assert_eq!(of("lxc", None).await.cpu_features, None);
    }

    #[tokio::test]
    async fn a_machine_that_is_not_there_is_no_trouble_and_a_silent_hypervisor_is() {
        let hypervisor = FakeHypervisor::default();
        let host = hypervisor.capabilities().await.unwrap();
        let state = hypervisor.host_state().await.unwrap();
        let options = FeatureOptions { virt_type: "qemu".into(), ..FeatureOptions::default() };
        hypervisor.fail_at("domain_capabilities");
        let asked = host_facts(&hypervisor, &host, &state, &options);
        assert!(asked.await.is_ok());
        hypervisor.fail_after("domain_capabilities");
        let asked = host_facts(&hypervisor, &host, &state, &options);
        assert!(asked.await.is_err());
    }

    #[test]
    fn the_configured_machine_is_asked_about() {
        let options = FeatureOptions {
            hw_machine_type: vec!["x86_64=q35".into(), "nonsense".into()],
            ..FeatureOptions::default()
        };
        assert_eq!(default_machine(&options, "x86_64"), Some("q35"));
        assert_eq!(default_machine(&options, "aarch64"), Some("virt"));
        assert_eq!(default_machine(&options, "riscv64"), None);
    }
}
