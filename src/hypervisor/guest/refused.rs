//! What a flavor or image may ask for that isn't done here: said at once and by name, before
//! anything is made on the host.

use super::{GuestError, GuestInput, asked::Asked, asked::truth};

/// Extra specs that change the guest and aren't done: (key or prefix with `*`, nova's exception).
const SPECS: [(&str, &str); 26] = [
    ("hw:numa_*", "NUMATopologyUnsupported"),
    ("hw:cpu_thread_policy", "CPUThreadPolicyConfigurationInvalid"),
    ("hw:cpu_realtime_mask", "RealtimeConfigurationInvalid"),
    ("hw:cpu_dedicated_mask", "RequiredMixedInstancePolicy"),
    ("hw:emulator_threads_policy", "BadRequirementEmulatorThreadsPolicy"),
    ("hw:mem_page_size", "MemoryPageSizeNotSupported"),
    ("hw:mem_encryption_model", "NotSupported"),
    ("hw:tpm_*", "Invalid"),
    ("hw:pmem", "PMEMNamespaceConfigInvalid"),
    ("hw:viommu_model", "NotSupported"),
    ("hw:pci_numa_affinity_policy", "PciDeviceUnsupportedHypervisor"),
    ("hw:ephemeral_encryption_format", "NotSupported"),
    ("pci_passthrough:alias", "PciDeviceUnsupportedHypervisor"),
    ("accel:device_profile", "AcceleratorRequestOpFailed"),
    ("resources:PCPU", "CPUPinningInvalid"),
    ("resources:VGPU*", "InvalidRequest"),
    ("resources:CUSTOM_PMEM_*", "PMEMNamespaceConfigInvalid"),
    ("resources:MEM_ENCRYPTION_CONTEXT", "InvalidRequest"),
    ("resources1:*", "InvalidRequest"),
    ("resources2:*", "InvalidRequest"),
    ("trait:HW_CPU_HYPERTHREADING", "CPUThreadPolicyConfigurationInvalid"),
    ("trait:COMPUTE_SECURITY_TPM_*", "Invalid"),
    ("quota:vif_reservation", "InvalidRequest"),
    ("quota:disk_io_limit", "InvalidRequest"),
    ("quota:memory_*", "InvalidRequest"),
    ("quota:cpu_limit", "InvalidRequest"),
];

/// The same for extra specs that only ask when they are true.
const SWITCHES: [(&str, &str); 5] = [
    ("hw:cpu_realtime", "RealtimeConfigurationInvalid"),
    ("hw:mem_encryption", "NotSupported"),
    ("hw:locked_memory", "LockMemoryForbidden"),
    ("hw:ephemeral_encryption", "NotSupported"),
    ("hw:vif_sriov_*", "InvalidRequest"),
];

const PROPERTIES: [(&str, &str); 8] = [
    ("hw_numa_*", "NUMATopologyUnsupported"),
    ("hw_cpu_thread_policy", "CPUThreadPolicyConfigurationInvalid"),
    ("hw_mem_page_size", "MemoryPageSizeNotSupported"),
    ("hw_mem_encryption_model", "NotSupported"),
    ("hw_tpm_*", "Invalid"),
    ("hw_viommu_model", "NotSupported"),
    ("hw_ephemeral_encryption_format", "NotSupported"),
    ("hw_pci_numa_affinity_policy", "PciDeviceUnsupportedHypervisor"),
];

const PROPERTY_SWITCHES: [(&str, &str); 3] = [
    ("hw_mem_encryption", "NotSupported"),
    ("hw_locked_memory", "LockMemoryForbidden"),
    ("hw_ephemeral_encryption", "NotSupported"),
];

/// Refuses what isn't done, and says which architecture the guest has.
pub fn check(input: &GuestInput, asked: &Asked<'_>) -> Result<String, GuestError> {
    let refuse = |what: String, exception| Err(GuestError::Unsupported { what, exception });
    for (key, value) in asked.specs() {
        if let Some(exception) = find(&SPECS, key) {
            return refuse(format!("the flavor's {key}"), exception);
        }
        if let Some(exception) = find(&SWITCHES, key).filter(|_| truth(value)) {
            return refuse(format!("the flavor's {key}"), exception);
        }
    }
    for (key, value) in asked.properties() {
        if let Some(exception) = find(&PROPERTIES, key) {
            return refuse(format!("the image's {key}"), exception);
        }
        if let Some(exception) = find(&PROPERTY_SWITCHES, key).filter(|_| truth(value)) {
            return refuse(format!("the image's {key}"), exception);
        }
    }
    for policy in [asked.spec("hw:cpu_policy"), asked.property("hw_cpu_policy")] {
        match policy {
            None | Some("shared") => {}
            Some("dedicated" | "mixed") => {
                return refuse("a guest with CPUs of its own".into(), "CPUPinningInvalid");
            }
            Some(other) => {
                let message = format!("{other:?} is no CPU policy");
                return Err(GuestError::invalid("InvalidCPUAllocationPolicy", message));
            }
        }
    }
    if let Some(mode) = asked.property("hw_vm_mode").filter(|mode| *mode != "hvm") {
        return refuse(format!("the image's hw_vm_mode {mode}"), "InvalidVirtualMachineMode");
    }
    let virt_type = &input.options.virt_type;
    if !matches!(virt_type.as_str(), "kvm" | "qemu") {
        return refuse(format!("virt_type {virt_type}"), "UnsupportedVirtType");
    }
    let arch = asked
        .property("hw_emulation_architecture")
        .or(asked.property("hw_architecture"))
        .unwrap_or(&input.host.architecture);
    match arch {
        "x86_64" | "i686" | "aarch64" | "ppc64le" => Ok(arch.to_owned()),
        _ => refuse(format!("a guest of architecture {arch}"), "InvalidArchitectureName"),
    }
}

fn find(table: &[(&str, &'static str)], key: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => key == *pattern,
        })
        .map(|(_, exception)| *exception)
}
