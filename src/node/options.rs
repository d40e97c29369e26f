//! The tracker's options, out of the configuration.

use uuid::Uuid;

use super::NodeError;
use super::cpus::CpuOptions;
use super::features::FeatureOptions;
use super::record::NodeSettings;
use super::tracker::TrackerOptions;
use crate::config::Config;
use crate::placement::inventory::Ratio;

impl TrackerOptions {
    /// `uuid` is the node's own, and `node` its hypervisor's host name.
    ///
    /// # Errors
    /// [`NodeError::CpuSet`] when a set of CPUs makes no sense.
    pub fn from_config(config: &Config, uuid: Uuid, node: &str) -> Result<Self, NodeError> {
        let (default, compute, libvirt) = (&config.default_, &config.compute, &config.libvirt);
        let ratio = |configured, initial| Ratio { configured, initial };
        let cache = default.instances_path.join(&config.image_cache.subdirectory_name);
        Ok(Self {
            node: NodeSettings {
                uuid,
                host: default.host.clone(),
                node: node.to_owned(),
                my_ip: default.my_ip.clone(),
                reserved_cpus: default.reserved_host_cpus,
                reserved_memory_mib: default.reserved_host_memory_mb,
                reserved_disk_mib: default.reserved_host_disk_mb,
                cpu_ratio: ratio(
                    default.cpu_allocation_ratio,
                    default.initial_cpu_allocation_ratio,
                ),
                memory_ratio: ratio(
                    default.ram_allocation_ratio,
                    default.initial_ram_allocation_ratio,
                ),
                disk_ratio: ratio(
                    default.disk_allocation_ratio,
                    default.initial_disk_allocation_ratio,
                ),
            },
            cpus: CpuOptions::parse(
                compute.cpu_shared_set.as_deref(),
                compute.cpu_dedicated_set.as_deref(),
            )?,
            features: FeatureOptions {
                virt_type: libvirt.virt_type.as_str().to_owned(),
                cpu_mode: libvirt.cpu_mode.map(|mode| mode.as_str().to_owned()),
                cpu_models: libvirt.cpu_models.clone(),
                cpu_model_extra_flags: libvirt.cpu_model_extra_flags.clone(),
                hw_machine_type: libvirt.hw_machine_type.clone().unwrap_or_default(),
                excluded_image_types: compute.image_type_exclude_list.clone(),
            },
            cache_path: config.workarounds.reserve_disk_resource_for_image_cache.then_some(cache),
            instances_path: default.instances_path.clone(),
            refresh: compute.resource_provider_association_refresh,
        })
    }
}
