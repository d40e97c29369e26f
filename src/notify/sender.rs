//! From an event to the messages that tell of it, in the formats that are asked for.

use serde_json::{Map, Value, json};

use super::message::{Notification, Outbox, Priority};
use super::python::repr_fault;
use super::{Action, Event, InstanceEvent, Notifier, Phase, legacy, versioned};
use crate::model::context::RequestContext;
use crate::model::fault::Raised;
use crate::model::object::{Instance, NameTemplate};

/// What is sent, and how.
#[derive(Debug, Clone)]
pub struct SenderOptions {
    /// `[DEFAULT] host`
    pub host: String,
    /// `[DEFAULT] my_ip`
    pub my_ip: String,
    pub name_template: NameTemplate,
    /// `[oslo_messaging_notifications] topics`; none: no unversioned notifications.
    pub topics: Vec<String>,
    /// `[notifications] versioned_notifications_topics`; none: no versioned ones.
    pub versioned_topics: Vec<String>,
}

/// Where Glance is to whoever asked, if anybody knows.
pub type ImageEndpoint = Box<dyn Fn(&RequestContext) -> Option<String> + Send + Sync>;

/// Builds nova's messages and gives them to the outboxes, the unversioned one first.
pub struct Sender {
    options: SenderOptions,
    images: ImageEndpoint,
    outboxes: Vec<Box<dyn Outbox>>,
}

impl Sender {
    pub fn new(
        options: SenderOptions,
        images: ImageEndpoint,
        outboxes: Vec<Box<dyn Outbox>>,
    ) -> Self {
        Self { options, images, outboxes }
    }

    fn image_url(&self, context: &RequestContext, instance: &Instance) -> String {
        image_url((self.images)(context).as_deref(), instance.image_ref.text())
    }

    fn instance(&self, context: &RequestContext, event: &InstanceEvent<'_>) {
        let elevated = event.action.is_elevated().then(|| context.elevated());
        let context = elevated.as_ref().unwrap_or(context);
        let name = format!("{}.{}", event.action.name(), event.phase.name());
        let failed = event.phase == Phase::Error;
        let priority = if failed { Priority::Error } else { Priority::Info };
        if let Some(name) = legacy::name(event.action, event.phase) {
            self.legacy(context, priority, format!("compute.instance.{name}"), || {
                legacy::action(event, &self.image_url(context, event.instance))
            });
        }
        // nova tells of addresses unversioned alone.
        if matches!(event.action, Action::CreateIp | Action::DeleteIp) {
            return;
        }
        self.versioned(context, priority, format!("instance.{name}"), || {
            versioned::action(context, event, &self.options.name_template)
        });
    }

    fn exception(
        &self,
        context: &RequestContext,
        method: &str,
        args: &Map<String, Value>,
        raised: &Raised,
    ) {
        self.legacy(context, Priority::Error, method.to_owned(), || {
            let args: Map<String, Value> = args
                .iter()
                // nova: exception_wrapper.py, _cleanse_dict
                .filter(|(name, _)| !name.contains("_pass"))
                .map(|(name, value)| (name.clone(), plain(value)))
                .collect();
            json!({"exception": repr_fault(&raised.fault), "args": args})
        });
        self.versioned(context, Priority::Error, "compute.exception".to_owned(), || {
            versioned::exception(raised)
        });
    }

    fn no_hypervisor(&self, context: &RequestContext, raised: &Raised) {
        let ip = &self.options.my_ip;
        self.legacy(
            context,
            Priority::Error,
            "compute.libvirt.error".to_owned(),
            || json!({"ip": ip, "method": "_connect", "reason": repr_fault(&raised.fault)}),
        );
        self.versioned(context, Priority::Error, "libvirt.connect.error".to_owned(), || {
            versioned::libvirt_error(ip, raised)
        });
    }

    fn legacy(
        &self,
        context: &RequestContext,
        priority: Priority,
        event_type: String,
        payload: impl FnOnce() -> Value,
    ) {
        let publisher_id = format!("compute.{}", self.options.host);
        self.send(context, &self.options.topics, priority, publisher_id, event_type, payload);
    }

    fn versioned(
        &self,
        context: &RequestContext,
        priority: Priority,
        event_type: String,
        payload: impl FnOnce() -> Value,
    ) {
        let publisher_id = format!("nova-compute:{}", self.options.host);
        let topics = &self.options.versioned_topics;
        self.send(context, topics, priority, publisher_id, event_type, payload);
    }

    fn send(
        &self,
        context: &RequestContext,
        topics: &[String],
        priority: Priority,
        publisher_id: String,
        event_type: String,
        payload: impl FnOnce() -> Value,
    ) {
        if topics.is_empty() {
            return;
        }
        let topics = topics.to_vec();
        let payload = payload();
        let notification = Notification { topics, priority, publisher_id, event_type, payload };
        for outbox in &self.outboxes {
            outbox.send(context, &notification);
        }
    }
}

impl Notifier for Sender {
    fn notify(&self, context: &RequestContext, event: &Event<'_>) {
        match event {
            Event::Instance(event) => self.instance(context, event),
            Event::Exists { instance, before, period } => {
                self.legacy(context, Priority::Info, "compute.instance.exists".to_owned(), || {
                    let before = before.unwrap_or(instance);
                    legacy::exists(before, *period, &self.image_url(context, before))
                });
                self.versioned(context, Priority::Info, "instance.exists".to_owned(), || {
                    versioned::exists(context, instance, *period)
                });
            }
            Event::Exception { method, args, raised } => {
                self.exception(context, method, args, raised);
            }
            Event::VolumeUsage(usage) => {
                let name = || "volume.usage".to_owned();
                self.legacy(context, Priority::Info, name(), || legacy::volume_usage(usage));
                self.versioned(context, Priority::Info, name(), || versioned::volume_usage(usage));
            }
            Event::NoHypervisor { raised } => self.no_hypervisor(context, raised),
        }
    }

