//! Standalone mode: records, networks and images of this host alone.

use std::sync::Arc;

use super::connect::Connected;
use super::options::{
    host_volumes, images_from, settings, snapshots, standalone_sink, standalone_source,
};
use super::{AgentError, Plane};
use crate::config::Config;
use crate::network::standalone::StandaloneNetwork;
use crate::node::scheduling::Unscheduled;
use crate::node::unclaimed::Unclaimed;
use crate::notify::Notifier;
use crate::records::sqlite::SqliteRecords;
use crate::volumes::local::LocalVolumes;
use crate::workflow::Backends;

/// # Errors
/// [`AgentError`] for records that can't be opened and settings that can't be met.
pub(super) fn plane(
    config: &Config,
    connected: &Connected,
    notifier: Arc<dyn Notifier>,
) -> Result<Plane, AgentError> {
    let records = SqliteRecords::open(&config.hypernova.records, &config.default_.host)?;
    let backends = Backends {
        hypervisor: connected.hypervisor.clone(),
        images: images_from(config, standalone_source(config))?,
        snapshots: snapshots(config)?,
        sink: standalone_sink(config),
        volumes: Arc::new(LocalVolumes),
        host_volumes: host_volumes(config),
        network: Arc::new(StandaloneNetwork::new(config.hypernova.default_network.as_str())?),
        records: Arc::new(records.clone()),
        claims: Arc::new(Unclaimed::new(&config.default_.host, &connected.host.node)),
        scheduling: Arc::new(Unscheduled),
        notifier,
        events: Arc::default(),
        info_caches: Arc::default(),
        settings: Arc::new(settings(config, &connected.host, connected.guest_host.clone())?),
    };
    let records = Arc::new(records);
    Ok(Plane { backends, upkeep: records.clone(), history: Some(records), nova: None })
}
