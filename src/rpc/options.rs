//! `[oslo_messaging_rabbit]`: what decides how queues are declared, how long replies are kept and
//! how a connection is made. The control plane reads the same section, and RabbitMQ refuses a
//! declaration that differs from its own, so each value must mean here what it means in oslo.
//!
//! oslo.messaging: _drivers/impl_rabbit.py, rabbit_opts; _drivers/amqp.py, amqp_opts

use std::path::PathBuf;
use std::time::Duration;

use crate::rpc::compression::Compression;
use crate::rpc::envelope::new_id;

/// How the next host is chosen when one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    RoundRobin,
    Shuffle,
}

/// How we say who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMethod {
    Plain,
    AmqPlain,
    /// The client certificate says it.
    External,
    /// RabbitMQ's demonstration of a challenge; its plugin is off by default.
    RabbitCrDemo,
}

/// The section, with oslo's names and defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct RabbitOptions {
    pub amqp_durable_queues: bool,
    pub amqp_auto_delete: bool,
    pub rabbit_ha_queues: bool,
    pub rabbit_quorum_queue: bool,
    pub rabbit_transient_quorum_queue: bool,
    /// 0: none.
    pub rabbit_quorum_delivery_limit: u32,
    /// Messages; 0: no limit.
    pub rabbit_quorum_max_memory_length: u32,
    /// Bytes; 0: no limit.
    pub rabbit_quorum_max_memory_bytes: u32,
    /// How long an unused reply or fanout queue lives. Zero: for ever.
    pub rabbit_transient_queues_ttl: Duration,
    pub rabbit_stream_fanout: bool,
    /// Unacknowledged messages a consumer may hold; 0: no limit.
    pub rabbit_qos_prefetch_count: u16,
    /// A silent connection is dead after this. Zero: no heartbeats.
    pub heartbeat_timeout_threshold: Duration,
    pub rabbit_retry_interval: Duration,
    pub rabbit_retry_backoff: Duration,
    pub rabbit_interval_max: Duration,
    pub kombu_reconnect_delay: Duration,
    /// A random part of it is added to the delay.
    pub kombu_reconnect_splay: Duration,
    pub kombu_failover_strategy: Failover,
    pub rabbit_login_method: LoginMethod,
    /// How long a reply whose queue is missing is tried again.
    pub kombu_missing_consumer_retry_timeout: Duration,
    /// What we send is compressed so; what comes may be, by either method.
    pub kombu_compression: Option<Compression>,
    pub direct_mandatory_flag: bool,
    pub enable_cancel_on_failover: bool,
    /// Whether reply and fanout queues have the same names after a restart, made of the next two.
    pub use_queue_manager: bool,
    /// `None`: the system's.
    pub hostname: Option<String>,
    /// No other process of the host may have it.
    pub processname: String,
    pub ssl: bool,
    pub ssl_key_file: Option<PathBuf>,
    pub ssl_cert_file: Option<PathBuf>,
    /// Verify the broker's certificate against these. Without them nothing is verified.
    pub ssl_ca_file: Option<PathBuf>,
    /// Also hold the certificate to the host's name.
    pub ssl_enforce_hostname_verification: bool,
}

impl Default for RabbitOptions {
    fn default() -> Self {
        Self {
            amqp_durable_queues: false,
            amqp_auto_delete: false,
            rabbit_ha_queues: false,
            rabbit_quorum_queue: false,
            rabbit_transient_quorum_queue: false,
            rabbit_quorum_delivery_limit: 0,
            rabbit_quorum_max_memory_length: 0,
            rabbit_quorum_max_memory_bytes: 0,
            rabbit_transient_queues_ttl: Duration::from_secs(1800),
            rabbit_stream_fanout: false,
            rabbit_qos_prefetch_count: 0,
            heartbeat_timeout_threshold: Duration::from_secs(60),
            rabbit_retry_interval: Duration::from_secs(1),
            rabbit_retry_backoff: Duration::from_secs(2),
            rabbit_interval_max: Duration::from_secs(8),
            kombu_reconnect_delay: Duration::from_secs(1),
            kombu_reconnect_splay: Duration::ZERO,
            kombu_failover_strategy: Failover::RoundRobin,
            rabbit_login_method: LoginMethod::AmqPlain,
            kombu_missing_consumer_retry_timeout: Duration::from_secs(60),
            kombu_compression: None,
            direct_mandatory_flag: true,
            enable_cancel_on_failover: false,
            use_queue_manager: false,
            hostname: None,
            processname: PROCESS_NAME.to_owned(),
            ssl: false,
            ssl_key_file: None,
            ssl_cert_file: None,
            ssl_ca_file: None,
            ssl_enforce_hostname_verification: false,
        }
    }
}

/// What oslo takes from `argv[0]`.
const PROCESS_NAME: &str = "hypernova";

