//! Targets as a connection names them, and sessions as iscsiadm lists them.

use serde_json::Value;

use crate::volumes::{ConnectionInfo, VolumeError};

/// A way to a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `10.0.0.1:3260`
    pub portal: String,
    pub iqn: String,
    pub lun: u32,
}

/// A session that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: String,
    pub portal: String,
    pub iqn: String,
}

impl Target {
    /// The session with this target, by its number.
    pub fn session<'a>(&self, open: &'a [Session]) -> Option<&'a str> {
        let is_ours = |session: &&Session| {
            session.portal.eq_ignore_ascii_case(&self.portal) && session.iqn == self.iqn
        };
        open.iter().find(is_ours).map(|session| session.id.as_str())
    }

    pub fn failed(&self, operation: &'static str, message: String) -> VolumeError {
        VolumeError::Host { operation, what: format!("{} at {}", self.iqn, self.portal), message }
    }
}

/// All ways to the volume. os-brick: `_get_all_targets`
///
/// # Errors
/// `Connection` for what is no target, or what a tool would take for an option.
pub fn targets(connection: &ConnectionInfo) -> Result<Vec<Target>, VolumeError> {
    let bad = || VolumeError::Connection { message: "its iSCSI targets are none".to_owned() };
    let list = |key: &str| connection.data(key).and_then(Value::as_array);
    let all: Vec<Option<Target>> =
        match (list("target_portals"), list("target_iqns"), list("target_luns")) {
            (Some(portals), Some(iqns), Some(luns)) if !portals.is_empty() => {
                if portals.len() != iqns.len() || iqns.len() != luns.len() {
                    return Err(bad());
                }
                let ways = portals.iter().zip(iqns).zip(luns);
                ways.map(|((portal, iqn), lun)| target(portal, iqn, lun)).collect()
            }
            _ => {
                let part = |key| connection.data(key).unwrap_or(&Value::Null);
                vec![target(part("target_portal"), part("target_iqn"), part("target_lun"))]
            }
        };
    all.into_iter().collect::<Option<Vec<_>>>().ok_or_else(bad)
}

fn target(portal: &Value, iqn: &Value, lun: &Value) -> Option<Target> {
    let plain = |text: &&str| {
        !text.is_empty()
            && text.len() < 256
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_graphic())
    };
    let lun = lun.as_u64().or_else(|| lun.as_str()?.parse().ok())?;
    Some(Target {
        portal: portal.as_str().filter(plain)?.to_owned(),
        iqn: iqn.as_str().filter(plain)?.to_owned(),
        lun: u32::try_from(lun).ok()?,
    })
}

/// `tcp: [3] 10.0.0.1:3260,1 iqn.2010-10.org.openstack:volume-… (non-flash)`
pub fn sessions(text: &str) -> Vec<Session> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        // iser, cxgb4i and the like are sessions, too.
        words.next().filter(|kind| kind.ends_with(':'))?;
        let id = words.next()?.strip_prefix('[')?.strip_suffix(']')?.to_owned();
        let portal = words.next()?;
        let portal = portal.rsplit_once(',').map_or(portal, |(portal, _)| portal).to_owned();
        Some(Session { id, portal, iqn: words.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}
