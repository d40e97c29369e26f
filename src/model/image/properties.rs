//! Image properties: out of a dict, and typed for those who decide by them.
//! nova: objects/image_meta.py, `ImageMetaProps.from_dict`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::choices::{ConfigDrivePolicy, DiskBus, FirmwareType, OsType, SecureBoot, canonical};
use crate::model::object::{Field, FieldType, ImageMetaProps, ObjectError, VersionedObject};

/// nova: `ImageMetaProps._legacy_property_map`.
const LEGACY: &[(&str, &str)] = &[
    ("architecture", "hw_architecture"),
    ("owner_id", "img_owner_id"),
    ("vmware_disktype", "hw_disk_type"),
    ("vmware_image_version", "img_version"),
    ("vmware_ostype", "os_distro"),
    ("auto_disk_config", "hw_auto_disk_config"),
    ("ipxe_boot", "hw_ipxe_boot"),
    ("xenapi_device_id", "hw_device_id"),
    ("xenapi_image_compression_level", "img_compression_level"),
    ("vmware_linked_clone", "img_linked_clone"),
    ("xenapi_use_agent", "img_use_agent"),
    ("xenapi_skip_agent_inject_ssh", "os_skip_agent_inject_ssh"),
    ("xenapi_skip_agent_inject_files_at_boot", "os_skip_agent_inject_files_at_boot"),
    ("cache_in_nova", "img_cache_in_nova"),
    ("vm_mode", "hw_vm_mode"),
    ("bittorrent", "img_bittorrent"),
    ("mappings", "img_mappings"),
    ("block_device_mapping", "img_block_device_mapping"),
    ("bdm_v2", "img_bdm_v2"),
    ("root_device_name", "img_root_device_name"),
    ("hypervisor_version_requires", "img_hv_requested_version"),
    ("hypervisor_type", "img_hv_type"),
];
/// nova: `ImageMetaProps.NUMA_NODES_MAX`.
const NUMA_NODES_MAX: usize = 128;
/// No guest has a CPU of a higher number: QEMU's limit is far below.
const CPU_MAX: i64 = 65_535;

impl ImageMetaProps {
    /// Reads an image's properties. A name of today wins over its name of old; those that nova
    /// doesn't know are left out. Every field counts as changed.
    ///
    /// # Errors
    /// [`ObjectError`] when a property may not have the value it has.
    pub fn from_dict(properties: &Map<String, Value>) -> Result<Self, ObjectError> {
        let mut values = BTreeMap::new();
        for (old, name) in LEGACY {
            if let Some(value) = properties.get(*old) {
                values.insert((*name).to_owned(), value.clone());
            }
        }
        match properties.get("vmware_adaptertype").and_then(Value::as_str) {
            None | Some("") => {}
            Some("ide") => {
                values.insert("hw_disk_bus".to_owned(), json!("ide"));
            }
            Some(model) => {
                values.insert("hw_disk_bus".to_owned(), json!("scsi"));
                values.insert("hw_scsi_model".to_owned(), json!(model));
            }
        }
        for name in Self::field_names() {
            let special = ["hw_numa_mem", "hw_numa_cpus", "traits_required"].contains(name);
            if let (Some(value), false) = (properties.get(*name), special) {
                values.insert((*name).to_owned(), value.clone());
            }
        }
        let cells = |what: &str| {
            let find = |cell| properties.get(&format!("{what}.{cell}"));
            (0..NUMA_NODES_MAX).map_while(find).collect::<Vec<_>>()
        };
        let memory = cells("hw_numa_mem");
        if !memory.is_empty() {
            values.insert("hw_numa_mem".to_owned(), memory.into_iter().cloned().collect());
        }
        let cpus = cells("hw_numa_cpus");
        if !cpus.is_empty() {
            let cpus = cpus.into_iter().map(cpu_set).collect::<Result<Vec<_>, _>>();
            let cpus = cpus.map_err(|e| e.within("ImageMetaProps.hw_numa_cpus"))?;
            values.insert("hw_numa_cpus".to_owned(), cpus.encode());
        }
        let traits: Vec<&str> = properties
            .iter()
            .filter(|(_, value)| value.as_str() == Some("required"))
            .filter_map(|(key, _)| key.strip_prefix("trait:"))
            .collect();
        if !traits.is_empty() {
            values.insert("traits_required".to_owned(), json!(traits));
        }

        let mut props = Self::default();
        for (name, value) in &mut values {
            if let Value::String(text) = value {
                let canon = canonical(name, text).ok_or_else(|| ObjectError::WrongType {
                    path: format!("ImageMetaProps.{name}"),
                    expected: "one of the property's values",
                    found: "another string".to_owned(),
                })?;
                *value = Value::String(canon);
            }
            props.load_field(name, value)?;
        }
        props.set_changes(values.into_keys().collect());
        Ok(props)
    }

