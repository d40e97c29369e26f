//! Ageing: base images that nothing uses any more go, when they have been unused for long enough.
//!
//! A base backs the disks of running guests, so it stays when anything says that it is used: the
//! records of any host that shares the storage, the header of any disk below the instances
//! directory, or a look-up since the records were asked. nova: virt/libvirt/imagecache.py

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::ImageError;
use super::cache::{self, Cache};
use super::files::{blocking, touch};
use super::references;
use crate::telemetry::Chain;

/// The clock of a file server may be off by so much.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// How long the lock of a file may be held by others before the file is left to the next pass.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What a pass goes by.
#[derive(Debug, Clone)]
pub struct Ageing {
    /// Ids of images that instances on record use: Glance's, kernels and ramdisks too.
    pub in_use: BTreeSet<String>,
    /// When the records were asked: what was looked up later is in use, whatever they say.
    pub asked_at: SystemTime,
    /// `[image_cache] remove_unused_base_images`
    pub remove: bool,
    /// `[image_cache] remove_unused_original_minimum_age_seconds`
    pub original_age: Duration,
    /// `[image_cache] remove_unused_resized_minimum_age_seconds`
    pub resized_age: Duration,
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aged {
    pub in_use: usize,
    /// Unused, and kept: too young, locked, or removal is off.
    pub kept: usize,
    pub removed: Vec<PathBuf>,
}

/// What a file of the cache is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Original,
    /// `<name>_<bytes>`, made by older novas.
    Resized,
    /// `<name>.part` and `<name>.converted`: what a fetch or an mkfs that was cut off left.
    Draft,
    /// `swap_<MiB>`, `ephemeral_<GiB>_<hash>`
    Blank,
}

/// # Errors
/// Nothing was removed: what is in use isn't known.
pub async fn age(cache: &Cache, instances: &Path, by: &Ageing) -> Result<Aged, ImageError> {
    let names = blocking("list", cache.directory(), |directory| match list(directory) {
        // There is no cache before the first image.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    })
    .await?;
    if names.is_empty() {
        return Ok(Aged::default());
    }
    let base = cache.directory().to_owned();
    let scan = move |instances: &Path| {
        references::referenced(instances, &base).map_err(|(path, error)| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })
    };
    let referenced = blocking("look for disks in", instances, scan).await?;
    let on_record: BTreeSet<String> = by.in_use.iter().map(|id| cache::file_name(id)).collect();
    let mut aged = Aged::default();
    for (name, kind) in names {
        let path = cache.directory().join(&name);
        if kind != Kind::Draft && (on_record.contains(stem(&name)) || referenced.contains(&name)) {
            aged.in_use += 1;
            // It ages from its last use.
            blocking("touch", &path, gone_is_fine(touch)).await?;
            continue;
        }
        let age = if kind == Kind::Resized { by.resized_age } else { by.original_age };
        let cutoff = by.asked_at.checked_sub(age.max(CLOCK_SLACK));
        let removed = match cutoff.filter(|_| by.remove) {
            // Almost always it is too young: that needs no lock.
            Some(cutoff)
                if blocking("look up", &path, move |path| is_older(path, cutoff)).await? =>
            {
                cache.remove(&name, stem(&name), cutoff, LOCK_WAIT).await
            }
            _ => Ok(false),
        };
        match removed {
            Ok(true) => {
                info!(path = %path.display(), "unused image removed from the cache");
                aged.removed.push(path);
            }
            Ok(false) => aged.kept += 1,
            Err(error) => {
                warn!(path = %path.display(), error = %Chain(&error), "an unused image is not removed");
                aged.kept += 1;
            }
        }
    }
    Ok(aged)
}

/// The cache's files that a pass may touch, by name. Whatever else lies there isn't ours.
fn list(directory: &Path) -> io::Result<Vec<(String, Kind)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_file()
            && let Some(kind) = kind(&name)
        {
            names.push((name, kind));
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

fn kind(name: &str) -> Option<Kind> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hash = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if let Some((head, rest)) = name.split_at_checked(40)
        && head.bytes().all(hash)
    {
        return match rest {
            "" => Some(Kind::Original),
            ".part" | ".converted" => Some(Kind::Draft),
            "_sm" => Some(Kind::Resized),
            _ => rest.strip_prefix('_').filter(|size| digits(size)).map(|_| Kind::Resized),
        };
    }
    let (whole, kind) = match name.strip_suffix(".part") {
        Some(whole) => (whole, Kind::Draft),
        None => (name, Kind::Blank),
    };
    let parts: Vec<&str> = whole.split('_').collect();
    match parts.as_slice() {
        ["swap", size] if digits(size) => Some(kind),
        ["ephemeral", size, hash] if digits(size) && hash.len() == 7 => Some(kind),
        _ => None,
    }
}

/// The name that the file's lock has: that of the image, for what is made of it.
fn stem(name: &str) -> &str {
    match kind(name) {
        Some(Kind::Draft) if name.contains('_') => name.strip_suffix(".part").unwrap_or(name),
        Some(Kind::Draft | Kind::Resized) => name.get(..40).unwrap_or(name),
        _ => name,
    }
}

/// Whether the file was last used before `cutoff`; one that is gone wasn't.
pub(super) fn is_older(path: &Path, cutoff: SystemTime) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(metadata.modified()? < cutoff),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn gone_is_fine(
    work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> impl FnOnce(&Path) -> io::Result<()> + Send + 'static {
    move |path| match work(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_cache_are_taken() {
        let hash = "a9993e364706816aba3e25717850c26c9cd0d89d";
        for (name, expected) in [
            (hash.to_owned(), Some(Kind::Original)),
            (format!("{hash}_10737418240"), Some(Kind::Resized)),
            (format!("{hash}_sm"), Some(Kind::Resized)),
            (format!("{hash}.part"), Some(Kind::Draft)),
            (format!("{hash}.converted"), Some(Kind::Draft)),
            ("swap_512".to_owned(), Some(Kind::Blank)),
            ("ephemeral_1_40d1d2c".to_owned(), Some(Kind::Blank)),
            ("ephemeral_1_40d1d2c.part".to_owned(), Some(Kind::Draft)),
            ("swap_512.part".to_owned(), Some(Kind::Draft)),
            ("swap_512.converted".to_owned(), None),
            (hash.to_uppercase(), None),
            (hash[1..].to_owned(), None),
            (format!("{hash}.bak"), None),
            (format!("{hash}_x"), None),
            ("swap_".to_owned(), None),
            ("notes.txt".to_owned(), None),
        ] {
            assert_eq!(kind(&name), expected, "{name}");
        }
        assert_eq!(stem(&format!("{hash}_1")), hash);
        assert_eq!(stem(&format!("{hash}.part")), hash);
        assert_eq!(stem("swap_512"), "swap_512");
        assert_eq!(stem("swap_512.part"), "swap_512");
    }
}
