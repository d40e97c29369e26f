//! Nova mode: records with nova-conductor, images from Glance, networks of Neutron's, and resources
//! that placement knows of.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connect::Connected;
use super::network::neutron;
use super::options::{host_volumes, images_from, settings, snapshots};
use super::{AgentError, Plane};
use crate::config::{Config, Source};
use crate::health::Metrics;
use crate::images::glance::Glance;
use crate::model::context::RequestContext;
use crate::node::identity::{Identify, IdentityFiles, identify};
use crate::node::service::{self, NovaService, ServiceOptions};
use crate::node::told::ToldByBus;
use crate::node::tracker::{Tracker, TrackerBackends, TrackerOptions};
use crate::notify::Notifier;
use crate::openstack::session::{Service, Session};
use crate::periodic::{Scheduler, Spacing, Task};
use crate::placement::Placement;
use crate::records::conductor::{Conductor, ConductorOptions, ConductorRecords};
use crate::rpc::bus::Bus;
use crate::telemetry::Chain;
use crate::volumes::cinder::Cinder;
use crate::volumes::keys::FixedKey;
use crate::workflow::Backends;

/// The first heartbeat comes after this. nova: servicegroup/drivers/db.py, INITIAL_REPORTING_DELAY
const FIRST_BEAT: Duration = Duration::from_secs(5);

/// What one look at the host and its report to placement may take.
const REPORT_BUDGET: Duration = Duration::from_secs(300);

/// This host's part in the control plane.
pub(super) struct Nova {
    pub service: Arc<NovaService>,
    pub tracker: Arc<Tracker>,
}

/// What [`plane`] starts from.
pub(super) struct Start<'a> {
    pub config: &'a Config,
    /// Where the configuration was read: `compute_id` may lie beside it.
    pub sources: &'a [Source],
    pub connected: &'a Connected,
    pub bus: Option<&'a Bus>,
    pub notifier: Arc<dyn Notifier>,
    pub metrics: &'a Arc<Metrics>,
    pub stop: &'a CancellationToken,
}

/// Registers this host with its control plane. A conductor that is away is waited for; `None`: told
/// to stop meanwhile.
///
/// # Errors
/// [`AgentError`] when this host isn't the one that the records know, or the control plane's
/// release is none that the agent works with.
pub(super) async fn plane(start: Start<'_>) -> Result<Option<Plane>, AgentError> {
    let Start { config, connected, metrics, .. } = start;
    let bus = start.bus.ok_or(AgentError::NoTransportUrl)?;
    let session = Session::from_config(config, Some(metrics.clone()))?;
    let host = &config.default_.host;
    let conductor = Conductor::new(Arc::new(bus.client()), ConductorOptions::from_config(config)?);
    if !conductor.wait_until_ready(start.stop).await {
        return Ok(None);
    }
    let context = RequestContext::admin();
    let options = ServiceOptions {
        host: host.clone(),
        report_interval: config.default_.report_interval,
        allow_old_computes: config.workarounds.disable_compute_service_check_for_ffu,
    };
    let found = service::find(&conductor, options).await?;
    let files = IdentityFiles::new(start.sources, &config.default_.state_path);
    let ask = Identify {
        files: &files,
        host,
        node: &connected.host.node,
        service: found.service(),
        domains: connected.hypervisor.domains().await?.len(),
    };
    let identity = identify(&conductor, &context, ask).await?;
    let service = Arc::new(found.register().await?);
    info!(uuid = %identity.uuid, version = service.status().version, "registered");

    let records = Arc::new(ConductorRecords::new(conductor.clone(), host));
    let tracker_options = TrackerOptions::from_config(config, identity.uuid, &connected.host.node)?;
    let tracker_backends = TrackerBackends {
        records: records.clone(),
        placement: Placement::new(session.service(Service::Placement)),
        hypervisor: connected.hypervisor.clone(),
    };
    let tracker = Arc::new(Tracker::new(tracker_options, tracker_backends));
    tracker.set_service(service.status().id);
    if let Some(record) = identity.record {
        tracker.adopt(record);
    }
    let neutron = neutron(config, session.service(Service::Neutron), Arc::new(conductor.clone()));
    let glance = Arc::new(Glance::new(&session, &config.glance));
    let tracked = config.filter_scheduler.track_instance_changes;
    let backends = Backends {
        hypervisor: connected.hypervisor.clone(),
        images: images_from(config, glance.clone())?,
        snapshots: snapshots(config)?,
        sink: glance,
        volumes: Arc::new(Cinder::new(
            session.service(Service::Cinder),
            Arc::new(FixedKey(config.key_manager.fixed_key.clone())),
        )),
        host_volumes: host_volumes(config),
        network: Arc::new(neutron),
        records: records.clone(),
        claims: tracker.clone(),
        scheduling: Arc::new(ToldByBus::new(conductor, host, tracked)),
        notifier: start.notifier,
        events: Arc::default(),
        info_caches: Arc::default(),
        settings: Arc::new(settings(config, &connected.host, connected.guest_host.clone())?),
    };
    let nova = Some(Nova { service, tracker });
    Ok(Some(Plane { backends, upkeep: records, history: None, nova }))
}

impl Nova {
    /// Reports what the host has and that it is alive, from now on: requests are served already.
    pub(super) fn report(self, config: &Config, scheduler: &Scheduler, stop: &CancellationToken) {
        let Self { service, tracker } = self;
        let (writer, until) = (tracker.clone(), stop.clone());
        tokio::spawn(async move { writer.run(&until).await });
        let (first, until) = (tracker.clone(), stop.clone());
        tokio::spawn(until.run_until_cancelled_owned(async move {
            let context = RequestContext::admin();
            match first.update_available_resource(&context).await {
                Ok(()) => info!("what this host has is reported"),
                Err(error) => {
                    warn!(error = %Chain(&error), "what this host has is not reported yet");
                }
            }
        }));
        let every = Spacing::of_option(config.default_.update_resources_interval);
        let report = move || {
            let tracker = tracker.clone();
            async move { Ok(tracker.update_available_resource(&RequestContext::admin()).await?) }
        };
        scheduler.add(Task::new("update_available_resource", every, report).within(REPORT_BUDGET));
        let beat = move || {
            let service = service.clone();
            async move {
                service.beat().await;
                Ok(())
            }
        };
        let every = Spacing::Every(config.default_.report_interval);
        scheduler.add(Task::new("report_state", every, beat).first_after(FIRST_BEAT).always());
    }
}
