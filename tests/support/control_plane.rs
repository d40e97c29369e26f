//! A control plane that is there already: tests that can use one do, when they are told its broker.

use hypernova::rpc::bus::{Bus, BusSettings};
use hypernova::rpc::options::RabbitOptions;
use hypernova::rpc::transport_url::TransportUrl;

/// A bus without topics, to the broker that `HYPERNOVA_TEST_TRANSPORT_URL` names.
pub fn bus() -> Option<Bus> {
    let url = std::env::var("HYPERNOVA_TEST_TRANSPORT_URL").ok()?;
    let settings = BusSettings {
        url: TransportUrl::parse(&url).expect("a transport URL"),
        options: RabbitOptions::default(),
        host: "contract".to_owned(),
        control_exchange: "nova".to_owned(),
        topics: Vec::new(),
        watchdog: None,
    };
    Some(Bus::connect(settings).expect("a bus").0)
}
