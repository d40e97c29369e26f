//! What a cached image was fetched from and checked against, kept on the file itself.
//!
//! The cache knows images by their ids, as nova's does. Glance never changes what an id means; in
//! standalone mode whoever asks says where the bytes are, so an id may come again with other bytes.
//! An extended attribute of the cached file holds what it was fetched with: it comes and goes with
//! the file, whoever removes it, and nova-compute and its cache manager don't see it. What
//! nova-compute cached has none, nor has any file where the file system keeps no attributes: those
//! are served by id alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tracing::debug;
use url::Url;

use super::files::blocking;
use super::{ImageError, ImageRequest};

const ATTRIBUTE: &str = "user.hypernova.source";
/// Far more than what is ever written, and less than a file system allows.
const MAX_BYTES: usize = 4096;

/// Where the bytes came from, and what they were declared to hash to. A fetch checks the strongest;
/// the others are as good as whoever declared them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Provenance {
    /// Without what may be a secret.
    url: Option<String>,
    /// By lower-case algorithm, lower-case hexadecimal.
    checksums: BTreeMap<String, String>,
}

impl Provenance {
    fn of(image: &ImageRequest) -> Self {
        let sum = |sum: &super::Checksum| {
            (sum.algorithm.to_ascii_lowercase(), sum.value.to_ascii_lowercase())
        };
        Self {
            url: image.url.as_deref().map(place),
            checksums: image.checksums.iter().map(sum).collect(),
        }
    }

    /// Whether a file of this provenance is what `image` asks for.
    fn serves(&self, image: &ImageRequest) -> Result<(), ImageError> {
        let asked = Self::of(image);
        let shared = asked.checksums.iter().filter_map(|(algorithm, value)| {
            self.checksums.get(algorithm).map(|known| (algorithm, value, known))
        });
        let mut proved = false;
        for (algorithm, expected, found) in shared {
            if expected != found {
                return Err(ImageError::WrongChecksum {
                    image: image.id.clone(),
                    algorithm: algorithm.clone(),
                    expected: expected.clone(),
                    found: found.clone(),
                });
            }
            proved = true;
        }
        let refuse = |reason| Err(ImageError::Unacceptable { image: image.id.clone(), reason });
        match (&self.url, &asked.url) {
            _ if proved => Ok(()),
            _ if !asked.checksums.is_empty() => {
                refuse("what is cached under its id was never checked against its checksum".into())
            }
            (Some(known), Some(asked)) if known != asked => {
                refuse(format!("what is cached under its id came from {known}"))
            }
            _ => Ok(()),
        }
    }
}

/// A URL without user, password, query and fragment: signatures and tokens go there.
fn place(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return String::new() };
    url.set_query(None);
    url.set_fragment(None);
    // Err: a URL that has no place for them.
    url.set_username("").and_then(|()| url.set_password(None)).ok();
    url.into()
}

/// Writes onto a fetched file what it was fetched with. Best effort: not every file system can.
pub async fn remember(path: &Path, image: &ImageRequest) -> Result<(), ImageError> {
    let provenance = Provenance::of(image);
    blocking("write the source of", path, move |path| {
        let text = serde_json::to_vec(&provenance)?;
        if text.len() > MAX_BYTES {
            return Ok(());
        }
        match fsetxattr(File::open(path)?, ATTRIBUTE, &text, XattrFlags::empty()) {
            Err(error) if cannot(error) => {
                debug!(path = %path.display(), %error, "the image's source is not kept");
                Ok(())
            }
            other => Ok(other?),
        }
    })
    .await
}

/// # Errors
/// `WrongChecksum` and `Unacceptable` when the cached file is known to be something else than what
/// `image` asks for. It stays as it is: it may back guests.
pub async fn check(path: &Path, image: &ImageRequest) -> Result<(), ImageError> {
    match blocking("read the source of", path, read).await? {
        Some(provenance) => provenance.serves(image),
        None => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<Option<Provenance>> {
    let mut text = vec![0; MAX_BYTES];
    match fgetxattr(File::open(path)?, ATTRIBUTE, &mut text) {
        // Somebody else's words are as good as none.
        Ok(length) => Ok(serde_json::from_slice(&text[..length]).ok()),
        Err(Errno::NODATA | Errno::RANGE) => Ok(None),
        Err(error) if cannot(error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The file system has no attributes, no room for one, or not for us.
fn cannot(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOTSUP | Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::DQUOT
    )
}

#[cfg(test)]
mod tests {
    use super::super::Checksum;
    use super::*;

    fn image(url: Option<&str>, checksums: &[(&str, &str)]) -> ImageRequest {
        let sum = |(algorithm, value): &(&str, &str)| Checksum {
            algorithm: (*algorithm).to_owned(),
            value: (*value).to_owned(),
        };
        ImageRequest {
            id: "id".into(),
            url: url.map(str::to_owned),
            disk_format: None,
            checksums: checksums.iter().map(sum).collect(),
            size: None,
            any_file: false,
        }
    }

    #[test]
    fn a_checksum_decides_and_without_one_the_place_does() {
        let (here, there) = (Some("http://a/x"), Some("http://b/x"));
        let (one, two) = (&[("sha256", "01")], &[("sha256", "02")]);
        for (fetched, asked, serves) in [
            (image(here, one), image(here, one), true),
            (image(here, one), image(there, one), true),
            (image(here, one), image(here, two), false),
            (image(here, one), image(here, &[("SHA256", "01"), ("md5", "f")]), true),
            (image(here, one), image(here, &[("md5", "f")]), false),
            (image(here, &[]), image(here, one), false),
            (image(here, one), image(here, &[]), true),
            (image(here, one), image(there, &[]), false),
            (image(here, &[]), image(there, &[]), false),
            (image(None, one), image(there, &[]), true),
            (image(here, &[]), image(None, &[]), true),
            (image(Some("http://a/x?sig=1"), &[]), image(Some("http://u:p@a/x?sig=2"), &[]), true),
        ] {
            let answer = Provenance::of(&fetched).serves(&asked);
            assert_eq!(answer.is_ok(), serves, "{fetched:?} for {asked:?}: {answer:?}");
        }
    }

    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    #[tokio::test]
    async fn what_is_remembered_is_on_the_file_without_secrets_and_moves_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (part, path) = (directory.path().join("part"), directory.path().join("base"));
        std::fs::write(&part, "x").unwrap();
        let fetched = image(Some("http://user:hunter2@a/x?token=hunter2"), &[("md5", "AB")]);
        remember(&part, &fetched).await.unwrap();
        std::fs::rename(&part, &path).unwrap();
        let Some(found) = read(&path).unwrap() else {
            return eprintln!("skipped: no extended attributes at {}", path.display());
        };
        assert_eq!(found.url.as_deref(), Some("http://a/x"));
        assert_eq!(found.checksums["md5"], "ab");
        check(&path, &image(None, &[("md5", "ab")])).await.unwrap();
        let error = check(&path, &image(None, &[("md5", "cd")])).await.unwrap_err();
        assert!(matches!(error, ImageError::WrongChecksum { .. }), "{error:?}");
        fsetxattr(File::open(&path).unwrap(), ATTRIBUTE, b"{", XattrFlags::empty()).unwrap();
        check(&path, &image(None, &[("md5", "cd")])).await.unwrap();
    }
}
