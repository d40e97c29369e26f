//! `[upgrade_levels]`: the newest version of an interface that this process may speak, for a
//! control plane that is being upgraded.

use std::fmt;

use super::ConductorError;

/// A limit: a version, or the name of a release that stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionCap {
    /// As it was configured.
    text: String,
    /// By interface: a release's name means another version for each.
    conductor: Version,
    scheduler: Version,
}

type Version = (u32, u32);

/// Releases that an interface has no entry for aren't known to it, as in nova.
/// nova: VERSION_ALIASES in conductor/rpcapi.py and in scheduler/rpcapi.py
const RELEASES: &[(&str, Version, Version)] = &[
    ("grizzly", (1, 48), (2, 6)),
    ("havana", (1, 58), (2, 9)),
    ("icehouse", (2, 0), (3, 0)),
    ("juno", (2, 0), (3, 0)),
    ("kilo", (2, 1), (4, 2)),
    ("liberty", (3, 0), (4, 2)),
    ("mitaka", (3, 0), (4, 3)),
    ("newton", (3, 0), (4, 3)),
    ("ocata", (3, 0), (4, 3)),
    ("pike", (3, 0), (4, 4)),
];

/// A limit that is neither `N.N` nor the name of a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[upgrade_levels] {level} = {text}: not a version such as 3.0, nor a release up to pike")]
pub struct UnknownLevel {
    level: &'static str,
    text: String,
}

impl VersionCap {
    /// The limit of an option; `None` for one that is unset or empty.
    ///
    /// # Errors
    /// [`UnknownLevel`]
    pub fn of(level: &'static str, text: Option<&str>) -> Result<Option<Self>, UnknownLevel> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let unknown = || UnknownLevel { level, text: text.to_owned() };
        Self::parse(text).map(Some).ok_or_else(unknown)
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some((_, conductor, scheduler)) = RELEASES.iter().find(|(name, ..)| *name == text) {
            let (conductor, scheduler) = (*conductor, *scheduler);
            return Some(Self { text: text.to_owned(), conductor, scheduler });
        }
        let version = parse(text)?;
        Some(Self { text: text.to_owned(), conductor: version, scheduler: version })
    }
}

impl fmt::Display for VersionCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse(version: &str) -> Option<Version> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Refuses a call of a version that the limit of its interface doesn't allow: another major, or a
/// newer minor. oslo.messaging: rpc/client.py, can_send_version
pub(super) fn check(
    cap: Option<&VersionCap>,
    version: &'static str,
    level: &'static str,
    operation: &str,
) -> Result<(), ConductorError> {
    let (Some(cap), Some((major, minor))) = (cap, parse(version)) else { return Ok(()) };
    let allowed = if level == "scheduler" { cap.scheduler } else { cap.conductor };
    if allowed.0 == major && allowed.1 >= minor {
        return Ok(());
    }
    let (operation, cap) = (operation.to_owned(), cap.to_string());
    Err(ConductorError::Capped { operation, version, level, cap })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_version_or_a_release() {
        for (text, allows) in
            [("3.0", true), ("3.7", true), ("ocata", true), ("2.9", false), ("kilo", false)]
        {
            let cap = VersionCap::of("conductor", Some(text)).unwrap();
            let checked = check(cap.as_ref(), "3.0", "conductor", "Service.save");
            assert_eq!(checked.is_ok(), allows, "{text}");
        }
        assert_eq!(VersionCap::of("conductor", Some("")), Ok(None));
        let refused = VersionCap::of("conductor", Some("auto")).unwrap_err().to_string();
        assert!(refused.starts_with("[upgrade_levels] conductor = auto: "), "{refused}");
        assert!(VersionCap::of("conductor", Some("3")).is_err());
        assert!(check(None, "3.0", "conductor", "Service.save").is_ok());
    }

    #[test]
    fn a_release_means_another_version_for_each_interface() {
        let kilo = VersionCap::of("conductor", Some("kilo")).unwrap();
        assert!(check(kilo.as_ref(), "4.2", "scheduler", "update_instance_info").is_ok());
        let refused = check(kilo.as_ref(), "3.0", "conductor", "Service.save").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Service.save needs version 3.0, and [upgrade_levels] conductor = kilo"
        );
    }
}
