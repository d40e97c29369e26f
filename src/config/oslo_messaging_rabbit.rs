//! `[oslo_messaging_rabbit]`: the connection to RabbitMQ, and how queues are declared: both ends
//! of a queue must declare it alike.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::ConfigError;
use crate::config::opt::{Opt, choices, section};
use crate::config::oslo::Resolver;

choices! {
    /// How to log in to RabbitMQ.
    LoginMethod:
    Plain = "PLAIN",
    AmqPlain = "AMQPLAIN",
    External = "EXTERNAL",
    RabbitCrDemo = "RABBIT-CR-DEMO",
}

choices! {
    /// Which of several brokers is next.
    FailoverStrategy:
    RoundRobin = "round-robin",
    Shuffle = "shuffle",
}

choices! {
    /// How messages are compressed.
    KombuCompression:
    Gzip = "gzip",
    Bz2 = "bz2",
    Bzip2 = "bzip2",
}

section! {
    /// The connection to RabbitMQ, and how queues are declared.
    OsloMessagingRabbit in "oslo_messaging_rabbit":

    /// Whether exchange and queues outlive a broker's restart.
    amqp_durable_queues: bool = Opt::boolean().default("false");

    /// Whether queues go when their last consumer goes.
    amqp_auto_delete: bool = Opt::boolean().default("false");

    /// Whether to speak TLS to the broker.
    ssl: bool = Opt::boolean().default("false");

    /// Certificates of authorities; set: the broker's certificate is verified.
    ssl_ca_file: Option<PathBuf> = Opt::text().default("");

    /// This client's certificate.
    ssl_cert_file: Option<PathBuf> = Opt::text().default("");

    /// This client's key.
    ssl_key_file: Option<PathBuf> = Opt::text().default("");

    /// Whether the broker's certificate must name the host that was connected to.
    ssl_enforce_hostname_verification: bool = Opt::boolean().default("true");

    /// How to log in.
    rabbit_login_method: LoginMethod = Opt::choice(LoginMethod::CHOICES).default("AMQPLAIN");

    /// How long to wait before the first reconnect.
    rabbit_retry_interval: Duration = Opt::seconds(1).default("1");

    /// How much longer to wait before each further one.
    rabbit_retry_backoff: Duration = Opt::seconds(0).default("2");

    /// The longest wait between reconnects. nova's default is 30: a host is to serve again within
    /// ten seconds of the broker's return, however long that was away.
    rabbit_interval_max: Duration = Opt::seconds(1).default("8");

    /// How long to wait after a lost connection before the first reconnect, beside the above.
    kombu_reconnect_delay: Duration = Opt::float(0.0, 4.5).default("1.0").unit("seconds");

    /// The most that is added to that wait at random, lest a cloud's agents come back as one.
    kombu_reconnect_splay: Duration = Opt::float(0.0, 3600.0).default("0.0").unit("seconds");

    /// Which of several brokers is next.
    kombu_failover_strategy: FailoverStrategy =
        Opt::choice(FailoverStrategy::CHOICES).default("round-robin");

    /// How long a reply is offered to a caller whose queue is gone.
    kombu_missing_consumer_retry_timeout: Duration = Opt::seconds(0).default("60")
        .formerly(&[("oslo_messaging_rabbit", "kombu_reconnect_timeout")]);

    /// How long the broker may be silent before the connection counts as lost; 0: for ever.
    heartbeat_timeout_threshold: Duration = Opt::seconds(0).default("60");

    /// How many requests may be under way before the broker holds back; 0: any number.
    rabbit_qos_prefetch_count: u16 = Opt::integer(0, u16::MAX as i64).default("0");

    /// Whether queues are mirrored (x-ha-policy). Not together with rabbit_quorum_queue.
    rabbit_ha_queues: bool = Opt::boolean().default("false");

    /// Whether topic queues are quorum queues.
    rabbit_quorum_queue: bool = Opt::boolean().default("false");

    /// Whether reply and fanout queues are quorum queues.
    rabbit_transient_quorum_queue: bool = Opt::boolean().default("false");

    /// How often a quorum queue delivers a message before it drops it; 0: no limit.
    rabbit_quorum_delivery_limit: u32 = Opt::integer(0, u32::MAX as i64).default("0");

    /// How many messages a quorum queue keeps in memory; 0: no limit.
    rabbit_quorum_max_memory_length: u32 = Opt::integer(0, u32::MAX as i64).default("0");

    /// How many bytes a quorum queue keeps in memory; 0: no limit.
    rabbit_quorum_max_memory_bytes: u64 = Opt::integer(0, i64::MAX).default("0").unit("bytes");

    /// How long an unused reply or fanout queue stays; 0: for ever.
    rabbit_transient_queues_ttl: Duration = Opt::seconds(0).default("1800");

    /// Whether fanout goes through a stream. It needs rabbit_qos_prefetch_count and
    /// rabbit_transient_quorum_queue.
    rabbit_stream_fanout: bool = Opt::boolean().default("false");

    /// Whether the broker sends a reply back whose queue is gone, so that it can be offered again.
    direct_mandatory_flag: bool = Opt::boolean().default("true");

    /// Whether the broker ends our consumers when a mirrored queue fails over.
    enable_cancel_on_failover: bool = Opt::boolean().default("false");

    /// How messages are compressed; unset: not at all. Compressed ones are read either way.
    kombu_compression: Option<KombuCompression> = Opt::choice(KombuCompression::CHOICES);

    /// Whether reply and fanout queues have the same names after a restart, and wait for it.
    use_queue_manager: bool = Opt::boolean().default("false");

    /// The host's name in them; unset: the system's.
    hostname: Option<String> = Opt::text();

    /// The process's name in them: no other process of the host may have it.
    processname: String = Opt::text().default("hypernova");
}

