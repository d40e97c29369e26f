//! What oslo.messaging declares for a topic, as data: exchanges, queues and bindings with the flags
//! that the options ask for. No I/O: [`crate::rpc::declare`] does as it says here.
//!
//! | queue | exchange | takes |
//! |---|---|---|
//! | `compute` | `nova` (topic) | requests for any host |
//! | `compute.<host>` | `nova` (topic) | requests for this host |
//! | `compute_fanout_<hex>` | `compute_fanout` (fanout) | requests for every host |
//!
//! oslo.messaging: _drivers/impl_rabbit.py, declare_topic_consumer and its neighbours

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable};

use crate::rpc::options::RabbitOptions;

/// An exchange as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeSpec {
    pub name: String,
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
}

/// A queue as it is declared, and how it is bound and consumed.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueSpec {
    /// `None`: the default exchange, which needs no binding.
    pub exchange: Option<ExchangeSpec>,
    pub name: String,
    pub routing_key: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub arguments: FieldTable,
    /// A stream is read from an offset, and nobody deletes it.
    pub stream: bool,
}

/// The three queues of one topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicSpec {
    pub shared: QueueSpec,
    pub host: QueueSpec,
    pub fanout: QueueSpec,
}

impl TopicSpec {
    /// `id`: for the fanout queue's name, the same for the life of the process.
    pub fn new(options: &RabbitOptions, exchange: &str, topic: &str, host: &str, id: &str) -> Self {
        let queue = |name: String| QueueSpec {
            exchange: Some(topic_exchange(options, exchange)),
            routing_key: name.clone(),
            name,
            durable: durable(options),
            auto_delete: options.amqp_auto_delete,
            arguments: queue_arguments(options, options.rabbit_quorum_queue),
            stream: false,
        };
        let stream = options.rabbit_stream_fanout;
        let fanout = QueueSpec {
            exchange: Some(fanout_exchange(options, topic)),
            name: if stream { format!("{topic}_fanout") } else { format!("{topic}_fanout_{id}") },
            routing_key: topic.to_owned(),
            durable: options.rabbit_transient_quorum_queue || stream,
            auto_delete: false,
            arguments: if stream {
                stream_arguments(options)
            } else {
                transient_arguments(options)
            },
            stream,
        };
        Self { shared: queue(topic.to_owned()), host: queue(format!("{topic}.{host}")), fanout }
    }

    pub fn queues(&self) -> [&QueueSpec; 3] {
        [&self.shared, &self.host, &self.fanout]
    }
}

/// The exchange that requests and notifications pass.
pub fn topic_exchange(options: &RabbitOptions, name: &str) -> ExchangeSpec {
    ExchangeSpec {
        name: name.to_owned(),
        kind: ExchangeKind::Topic,
        durable: durable(options),
        auto_delete: options.amqp_auto_delete,
    }
}

/// The exchange that reaches every server of a topic.
pub fn fanout_exchange(options: &RabbitOptions, topic: &str) -> ExchangeSpec {
    ExchangeSpec {
        name: format!("{topic}_fanout"),
        kind: ExchangeKind::Fanout,
        durable: options.rabbit_transient_quorum_queue || options.rabbit_stream_fanout,
        auto_delete: true,
    }
}

/// The queue that answers to our own calls come to.
pub fn reply_queue(options: &RabbitOptions, name: &str) -> QueueSpec {
    QueueSpec {
        exchange: None,
        name: name.to_owned(),
        routing_key: name.to_owned(),
        durable: options.rabbit_transient_quorum_queue,
        auto_delete: false,
        arguments: transient_arguments(options),
        stream: false,
    }
}

/// The queue of a notification's topic and priority: declared by who publishes, so that nothing is
/// lost while nobody listens.
pub fn notification_queue(options: &RabbitOptions, exchange: &str, routing_key: &str) -> QueueSpec {
    QueueSpec {
        exchange: Some(topic_exchange(options, exchange)),
        name: routing_key.to_owned(),
        routing_key: routing_key.to_owned(),
        durable: durable(options),
        auto_delete: options.amqp_auto_delete,
        arguments: queue_arguments(options, options.rabbit_quorum_queue),
        stream: false,
    }
}

fn durable(options: &RabbitOptions) -> bool {
    options.amqp_durable_queues || options.rabbit_quorum_queue
}

