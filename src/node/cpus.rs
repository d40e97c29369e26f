//! Which of the host's CPUs guests get, and how.

use std::collections::BTreeSet;

use super::NodeError;
use crate::hypervisor::host::HostState;

/// CPUs by the kernel's numbers.
pub type CpuSet = BTreeSet<u32>;

/// More CPUs than any host has: a bound on what `0-4000000000` can make us keep.
const MAX_CPU: u32 = (1 << 16) - 1;

/// `[compute] cpu_shared_set` and `cpu_dedicated_set`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// CPUs that guests share; `None`: all, unless there are dedicated ones.
    pub shared: Option<CpuSet>,
    /// CPUs that are given out one by one.
    pub dedicated: Option<CpuSet>,
}

impl CpuOptions {
    /// # Errors
    /// [`NodeError::CpuSet`] for what isn't a set, or an empty one.
    pub fn parse(shared: Option<&str>, dedicated: Option<&str>) -> Result<Self, NodeError> {
        let parse = |option, text: Option<&str>| -> Result<Option<CpuSet>, NodeError> {
            let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
            let wrong = |problem| NodeError::CpuSet { option, problem };
            let set = parse_cpu_set(text).map_err(wrong)?;
            match set.is_empty() {
                true => Err(NodeError::CpuSet { option, problem: "it names no CPU".to_owned() }),
                false => Ok(Some(set)),
            }
        };
        Ok(Self {
            shared: parse("cpu_shared_set", shared)?,
            dedicated: parse("cpu_dedicated_set", dedicated)?,
        })
    }

    /// The CPUs that guests share. nova: virt/libvirt/driver.py, `_get_vcpu_available`
    ///
    /// # Errors
    /// [`NodeError::CpuSet`] when one of them isn't online.
    pub fn shared_on(&self, host: &HostState) -> Result<CpuSet, NodeError> {
        match (&self.shared, &self.dedicated) {
            (Some(shared), _) => online("cpu_shared_set", shared, host),
            (None, Some(_)) => Ok(CpuSet::new()),
            (None, None) => Ok(host.online_cpus.clone()),
        }
    }

    /// The CPUs that are given out one by one. nova: `_get_pcpu_available`
    ///
    /// # Errors
    /// [`NodeError::CpuSet`] when one of them isn't online.
    pub fn dedicated_on(&self, host: &HostState) -> Result<CpuSet, NodeError> {
        match &self.dedicated {
            Some(dedicated) => online("cpu_dedicated_set", dedicated, host),
            None => Ok(CpuSet::new()),
        }
    }

    /// The CPUs that a guest may be pinned to. An operator who names neither set may mean both.
    /// nova: `_get_host_numa_topology`
    ///
    /// # Errors
    /// [`NodeError::CpuSet`] when one of them isn't online.
    pub fn pinnable_on(&self, host: &HostState) -> Result<CpuSet, NodeError> {
        match (&self.shared, &self.dedicated) {
            (None, None) => self.shared_on(host),
            _ => self.dedicated_on(host),
        }
    }
}

fn online(option: &'static str, set: &CpuSet, host: &HostState) -> Result<CpuSet, NodeError> {
    match set.difference(&host.online_cpus).next() {
        None => Ok(set.clone()),
        Some(cpu) => Err(NodeError::CpuSet { option, problem: format!("CPU {cpu} is not online") }),
    }
}

/// A set such as `0-3,8,^2`: what follows a `^` is taken away, wherever it stands.
/// nova: virt/hardware.py, `parse_cpu_spec`
///
/// # Errors
/// The part that makes no sense.
pub fn parse_cpu_set(text: &str) -> Result<CpuSet, String> {
    let (mut with, mut without) = (CpuSet::new(), CpuSet::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("{part:?} is no CPU and no range of CPUs");
        let number = |text: &str| -> Result<u32, String> {
            let number: u32 = text.trim().parse().map_err(|_| wrong())?;
            if number > MAX_CPU { Err(wrong()) } else { Ok(number) }
        };
        let (set, range) = match part.strip_prefix('^') {
            Some(range) => (&mut without, range),
            None => (&mut with, part),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        set.extend(first..=last);
    }
    Ok(&with - &without)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[u32]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn a_set_is_numbers_and_ranges_without_what_is_taken_away() {
        assert_eq!(parse_cpu_set("0-3,8,^2").unwrap(), set(&[0, 1, 3, 8]));
        assert_eq!(parse_cpu_set("^1-2, 0 - 4 ,,").unwrap(), set(&[0, 3, 4]));
        for text in ["x", "3-1", "-1", "1-", "^", "1-2-3", "99999", "0-4294967295"] {
            assert!(parse_cpu_set(text).is_err(), "{text}");
        }
    }

    #[test]
    fn guests_share_all_unless_the_operator_says_otherwise() {
        let host = HostState { online_cpus: set(&[0, 1, 2, 3]), ..HostState::default() };
        let on = |shared, dedicated| {
            let options = CpuOptions::parse(shared, dedicated).unwrap();
            assert_eq!(
                options.pinnable_on(&host).unwrap().is_empty(),
                shared.is_some_and(|cpus| !cpus.is_empty()) && dedicated.is_none()
            );
            (options.shared_on(&host).unwrap(), options.dedicated_on(&host).unwrap())
        };
        assert_eq!(on(Some("1"), None), (set(&[1]), set(&[])));
        assert_eq!(on(None, None), (set(&[0, 1, 2, 3]), set(&[])));
        assert_eq!(on(Some(""), Some("2-3")), (set(&[]), set(&[2, 3])));
        assert_eq!(on(Some("0"), Some("2-3")), (set(&[0]), set(&[2, 3])));
    }

    #[test]
    fn cpus_that_are_not_there_are_said_to_be() {
        let host = HostState { online_cpus: set(&[0, 1]), ..HostState::default() };
        let error = CpuOptions::parse(Some("1-2"), None).unwrap().shared_on(&host).unwrap_err();
        assert_eq!(error.to_string(), "[compute] cpu_shared_set: CPU 2 is not online");
        let error = CpuOptions::parse(None, Some("0,^0")).unwrap_err();
        assert_eq!(error.to_string(), "[compute] cpu_dedicated_set: it names no CPU");
    }
}
