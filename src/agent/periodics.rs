//! Every periodic task of this agent, with the option that says how often.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::config::Config;
use crate::config::default::RunningDeletedAction;
use crate::config::hypernova::ControlPlane;
use crate::dispatch::own::OwnRequests;
use crate::health::Metrics;
use crate::model::context::RequestContext;
use crate::periodic::deleted::{Action, clean_domains, clean_files};
use crate::periodic::heal::Healer;
use crate::periodic::image_cache::{CacheAges, age};
use crate::periodic::lifecycle::follow;
use crate::periodic::overdue::{fail_slow_builds, offload, reclaim, unrescue};
use crate::periodic::power_sync::PowerSync;
use crate::periodic::volume_usage::count;
use crate::periodic::{Scheduler, Spacing, Start, Task, TaskError};
use crate::recovery::recover_all;
use crate::recovery::rules::Permits;

/// How often the journal forgets what ended long ago.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// How often memory that a burst of requests has left behind is given back.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// What looks at every disk below the instances directory may take.
const AGEING_BUDGET: Duration = Duration::from_secs(600);

/// A scheduler with the tasks that don't wait for recovery. It ends with [`Scheduler::stop`].
pub(super) fn start(config: &Config, metrics: Arc<Metrics>, own: &OwnRequests) -> Scheduler {
    let start = Start {
        enable: config.default_.periodic_enable,
        fuzzy_delay: config.default_.periodic_fuzzy_delay,
    };
    let scheduler = Scheduler::new(start, metrics);
    let dispatcher = own.dispatcher().clone();
    let prune = move || {
        let dispatcher = dispatcher.clone();
        async move { Ok(dispatcher.prune().await.map(drop)?) }
    };
    scheduler.add(Task::new("prune_journal", Spacing::Every(PRUNE_EVERY), prune).always());
    let trim = || async {
        crate::memory::trim();
        Ok(())
    };
    scheduler.add(Task::new("trim_memory", Spacing::Every(TRIM_EVERY), trim).always());
    scheduler
}

/// Recovers the instances of this host, and looks after them from then on.
///
/// # Cancel safety
/// It runs until it is dropped, and may be at any time: what is under way goes on.
pub(super) async fn keep_instances(config: Config, scheduler: Arc<Scheduler>, own: OwnRequests) {
    let may = Permits {
        resume_guests: config.default_.resume_guests_state_on_host_boot,
        clear_stale_tasks: config.hypernova.control_plane == ControlPlane::Standalone,
    };
    // Heard from now on, and acted on afterwards: what recovery changes is no news then.
    let events = own.backends().hypervisor.events();
    recover_all(&own, may).await;
    let sync = PowerSync::new(own.clone(), config.default_.sync_power_state_pool_size);
    look_after_instances(&config, &scheduler, &own, sync.clone());
    if config.workarounds.handle_virt_lifecycle_events {
        follow(sync, events).await;
    }
}

