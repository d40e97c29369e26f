//! What the operator tells every guest: a JSON file that goes on its config drive.
//! nova: api/metadata/vendordata_json.py
//!
//! Read anew for each drive, so that a changed file counts without a restart. nova's other provider,
//! `DynamicJSON`, which asks web services, isn't here.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tracing::warn;

use super::StepError;

/// Far more than any drive's worth.
const MAX_BYTES: u64 = 4 << 20;

const STATIC: &str = "StaticJSON";

/// `[api] vendordata_providers` and `vendordata_jsonfile_path`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorDataSettings {
    pub providers: Vec<String>,
    pub file: Option<PathBuf>,
}

impl VendorDataSettings {
    /// What the file says; an empty map without a file, and `None` when it isn't asked for.
    ///
    /// # Errors
    /// `VendorData` for a file that can't be read, or isn't JSON: a guest isn't started without what
    /// its operator wants it to know.
    pub async fn load(&self) -> Result<Option<Value>, StepError> {
        for other in self.providers.iter().filter(|name| *name != STATIC) {
            warn!(provider = other, "this provider of vendor data is not supported");
        }
        if !self.providers.iter().any(|name| name == STATIC) {
            return Ok(None);
        }
        let Some(file) = self.file.clone() else { return Ok(Some(Value::Object(Map::new()))) };
        let path = file.clone();
        let failed = |source| StepError::VendorData { path, source };
        match tokio::task::spawn_blocking(move || read(&file)).await {
            Ok(read) => read.map(Some).map_err(failed),
            Err(panic) => Err(failed(io::Error::other(panic))),
        }
    }
}

fn read(path: &Path) -> io::Result<Value> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(providers: &[&str], file: Option<&Path>) -> VendorDataSettings {
        let providers = providers.iter().map(|name| (*name).to_owned()).collect();
        VendorDataSettings { providers, file: file.map(Path::to_owned) }
    }

    #[tokio::test]
    async fn the_file_s_json_is_taken_as_it_is_now() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vendor.json");
        let settings = settings(&["StaticJSON"], Some(&path));
        std::fs::write(&path, r#"{"a": [1]}"#).unwrap();
        assert_eq!(settings.load().await.unwrap(), Some(json!({"a": [1]})));
        std::fs::write(&path, r#"{"a": 2}"#).unwrap();
        assert_eq!(settings.load().await.unwrap(), Some(json!({"a": 2})));
        for bad in ["{", "", &"x".repeat(5 << 20)] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(settings.load().await, Err(StepError::VendorData { .. })));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(settings.load().await, Err(StepError::VendorData { .. })));
    }

    #[tokio::test]
    async fn without_a_file_it_is_empty_and_without_the_provider_it_isn_t_there() {
        assert_eq!(settings(&["StaticJSON"], None).load().await.unwrap(), Some(json!({})));
        assert_eq!(settings(&["DynamicJSON"], None).load().await.unwrap(), None);
    }
}
