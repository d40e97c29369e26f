//! `[oslo_messaging_notifications]`: how notifications travel.

use crate::config::opt::{Opt, section};
use crate::model::secret::Secret;

section! {
    /// How notifications travel.
    OsloMessagingNotifications in "oslo_messaging_notifications":

    /// How to send them: messagingv2, messaging, log, noop. May be given more than once. Unset:
    /// they aren't sent.
    driver: Vec<String> = Opt::text().multiple();

    /// Brokers for them. Unset: those of `[DEFAULT] transport_url`.
    transport_url: Option<Secret> = Opt::text().secret();

    /// Topics of unversioned notifications.
    topics: Vec<String> = Opt::list().default("notifications");

    /// How often one that failed is sent again; 0: never, -1: until it is sent.
    retry: i64 = Opt::integer(-1, i64::MAX).default("-1");
}