fn queue_arguments(options: &RabbitOptions, quorum: bool) -> FieldTable {
    let mut table = FieldTable::default();
    if options.rabbit_ha_queues {
        table.insert("x-ha-policy".into(), AMQPValue::LongString("all".into()));
    }
    if quorum {
        table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        for (name, value) in [
            ("x-delivery-limit", options.rabbit_quorum_delivery_limit),
            ("x-max-in-memory-length", options.rabbit_quorum_max_memory_length),
            ("x-max-in-memory-bytes", options.rabbit_quorum_max_memory_bytes),
        ] {
            if value > 0 {
                table.insert(name.into(), AMQPValue::LongLongInt(value.into()));
            }
        }
    }
    table
}

fn transient_arguments(options: &RabbitOptions) -> FieldTable {
    let mut table = queue_arguments(options, options.rabbit_transient_quorum_queue);
    let ttl = options.rabbit_transient_queues_ttl.as_millis();
    if ttl > 0 {
        let ttl = i64::try_from(ttl).unwrap_or(i64::MAX);
        table.insert("x-expires".into(), AMQPValue::LongLongInt(ttl));
    }
    table
}

fn stream_arguments(options: &RabbitOptions) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let age = format!("{}s", options.rabbit_transient_queues_ttl.as_secs());
    table.insert("x-max-age".into(), AMQPValue::LongString(age.into()));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(queue: &QueueSpec) -> Vec<String> {
        let mut shown: Vec<_> = queue
            .arguments
            .inner()
            .iter()
            .map(|(key, value)| match value {
                AMQPValue::LongString(text) => format!("{key}={text}"),
                AMQPValue::LongLongInt(number) => format!("{key}={number}"),
                other => format!("{key}={other:?}"),
            })
            .collect();
        shown.sort();
        shown
    }

    #[test]
    fn by_default_nothing_is_durable_and_only_the_fanout_queue_expires() {
        let topic = TopicSpec::new(&RabbitOptions::default(), "nova", "compute", "h.example", "ab");
        let names = topic.queues().map(|queue| queue.name.as_str());
        assert_eq!(names, ["compute", "compute.h.example", "compute_fanout_ab"]);
        let keys = topic.queues().map(|queue| queue.routing_key.as_str());
        assert_eq!(keys, ["compute", "compute.h.example", "compute"]);
        assert!(topic.queues().iter().all(|queue| !queue.durable && !queue.auto_delete));
        assert!(arguments(&topic.host).is_empty());
        assert_eq!(arguments(&topic.fanout), ["x-expires=1800000"]);
        let exchange = topic.fanout.exchange.expect("one");
        assert!(exchange.auto_delete && !exchange.durable);
        assert_eq!(
            (exchange.name.as_str(), exchange.kind),
            ("compute_fanout", ExchangeKind::Fanout)
        );
        let exchange = topic.host.exchange.expect("one");
        assert_eq!((exchange.name.as_str(), exchange.auto_delete), ("nova", false));
    }

    #[test]
    fn quorum_options_make_durable_quorum_queues() {
        let options = RabbitOptions {
            rabbit_quorum_queue: true,
            rabbit_transient_quorum_queue: true,
            rabbit_quorum_delivery_limit: 20,
            ..RabbitOptions::default()
        };
        let topic = TopicSpec::new(&options, "nova", "compute", "h", "ab");
        assert!(topic.host.durable && topic.fanout.durable);
        assert!(topic.host.exchange.as_ref().expect("one").durable);
        assert_eq!(arguments(&topic.host), ["x-delivery-limit=20", "x-queue-type=quorum"]);
        assert_eq!(
            arguments(&reply_queue(&options, "reply_1")),
            ["x-delivery-limit=20", "x-expires=1800000", "x-queue-type=quorum"]
        );
    }

    #[test]
    fn a_ttl_of_zero_leaves_expiry_out_and_a_stream_has_only_its_own_arguments() {
        let options = RabbitOptions {
            rabbit_transient_queues_ttl: std::time::Duration::ZERO,
            rabbit_ha_queues: true,
            ..RabbitOptions::default()
        };
        assert_eq!(arguments(&reply_queue(&options, "r")), ["x-ha-policy=all"]);
        let options = RabbitOptions { rabbit_stream_fanout: true, ..RabbitOptions::default() };
        let fanout = TopicSpec::new(&options, "nova", "compute", "h", "ab").fanout;
        assert_eq!(fanout.name, "compute_fanout");
        assert_eq!(arguments(&fanout), ["x-max-age=1800s", "x-queue-type=stream"]);
    }
}
