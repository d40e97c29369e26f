//! `[notifications]`: what is told to the world, and in which words.

use crate::config::opt::{Opt, choices, section};

choices! {
    /// nova's two formats.
    NotificationFormat:
    Both = "both",
    Versioned = "versioned",
    Unversioned = "unversioned",
}

choices! {
    /// The level of notifications that have none of their own.
    NotificationLevel:
    Debug = "DEBUG",
    Info = "INFO",
    Warn = "WARN",
    Error = "ERROR",
    Critical = "CRITICAL",
}

section! {
    /// What is told to the world, and in which words.
    Notifications in "notifications":

    /// Which of nova's formats to send.
    notification_format: NotificationFormat = Opt::choice(NotificationFormat::CHOICES)
        .default("unversioned").formerly(&[("DEFAULT", "notification_format")]);

    /// Topics of versioned notifications.
    versioned_notifications_topics: Vec<String> = Opt::list().default("versioned_notifications");

    /// The level of notifications that have none of their own.
    default_level: NotificationLevel = Opt::choice(NotificationLevel::CHOICES).default("INFO")
        .formerly(&[("DEFAULT", "default_notification_level")]);

    /// Whether versioned notifications name the instance's block devices.
    bdms_in_notifications: bool = Opt::boolean().default("false");
}