    /// Every property that is set, in text as Python writes it: for the domain's metadata.
    pub fn field_texts(&self) -> Vec<(&'static str, String)> {
        let primitive = self.to_primitive();
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            other => other.to_string(),
        };
        let set =
            |name: &&'static str| Some((*name, text(primitive["nova_object.data"].get(*name)?)));
        Self::field_names().iter().filter_map(set).collect()
    }

    /// # Errors
    /// [`ObjectError::WrongType`] for a value that this build doesn't know, which only an object
    /// made elsewhere can have; so for the others.
    pub fn firmware_type(&self) -> Result<Option<FirmwareType>, ObjectError> {
        known("hw_firmware_type", &self.hw_firmware_type)
    }

    /// # Errors
    /// As [`ImageMetaProps::firmware_type`].
    pub fn secure_boot(&self) -> Result<Option<SecureBoot>, ObjectError> {
        known("os_secure_boot", &self.os_secure_boot)
    }

    /// # Errors
    /// As [`ImageMetaProps::firmware_type`].
    pub fn os_type(&self) -> Result<Option<OsType>, ObjectError> {
        known("os_type", &self.os_type)
    }

    /// # Errors
    /// As [`ImageMetaProps::firmware_type`].
    pub fn config_drive(&self) -> Result<Option<ConfigDrivePolicy>, ObjectError> {
        known("img_config_drive", &self.img_config_drive)
    }

    /// # Errors
    /// As [`ImageMetaProps::firmware_type`].
    pub fn disk_bus(&self) -> Result<Option<DiskBus>, ObjectError> {
        known("hw_disk_bus", &self.hw_disk_bus)
    }

    /// # Errors
    /// As [`ImageMetaProps::firmware_type`].
    pub fn cdrom_bus(&self) -> Result<Option<DiskBus>, ObjectError> {
        known("hw_cdrom_bus", &self.hw_cdrom_bus)
    }

    /// # Errors
    /// As [`ImageMetaProps::firmware_type`].
    pub fn floppy_bus(&self) -> Result<Option<DiskBus>, ObjectError> {
        known("hw_floppy_bus", &self.hw_floppy_bus)
    }
}

fn known<T: FieldType>(name: &str, field: &Field<String>) -> Result<Option<T>, ObjectError> {
    let decode = |text| T::decode(&json!(text)).map_err(|e| e.within(name));
    field.text().map(decode).transpose()
}

