//! `[notifications]`: in which formats the control plane's users are told what happens.

use crate::config::opt::{Opt, choices, section};

choices! {
    /// Which payloads are sent.
    NotificationFormat:
    Both = "both",
    Versioned = "versioned",
    Unversioned = "unversioned",
}

section! {
    /// In which formats others are told what happens to instances.
    Notifications in "notifications":

    /// Which payloads are sent: nova's unversioned ones, its versioned ones, or both.
    notification_format: NotificationFormat =
        Opt::choice(NotificationFormat::CHOICES).default("unversioned")
        .formerly(&[("DEFAULT", "notification_format")]);

    /// Topics of versioned notifications.
    versioned_notifications_topics: Vec<String> = Opt::list().default("versioned_notifications");
}
