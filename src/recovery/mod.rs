//! Recovery: what the agent does about its instances when it starts, beside serving requests.
//! nova: compute/manager.py, `init_host`
//!
//! ```text
//! workflows of the journal ─▶ resumed; their instances are left alone
//! records, in one question ─┬▶ rules ─▶ a turn of each instance's queue, several at once
//! power states, in one     ─┘  (pure)
//! ```

pub mod rules;

use std::time::Duration;

use futures_util::StreamExt;
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use crate::dispatch::own::{OwnError, OwnRequests};
use crate::hypervisor::HypervisorError;
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::state::{PowerState, TaskState, VmState};
use crate::node::ClaimError;
use crate::records::{Expected, InstancePart, RecordsError};
use crate::telemetry::Chain;
use crate::workflow::interfaces::plug_vifs;
use crate::workflow::power_off::PowerOff;
use crate::workflow::power_on::PowerOn;
use crate::workflow::reboot::{Kind, Reboot};
use crate::workflow::terminate::Terminate;
use crate::workflow::unpause::Unpause;
use rules::{Permits, Recovery, Situation, Task, Then, recovery};

/// Instances that are looked at together.
const PARALLEL: usize = 8;

/// Between two questions to records or a hypervisor that don't answer; it doubles up to the limit.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