/// The tasks that look at instances: recovery has been at all of them.
fn look_after_instances(
    config: &Config,
    scheduler: &Scheduler,
    own: &OwnRequests,
    sync: PowerSync,
) {
    let options = &config.default_;
    let every = Spacing::of_option(options.sync_power_state_interval);
    if every == Spacing::Never && !config.workarounds.handle_virt_lifecycle_events {
        warn!("guests that go off by themselves stay active on record: nobody looks");
    }
    let synced = move || {
        let sync = sync.clone();
        async move { Ok(sync.run().await?) }
    };
    scheduler.add(Task::new("sync_power_states", every, synced).at_once());

    let every = Spacing::of_option(config.image_cache.manager_interval);
    let cache = &config.image_cache;
    let ages = CacheAges {
        remove: cache.remove_unused_base_images,
        original: cache.remove_unused_original_minimum_age_seconds,
        resized: cache.remove_unused_resized_minimum_age_seconds,
    };
    let aged = each(own, move |own| async move { Ok(age(&own, ages).await?) });
    scheduler.add(Task::new("run_image_cache_manager_pass", every, aged).within(AGEING_BUDGET));

    let action = match options.running_deleted_instance_action {
        RunningDeletedAction::Noop => None,
        RunningDeletedAction::Log => Some(Action::Log),
        RunningDeletedAction::Shutdown => Some(Action::Shutdown),
        RunningDeletedAction::Reap => Some(Action::Reap),
    };
    if let Some(action) = action {
        let every = Spacing::of_option(options.running_deleted_instance_poll_interval);
        let after = options.running_deleted_instance_timeout;
        let clean =
            each(own, move |own| async move { Ok(clean_domains(&own, action, after).await?) });
        scheduler.add(Task::new("cleanup_running_deleted_instances", every, clean).at_once());
    }

    let every = Spacing::of_option(options.instance_delete_interval);
    let attempts = options.maximum_instance_delete_attempts;
    let clean = each(own, move |own| async move { Ok(clean_files(&own, attempts).await?) });
    scheduler.add(Task::new("run_pending_deletes", every, clean));

    let forget = each(own, move |own| async move {
        Ok(own.upkeep().forget_expired_consoles(&RequestContext::admin()).await?)
    });
    scheduler.add(Task::new("cleanup_expired_console_auth_tokens", every, forget));

    let interval = options.heal_instance_info_cache_interval;
    if interval > 0 {
        let healer = Healer::new(own.clone());
        let heal = move || {
            let healer = healer.clone();
            async move { Ok(healer.run().await?) }
        };
        let every = Spacing::of_option(interval);
        scheduler.add(Task::new("heal_instance_info_cache", every, heal));
    }

    if config.hypernova.control_plane == ControlPlane::Nova {
        let every = Spacing::of_option(options.scheduler_instance_sync_interval);
        let told = each(own, move |own| async move {
            let context = RequestContext::admin();
            let instances = own.backends().records.instances(&context, &[]).await?;
            let uuids: Vec<_> = instances.iter().filter_map(|i| i.uuid.get().copied()).collect();
            own.backends().scheduling.compare(&context, &uuids).await;
            Ok(())
        });
        if config.filter_scheduler.track_instance_changes {
            scheduler.add(Task::new("sync_scheduler_instance_info", every, told));
        }
    }

    let minutely = Spacing::of_option(0);
    let after = options.reclaim_instance_interval;
    if !after.is_zero() {
        let reclaim = each(own, move |own| async move { Ok(reclaim(&own, after).await?) });
        scheduler.add(Task::new("reclaim_queued_deletes", minutely, reclaim));
    }
    let after = options.rescue_timeout;
    if !after.is_zero() {
        let unrescue = each(own, move |own| async move { Ok(unrescue(&own, after).await?) });
        scheduler.add(Task::new("poll_rescued_instances", minutely, unrescue));
    }
    if let Some(after) = u64::try_from(options.shelved_offload_time).ok().filter(|s| *s > 0) {
        let (every, after) =
            (Spacing::of_option(options.shelved_poll_interval), Duration::from_secs(after));
        let offload = each(own, move |own| async move { Ok(offload(&own, after).await?) });
        scheduler.add(Task::new("poll_shelved_instances", every, offload));
    }
    if options.volume_usage_poll_interval > 0 {
        let every = Spacing::of_option(options.volume_usage_poll_interval);
        let counted = each(own, move |own| async move { Ok(count(&own).await?) });
        scheduler.add(Task::new("poll_volume_usage", every, counted));
    }
    let after = options.instance_build_timeout;
    if !after.is_zero() {
        let fail = each(own, move |own| async move { Ok(fail_slow_builds(&own, after).await?) });
        scheduler.add(Task::new("check_instance_build_time", minutely, fail));
    }
}

/// A task's closure: each run has the agent's own requests.
fn each<W>(
    own: &OwnRequests,
    work: impl Fn(OwnRequests) -> W + Send + Sync + 'static,
) -> impl Fn() -> W + Send + Sync + 'static
where
    W: Future<Output = Result<(), TaskError>> + Send + 'static,
{
    let own = own.clone();
    move || work(own.clone())
}
