//! Which service version this agent reports: that of the control plane it works for.
//!
//! The number says what a nova-compute of one release can do, and decides what it is sent. This
//! agent works for several releases, and reports what nova-compute of the same release would: a
//! higher one breaks `[upgrade_levels] compute = auto` there, a lower one is refused.
//! nova: objects/service.py, SERVICE_VERSION_HISTORY and SERVICE_VERSION_ALIASES

/// nova 2025.1, the oldest control plane.
pub(super) const OLDEST: i64 = 68;
/// nova 2026.2, the newest that is known here.
pub(super) const NEWEST: i64 = 74;

/// What the services of the cell say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellVersions {
    /// The lowest of the conductors; 0: none is on record.
    pub conductor: i64,
    /// The lowest of the computes, this host's own record included; 0: none is on record.
    pub compute: i64,
}

impl CellVersions {
    /// The version to report. `None`: the computes of this cell are all newer than this agent.
    pub(super) fn to_report(self) -> Option<i64> {
        let theirs = if self.conductor == 0 { OLDEST } else { self.conductor };
        // Lower than every other compute is refused by conductor.
        let version = theirs.min(NEWEST).max(self.compute);
        (version <= NEWEST).then_some(version)
    }

    /// The oldest compute that a control plane of this release works with; `None` when all of
    /// this cell's are new enough. nova: utils.py, `raise_if_old_compute`
    pub(super) fn too_old(self) -> Option<i64> {
        let oldest = oldest_beside(self.to_report().unwrap_or(NEWEST));
        (self.compute != 0 && self.compute < oldest).then_some(oldest)
    }
}

/// nova: OLDEST_SUPPORTED_SERVICE_VERSION of the release that reports this version.
fn oldest_beside(version: i64) -> i64 {
    match version {
        ..=68 => 66,
        69..=73 => 68,
        _ => 72,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(conductor: i64, compute: i64) -> CellVersions {
        CellVersions { conductor, compute }
    }

    #[test]
    fn the_version_is_the_control_planes_and_never_lower_than_all_computes() {
        for (conductor, compute, reported) in [
            (72, 0, Some(72)),
            (72, 72, Some(72)),
            (74, 72, Some(74)),
            (99, 72, Some(74)),
            (72, 74, Some(74)),
            (68, 68, Some(68)),
            (0, 0, Some(68)),
            (0, 70, Some(70)),
            (76, 75, None),
        ] {
            assert_eq!(cell(conductor, compute).to_report(), reported, "{conductor} {compute}");
        }
    }

    #[test]
    fn computes_that_the_release_no_longer_works_with_are_told() {
        for (conductor, compute, oldest) in [
            (72, 0, None),
            (72, 68, None),
            (72, 67, Some(68)),
            (68, 66, None),
            (68, 65, Some(66)),
            (74, 70, Some(72)),
            (74, 72, None),
        ] {
            assert_eq!(cell(conductor, compute).too_old(), oldest, "{conductor} {compute}");
        }
    }
}
