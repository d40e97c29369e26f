//! `[oslo_messaging_notifications]`: whether and where notifications are sent.

use crate::config::opt::{FromValue, Opt, section};
use crate::config::value::Value;
use crate::model::secret::Secret;

/// How often sending is tried again; `-1` in a file: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries(pub Option<u32>);

impl FromValue for Retries {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        let retries = i64::from_value(value)?;
        Ok(Self(u32::try_from(retries).ok()))
    }
}

section! {
    /// Whether and where notifications are sent.
    OsloMessagingNotifications in "oslo_messaging_notifications":

    /// messagingv2, messaging, log or noop; several may be given. None: nothing is sent.
    driver: Vec<String> = Opt::text().multiple();

    /// Where to send them, if not to [DEFAULT] transport_url.
    transport_url: Option<Secret> = Opt::text().secret();

    /// Topics of unversioned notifications.
    topics: Vec<String> = Opt::list().default("notifications");

    /// How often sending is tried again; -1: for ever.
    retry: Retries = Opt::integer(-1, u32::MAX as i64).default("-1");
}
