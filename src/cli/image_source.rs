//! Where a guest's image comes from when there is no Glance: a file or a URL, as an image record
//! that looks like Glance's.
//!
//! The id is derived from what names the content: the place, the declared checksum, and a file's
//! size and time of change. So a changed file is another image to the cache, and an unchanged one
//! is fetched once. A URL without a checksum is taken to stay what it is.

use std::os::unix::fs::MetadataExt;

use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use url::Url;
use uuid::Uuid;

use super::guest_args::DeclaredChecksum;
use super::output::Failure;

/// An image that the agent can fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    pub id: Uuid,
    /// `file:///…` or `http(s)://…`
    pub url: Url,
    /// The last part of the path.
    pub name: String,
    /// As the name's ending has it, if that tells.
    pub format: Option<&'static str>,
    /// Bytes, of a file.
    pub size: Option<u64>,
}

impl ImageSource {
    /// Looks at what `place` names. A URL isn't opened.
    ///
    /// # Errors
    /// [`Failure`] for a file that isn't there, or a URL that the agent can't fetch.
    pub fn find(place: &str, checksum: Option<&DeclaredChecksum>) -> Result<Self, Failure> {
        let mut hash = Sha1::new().chain_update("hypernova image");
        let mut size = None;
        let url = match Url::parse(place) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            Ok(url) if url.scheme() == "file" => {
                let path = url.to_file_path();
                let path = path.map_err(|()| Failure::told(format!("{place} is no local file")))?;
                return Self::find(&path.to_string_lossy(), checksum);
            }
            Ok(url) if place.contains("://") => {
                return Err(Failure::told(format!(
                    "an image can't be fetched by {}",
                    url.scheme()
                ))
                .with_advice("give a file of this host, or an http or https URL"));
            }
            _ => {
                let unreadable =
                    |error| Failure::told(format!("can't read image {place}: {error}"));
                let path = std::fs::canonicalize(place).map_err(unreadable)?;
                let found = std::fs::metadata(&path).map_err(unreadable)?;
                if !found.is_file() {
                    return Err(Failure::told(format!("image {place} is not a file")));
                }
                size = Some(found.len());
                hash.update(format!(
                    "\0{}\0{}.{}\0{}",
                    found.len(),
                    found.mtime(),
                    found.mtime_nsec(),
                    found.ino()
                ));
                Url::from_file_path(&path)
                    .map_err(|()| Failure::told(format!("image {place} has no usable path")))?
            }
        };
        hash.update(format!("\0{url}"));
        if let Some(DeclaredChecksum { algorithm, value }) = checksum {
            hash.update(format!("\0{algorithm}:{value}"));
        }
        let hash: [u8; 20] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let name = name.to_owned();
        let id = uuid::Builder::from_sha1_bytes(bytes).into_uuid();
        Ok(Self { id, format: format_of(&name), url, name, size })
    }
}

impl ImageSource {
    /// The image as Glance's dict has it, with these properties.
    pub fn described(&self, properties: &[(String, String)]) -> Value {
        let properties: Map<String, Value> =
            properties.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let mut image = json!({
            "id": self.id, "name": self.name, "status": "active", "container_format": "bare",
            "size": self.size, "min_ram": 0, "min_disk": 0, "direct_url": self.url.as_str(),
            "properties": properties,
        });
        if let Some(format) = self.format {
            image["disk_format"] = json!(format);
        }
        image
    }
}

/// `.img` is used for raw and for qcow2 images: only the content tells.
fn format_of(name: &str) -> Option<&'static str> {
    let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
    ["qcow2", "raw", "iso", "vmdk", "vdi", "vhd", "vhdx"]
        .into_iter()
        .find(|format| *format == ending)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_file_that_changes_is_another_image() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("my disk.qcow2");
        fs::write(&path, "one").unwrap();
        let find = || ImageSource::find(path.to_str().unwrap(), None).unwrap();
        let first = find();
        assert_eq!(first, find());
        assert_eq!((first.format, first.size), (Some("qcow2"), Some(3)));
        assert_eq!(first.url.to_file_path().unwrap(), path.canonicalize().unwrap());

        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_ne!(first.id, find().id);
        let checksum = DeclaredChecksum { algorithm: "md5".into(), value: "0".repeat(32) };
        let checked = ImageSource::find(path.to_str().unwrap(), Some(&checksum)).unwrap();
        assert_ne!(checked.id, find().id);
    }

    #[test]
    fn a_url_is_the_same_image_each_time() {
        let find = |url| ImageSource::find(url, None).unwrap();
        let image = find("https://example.org/a/debian.raw?x=1");
        assert_eq!(image, find("https://example.org/a/debian.raw?x=1"));
        assert_eq!((image.name.as_str(), image.format), ("debian.raw", Some("raw")));
        assert_ne!(image.id, find("https://example.org/a/debian.raw?x=2").id);
        assert_eq!(find("https://example.org/disk.img").format, None);
    }

    #[test]
    fn what_cant_be_fetched_is_told_at_once() {
        for place in ["/nowhere/at/all.img", "ftp://example.org/x.img", "/", "file://host/x"] {
            assert!(ImageSource::find(place, None).is_err(), "{place}");
        }
    }
}
