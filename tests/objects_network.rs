//! Every recorded network of an instance is read and written as it was.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use hypernova::model::network::{Vif, network_info_text, parse_network_info};
use hypernova::model::object::{InstanceInfoCache, VIFMigrateData, VersionedObject};
use serde_json::Value;

fn recorded<T: VersionedObject>() -> Vec<T> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/objects");
    let directory = std::env::var_os("HYPERNOVA_OBJECTS").map_or(fixtures, PathBuf::from);
    let text = fs::read_to_string(directory.join(format!("{}.jsonl", T::NAME))).unwrap();
    let decode = |line| T::from_primitive(&serde_json::from_str(line).unwrap()).unwrap();
    text.lines().map(decode).collect()
}

#[test]
fn every_recorded_network_comes_back_as_it_was() {
    let mut nics = 0;
    for cache in recorded::<InstanceInfoCache>() {
        let Some(text) = cache.network_info.value() else { continue };
        let vifs = parse_network_info(text).unwrap();
        nics += vifs.len();
        let back: Value = serde_json::from_str(&network_info_text(&vifs)).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
        for vif in vifs {
            assert_eq!(Some(vif.device_name()), vif.devname, "nova's default");
            assert!(vif.rest.is_empty(), "{:?}", vif.rest);
            assert!(vif.fixed_ips().all(|ip| ip.ip().is_some()));
        }
    }
    assert!(nics > 0);
}

#[test]
fn every_recorded_nic_of_a_migration_comes_back_as_it_was() {
    for data in recorded::<VIFMigrateData>() {
        let Some(text) = data.source_vif.get() else { continue };
        let vif: Vif = serde_json::from_str(text).unwrap();
        let back = serde_json::to_value(&vif).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
    }
}
