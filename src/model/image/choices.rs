//! Image properties that may have certain values only. nova: objects/fields.py.

use crate::model::state::spelt;

spelt! {
    /// `hw_disk_bus`, `hw_cdrom_bus`, `hw_floppy_bus`, `hw_rescue_bus`
    DiskBus {
        Fdc = "fdc",
        Ide = "ide",
        Sata = "sata",
        Scsi = "scsi",
        Usb = "usb",
        Virtio = "virtio",
        Xen = "xen",
        Lxc = "lxc",
        Uml = "uml",
    }
}

spelt! {
    /// `hw_firmware_type`
    FirmwareType { Uefi = "uefi", Bios = "bios" }
}

spelt! {
    /// `os_secure_boot`
    SecureBoot { Required = "required", Disabled = "disabled", Optional = "optional" }
}

spelt! {
    /// `os_type`
    OsType { Linux = "linux", Windows = "windows" }
}

spelt! {
    /// `img_config_drive`
    ConfigDrivePolicy { Optional = "optional", Mandatory = "mandatory" }
}

const ARCHITECTURES: &[&str] = &[
    "alpha",
    "armv6",
    "armv7l",
    "armv7b",
    "aarch64",
    "cris",
    "i686",
    "ia64",
    "lm32",
    "m68k",
    "microblaze",
    "microblazeel",
    "mips",
    "mipsel",
    "mips64",
    "mips64el",
    "openrisc",
    "parisc",
    "parisc64",
    "ppc",
    "ppcle",
    "ppc64",
    "ppc64le",
    "ppcemb",
    "s390",
    "s390x",
    "sh4",
    "sh4eb",
    "sparc",
    "sparc64",
    "unicore32",
    "x86_64",
    "xtensa",
    "xtensaeb",
];
const DISK_BUSES: &[&str] = &["fdc", "ide", "sata", "scsi", "usb", "virtio", "xen", "lxc", "uml"];

/// The values that property `name` may have; `None`: any text. Those of 2026.2, the newest.
fn allowed(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "hw_architecture" | "hw_emulation_architecture" => ARCHITECTURES,
        "hw_cdrom_bus" | "hw_disk_bus" | "hw_floppy_bus" | "hw_rescue_bus" => DISK_BUSES,
        "hw_cpu_policy" => &["dedicated", "shared", "mixed"],
        "hw_cpu_thread_policy" => &["prefer", "isolate", "require"],
        "hw_ephemeral_encryption_format" => &["plain", "luks", "luksv2"],
        "hw_firmware_type" => &["uefi", "bios"],
        "hw_input_bus" => &["usb", "virtio"],
        "hw_maxphysaddr_mode" => &["passthrough", "emulate"],
        "hw_mem_encryption_model" => &["amd-sev", "amd-sev-es", "amd-sev-snp", "intel-tdx"],
        "hw_pci_numa_affinity_policy" => &["required", "legacy", "preferred", "socket"],
        "hw_pointer_model" => &["usbtablet"],
        "hw_rescue_device" => &["cdrom", "disk", "floppy", "fs", "lun"],
        "hw_rng_model" => &["virtio"],
        "hw_scsi_model" => &[
            "buslogic",
            "ibmvscsi",
            "lsilogic",
            "lsisas1068",
            "lsisas1078",
            "virtio-scsi",
            "vmpvscsi",
        ],
        "hw_sound_model" => &["sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "virtio"],
        "hw_tpm_model" => &["tpm-tis", "tpm-crb"],
        "hw_tpm_version" => &["1.2", "2.0"],
        "hw_usb_model" => &["none", "nec-xhci", "qemu-xhci"],
        "hw_video_model" => {
            &["cirrus", "qxl", "vga", "vmvga", "xen", "virtio", "gop", "none", "bochs"]
        }
        "hw_vif_model" => &[
            "virtio",
            "ne2k_pci",
            "pcnet",
            "rtl8139",
            "e1000",
            "e1000e",
            "netfront",
            "spapr-vlan",
            "lan9118",
            "sriov",
            "vmxnet",
            "vmxnet3",
            "igb",
        ],
        "hw_viommu_model" => &["intel", "smmuv3", "virtio", "auto"],
        "hw_vm_mode" => &["hvm", "xen", "uml", "exe"],
        "hw_watchdog_action" => &["none", "pause", "poweroff", "reset", "disabled"],
        "img_config_drive" => &["optional", "mandatory"],
        "img_hv_type" => &[
            "baremetal",
            "bhyve",
            "docker",
            "fake",
            "hyperv",
            "ironic",
            "kqemu",
            "kvm",
            "lxc",
            "lxd",
            "openvz",
            "parallels",
            "phyp",
            "qemu",
            "test",
            "uml",
            "vbox",
            "vz",
            "vmware",
            "xen",
            "zvm",
            "prsm",
        ],
        "img_signature_hash_method" => &["SHA-224", "SHA-256", "SHA-384", "SHA-512"],
        "img_signature_key_type" => &[
            "DSA",
            "ECC_SECP384R1",
            "ECC_SECP521R1",
            "ECC_SECT409K1",
            "ECC_SECT409R1",
            "ECC_SECT571K1",
            "ECC_SECT571R1",
            "RSA-PSS",
        ],
        "os_secure_boot" => &["required", "disabled", "optional"],
        "os_type" => &["linux", "windows"],
        _ => return None,
    })
}

