//! The guest's CPU: model by configuration, topology by flavor and image.

use super::asked::Asked;
use super::{GuestError, GuestInput};
use crate::hypervisor::spec::CpuSpec;

/// nova: virt/libvirt/driver.py, `_get_guest_cpu_config`
pub fn cpu(input: &GuestInput, asked: &Asked<'_>, arch: &str) -> Result<CpuSpec, GuestError> {
    let mut cpu = model(input, asked, arch)?;
    let vcpus = u32::try_from(input.flavor.vcpus).unwrap_or(u32::MAX);
    (cpu.sockets, cpu.cores, cpu.threads) = topology(vcpus, asked)?;
    cpu.max_phys_addr = max_phys_addr(asked)?;
    if arch != input.host.architecture {
        // What emulation of a foreign architecture can be: one fixed model.
        cpu.mode = None;
        match arch {
            "aarch64" => cpu.model = Some("cortex-a57".into()),
            "ppc64le" => cpu.model = Some("POWER8".into()),
            _ => {}
        }
    }
    Ok(cpu)
}

/// nova: virt/libvirt/driver.py, `_get_guest_cpu_model_config`
fn model(input: &GuestInput, asked: &Asked<'_>, arch: &str) -> Result<CpuSpec, GuestError> {
    let options = &input.options;
    let mode = match options.cpu_mode.as_deref() {
        None if arch == "aarch64" => "host-passthrough",
        None => "host-model",
        Some("none") => return Ok(CpuSpec::default()),
        Some(mode) => mode,
    };
    let mut models = Vec::new();
    for name in &options.cpu_models {
        models.push(known_model(input, name)?);
    }
    if mode == "custom" && models.is_empty() {
        if arch != "aarch64" {
            let message = "cpu_mode custom needs cpu_models";
            return Err(GuestError::host("InvalidCPUInfo", message));
        }
        models.push("max".into());
    }
    // nova takes the first model that has every feature the flavor's traits require. Which has them
    // only libvirt can say; with one model there is nothing to choose.
    let requires =
        asked.specs().any(|(key, value)| key.starts_with("trait:HW_CPU_") && value == "required");
    if mode == "custom" && models.len() > 1 && requires {
        return Err(GuestError::Unsupported {
            what: "choosing among cpu_models by the flavor's traits".into(),
            exception: "InvalidCPUInfo",
        });
    }
    let mut features: Vec<(String, String)> = Vec::new();
    for flag in &options.cpu_model_extra_flags {
        let flag = flag.to_lowercase();
        let (name, policy) = match flag.strip_prefix('-') {
            Some(name) => (name, "disable"),
            None => (flag.strip_prefix('+').unwrap_or(&flag), "require"),
        };
        if !features.iter().any(|(known, _)| known == name) {
            features.push((name.to_owned(), policy.to_owned()));
        }
    }
    Ok(CpuSpec {
        mode: Some(mode.to_owned()),
        model: models.into_iter().next(),
        features,
        ..CpuSpec::default()
    })
}

/// libvirt's spelling of a configured model: operators may write `haswell`.
///
/// nova: virt/libvirt/driver.py, `_get_cpu_model_mapping`
fn known_model(input: &GuestInput, name: &str) -> Result<String, GuestError> {
    let known = &input.host.cpu_models;
    if known.is_empty() {
        return Ok(name.to_owned());
    }
    known.iter().find(|model| model.eq_ignore_ascii_case(name)).cloned().ok_or_else(|| {
        GuestError::host("InvalidCPUInfo", format!("libvirt knows no CPU model {name:?} here"))
    })
}

fn max_phys_addr(asked: &Asked<'_>) -> Result<Option<(String, Option<u32>)>, GuestError> {
    let mode = asked.spec("hw:maxphysaddr_mode").or(asked.property("hw_maxphysaddr_mode"));
    let bits = match asked.spec_number("hw:maxphysaddr_bits")? {
        Some(bits) => Some(bits),
        None => asked.property_number("hw_maxphysaddr_bits")?,
    };
    Ok(mode.map(|mode| (mode.to_owned(), bits.filter(|bits| *bits > 0))))
}

/// More virtual CPUs than this no hypervisor takes, and the search below is a loop over them.
const MAX_VCPUS: u32 = 4096;