/// Options of the section that have no counterpart here, each with its reason.
const WITHOUT_EFFECT: &[&str] = &[
    // There is one connection to publish on, not a pool of them.
    "rpc_conn_pool_size",
    "conn_pool_min_size",
    "conn_pool_ttl",
    // Heartbeats are sent at half the threshold, and not by a thread of Python's.
    "heartbeat_rate",
    "heartbeat_in_pthread",
    // rustls speaks TLS 1.2 and 1.3, and no flag changes its cryptography.
    "ssl_version",
    "ssl_enforce_fips_mode",
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("[oslo_messaging_rabbit] has no option {0}")]
    Unknown(String),
    #[error("[oslo_messaging_rabbit] {name}: {value:?} is not {wanted}")]
    Value { name: String, value: String, wanted: &'static str },
    #[error("[oslo_messaging_rabbit] {0}")]
    Conflict(&'static str),
}

impl RabbitOptions {
    /// Sets one option from its text, by oslo's rules for its type. Used for `transport_url`'s
    /// query, and by whoever reads the section.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OptionsError> {
        let wrong = |wanted| OptionsError::Value { name: name.into(), value: value.into(), wanted };
        let flag = || match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Ok(true),
            "false" | "0" | "off" | "no" => Ok(false),
            _ => Err(wrong("a boolean")),
        };
        let number = || value.parse::<u32>().map_err(|_| wrong("a whole number"));
        let whole_seconds = |least: u64| match value.parse::<u64>() {
            Ok(seconds) if seconds >= least && seconds <= u64::from(u32::MAX) => {
                Ok(Duration::from_secs(seconds))
            }
            _ => Err(wrong("a number of seconds in range")),
        };
        let seconds = || match value.parse::<f64>() {
            Ok(seconds) if (0.0..=1e9).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
            _ => Err(wrong("a number of seconds")),
        };
        let path = || (!value.is_empty()).then(|| PathBuf::from(value));
        match name {
            "amqp_durable_queues" => self.amqp_durable_queues = flag()?,
            "amqp_auto_delete" => self.amqp_auto_delete = flag()?,
            "rabbit_ha_queues" => self.rabbit_ha_queues = flag()?,
            "rabbit_quorum_queue" => self.rabbit_quorum_queue = flag()?,
            "rabbit_transient_quorum_queue" => self.rabbit_transient_quorum_queue = flag()?,
            "rabbit_quorum_delivery_limit" => self.rabbit_quorum_delivery_limit = number()?,
            "rabbit_quorum_max_memory_length" => self.rabbit_quorum_max_memory_length = number()?,
            "rabbit_quorum_max_memory_bytes" => self.rabbit_quorum_max_memory_bytes = number()?,
            "rabbit_transient_queues_ttl" => self.rabbit_transient_queues_ttl = whole_seconds(0)?,
            "rabbit_stream_fanout" => self.rabbit_stream_fanout = flag()?,
            "rabbit_qos_prefetch_count" => {
                self.rabbit_qos_prefetch_count =
                    value.parse().map_err(|_| wrong("a number from 0 to 65535"))?;
            }
            "heartbeat_timeout_threshold" => self.heartbeat_timeout_threshold = whole_seconds(0)?,
            "rabbit_retry_interval" => self.rabbit_retry_interval = whole_seconds(1)?,
            "rabbit_retry_backoff" => self.rabbit_retry_backoff = whole_seconds(0)?,
            "rabbit_interval_max" => self.rabbit_interval_max = whole_seconds(1)?,
            "kombu_reconnect_delay" => self.kombu_reconnect_delay = seconds()?,
            "kombu_reconnect_splay" => self.kombu_reconnect_splay = seconds()?,
            "kombu_failover_strategy" => {
                self.kombu_failover_strategy = match value {
                    "round-robin" => Failover::RoundRobin,
                    "shuffle" => Failover::Shuffle,
                    _ => return Err(wrong("round-robin or shuffle")),
                };
            }
            "rabbit_login_method" => {
                self.rabbit_login_method = match value {
                    "PLAIN" => LoginMethod::Plain,
                    "AMQPLAIN" => LoginMethod::AmqPlain,
                    "EXTERNAL" => LoginMethod::External,
                    "RABBIT-CR-DEMO" => LoginMethod::RabbitCrDemo,
                    _ => return Err(wrong("PLAIN, AMQPLAIN, EXTERNAL or RABBIT-CR-DEMO")),
                };
            }
            "kombu_missing_consumer_retry_timeout" | "kombu_reconnect_timeout" => {
                self.kombu_missing_consumer_retry_timeout = whole_seconds(0)?;
            }
            "kombu_compression" if value.is_empty() => self.kombu_compression = None,
            "kombu_compression" => {
                let method = Compression::parse(value);
                self.kombu_compression = Some(method.ok_or_else(|| wrong("gzip or bz2"))?);
            }
            "direct_mandatory_flag" => self.direct_mandatory_flag = flag()?,
            "enable_cancel_on_failover" => self.enable_cancel_on_failover = flag()?,
            "use_queue_manager" => self.use_queue_manager = flag()?,
            "hostname" => self.hostname = Some(value.to_owned()),
            "processname" => self.processname = value.to_owned(),
            "ssl" | "rabbit_use_ssl" => self.ssl = flag()?,
            "ssl_key_file" | "kombu_ssl_keyfile" => self.ssl_key_file = path(),
            "ssl_cert_file" | "kombu_ssl_certfile" => self.ssl_cert_file = path(),
            "ssl_ca_file" | "kombu_ssl_ca_certs" => self.ssl_ca_file = path(),
            "ssl_enforce_hostname_verification" => {
                self.ssl_enforce_hostname_verification = flag()?;
            }
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => return Err(OptionsError::Unknown(name.into())),
        }
        Ok(())
    }

    /// Refuses combinations that oslo.messaging refuses.
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.rabbit_ha_queues && (self.rabbit_quorum_queue || self.rabbit_transient_quorum_queue)
        {
            return Err(OptionsError::Conflict(
                "rabbit_ha_queues and a quorum queue exclude each other",
            ));
        }
        if self.rabbit_stream_fanout && self.rabbit_qos_prefetch_count == 0 {
            return Err(OptionsError::Conflict(
                "rabbit_stream_fanout needs rabbit_qos_prefetch_count above 0",
            ));
        }
        if self.rabbit_stream_fanout && !self.rabbit_transient_quorum_queue {
            return Err(OptionsError::Conflict(
                "rabbit_stream_fanout needs rabbit_transient_quorum_queue",
            ));
        }
        Ok(())
    }

    /// What is put behind a reply or fanout queue's name: 32 random hex digits, or, by
    /// `use_queue_manager`, host, process and a number, which counts the queues of a bus from 1.
    /// oslo.messaging: _drivers/amqpdriver.py, QManager
    pub fn queue_suffix(&self, number: usize) -> String {
        if !self.use_queue_manager {
            return new_id();
        }
        let system = || nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        let host = self.hostname.clone().or_else(|| system().ok()).unwrap_or_default();
        format!("{host}:{}:{number}", self.processname)
    }

    /// How long to wait before the `attempt`th try (from 0) to connect: oslo's linear back-off,
    /// and a random half of it off, so that a whole cloud's agents don't return to a broker that
    /// has just started in the same instant. The first try is only a little late.
    pub fn retry_delay(&self, attempt: u32, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        if attempt == 0 {
            return (self.kombu_reconnect_delay / 2 + self.kombu_reconnect_splay).mul_f64(random);
        }
        let grown = self
            .rabbit_retry_backoff
            .saturating_mul(attempt - 1)
            .saturating_add(self.rabbit_retry_interval)
            .min(self.rabbit_interval_max);
        grown.mul_f64(0.5 + random / 2.0) + self.kombu_reconnect_splay.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_by_oslos_spelling() {
        let mut options = RabbitOptions::default();
        for (name, value) in [
            ("ssl", "1"),
            ("rabbit_quorum_queue", "true"),
            ("heartbeat_timeout_threshold", "30"),
            ("kombu_reconnect_delay", "0.5"),
            ("rabbit_login_method", "PLAIN"),
            ("ssl_ca_file", "/etc/ca.pem"),
            ("kombu_failover_strategy", "shuffle"),
            ("rpc_conn_pool_size", "5"),
        ] {
            options.set(name, value).expect(name);
        }
        assert!(options.ssl && options.rabbit_quorum_queue);
        assert_eq!(options.heartbeat_timeout_threshold, Duration::from_secs(30));
        assert_eq!(options.kombu_reconnect_delay, Duration::from_millis(500));
        assert_eq!(options.rabbit_login_method, LoginMethod::Plain);
        assert_eq!(options.ssl_ca_file, Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(options.kombu_failover_strategy, Failover::Shuffle);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_name() {
        let mut options = RabbitOptions::default();
        for (name, value) in [
            ("ssl", "maybe"),
            ("rabbit_retry_interval", "0"),
            ("rabbit_qos_prefetch_count", "70000"),
            ("kombu_reconnect_delay", "-1"),
            ("kombu_reconnect_delay", "nan"),
            ("kombu_compression", "zstd"),
        ] {
            let error = options.set(name, value).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(options.set("sll", "1"), Err(OptionsError::Unknown("sll".into())));
        assert_eq!(options, RabbitOptions::default());
    }

    #[test]
    fn conflicting_options_are_refused() {
        let both = RabbitOptions {
            rabbit_ha_queues: true,
            rabbit_quorum_queue: true,
            ..RabbitOptions::default()
        };
        assert!(both.check().is_err());
        let stream = RabbitOptions {
            rabbit_stream_fanout: true,
            rabbit_transient_quorum_queue: true,
            ..RabbitOptions::default()
        };
        assert!(stream.check().is_err());
        assert!(RabbitOptions::default().check().is_ok());
    }

    #[test]
    fn the_delay_grows_to_its_cap_and_is_never_the_same_for_all() {
        let options = RabbitOptions::default();
        assert!(options.retry_delay(0, 1.0) <= Duration::from_secs(1));
        let longest: Vec<_> = (1..6).map(|n| options.retry_delay(n, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 3, 5, 7, 8]);
        assert_eq!(options.retry_delay(u32::MAX, 1.0), Duration::from_secs(8));
        assert_eq!(options.retry_delay(u32::MAX, 0.0), Duration::from_secs(4));
    }
}
