//! Which traits the node's own provider has, and which it must not have. All other traits are an
//! operator's, or of another service, and are left alone.

use std::collections::{BTreeMap, BTreeSet};

/// Traits that are this agent's to set (true) or to take away (false).
pub type Owned = BTreeMap<String, bool>;

/// The provider's traits as they should be.
pub fn traits(owned: &Owned, current: &BTreeSet<String>) -> BTreeSet<String> {
    let others = current.iter().filter(|name| !owned.contains_key(*name));
    let ours = owned.iter().filter(|(_, has)| **has).map(|(name, _)| name);
    others.chain(ours).cloned().collect()
}

/// The host as far as traits tell of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFacts {
    pub virt_type: String,
    /// The host's own, and those that its emulators run: `x86_64`, …
    pub architecture: String,
    pub guest_architectures: BTreeSet<String>,
    /// What guests get of the CPU; `None` where the hypervisor can't say.
    pub cpu_features: Option<BTreeSet<String>>,
    pub hyperthreading: bool,
    pub disk_buses: BTreeSet<String>,
    pub video_models: BTreeSet<String>,
    pub secure_boot: bool,
    /// major × 1 000 000 + minor × 1 000 + micro, as [`version`] makes them.
    pub library_version: u64,
    pub hypervisor_version: u64,
    /// `[compute] image_type_exclude_list`
    pub excluded_image_types: Vec<String>,
}

/// libvirt's way to count versions.
pub const fn version(major: u64, minor: u64, micro: u64) -> u64 {
    major * 1_000_000 + minor * 1_000 + micro
}

const CPU_FEATURES: &[(&str, &[&str])] = &[
    ("3dnow", &["3DNOW"]),
    ("abm", &["ABM"]),
    ("aes", &["AESNI"]),
    ("amx-bf16", &["AMXBF16"]),
    ("amx-int8", &["AMXINT8"]),
    ("amx-tile", &["AMXTILE"]),
    ("avx", &["AVX"]),
    ("avx2", &["AVX2"]),
    ("avx512-vpopcntdq", &["AVX512VPOPCNTDQ"]),
    ("avx512bitalg", &["AVX512BITALG"]),
    ("avx512bw", &["AVX512BW"]),
    ("avx512cd", &["AVX512CD"]),
    ("avx512dq", &["AVX512DQ"]),
    ("avx512er", &["AVX512ER"]),
    ("avx512f", &["AVX512F"]),
    ("avx512ifma", &["AVX512IFMA"]),
    ("avx512pf", &["AVX512PF"]),
    ("avx512vbmi", &["AVX512VBMI"]),
    ("avx512vbmi2", &["AVX512VBMI2"]),
    ("avx512vl", &["AVX512VL"]),
    ("avx512vnni", &["AVX512VNNI"]),
    ("bmi1", &["BMI"]),
    ("bmi2", &["BMI2"]),
    ("f16c", &["F16C"]),
    ("fma", &["FMA3"]),
    ("fma4", &["FMA4"]),
    ("gfni", &["AVX512GFNI"]),
    ("mmx", &["MMX"]),
    ("mpx", &["MPX"]),
    ("pclmuldq", &["CLMUL"]),
    ("sha-ni", &["SHA"]),
    ("sse", &["SSE"]),
    ("sse2", &["SSE2"]),
    ("sse3", &["SSE3"]),
    ("sse4.1", &["SSE41"]),
    ("sse4.2", &["SSE42"]),
    ("sse4a", &["SSE4A"]),
    ("ssse3", &["SSSE3"]),
    // The old names tell nothing of the maker.
    ("svm", &["SVM", "AMD_SVM"]),
    ("tbm", &["TBM"]),
    ("vaes", &["AVX512VAES"]),
    ("vmx", &["VMX", "INTEL_VMX"]),
    ("vpclmulqdq", &["AVX512VPCLMULQDQ"]),
    ("xop", &["XOP"]),
];

/// The architectures for which there is a trait `COMPUTE_ARCH_…`.
const EMULATED: &[&str] = &["aarch64", "mipsel", "ppc64le", "riscv64", "s390x", "x86_64"];

/// Those for which there is `HW_ARCH_…`, of what libvirt runs on.
const HOSTS: &[&str] = &[
    "aarch64", "armv7", "i686", "mips", "mipsel", "mips64", "mips64el", "ppc", "ppc64", "ppc64le",
    "s390", "s390x", "sparc", "sparc64", "x86_64",
];

/// libvirt's names of buses that some virt type of nova's has, or had.
const DISK_BUSES: &[&str] = &["fdc", "ide", "lxc", "sata", "scsi", "uml", "usb", "virtio", "xen"];

