//! Notifications kept in memory, for tests: what was told, in order.

use std::sync::{Arc, Mutex, PoisonError};

use super::message::{Notification, Outbox};
use super::sender::{Sender, SenderOptions};
use super::{Event, Notifier};
use crate::model::context::RequestContext;
use crate::model::object::NameTemplate;

/// Where its images are.
pub const IMAGES: &str = "http://10.66.0.1:9292";

/// Keeps what a [`Sender`] sends in both formats.
pub struct Recorder {
    sender: Sender,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept(Mutex<Vec<(RequestContext, Notification)>>);

impl Outbox for Arc<Kept> {
    fn send(&self, context: &RequestContext, notification: &Notification) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((context.clone(), notification.clone()));
    }
}

impl Recorder {
    /// Of a host, with nova's defaults but for both formats.
    pub fn new(host: &str, name_template: NameTemplate) -> Self {
        let kept = Arc::new(Kept::default());
        let options = SenderOptions {
            host: host.to_owned(),
            my_ip: "127.0.0.1".to_owned(),
            name_template,
            topics: vec!["notifications".to_owned()],
            versioned_topics: vec!["versioned_notifications".to_owned()],
        };
        let images = Box::new(|_: &RequestContext| Some(IMAGES.to_owned()));
        let sender = Sender::new(options, images, vec![Box::new(kept.clone())]);
        Self { sender, kept }
    }

    /// Everything so far, with the contexts that it was told in.
    pub fn sent(&self) -> Vec<(RequestContext, Notification)> {
        self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The types of the events so far.
    pub fn types(&self) -> Vec<String> {
        self.sent().into_iter().map(|(_, notification)| notification.event_type).collect()
    }

    /// Forgets what was told.
    pub fn clear(&self) {
        self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Notifier for Recorder {
    fn notify(&self, context: &RequestContext, event: &Event<'_>) {
        self.sender.notify(context, event);
    }

    fn is_on(&self) -> bool {
        true
    }
}