/// Reads `1-4,^3,6`. nova: virt/hardware.py, `parse_cpu_spec`.
fn cpu_set(spec: &Value) -> Result<BTreeSet<i64>, ObjectError> {
    let wrong = || ObjectError::wrong_type("a set of CPUs such as 0-3,^2", spec);
    let number = |text: &str| {
        let number = text.trim().parse().map_err(|_| wrong())?;
        if (0..=CPU_MAX).contains(&number) { Ok(number) } else { Err(wrong()) }
    };
    let text = String::decode(spec)?;
    let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
    for rule in text.split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
        let (into, rule) = match rule.strip_prefix('^') {
            Some(rule) => (&mut without, rule),
            None => (&mut with, rule),
        };
        let (first, last) = rule.split_once('-').unwrap_or((rule, rule));
        let (first, last): (i64, i64) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        into.extend(first..=last);
    }
    Ok(&with - &without)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(properties: Value) -> Result<ImageMetaProps, ObjectError> {
        ImageMetaProps::from_dict(properties.as_object().unwrap())
    }

    #[test]
    fn a_name_of_today_wins_over_its_name_of_old() {
        let props = read(json!({"architecture": "AMD64", "vm_mode": "hv"})).unwrap();
        assert_eq!(props.hw_architecture.text(), Some("x86_64"));
        assert_eq!(props.hw_vm_mode.text(), Some("hvm"));
        let both = json!({"hw_architecture": "aarch64", "architecture": "x86_64"});
        assert_eq!(read(both).unwrap().hw_architecture.text(), Some("aarch64"));
    }

    #[test]
    fn vmwares_adapter_is_a_bus_and_a_model() {
        let props = read(json!({"vmware_adaptertype": "lsiLogicsas"})).unwrap();
        assert_eq!(props.disk_bus(), Ok(Some(DiskBus::Scsi)));
        assert_eq!(props.hw_scsi_model.text(), Some("lsisas1068"));
        let props = read(json!({"vmware_adaptertype": "ide"})).unwrap();
        assert_eq!(props.disk_bus(), Ok(Some(DiskBus::Ide)));
        assert!(!props.hw_scsi_model.is_set());
    }

    #[test]
    fn text_becomes_numbers_flags_and_sets() {
        let props = read(json!({
            "hw_cpu_sockets": "2", "hw_boot_menu": "yes", "img_hide_hypervisor_id": "no",
            "hw_numa_mem.0": "512", "hw_numa_mem.1": 256, "hw_numa_mem.3": "9",
            "hw_numa_cpus.0": "0-3,^2", "trait:HW_CPU_X86_SGX": "required", "trait:X": "forbidden",
        }))
        .unwrap();
        assert_eq!(props.hw_cpu_sockets.get(), Some(&2));
        assert!(props.hw_boot_menu.is_true() && !props.img_hide_hypervisor_id.is_true());
        assert_eq!(props.hw_numa_mem.get(), Some(&vec![512, 256]));
        assert_eq!(props.hw_numa_cpus.get(), Some(&vec![BTreeSet::from([0, 1, 3])]));
        assert_eq!(props.traits_required.get(), Some(&vec!["HW_CPU_X86_SGX".to_owned()]));
        assert_eq!(props.what_changed().len(), 6);
    }

    #[test]
    fn a_value_that_may_not_be_is_refused_and_not_shown() {
        for bad in [
            json!({"hw_disk_bus": "virtio; rm"}),
            json!({"hw_cpu_sockets": "two"}),
            json!({"hw_disk_bus": null}),
            json!({"hw_numa_cpus.0": "0-99999999999"}),
            json!({"hw_numa_cpus.0": "3-1"}),
            json!({"hw_numa_cpus.0": "-1"}),
            json!({"img_signature_certificate_uuid": "x"}),
        ] {
            let refusal = read(bad.clone()).unwrap_err().to_string();
            assert!(refusal.starts_with("ImageMetaProps.") && !refusal.contains("rm"), "{refusal}");
        }
    }

    #[test]
    fn a_value_of_a_newer_nova_is_kept_and_refused_where_it_matters() {
        let mut props = ImageMetaProps::default();
        props.load_field("hw_firmware_type", &json!("coreboot")).unwrap();
        assert!(props.firmware_type().is_err());
        assert_eq!(props.to_primitive()["nova_object.data"]["hw_firmware_type"], "coreboot");
        assert_eq!(props.field_texts(), [("hw_firmware_type", "coreboot".to_owned())]);
    }
}