/// `text` as nova spells it, or `None` when property `name` may not be that. Some properties are
/// read in any case, and under names of old.
pub(super) fn canonical(name: &str, text: &str) -> Option<String> {
    let Some(allowed) = allowed(name) else { return Some(text.to_owned()) };
    let lower = text.to_lowercase();
    let text = match (name, lower.as_str()) {
        ("hw_architecture" | "hw_emulation_architecture", old) => match old {
            "i386" | "i486" | "i586" | "x86_32" | "x86_32p" => "i686",
            "amd64" => "x86_64",
            name => name,
        },
        ("hw_vm_mode", "pv") => "xen",
        ("hw_vm_mode", "hv" | "baremetal") => "hvm",
        ("img_hv_type", "xapi") => "xen",
        ("hw_scsi_model", "lsilogicsas") => "lsisas1068",
        ("hw_scsi_model", "paravirtual") => "vmpvscsi",
        ("hw_vif_model", old) => match old {
            "virtuale1000" => "e1000",
            "virtuale1000e" => "e1000e",
            "virtualpcnet32" => "pcnet",
            "virtualsriovethernetcard" => "sriov",
            "virtualvmxnet" => "vmxnet",
            "virtualvmxnet3" => "vmxnet3",
            name => name,
        },
        ("hw_vm_mode" | "img_hv_type" | "hw_scsi_model" | "os_type", name) => name,
        _ => text,
    };
    allowed.contains(&text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_old_are_read_as_nova_reads_them() {
        for (name, text, canon) in [
            ("hw_architecture", "AMD64", "x86_64"),
            ("hw_architecture", "i586", "i686"),
            ("os_type", "Windows", "windows"),
            ("hw_vif_model", "VirtualE1000", "e1000"),
            ("hw_scsi_model", "paraVirtual", "vmpvscsi"),
            ("hw_vm_mode", "pv", "xen"),
            ("img_hv_type", "xapi", "xen"),
            ("os_distro", "Any Text", "Any Text"),
        ] {
            assert_eq!(canonical(name, text).as_deref(), Some(canon), "{name}={text}");
        }
    }

    #[test]
    fn what_nova_refuses_is_refused() {
        for (name, text) in [
            ("hw_disk_bus", "VIRTIO"),
            ("hw_video_model", "../x"),
            ("hw_architecture", "pdp11"),
            ("hw_tpm_version", "3"),
        ] {
            assert_eq!(canonical(name, text), None, "{name}={text}");
        }
    }

    #[test]
    fn every_bus_has_a_variant() {
        let buses: Vec<_> = DiskBus::ALL.iter().map(|bus| bus.as_str()).collect();
        assert_eq!(buses, DISK_BUSES);
    }
}