const VIDEO_MODELS: &[&str] =
    &["bochs", "cirrus", "gop", "none", "qxl", "vga", "virtio", "vmvga", "xen"];

/// Models of network interfaces, and the virt types that have them besides QEMU's emulation.
const VIF_MODELS: &[(&str, &[&str])] = &[
    ("E1000", &["kvm", "parallels"]),
    ("E1000E", &["kvm"]),
    ("IGB", &["kvm"]),
    ("LAN9118", &[]),
    ("NE2K_PCI", &["kvm"]),
    ("PCNET", &["kvm"]),
    ("RTL8139", &["kvm", "parallels"]),
    ("SPAPR_VLAN", &["kvm"]),
    ("VIRTIO", &["kvm", "parallels"]),
    ("VMXNET3", &["kvm"]),
];

/// The traits of a host, all but the status of its service.
/// nova: virt/libvirt/driver.py, `static_traits`; virt/driver.py, `capabilities_as_traits`;
/// compute/resource_tracker.py, `_get_traits`
pub fn owned(host: &HostFacts) -> Owned {
    let mut owned = Owned::new();
    let mut set = |name: String, has: bool| {
        owned.insert(name, has);
    };
    for (feature, names) in CPU_FEATURES {
        for name in *names {
            if let Some(features) = &host.cpu_features {
                set(format!("HW_CPU_X86_{name}"), features.contains(*feature));
            }
        }
    }
    set("HW_CPU_HYPERTHREADING".to_owned(), host.hyperthreading);
    if HOSTS.contains(&host.architecture.as_str()) {
        set(format!("HW_ARCH_{}", host.architecture.to_uppercase()), true);
    }
    for name in EMULATED.iter().filter(|name| host.guest_architectures.contains(**name)) {
        set(format!("COMPUTE_ARCH_{}", name.to_uppercase()), true);
    }
    for name in DISK_BUSES {
        let has = host.disk_buses.contains(*name);
        set(format!("COMPUTE_STORAGE_BUS_{}", name.to_uppercase()), has);
    }
    for name in VIDEO_MODELS {
        let has = host.video_models.contains(*name);
        set(format!("COMPUTE_GRAPHICS_MODEL_{}", name.to_uppercase()), has);
    }
    let since = |library, hypervisor| {
        host.library_version >= library && host.hypervisor_version >= hypervisor
    };
    for (name, types) in VIF_MODELS {
        let has = host.virt_type == "qemu" || types.contains(&host.virt_type.as_str());
        let has = has && (*name != "IGB" || since(version(9, 3, 0), version(8, 0, 0)));
        set(format!("COMPUTE_NET_VIF_MODEL_{name}"), has);
    }
    let runs = |architecture: &str| host.guest_architectures.contains(architecture);
    for (name, has) in [
        ("COMPUTE_VIOMMU_MODEL_AUTO", true),
        ("COMPUTE_VIOMMU_MODEL_INTEL", runs("x86_64")),
        ("COMPUTE_VIOMMU_MODEL_SMMUV3", runs("aarch64")),
        ("COMPUTE_VIOMMU_MODEL_VIRTIO", since(version(8, 3, 0), 0)),
        ("COMPUTE_SOUND_MODEL_VIRTIO", since(version(10, 4, 0), version(8, 2, 0))),
        ("COMPUTE_ADDRESS_SPACE_EMULATED", since(version(8, 7, 0), 0)),
        ("COMPUTE_ADDRESS_SPACE_PASSTHROUGH", since(version(8, 7, 0), 0)),
        ("COMPUTE_SECURITY_STATELESS_FIRMWARE", since(version(8, 6, 0), 0)),
        ("COMPUTE_SECURITY_UEFI_SECURE_BOOT", host.secure_boot),
        ("COMPUTE_STORAGE_VIRTIO_FS", since(version(8, 0, 0), version(6, 2, 0))),
        ("COMPUTE_IMAGE_TYPE_PLOOP", host.virt_type == "parallels"),
    ] {
        set(name.to_owned(), has);
    }
    for model in ["AC97", "ES1370", "ICH6", "ICH9", "PCSPK", "SB16", "USB"] {
        set(format!("COMPUTE_SOUND_MODEL_{model}"), true);
    }
    for kind in ["aki", "ami", "ari", "iso", "qcow2", "raw"] {
        let excluded = host.excluded_image_types.iter().any(|excluded| excluded == kind);
        set(format!("COMPUTE_IMAGE_TYPE_{}", kind.to_uppercase()), !excluded);
    }
    for name in HAS {
        set((*name).to_owned(), true);
    }
    for name in HAS_NOT {
        set((*name).to_owned(), false);
    }
    owned
}

