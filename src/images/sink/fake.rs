//! Images that are only told of. It can be told to fail at a named call, before it did anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{ImageSink, TargetImage};
use crate::images::glance::ImageUpdate;
use crate::images::{ImageError, Progress};
use crate::model::context::RequestContext;

/// The calls that can be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SinkCall {
    Reserve,
    Fill,
    Discard,
    Backups,
}

#[derive(Default)]
struct World {
    /// `None`: reserved.
    images: BTreeMap<String, Option<ImageUpdate>>,
    /// The newest first.
    backups: Vec<String>,
    unknown: BTreeSet<String>,
    failing: BTreeSet<SinkCall>,
    fill_time: Duration,
}

/// A sink in memory.
#[derive(Default)]
pub struct FakeSink(Mutex<World>);

impl FakeSink {
    /// From now on `call` fails each time.
    pub fn fail_at(&self, call: SinkCall) {
        self.world().failing.insert(call);
    }

    /// Somebody has removed the image.
    pub fn forget(&self, id: &str) {
        self.world().unknown.insert(id.to_owned());
    }

    /// An upload takes that long from now on.
    pub fn set_fill_time(&self, fill_time: Duration) {
        self.world().fill_time = fill_time;
    }

    /// Every image of the world, and what it was filled with.
    pub fn images(&self) -> BTreeMap<String, Option<ImageUpdate>> {
        self.world().images.clone()
    }

    /// An image that nova-api has made, or one with content.
    pub fn add(&self, id: &str, content: Option<ImageUpdate>) {
        self.world().images.insert(id.to_owned(), content);
    }

    /// Backups of the instance, the newest first.
    pub fn set_backups(&self, ids: &[&str]) {
        self.world().backups = ids.iter().map(|id| (*id).to_owned()).collect();
    }

    pub fn backups_left(&self) -> Vec<String> {
        self.world().backups.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act<T>(
        &self,
        call: SinkCall,
        image: Option<&TargetImage>,
        work: impl FnOnce(&mut World) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let mut world = self.world();
        if world.failing.contains(&call) {
            let message = format!("told to fail at {call:?}");
            return Err(ImageError::Command { command: "fake", message });
        }
        match image.filter(|image| world.unknown.contains(&image.id)) {
            Some(image) => Err(ImageError::NotFound(image.id.clone())),
            None => work(&mut world),
        }
    }
}

#[async_trait]
impl ImageSink for FakeSink {
    async fn reserve(
        &self,
        _: &RequestContext,
        image: &TargetImage,
    ) -> Result<Option<String>, ImageError> {
        self.act(SinkCall::Reserve, Some(image), |world| {
            let place = world.images.entry(image.id.clone()).or_default();
            match place {
                None => Ok(Some(format!("name of {}", image.id))),
                Some(_) => {
                    let message = "it has content".to_owned();
                    Err(ImageError::InUse { image: image.id.clone(), message })
                }
            }
        })
    }

    async fn fill(
        &self,
        _: &RequestContext,
        image: &TargetImage,
        known: &ImageUpdate,
        _: &Path,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        let fill_time = self.world().fill_time;
        if !fill_time.is_zero() {
            tokio::time::sleep(fill_time).await;
        }
        self.act(SinkCall::Fill, Some(image), |world| {
            world.images.insert(image.id.clone(), Some(known.clone()));
            Ok(())
        })?;
        progress(1, Some(1));
        Ok(())
    }

    async fn discard(&self, _: &RequestContext, image: &TargetImage) -> Result<(), ImageError> {
        self.act(SinkCall::Discard, None, |world| {
            world.images.remove(&image.id);
            world.backups.retain(|id| *id != image.id);
            Ok(())
        })
    }

    async fn discard_empty(
        &self,
        _: &RequestContext,
        image: &TargetImage,
    ) -> Result<(), ImageError> {
        self.act(SinkCall::Discard, None, |world| {
            world.images.retain(|id, content| *id != image.id || content.is_some());
            Ok(())
        })
    }

    async fn backups(
        &self,
        _: &RequestContext,
        _: Uuid,
        _: &str,
    ) -> Result<Vec<TargetImage>, ImageError> {
        self.act(SinkCall::Backups, None, |world| {
            let target = |id: &String| TargetImage { id: id.clone(), any_file: false };
            Ok(world.backups.iter().map(target).collect())
        })
    }
}
