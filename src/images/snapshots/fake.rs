//! Snapshots that are only told of. It can be told to fail at a named call, before it did anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{SnapshotFormat, Snapshots};
use crate::images::{Disk, ImageError, Progress};

/// The calls that can be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SnapshotCall {
    Begin,
    CreateDelta,
    Extract,
    Remove,
}

#[derive(Default)]
struct World {
    /// The names of the files in each directory.
    directories: BTreeMap<Uuid, BTreeSet<String>>,
    failing: BTreeSet<SnapshotCall>,
    extract_time: Duration,
    /// What images were made of, and as what.
    extracted: Vec<(Disk, SnapshotFormat)>,
}

/// Snapshots in memory.
#[derive(Default)]
pub struct FakeSnapshots(Mutex<World>);

impl FakeSnapshots {
    /// From now on `call` fails each time.
    pub fn fail_at(&self, call: SnapshotCall) {
        self.world().failing.insert(call);
    }

    /// An image takes that long to be made from now on.
    pub fn set_extract_time(&self, extract_time: Duration) {
        self.world().extract_time = extract_time;
    }

    /// The files of all snapshots that are being made.
    pub fn files(&self) -> Vec<String> {
        self.world().directories.values().flatten().cloned().collect()
    }

    /// How many snapshots have a directory.
    pub fn directories(&self) -> usize {
        self.world().directories.len()
    }

    /// What images were made of, and as what.
    pub fn extracted(&self) -> Vec<(Disk, SnapshotFormat)> {
        self.world().extracted.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act<T>(
        &self,
        call: SnapshotCall,
        work: impl FnOnce(&mut World) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let mut world = self.world();
        if world.failing.contains(&call) {
            let message = format!("told to fail at {call:?}");
            return Err(ImageError::Command { command: "fake", message });
        }
        work(&mut world)
    }
}

impl World {
    fn add(&mut self, snapshot: Uuid, name: &str) -> Result<PathBuf, ImageError> {
        let path = PathBuf::from(format!("/snapshots/{}/{name}", snapshot.simple()));
        match self.directories.get_mut(&snapshot) {
            Some(files) => {
                files.insert(name.to_owned());
                Ok(path)
            }
            None => Err(ImageError::Io {
                operation: "create",
                path,
                source: std::io::ErrorKind::NotFound.into(),
            }),
        }
    }
}

#[async_trait]
impl Snapshots for FakeSnapshots {
    async fn begin(&self, snapshot: Uuid, _: &Disk, _: bool) -> Result<(), ImageError> {
        self.act(SnapshotCall::Begin, |world| {
            world.directories.insert(snapshot, BTreeSet::new());
            Ok(())
        })
    }

    fn delta(&self, snapshot: Uuid) -> PathBuf {
        PathBuf::from(format!("/snapshots/{}/delta", snapshot.simple()))
    }

    async fn create_delta(&self, snapshot: Uuid, _: &Disk) -> Result<Disk, ImageError> {
        self.act(SnapshotCall::CreateDelta, |world| {
            Ok(Disk { path: world.add(snapshot, "delta")?, format: "qcow2".to_owned() })
        })
    }

    async fn extract(
        &self,
        snapshot: Uuid,
        disk: &Disk,
        format: SnapshotFormat,
        progress: Progress<'_>,
    ) -> Result<PathBuf, ImageError> {
        let extract_time = self.world().extract_time;
        if !extract_time.is_zero() {
            tokio::time::sleep(extract_time).await;
        }
        let image = self.act(SnapshotCall::Extract, |world| {
            let image = world.add(snapshot, "image")?;
            world.extracted.push((disk.clone(), format));
            if let Some(files) = world.directories.get_mut(&snapshot) {
                files.remove("delta");
            }
            Ok(image)
        })?;
        progress(1, Some(1));
        Ok(image)
    }

    async fn remove(&self, snapshot: Uuid) -> Result<(), ImageError> {
        self.act(SnapshotCall::Remove, |world| {
            world.directories.remove(&snapshot);
            Ok(())
        })
    }
}
