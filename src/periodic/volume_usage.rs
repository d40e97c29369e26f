//! The use of this host's volumes, counted at intervals. nova: compute/manager.py, `_poll_volume_usage`

use std::collections::BTreeMap;

use tracing::warn;

use crate::dispatch::own::OwnRequests;
use crate::model::context::RequestContext;
use crate::model::state::PowerState;
use crate::telemetry::Chain;
use crate::workflow::StepError;
use crate::workflow::volume_usage::{disk_of, note};

/// Counts once: every volume of every guest that runs. An instance on which it fails is logged.
///
/// # Errors
/// The records or the hypervisor can't be read.
pub async fn count(own: &OwnRequests) -> Result<(), StepError> {
    let (on, context) = (own.backends(), RequestContext::admin());
    let instances = on.records.instances(&context, &[]).await?;
    if instances.is_empty() {
        return Ok(());
    }
    let stats = on.hypervisor.all_stats().await?.into_iter();
    let runs =
        |power: Option<PowerState>| matches!(power, Some(PowerState::Running | PowerState::Paused));
    let stats: BTreeMap<_, _> = stats
        .filter(|stats| runs(stats.power_state))
        .map(|stats| (stats.instance_uuid, stats.disks))
        .collect();
    for instance in &instances {
        let uuid = instance.uuid()?;
        let Some(disks) = stats.get(&uuid) else { continue };
        let counted = async {
            let devices = on.records.block_devices(&context, uuid).await?;
            for device in devices.items().iter().filter(|device| device.is_volume()) {
                let Some(disk) = disk_of(device, disks) else { continue };
                note(on, &context, instance, (device, disk), false).await?;
            }
            Ok::<_, StepError>(())
        };
        if let Err(error) = counted.await {
            let error = Chain(&error);
            warn!(instance_uuid = %uuid, %error, "the use of its volumes can't be counted");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::volume_tests::attached;
    use crate::workflow::world::UUID;

    #[tokio::test(start_paused = true)]
    async fn what_a_guest_reads_and_writes_is_recorded_and_told_of() {
        let world = attached().await;
        world.notifier.clear();
        count(&world.own_requests()).await.unwrap();
        let usages = world.records.usages();
        assert_eq!(usages.len(), 1);
        let (usage, ends) = &usages[0];
        assert!(!ends);
        assert_eq!(usage.volume_id.get().unwrap(), "vol-1");
        assert_eq!(usage.instance_uuid.value(), Some(&UUID));
        assert_eq!(world.notifier.types(), ["volume.usage", "volume.usage"]);
        let (_, told) = world.notifier.sent().remove(1);
        assert_eq!(told.payload["nova_object.data"]["reads"], usage.sums()[0]);
    }
}
