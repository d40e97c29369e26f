//! What of an instance may be left out when it is read. nova: objects/instance.py,
//! INSTANCE_OPTIONAL_ATTRS

use crate::model::object::{Instance, VersionedObject};

macro_rules! parts {
    ($($(#[$doc:meta])* $part:ident = $field:ident $(with [$($companion:ident)+])?,)+) => {
        /// A part of an instance that has a place of its own in the database, and is read when it
        /// is asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum InstancePart {
            $($(#[$doc])* $part,)+
        }

        impl InstancePart {
            /// The field that it fills.
            pub fn field(self) -> &'static str {
                match self { $(Self::$part => stringify!($field),)+ }
            }

            /// Whether `instance` has it already.
            pub fn is_in(self, instance: &Instance) -> bool {
                match self { $(Self::$part => instance.$field.is_set(),)+ }
            }

            /// Takes it from `other`, saved as it is there, unless `instance` has it.
            fn copy(self, other: &Instance, instance: &mut Instance) {
                if self.is_in(instance) {
                    return;
                }
                match self {
                    $(Self::$part => {
                        instance.$field = other.$field.clone();
                        $($(instance.$companion = other.$companion.clone();)+)?
                    })+
                }
            }
        }
    };
}

parts! {
    Metadata = metadata,
    SystemMetadata = system_metadata,
    InfoCache = info_cache,
    SecurityGroups = security_groups,
    /// With the flavors before and after a resize.
    Flavor = flavor with [old_flavor new_flavor],
    NumaTopology = numa_topology,
    PciDevices = pci_devices,
    PciRequests = pci_requests,
    KeyPairs = keypairs,
    DeviceMetadata = device_metadata,
    TrustedCerts = trusted_certs,
    VcpuModel = vcpu_model,
    MigrationContext = migration_context,
    Resources = resources,
    Tags = tags,
    Fault = fault,
    /// Read one by one: not in bulk.
    Services = services,
}

impl InstancePart {
    /// What starting a domain needs of an instance.
    pub const FOR_GUEST: &[Self] = &[
        Self::Metadata,
        Self::SystemMetadata,
        Self::InfoCache,
        Self::Flavor,
        Self::NumaTopology,
        Self::PciDevices,
        Self::PciRequests,
        Self::KeyPairs,
        Self::DeviceMetadata,
        Self::TrustedCerts,
        Self::VcpuModel,
        Self::MigrationContext,
        Self::Resources,
    ];

    /// What the resource tracker counts.
    /// nova: compute/resource_tracker.py, _update_available_resource
    pub const FOR_TRACKER: &[Self] = &[
        Self::SystemMetadata,
        Self::NumaTopology,
        Self::Flavor,
        Self::MigrationContext,
        Self::Resources,
    ];
}

/// Those of `parts` that `instance` doesn't have.
pub(super) fn missing(instance: &Instance, parts: &[InstancePart]) -> Vec<InstancePart> {
    parts.iter().copied().filter(|part| !part.is_in(instance)).collect()
}

/// Takes the missing `parts` from the record, as saved.
pub(super) fn fill(instance: &mut Instance, mut record: Instance, parts: &[InstancePart]) {
    // Objects in the database may still be marked as changed, as they were when they were stored.
    record.reset_changes();
    parts.iter().for_each(|part| part.copy(&record, instance));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::Flavor;

    #[test]
    fn only_what_is_missing_is_taken_and_counts_as_saved() {
        let mut record = Instance::default();
        let mut flavor = Flavor::default();
        flavor.name.set(Some("m1.tiny".to_owned()));
        record.flavor.set(flavor);
        record.old_flavor.set(None);
        record.metadata.set([("a".to_owned(), "theirs".to_owned())].into());
        record.keypairs.set(Default::default());
        let mut instance = Instance::default();
        instance.metadata.set([("a".to_owned(), "ours".to_owned())].into());

        let parts = [InstancePart::Flavor, InstancePart::Metadata];
        assert_eq!(missing(&instance, &parts), [InstancePart::Flavor]);
        fill(&mut instance, record, &parts);
        assert_eq!(instance.flavor.get().unwrap().name.text(), Some("m1.tiny"));
        assert!(instance.old_flavor.is_set());
        assert_eq!(instance.metadata.get().unwrap()["a"], "ours");
        assert!(!instance.keypairs.is_set());
        assert_eq!(instance.what_changed(), ["metadata".to_owned()].into());
    }

    #[test]
    fn a_part_is_named_as_its_field() {
        for part in InstancePart::FOR_GUEST.iter().chain(InstancePart::FOR_TRACKER) {
            assert!(Instance::field_names().contains(&part.field()), "{part:?}");
        }
    }
}
