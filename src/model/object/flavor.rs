//! Sizes. nova: objects/flavor.py

use std::collections::BTreeMap;

use serde_json::Number;

use super::codec::{Field, ObjectError};
use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// A size: memory in MiB, disks in GiB, swap in MiB.
    Flavor "1.2" {
        id: i64,
        name: Option<String>,
        memory_mb: i64,
        vcpus: i64,
        root_gb: i64,
        ephemeral_gb: i64,
        flavorid: String,
        swap: i64,
        /// Unused by libvirt.
        rxtx_factor: Option<Number>,
        /// CPU shares for each virtual CPU; of Xen only.
        vcpu_weight: Option<i64>,
        disabled: bool,
        is_public: bool,
        extra_specs: BTreeMap<String, String>,
        projects: Vec<String>,
        description: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several flavors.
    FlavorList "1.1" of Flavor
}

impl Flavor {
    /// Memory in MiB.
    ///
    /// # Errors
    /// [`ObjectError`] when unset or negative; so for the other numbers.
    pub fn memory_mib(&self) -> Result<u64, ObjectError> {
        plain("memory_mb", &self.memory_mb)
    }

    pub fn vcpus(&self) -> Result<u64, ObjectError> {
        plain("vcpus", &self.vcpus)
    }

    /// The root disk in GiB; 0: as large as the image.
    pub fn root_gib(&self) -> Result<u64, ObjectError> {
        plain("root_gb", &self.root_gb)
    }

    /// All ephemeral disks together, in GiB.
    pub fn ephemeral_gib(&self) -> Result<u64, ObjectError> {
        plain("ephemeral_gb", &self.ephemeral_gb)
    }

    /// The swap disk in MiB; unset counts as none.
    pub fn swap_mib(&self) -> Result<u64, ObjectError> {
        if self.swap.is_set() { plain("swap", &self.swap) } else { Ok(0) }
    }

    /// One extra spec, such as `hw:cpu_policy`; `None` when absent.
    pub fn extra_spec(&self, key: &str) -> Option<&str> {
        self.extra_specs.get()?.get(key).map(String::as_str)
    }
}

fn plain(field: &'static str, value: &Field<i64>) -> Result<u64, ObjectError> {
    let number = *value.get().ok_or(ObjectError::Missing { class: "Flavor", field })?;
    u64::try_from(number).map_err(|_| ObjectError::WrongType {
        path: format!("Flavor.{field}"),
        expected: "a number that is not negative",
        found: number.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flavors_numbers_are_plain_or_refused() {
        let mut flavor = Flavor::default();
        flavor.memory_mb.set(512);
        flavor.vcpus.set(-1);
        assert_eq!(flavor.memory_mib(), Ok(512));
        assert_eq!(flavor.swap_mib(), Ok(0));
        assert_eq!(
            flavor.vcpus().unwrap_err().to_string(),
            "Flavor.vcpus: expected a number that is not negative, found -1"
        );
        assert_eq!(flavor.root_gib().unwrap_err().to_string(), "Flavor has no root_gb");
    }
}
