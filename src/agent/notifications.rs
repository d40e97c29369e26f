//! Who is told what happens: the notifier as the configuration has it.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::AgentError;
use super::options::rabbit_options;
use crate::config::Config;
use crate::config::notifications::NotificationFormat;
use crate::model::object::NameTemplate;
use crate::notify::log::LogOutbox;
use crate::notify::message::Outbox;
use crate::notify::sender::{ImageEndpoint, Sender, SenderOptions};
use crate::notify::{Notifier, Silent};
use crate::openstack::catalog::{Catalog, Lookup};
use crate::rpc::bus::{Bus, BusSettings};
use crate::rpc::notify::NotifyOptions;
use crate::rpc::transport_url::TransportUrl;

/// The notifier, and what it needs.
pub(super) struct Notifications {
    pub notifier: Arc<dyn Notifier>,
    /// `[oslo_messaging_notifications] transport_url`'s own.
    bus: Option<Bus>,
}

impl Notifications {
    /// What `config` asks for. `bus` is the one of the requests, if there is one.
    ///
    /// # Errors
    /// [`AgentError`] for a `transport_url` or TLS files that make no sense.
    pub fn connect(config: &Config, bus: Option<&Bus>) -> Result<Self, AgentError> {
        let section = &config.oslo_messaging_notifications;
        let drivers = section.driver.iter().map(String::as_str);
        let drivers: Vec<_> = drivers.filter(|driver| !matches!(*driver, "" | "noop")).collect();
        let own = match &section.transport_url {
            Some(url) if drivers.iter().any(|driver| driver.starts_with("messaging")) => {
                Some(own_bus(config, url.expose())?)
            }
            _ => None,
        };
        let retry = section.retry.0;
        let mut outboxes: Vec<Box<dyn Outbox>> = Vec::new();
        for driver in drivers {
            let outbox: Box<dyn Outbox> = match (driver, own.as_ref().or(bus)) {
                ("messaging" | "messagingv2", Some(bus)) => {
                    Box::new(bus.notifier(NotifyOptions { envelope: driver != "messaging", retry }))
                }
                ("messaging" | "messagingv2", None) => {
                    warn!(driver, "nothing is notified: there is no transport_url");
                    continue;
                }
                ("log", _) => Box::new(LogOutbox),
                _ => {
                    warn!(driver, "this notification driver is not supported");
                    continue;
                }
            };
            outboxes.push(outbox);
        }
        let notifier: Arc<dyn Notifier> = if outboxes.is_empty() {
            Arc::new(Silent)
        } else {
            Arc::new(Sender::new(options(config)?, image_endpoint(config), outboxes))
        };
        Ok(Self { notifier, bus: own })
    }

    /// Gives what waits up to `within` to go out.
    pub async fn close(self, within: Duration) {
        if let Some(bus) = self.bus {
            bus.close(within).await;
        }
    }
}

fn options(config: &Config) -> Result<SenderOptions, AgentError> {
    let format = config.notifications.notification_format;
    let (topics, versioned_topics) = (
        &config.oslo_messaging_notifications.topics,
        &config.notifications.versioned_notifications_topics,
    );
    let unless = |other, topics: &Vec<String>| {
        if format == other { Vec::new() } else { topics.clone() }
    };
    Ok(SenderOptions {
        host: config.default_.host.clone(),
        my_ip: config.default_.my_ip.clone(),
        name_template: NameTemplate::parse(&config.default_.instance_name_template)?,
        topics: unless(NotificationFormat::Versioned, topics),
        versioned_topics: unless(NotificationFormat::Unversioned, versioned_topics),
    })
}

/// Where the catalog that came with a request has Glance, or where the configuration has it.
/// nova: image/glance.py, get_api_servers
fn image_endpoint(config: &Config) -> ImageEndpoint {
    let glance = config.glance.clone();
    let lookup = Lookup {
        service_type: glance.service_type.clone(),
        service_name: glance.adapter.service_name.clone(),
        interfaces: glance.adapter.valid_interfaces.clone(),
        region: glance.adapter.region_name.clone(),
    };
    Box::new(move |context| {
        let configured = glance.api_servers.first().or(glance.adapter.endpoint_override.as_ref());
        configured.cloned().or_else(|| {
            let catalog = Catalog::parse(context.rest.get("service_catalog")?);
            catalog.find(&lookup).map(str::to_owned)
        })
    })
}

/// A bus that only sends.
fn own_bus(config: &Config, url: &str) -> Result<Bus, AgentError> {
    let settings = BusSettings {
        url: TransportUrl::parse(url)?,
        options: rabbit_options(config),
        host: config.default_.host.clone(),
        control_exchange: config.default_.control_exchange.clone(),
        topics: Vec::new(),
        watchdog: None,
    };
    // Nothing is served, so nothing comes out of the other end.
    let (bus, _) = Bus::connect(settings)?;
    Ok(bus)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::files::Files;

    fn config(text: &str) -> Config {
        let mut files = Files::default();
        files.add(Path::new("nova.conf"), text).unwrap();
        Config::from_files(&files).unwrap()
    }

    #[tokio::test]
    async fn nobody_is_told_unless_a_driver_says_how() {
        for (text, is_on) in [
            ("", false),
            ("[oslo_messaging_notifications]\ndriver = noop", false),
            ("[oslo_messaging_notifications]\ndriver =", false),
            ("[oslo_messaging_notifications]\ndriver = messagingv2", false),
            ("[oslo_messaging_notifications]\ndriver = routing", false),
            ("[oslo_messaging_notifications]\ndriver = noop\ndriver = log", true),
            (
                "[oslo_messaging_notifications]\ndriver = messaging\n\
                 transport_url = rabbit://u:p@127.0.0.1:1/",
                true,
            ),
        ] {
            let notifications = Notifications::connect(&config(text), None).unwrap();
            assert_eq!(notifications.notifier.is_on(), is_on, "{text}");
            notifications.close(Duration::ZERO).await;
        }
    }

    #[test]
    fn a_format_that_is_not_asked_for_has_no_topics() {
        let topics = |format: &str| {
            let text = format!("[notifications]\nnotification_format = {format}");
            let options = options(&config(&text)).unwrap();
            (options.topics.len(), options.versioned_topics.len())
        };
        assert_eq!(topics("unversioned"), (1, 0));
        assert_eq!(topics("versioned"), (0, 1));
        assert_eq!(topics("both"), (1, 1));
    }
}
