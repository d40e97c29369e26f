//! An interface as a device of its instance's domain.

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::domain::diskless;
use super::{Backends, StepError, StepResult, release};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::guest;
use crate::hypervisor::spec::InterfaceSpec;
use crate::model::object::{ImageMeta, Instance};
use crate::network::{NetworkError, Vif};
use crate::telemetry::Chain;

/// The interface as the domain has it: what its definition would be made of.
///
/// # Errors
/// `Guest` for what the guest can't have; those of the interface's wiring.
pub fn interface_of(
    instance: &Instance,
    vif: &Vif,
    on: &Backends,
) -> Result<InterfaceSpec, StepError> {
    let image = ImageMeta::from_instance(instance)?;
    let input = diskless(instance, &image, std::slice::from_ref(vif), &on.settings)?;
    let nothing = || NetworkError::NotSupported("an interface without a device".to_owned());
    Ok(guest::interface_specs(&input)?.pop().ok_or_else(nothing)?)
}

/// Has the domain's metadata say which ports it has by now. What fails is logged and left, as nova leaves
/// it: the next definition says it all anew. nova: virt/libvirt/driver.py, attach_interface
pub async fn describe(instance: &Instance, on: &Backends) {
    let described = async {
        let vifs = super::interfaces::vifs(instance)?;
        let image = ImageMeta::from_instance(instance)?;
        let input = diskless(instance, &image, &vifs, &on.settings)?;
        match on.hypervisor.describe(instance.uuid()?, &guest::metadata(&input)).await {
            Err(HypervisorError::NoDomain(_)) => Ok(()),
            described => Ok::<_, StepError>(described?),
        }
    };
    if let Err(error) = described.await {
        warn!(error = %Chain(&error), "the domain's metadata name other ports than it has");
    }
}

/// Takes an interface away whose port is gone already: from the definition, from the guest, from this host.
/// Who gets it done twice takes "absent" as success.
///
/// # Errors
/// `NotReleased` for a guest that keeps it: then it stays plugged; the hypervisor's, and those of the host.
pub async fn take_away(on: &Backends, instance: &Instance, vif: &Vif) -> StepResult {
    let uuid = instance.uuid()?;
    let interface = interface_of(instance, vif, on)?;
    on.hypervisor.forget_interface(uuid, &interface).await?;
    release::release(on, uuid, &interface, &CancellationToken::new()).await?;
    on.network.unplug(uuid, vif).await?;
    describe(instance, on).await;
    Ok(())
}