/// Sockets, cores and threads: the preferred topology if it fits, else as few threads and as many
/// sockets as the limits allow.
///
/// nova: virt/hardware.py, `get_best_cpu_topology`
fn topology(vcpus: u32, asked: &Asked<'_>) -> Result<(u32, u32, u32), GuestError> {
    const NO_LIMIT: u32 = 65536;
    let names = ["sockets", "cores", "threads"];
    let mut most = [NO_LIMIT; 3];
    for (index, name) in names.iter().enumerate() {
        let flavor = asked.spec_number(&format!("hw:cpu_max_{name}"))?.unwrap_or(0);
        let image = asked.property_number(&format!("hw_cpu_max_{name}"))?.unwrap_or(0);
        if flavor > 0 && image > flavor {
            return Err(GuestError::invalid(
                "ImageVCPULimitsRangeExceeded",
                format!("the image allows more {name} than the flavor"),
            ));
        }
        most[index] = [image, flavor].into_iter().find(|limit| *limit > 0).unwrap_or(NO_LIMIT);
    }
    let exceeds = |wanted: &[u32; 3]| wanted.iter().zip(&most).any(|(want, most)| want > most);
    let mut flavor = [0u32; 3];
    let mut image = [0u32; 3];
    for (index, name) in names.iter().enumerate() {
        flavor[index] = asked.spec_number(&format!("hw:cpu_{name}"))?.unwrap_or(0);
        image[index] = asked.property_number(&format!("hw_cpu_{name}"))?.unwrap_or(0);
    }
    if exceeds(&flavor) {
        flavor = [0; 3];
    }
    if exceeds(&image) {
        let message = "the image prefers a topology beyond its limits";
        return Err(GuestError::invalid("ImageVCPUTopologyRangeExceeded", message));
    }
    // Any wish of the image voids the flavor's as a whole.
    let wanted = if image == [0; 3] { flavor } else { image };

    let vcpus = vcpus.min(MAX_VCPUS);
    let mut possible = Vec::new();
    for sockets in (1..=vcpus.min(most[0])).filter(|sockets| vcpus.is_multiple_of(*sockets)) {
        let rest = vcpus / sockets;
        for cores in (1..=rest.min(most[1])).filter(|cores| rest.is_multiple_of(*cores)) {
            let threads = rest / cores;
            if threads <= most[2] {
                possible.push([sockets, cores, threads]);
            }
        }
    }
    possible.sort_by_key(|[sockets, cores, threads]| {
        std::cmp::Reverse((sockets * cores, *sockets, *threads))
    });
    let score = |topology: &[u32; 3]| {
        topology.iter().zip(&wanted).filter(|(have, want)| **want > 0 && have == want).count()
    };
    // The first of the best scores: `max_by_key` would give the last.
    let best = possible.iter().map(score).max().unwrap_or(0);
    match possible.iter().find(|topology| score(topology) == best) {
        Some([sockets, cores, threads]) => Ok((*sockets, *cores, *threads)),
        None => Err(GuestError::invalid(
            "ImageVCPULimitsRangeImpossible",
            format!("no topology within the limits has {vcpus} CPUs"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of(vcpus: u32, specs: &[(&str, &str)], properties: &[(&str, &str)]) -> String {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let specs = own(specs);
        let properties: BTreeMap<_, _> = own(properties).into_iter().collect();
        match topology(vcpus, &Asked::new(&specs, &properties)) {
            Ok((sockets, cores, threads)) => format!("{sockets}:{cores}:{threads}"),
            Err(error) => error.exception().to_owned(),
        }
    }

    #[test]
    fn topologies_are_novas() {
        assert_eq!(of(8, &[], &[]), "8:1:1");
        assert_eq!(of(8, &[("hw:cpu_max_sockets", "2")], &[]), "2:4:1");
        assert_eq!(of(8, &[("hw:cpu_threads", "2")], &[]), "4:1:2");
        assert_eq!(of(8, &[("hw:cpu_sockets", "2")], &[("hw_cpu_cores", "8")]), "1:8:1");
        assert_eq!(of(7, &[("hw:cpu_max_sockets", "2"), ("hw:cpu_max_cores", "2")], &[]), "1:1:7");
        assert_eq!(
            of(
                7,
                &[],
                &[
                    ("hw_cpu_max_sockets", "2"),
                    ("hw_cpu_max_cores", "2"),
                    ("hw_cpu_max_threads", "2")
                ]
            ),
            "ImageVCPULimitsRangeImpossible"
        );
        assert_eq!(
            of(4, &[("hw:cpu_max_cores", "2")], &[("hw_cpu_max_cores", "4")]),
            "ImageVCPULimitsRangeExceeded"
        );
        assert_eq!(
            of(4, &[("hw:cpu_max_cores", "2")], &[("hw_cpu_cores", "4")]),
            "ImageVCPUTopologyRangeExceeded"
        );
        assert_eq!(of(4, &[("hw:cpu_cores", "many")], &[]), "InvalidRequest");
    }
}
