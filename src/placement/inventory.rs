//! What the node's own provider has of each resource class.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What there is of one resource class. Memory counts in MiB, disk space in GiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub total: u64,
    pub min_unit: u64,
    pub max_unit: u64,
    pub step_size: u64,
    pub allocation_ratio: f64,
    pub reserved: u64,
}

/// Inventories by resource class: `VCPU`, `MEMORY_MB`, …
pub type Inventories = BTreeMap<String, Inventory>;

/// How far a resource may be given out beyond its total.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Wins over what placement has; 0 counts as unset, as to nova.
    pub configured: Option<f64>,
    /// For a class that placement doesn't know of this node yet.
    pub initial: f64,
}

impl Ratio {
    /// nova: virt/driver.py, `_get_allocation_ratios`
    fn with(self, current: Option<&Inventory>) -> f64 {
        match (self.configured.filter(|ratio| *ratio > 0.0), current) {
            (Some(ratio), _) => ratio,
            (None, Some(current)) => current.allocation_ratio,
            (None, None) => self.initial,
        }
    }
}

/// What the host has, by resource class. A class of which it has nothing isn't reported: placement
/// takes no total of 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    pub vcpus: u64,
    pub reserved_vcpus: u64,
    pub pcpus: u64,
    pub memory_mib: u64,
    pub reserved_memory_mib: u64,
    pub disk_gib: u64,
    pub reserved_disk_gib: u64,
    pub cpu_ratio: Ratio,
    pub memory_ratio: Ratio,
    pub disk_ratio: Ratio,
}

/// Classes that an operator adds; they are left as they are.
const CUSTOM: &str = "CUSTOM_";

/// The provider's inventories as they should be. nova: virt/libvirt/driver.py,
/// `update_provider_tree`; unlike there, classes that an operator added stay.
pub fn inventories(offer: &Offer, current: &Inventories) -> Inventories {
    let mut wanted: Inventories = current
        .iter()
        .filter(|(class, _)| class.starts_with(CUSTOM))
        .map(|(class, inventory)| (class.clone(), *inventory))
        .collect();
    let whole = Ratio { configured: Some(1.0), initial: 1.0 };
    for (class, total, reserved, ratio) in [
        ("VCPU", offer.vcpus, offer.reserved_vcpus, offer.cpu_ratio),
        ("PCPU", offer.pcpus, 0, whole),
        ("MEMORY_MB", offer.memory_mib, offer.reserved_memory_mib, offer.memory_ratio),
        ("DISK_GB", offer.disk_gib, offer.reserved_disk_gib, offer.disk_ratio),
    ] {
        if total > 0 {
            let inventory = Inventory {
                total,
                min_unit: 1,
                max_unit: total,
                step_size: 1,
                allocation_ratio: ratio.with(current.get(class)),
                reserved,
            };
            wanted.insert(class.to_owned(), inventory);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn offer() -> Offer {
        let unset = |initial| Ratio { configured: None, initial };
        Offer {
            vcpus: 2,
            reserved_vcpus: 0,
            pcpus: 0,
            memory_mib: 9562,
            reserved_memory_mib: 512,
            disk_gib: 251,
            reserved_disk_gib: 0,
            cpu_ratio: Ratio { configured: Some(16.0), initial: 4.0 },
            memory_ratio: Ratio { configured: Some(1.5), initial: 1.0 },
            disk_ratio: unset(1.0),
        }
    }

    /// Recorded of nova-compute 33.0.2 at its first start.
    #[test]
    fn the_inventories_are_novas() {
        let recorded = json!({
            "MEMORY_MB": {"total": 9562, "min_unit": 1, "max_unit": 9562, "step_size": 1,
                          "allocation_ratio": 1.5, "reserved": 512},
            "VCPU": {"total": 2, "min_unit": 1, "max_unit": 2, "step_size": 1,
                     "allocation_ratio": 16.0, "reserved": 0},
            "DISK_GB": {"total": 251, "min_unit": 1, "max_unit": 251, "step_size": 1,
                        "allocation_ratio": 1.0, "reserved": 0}});
        let recorded: Inventories = serde_json::from_value(recorded).unwrap();
        assert_eq!(inventories(&offer(), &Inventories::new()), recorded);
    }

    #[test]
    fn what_is_not_configured_stays_as_placement_has_it() {
        let offer = Offer { cpu_ratio: Ratio { configured: Some(0.0), initial: 4.0 }, ..offer() };
        let mut current = inventories(&offer, &Inventories::new());
        assert_eq!(current["VCPU"].allocation_ratio, 4.0);
        for class in ["VCPU", "MEMORY_MB", "DISK_GB"] {
            current.get_mut(class).unwrap().allocation_ratio = 7.0;
        }
        current.insert("CUSTOM_FPGA".to_owned(), current["VCPU"]);
        current.insert("VGPU".to_owned(), current["VCPU"]);
        let wanted = inventories(&offer, &current);
        let ratio = |class: &str| wanted[class].allocation_ratio;
        assert_eq!((ratio("VCPU"), ratio("MEMORY_MB"), ratio("DISK_GB")), (7.0, 1.5, 7.0));
        assert!(wanted.contains_key("CUSTOM_FPGA") && !wanted.contains_key("VGPU"));
    }

    #[test]
    fn dedicated_cpus_are_given_out_once() {
        let offer = Offer { vcpus: 0, pcpus: 4, ..offer() };
        let wanted = inventories(&offer, &Inventories::new());
        assert!(!wanted.contains_key("VCPU"));
        assert_eq!((wanted["PCPU"].total, wanted["PCPU"].allocation_ratio), (4, 1.0));
    }
}