    fn is_on(&self) -> bool {
        true
    }
}

/// What a notification must not tell of an argument, though nova does.
const HIDDEN: [&str; 6] =
    ["user_data", "connection_info", "access_key", "auth_password", "auth_token", "key_data"];

/// An argument as a plain value: objects become what they hold.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = match fields.get("nova_object.data") {
                Some(Value::Object(data)) => data,
                _ => fields,
            };
            let hidden = |name: &str| HIDDEN.contains(&name) || name.contains("_pass");
            let shown = |(name, value): (&String, &Value)| {
                let value = if hidden(name) { Value::Null } else { plain(value) };
                (name.clone(), value)
            };
            // A list's one field is its items.
            match fields.get("objects") {
                Some(Value::Array(items)) if fields.len() == 1 => items.iter().map(plain).collect(),
                _ => Value::Object(fields.iter().map(shown).collect()),
            }
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        value => value.clone(),
    }
}

/// Where an image is, below Glance's endpoint with or without the version of its API; its id alone
/// where nobody knows. nova: image/glance.py, generate_image_url
fn image_url(endpoint: Option<&str>, image: Option<&str>) -> String {
    // Python's word for none.
    let image = image.unwrap_or("None");
    let Some(endpoint) = endpoint else { return image.to_owned() };
    let is_version = |part: &str| {
        let digits = part.strip_prefix('v').unwrap_or_default();
        !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
    };
    match endpoint.strip_suffix('/').unwrap_or(endpoint).rsplit_once('/') {
        Some((base, part)) if is_version(part) => format!("{base}//images/{image}"),
        _ => format!("{endpoint}/images/{image}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Recorder;
    use super::*;
    use crate::model::fault::Fault;

    fn recorder() -> Recorder {
        Recorder::new("host1", NameTemplate::parse("instance-%08x").unwrap())
    }

    #[test]
    fn an_images_place_is_told_without_the_version_of_its_api() {
        assert_eq!(image_url(None, Some("i")), "i");
        for (endpoint, url) in [
            ("http://glance:9292", "http://glance:9292/images/i"),
            ("http://h/image/v2", "http://h/image//images/i"),
            ("http://h/image/v2.0/", "http://h/image//images/i"),
            ("http://h/image", "http://h/image/images/i"),
        ] {
            assert_eq!(image_url(Some(endpoint), Some("i")), url, "{endpoint}");
        }
        assert_eq!(image_url(Some("http://h"), Some("")), "http://h/images/");
    }

    #[test]
    fn an_exception_tells_its_arguments_without_their_secrets() {
        let recorder = recorder();
        let args = json!({
            "admin_password": "hunter2",
            "kind": "SOFT",
            "instance": {
                "nova_object.name": "Instance",
                "nova_object.data": {
                    "uuid": "u", "user_data": "hunter2", "key_data": "hunter2",
                    "tags": {"nova_object.name": "TagList", "nova_object.data": {"objects": [
                        {"nova_object.name": "Tag", "nova_object.data": {"tag": "t"}},
                    ]}},
                },
            },
            "bdms": [{"connection_info": "hunter2", "volume_id": "v"}],
        });
        let raised = Raised::new(Fault::libvirt("no"), "pause_instance", "PauseDomain", 2);
        let event = Event::Exception {
            method: "pause_instance",
            args: args.as_object().unwrap(),
            raised: &raised,
        };
        recorder.notify(&RequestContext::admin(), &event);
        let sent: Vec<_> = recorder.sent().into_iter().map(|(_, sent)| sent).collect();
        let [legacy, versioned] = sent.as_slice() else { panic!("{sent:?}") };
        assert!(!format!("{sent:?}").contains("hunter2"));
        assert_eq!((&*legacy.event_type, legacy.priority), ("pause_instance", Priority::Error));
        assert_eq!(legacy.payload["exception"], "libvirtError('no')");
        let shown = &legacy.payload["args"];
        assert_eq!(shown["instance"]["uuid"], "u");
        assert_eq!(shown["instance"]["tags"], json!([{"tag": "t"}]));
        assert_eq!(shown["bdms"][0], json!({"connection_info": null, "volume_id": "v"}));
        assert!(shown.get("admin_password").is_none());
        assert_eq!(versioned.event_type, "compute.exception");
        let data = &versioned.payload["nova_object.data"];
        assert_eq!(data["module_name"], "hypernova.pause_instance");
        let traceback = data["traceback"].as_str().unwrap();
        assert!(traceback.starts_with("Traceback (most recent call last):\n,  File \"hypernova/"));
        assert!(traceback.ends_with("\n,libvirt.libvirtError: no\n"), "{traceback}");
    }

    #[test]
    fn a_hypervisor_that_is_away_is_told_with_the_hosts_address() {
        let recorder = recorder();
        let raised = Raised::new(Fault::libvirt("no socket"), "libvirt", "connect", 0);
        recorder.notify(&RequestContext::admin(), &Event::NoHypervisor { raised: &raised });
        let sent: Vec<_> = recorder.sent().into_iter().map(|(_, sent)| sent).collect();
        assert_eq!(sent[0].event_type, "compute.libvirt.error");
        assert_eq!(
            sent[0].payload,
            json!({"ip": "127.0.0.1", "method": "_connect", "reason": "libvirtError('no socket')"})
        );
        assert_eq!(sent[1].event_type, "libvirt.connect.error");
        let data = &sent[1].payload["nova_object.data"];
        assert_eq!(data["ip"], "127.0.0.1");
        assert_eq!(data["reason"]["nova_object.data"]["exception"], "libvirtError");
    }
}
