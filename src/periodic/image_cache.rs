//! The image cache's ageing: what the records say is in use, and then the cache looks for itself.
//! nova: compute/manager.py, `_run_image_cache_manager_pass`

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tracing::info;

use crate::dispatch::own::OwnRequests;
use crate::images::{Ageing, ImageError};
use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::records::RecordsError;

/// `[image_cache]`: whether unused images go, and when.
#[derive(Debug, Clone, Copy)]
pub struct CacheAges {
    pub remove: bool,
    pub original: Duration,
    pub resized: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum AgeingError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Images(#[from] ImageError),
}

impl AgeingError {
    pub fn class(&self) -> Class {
        match self {
            Self::Records(error) => error.class(),
            Self::Images(error) => error.class(),
        }
    }
}

/// Looks through the cache once.
///
/// # Errors
/// What is in use can't be said: nothing was removed.
pub async fn age(own: &OwnRequests, ages: CacheAges) -> Result<(), AgeingError> {
    let context = RequestContext::admin();
    let on = own.backends();
    let asked_at = SystemTime::now();
    let hosts = on.images.storage_users(&on.settings.host).await?;
    let instances = own.upkeep().instances_of(&context, &hosts).await?;
    let by = Ageing {
        in_use: instances.iter().flat_map(images).collect(),
        asked_at,
        remove: ages.remove,
        original_age: ages.original,
        resized_age: ages.resized,
    };
    let aged = on.images.age_cache(&by).await?;
    if !aged.removed.is_empty() {
        let (removed, in_use, kept) = (aged.removed.len(), aged.in_use, aged.kept);
        info!(removed, in_use, kept, hosts = hosts.len(), "unused images removed from the cache");
    }
    Ok(())
}

/// The ids of the images that an instance is made of. A rescue or a rebuild may name another one
/// than its base.
fn images(instance: &Instance) -> BTreeSet<String> {
    let ids = [&instance.image_ref, &instance.kernel_id, &instance.ramdisk_id];
    let ids = ids.into_iter().filter_map(|id| id.value().cloned());
    let base = instance.system_metadata("image_base_image_ref").map(str::to_owned);
    ids.chain(base).filter(|id| !id.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Images;
    use crate::images::fake::ImageCall;
    use crate::records::{Expected, Records};
    use crate::workflow::world::{UUID, World, spawn_image};

    const AGES: CacheAges =
        CacheAges { remove: true, original: Duration::ZERO, resized: Duration::ZERO };

    #[tokio::test(start_paused = true)]
    async fn images_of_instances_stay_and_others_go() {
        let world = World::with_guest().await;
        let context = RequestContext::admin();
        let mut instance = world.records.instance(&context, UUID).await.unwrap().unwrap();
        instance.image_ref.set(Some(spawn_image("9ac5fd6a-073c-423e-8bb6-9593064b906d").id));
        instance.kernel_id.set(Some("kernel".to_owned()));
        world.records.save(&context, &mut instance, Expected::Any).await.unwrap();
        world.images.cache(&context, &spawn_image("unused"), &|_, _| ()).await.unwrap();
        assert_eq!(world.images.cached().len(), 4);
        age(&world.own_requests(), AGES).await.unwrap();
        // The ramdisk isn't on record, and is unused like the other one.
        assert_eq!(world.images.cached().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn records_or_a_register_that_cannot_be_read_remove_nothing() {
        let world = World::with_guest().await;
        let own = world.own_requests();
        world.records.fail_at("instances");
        assert!(age(&own, AGES).await.is_err());
        world.images.fail_once_at(ImageCall::StorageUsers);
        assert!(age(&own, AGES).await.is_err());
        assert_eq!(world.images.cached().len(), 3);
    }
}