/// What nova's libvirt driver always has; and of whom the provider is.
const HAS: &[&str] = &[
    "COMPUTE_ACCELERATORS",
    "COMPUTE_DEVICE_TAGGING",
    "COMPUTE_NET_ATTACH_INTERFACE",
    "COMPUTE_NET_ATTACH_INTERFACE_WITH_TAG",
    "COMPUTE_NET_VIRTIO_PACKED",
    "COMPUTE_NODE",
    "COMPUTE_RESCUE_BFV",
    "COMPUTE_SOCKET_PCI_NUMA_AFFINITY",
    "COMPUTE_TRUSTED_CERTS",
    "COMPUTE_VOLUME_ATTACH_WITH_TAG",
    "COMPUTE_VOLUME_EXTEND",
    "COMPUTE_VOLUME_MULTI_ATTACH",
    "OWNER_NOVA",
];

/// What this agent hasn't, or nova's libvirt driver never has: vTPM, file-backed memory,
/// remote-managed ports.
const HAS_NOT: &[&str] = &[
    "COMPUTE_EPHEMERAL_ENCRYPTION",
    "COMPUTE_EPHEMERAL_ENCRYPTION_LUKS",
    "COMPUTE_MEM_BACKING_FILE",
    "COMPUTE_REMOTE_MANAGED_PORTS",
    "COMPUTE_SAME_HOST_COLD_MIGRATE",
    "COMPUTE_SECURITY_TPM_1_2",
    "COMPUTE_SECURITY_TPM_2_0",
    "COMPUTE_SECURITY_TPM_CRB",
    "COMPUTE_SECURITY_TPM_TIS",
];

/// Set while the host's service is disabled.
pub const DISABLED: &str = "COMPUTE_STATUS_DISABLED";

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The host of the recordings: software emulation, and `[libvirt] cpu_mode = none`.
    fn host() -> HostFacts {
        HostFacts {
            virt_type: "qemu".into(),
            architecture: "x86_64".into(),
            guest_architectures: names(&["i686", "x86_64"]),
            cpu_features: Some(names(&["sse", "sse2", "mmx", "svm", "nx", "lm"])),
            hyperthreading: false,
            disk_buses: names(&["ide", "fdc", "scsi", "virtio", "usb", "sata"]),
            video_models: names(&["vga", "cirrus", "vmvga", "virtio", "none", "bochs", "ramfb"]),
            secure_boot: false,
            library_version: version(11, 3, 0),
            hypervisor_version: version(10, 0, 2),
            excluded_image_types: Vec::new(),
        }
    }

    /// Recorded of nova-compute 33.0.2 on that host.
    const RECORDED: &str = include_str!("../../tests/fixtures/placement/traits.json");

    #[test]
    fn the_traits_are_novas_and_say_who_owns_the_provider() {
        let mut recorded: BTreeSet<String> = serde_json::from_str(RECORDED).unwrap();
        recorded.insert("OWNER_NOVA".to_owned());
        assert_eq!(traits(&owned(&host()), &BTreeSet::new()), recorded);
    }

    #[test]
    fn others_traits_stay_and_ours_go_when_they_are_not_so_any_more() {
        let current = names(&["CUSTOM_GOLD", "STORAGE_DISK_SSD", "HW_CPU_X86_AVX", "HW_NIC_SRIOV"]);
        let wanted = traits(&owned(&host()), &current);
        assert!(wanted.is_superset(&names(&["CUSTOM_GOLD", "STORAGE_DISK_SSD", "HW_NIC_SRIOV"])));
        assert!(!wanted.contains("HW_CPU_X86_AVX"));
    }

    #[test]
    fn older_packages_have_less() {
        let old = HostFacts { library_version: version(8, 0, 0), ..host() };
        let owned = owned(&old);
        for name in ["COMPUTE_VIOMMU_MODEL_VIRTIO", "COMPUTE_NET_VIF_MODEL_IGB"] {
            assert_eq!(owned.get(name), Some(&false), "{name}");
        }
        assert_eq!(owned.get("COMPUTE_STORAGE_VIRTIO_FS"), Some(&true));
    }

    #[test]
    fn an_image_type_that_is_excluded_is_not_offered() {
        let host = HostFacts { excluded_image_types: vec!["qcow2".into()], ..host() };
        assert_eq!(owned(&host).get("COMPUTE_IMAGE_TYPE_QCOW2"), Some(&false));
        assert_eq!(owned(&host).get("COMPUTE_IMAGE_TYPE_RAW"), Some(&true));
    }

    #[test]
    fn what_the_hypervisor_cannot_say_of_cpus_is_not_touched() {
        let host = HostFacts { cpu_features: None, ..host() };
        let current = names(&["HW_CPU_X86_AVX"]);
        assert!(traits(&owned(&host), &current).contains("HW_CPU_X86_AVX"));
    }
}