impl OsloMessagingRabbit {
    /// What oslo.messaging refuses at its start, too. oslo.messaging: impl_rabbit.py,
    /// `_get_queue_arguments` and `Connection.__init__`.
    pub(in crate::config) fn check(&self, resolver: &Resolver<'_>) -> Result<(), ConfigError> {
        let refuse = |name: &str, problem: &str| {
            let spec = Self::OPTIONS.iter().find(|spec| spec.name == name);
            Err(resolver.refused(spec.expect("an option of this section"), problem))
        };
        if self.rabbit_ha_queues && self.rabbit_quorum_queue {
            return refuse("rabbit_ha_queues", "can't be together with rabbit_quorum_queue");
        }
        if self.rabbit_stream_fanout && self.rabbit_qos_prefetch_count == 0 {
            return refuse("rabbit_stream_fanout", "needs rabbit_qos_prefetch_count above 0");
        }
        if self.rabbit_stream_fanout && !self.rabbit_transient_quorum_queue {
            return refuse("rabbit_stream_fanout", "needs rabbit_transient_quorum_queue = true");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;
    use crate::config::files::Files;

    fn problem(text: &str) -> Option<String> {
        let mut files = Files::default();
        files.add(Path::new("nova.conf"), &format!("[oslo_messaging_rabbit]\n{text}")).unwrap();
        Config::from_files(&files).err().map(|error| error.to_string())
    }

    #[test]
    fn settings_that_exclude_each_other_are_refused_at_their_place() {
        let both = problem("rabbit_quorum_queue = yes\nrabbit_ha_queues = yes").unwrap();
        assert!(
            both.starts_with("nova.conf:3: [oslo_messaging_rabbit] rabbit_ha_queues"),
            "{both}"
        );
        let stream = "rabbit_stream_fanout = yes\nrabbit_qos_prefetch_count = 10\n";
        assert!(problem(stream).is_some());
        assert_eq!(problem(&format!("{stream}rabbit_transient_quorum_queue = yes")), None);
    }
}
