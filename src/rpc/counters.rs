//! What the transport has done so far, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts since the start of the process.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64),* }

        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter),* }

        impl Counters {
            pub(crate) fn read(&self) -> Counts {
                Counts { $($name: self.$name.0.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Requests handed to the handler.
    requests,
    /// Messages that came a second time.
    duplicates,
    /// Messages that were no request.
    rejected,
    /// Final replies that the broker took.
    replies,
    /// Final replies that nobody could be found for.
    replies_lost,
    /// Messages published and confirmed, replies among them.
    published,
    /// Connections that were lost, of both kinds.
    disconnects,
    /// Times the broker did not bring our own ping back.
    watchdog_failures,
    /// Notifications dropped because too many waited.
    notifications_dropped,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