impl RecoveryError {
    pub fn class(&self) -> Class {
        match self {
            Self::Hypervisor(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Own(error) => error.class(),
            Self::Claim(error) => error.class(),
        }
    }
}

/// What the table and the re-plugging of interfaces look at.
/// nova: compute/manager.py, init_host
const RECOVERY_PARTS: &[InstancePart] = &[
    InstancePart::InfoCache,
    InstancePart::Metadata,
    InstancePart::SystemMetadata,
    InstancePart::Flavor,
];

/// Recovers every instance of this host that has no request, and tells the schedulers of them all.
/// Records or a hypervisor that are away are waited for.
///
/// # Cancel safety
/// Dropped, it takes up no further instance; what it began goes on.
pub async fn recover_all(own: &OwnRequests, may: Permits) {
    let context = RequestContext::admin();
    let mut pause = FIRST_PAUSE;
    let (instances, powers) = loop {
        let on = own.backends();
        let found = async {
            let instances = on.records.instances(&context, RECOVERY_PARTS).await?;
            Ok::<_, RecoveryError>((instances, on.hypervisor.power_states().await?))
        };
        match found.await {
            Ok(found) => break found,
            Err(error) => warn!(error = %Chain(&error), "recovery waits"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    let started = std::time::Instant::now();
    if !instances.is_empty() {
        // A host without any may not be known to them yet. Said first: what is deleted below is taken
        // back from them.
        own.backends().scheduling.here(&context, &instances).await;
    }
    futures_util::stream::iter(&instances)
        .for_each_concurrent(PARALLEL, |instance| {
            let uuid = instance.uuid.get();
            let power = uuid.and_then(|uuid| powers.get(uuid)).copied();
            recover(own, &context, instance, power.unwrap_or(PowerState::NoState), may)
        })
        .await;
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(instances = instances.len(), elapsed_ms, "every instance was looked at");
}

/// Looks at one instance, and does what the table says in a turn of its own.
async fn recover(
    own: &OwnRequests,
    context: &RequestContext,
    instance: &Instance,
    power: PowerState,
    may: Permits,
) {
    let Ok(uuid) = instance.uuid() else { return };
    let ours = &own.backends().settings.host;
    match instance.host.value() {
        Some(host) if host == ours => {}
        Some(host) => {
            warn!(instance_uuid = %uuid, host, "the instance is another host's: it is left alone");
            return;
        }
        None => return,
    }
    let plan = recovery(situation(instance, power), may);
    if plan == Recovery::Skip {
        return;
    }
    let span = info_span!("recovery", instance_uuid = %uuid);
    let (own, context, instance) = (own.clone(), context.clone(), instance.clone());
    let dispatcher = own.dispatcher().clone();
    let turn = async move {
        if let Err(error) = act(&own, &context, uuid, instance, plan, may).await {
            match error.class() {
                Class::Absent => info!("the instance is gone"),
                _ => error!(error = %Chain(&error), "the instance is not recovered"),
            }
        }
    };
    if dispatcher.if_idle(uuid, turn.instrument(span)).await.is_none() {
        info!(instance_uuid = %uuid, "the instance has requests: recovery leaves it to them");
    }
}

fn situation(instance: &Instance, power: PowerState) -> Situation {
    let recorded = instance.power_state.value().copied().and_then(PowerState::from_number);
    Situation {
        vm_state: instance.vm_state.value().copied(),
        task_state: instance.task_state.value().copied(),
        recorded: recorded.unwrap_or(PowerState::NoState),
        power,
    }
}

/// Does what is to be done. What changes more than interfaces is decided anew first: a request may
/// have been served since the list was made.
async fn act(
    own: &OwnRequests,
    context: &RequestContext,
    uuid: Uuid,
    instance: Instance,
    plan: Recovery,
    may: Permits,
) -> Result<(), RecoveryError> {
    let on = own.backends();
    let (mut instance, plan) = match plan {
        Recovery::GoOn(Task::Keep, Then::Nothing) => (instance, plan),
        _ => {
            let Some(fresh) = on.records.instance(context, uuid).await? else { return Ok(()) };
            let found = on.hypervisor.domain(uuid).await?;
            let power = found.map_or(PowerState::NoState, |info| info.power_state);
            let plan = recovery(situation(&fresh, power), may);
            (fresh, plan)
        }
    };
    if !matches!(plan, Recovery::GoOn(Task::Keep, Then::Nothing)) {
        let name = |state: Option<TaskState>| state.map_or("none", TaskState::as_str);
        let task_state = name(instance.task_state.value().copied());
        let vm_state = instance.vm_state.value().map_or("none", |state| state.as_str());
        info!(vm_state, task_state, ?plan, "recovering the instance");
    }
    match plan {
        Recovery::Skip => Ok(()),
        Recovery::FinishDeletion => {
            on.records.destroy(context, &mut instance).await?;
            on.claims.note(context, &instance).await;
            on.claims.release_allocation(context, &instance).await?;
            on.records.forget_consoles(context, uuid).await?;
            on.scheduling.gone(context, uuid).await;
            Ok(())
        }
        Recovery::Fail => fail(own, context, instance).await,
        Recovery::Delete => {
            Ok(own.submit(context, instance, "terminate_instance", Terminate::new).await?)
        }
        Recovery::Reboot(kind) => reboot(own, context, instance, kind).await,
        Recovery::Unpause => {
            Ok(own.submit(context, instance, "unpause_instance", Unpause::new).await?)
        }
        Recovery::Stop => {
            let stop = |subject| PowerOff::new(subject, true);
            Ok(own.submit(context, instance, "stop_instance", stop).await?)
        }
        Recovery::Start => {
            Ok(own.submit(context, instance, "start_instance", PowerOn::new).await?)
        }
        Recovery::GoOn(task, then) => go_on(own, context, instance, task, then).await,
    }
}

/// nova: compute/manager.py, `_set_instance_obj_error_state`
async fn fail(
    own: &OwnRequests,
    context: &RequestContext,
    mut instance: Instance,
) -> Result<(), RecoveryError> {
    let found = Expected::OneOf(vec![instance.task_state.value().copied()]);
    instance.vm_state.set(Some(VmState::Error));
    instance.task_state.set(None);
    own.backends().records.save(context, &mut instance, found).await?;
    warn!("what was under way was cut off and can't be taken up: it is an error");
    Ok(())
}

async fn reboot(
    own: &OwnRequests,
    context: &RequestContext,
    mut instance: Instance,
    kind: Kind,
) -> Result<(), RecoveryError> {
    let task_state = instance.task_state.value().copied();
    let soft = matches!(
        task_state,
        Some(TaskState::Rebooting | TaskState::RebootPending | TaskState::RebootStarted)
    );
    if kind == Kind::Hard && soft {
        // What began soft goes on hard, and its task must be one of a hard reboot's.
        instance.task_state.set(Some(TaskState::RebootPendingHard));
        let found = Expected::OneOf(vec![task_state]);
        own.backends().records.save(context, &mut instance, found).await?;
    }
    let reboot = |subject| Reboot::new(subject, kind);
    Ok(own.submit(context, instance, "reboot_instance", reboot).await?)
}

async fn go_on(
    own: &OwnRequests,
    context: &RequestContext,
    mut instance: Instance,
    task: Task,
    then: Then,
) -> Result<(), RecoveryError> {
    let on = own.backends();
    let found = instance.task_state.value().copied();
    match task {
        Task::Keep => {}
        Task::NotSupported => {
            let task_state = found.map_or("none", TaskState::as_str);
            warn!(task_state, "taking back a move between hosts is not supported: its task stays");
        }
        Task::Clear | Task::ClearAsActive => {
            if task == Task::ClearAsActive {
                instance.vm_state.set(Some(VmState::Active));
            }
            instance.task_state.set(None);
            on.records.save(context, &mut instance, Expected::OneOf(vec![found])).await?;
        }
    }
    // A guest that runs keeps its interfaces; one that is started again plugs them anew.
    if let Err(error) = plug_vifs(&instance, on).await {
        error!(error = %Chain(&error), "an interface can't be plugged: the port's binding may need a look");
    }
    match then {
        Then::Nothing => Ok(()),
        Then::ResumeGuest => {
            info!("the guest ran before: starting it again");
            let reboot = |subject| Reboot::new(subject, Kind::Hard);
            Ok(own.submit(context, instance, "reboot_instance", reboot).await?)
        }
    }
}

#[cfg(test)]
mod tests;
