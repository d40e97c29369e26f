//! The whole domain: everything but its devices, and their place in it.

use super::devices::devices;
use super::element::Element;
use super::metadata::nova_instance;
use crate::hypervisor::spec::{
    Clock, CpuSpec, DomainSpec, FirmwareFiles, OsSpec, SysInfo, UefiSpec,
};

/// The XML to define `spec`, element for element as nova writes it. Never fails: what XML can't
/// hold is dropped from names and texts.
///
/// nova: virt/libvirt/config.py, `LibvirtConfigGuest.format_dom`
pub fn domain_xml(spec: &DomainSpec) -> String {
    Element::new("domain")
        .attr("type", &spec.virt_type)
        .child(Element::with_text("uuid", spec.uuid))
        .child(Element::with_text("name", &spec.name))
        .child(Element::with_text("memory", spec.memory_kib))
        .child(Element::with_text("vcpu", spec.vcpus).attr_if("cpuset", spec.cpuset.as_ref()))
        .child(Element::new("metadata").child(nova_instance(&spec.metadata)))
        .child_if(spec.os.smbios_from_sysinfo.then(|| sysinfo(&spec.sysinfo)))
        .child(os(&spec.os))
        .child_if(features(spec))
        .child_if(spec.iothreads.then(|| Element::with_text("iothreads", 1)))
        .child_if(cpu_tuning(spec))
        .child(clock(&spec.clock))
        .child(cpu(&spec.cpu))
        .child(devices(spec))
        .to_document()
}

fn sysinfo(sysinfo: &SysInfo) -> Element {
    let entries = [
        ("manufacturer", Some(&sysinfo.manufacturer)),
        ("product", Some(&sysinfo.product)),
        ("version", Some(&sysinfo.version)),
        ("serial", sysinfo.serial.as_ref()),
        ("uuid", Some(&sysinfo.uuid)),
        ("family", Some(&sysinfo.family)),
    ];
    let entries = entries.into_iter().filter_map(|(name, value)| {
        value.map(|value| Element::with_text("entry", value).attr("name", name))
    });
    Element::new("sysinfo").attr("type", "smbios").child(Element::new("system").children(entries))
}

fn os(os: &OsSpec) -> Element {
    let kernel = os.direct_kernel.as_ref();
    let path = |name, path: Option<&std::path::PathBuf>| {
        path.map(|path| Element::with_text(name, path.to_string_lossy()))
    };
    let files = os.firmware.as_ref().and_then(|firmware| firmware.files.as_ref());
    // A domain that keeps its firmware files doesn't let libvirt choose again.
    let choose_firmware = os.firmware.as_ref().filter(|_| files.is_none());
    Element::new("os")
        .attr_if("firmware", choose_firmware.map(|_| "efi"))
        .child_if(choose_firmware.map(|firmware| {
            Element::new("firmware").child(
                Element::new("feature")
                    .attr("name", "secure-boot")
                    .attr("enabled", yes_no(firmware.secure_boot)),
            )
        }))
        .child(
            Element::with_text("type", "hvm")
                .attr("arch", &os.architecture)
                .attr_if("machine", os.machine.as_ref()),
        )
        .child_if(path("kernel", kernel.map(|kernel| &kernel.kernel)))
        .child_if(os.firmware.as_ref().map(loader))
        .child_if(files.and_then(nvram))
        .child_if(path("initrd", kernel.and_then(|kernel| kernel.ramdisk.as_ref())))
        .child_if(kernel.map(|kernel| Element::with_text("cmdline", &kernel.command_line)))
        .children(os.boot_devices.iter().map(|device| Element::new("boot").attr("dev", device)))
        .child_if(os.smbios_from_sysinfo.then(|| Element::new("smbios").attr("mode", "sysinfo")))
        .child_if(os.boot_menu.then(|| Element::new("bootmenu").attr("enable", "yes")))
}

fn loader(firmware: &UefiSpec) -> Element {
    let files = firmware.files.clone().unwrap_or_default();
    Element::with_text("loader", files.loader.unwrap_or_default())
        .attr_if("type", files.loader_type)
        .attr_if("readonly", files.loader_readonly.map(yes_no))
        .attr("secure", yes_no(firmware.secure_boot))
        .attr_if("stateless", firmware.stateless.then_some("yes"))
}

fn nvram(files: &FirmwareFiles) -> Option<Element> {
    (files.nvram.is_some() || files.nvram_template.is_some()).then(|| {
        Element::with_text("nvram", files.nvram.clone().unwrap_or_default())
            .attr_if("template", files.nvram_template.as_ref())
    })
}

/// nova: virt/libvirt/driver.py, `_set_features`
fn features(spec: &DomainSpec) -> Option<Element> {
    let features = &spec.features;
    let mut element = Element::new("features");
    if features.acpi {
        element.push(Element::new("acpi"));
    }
    if features.apic {
        element.push(Element::new("apic"));
    }
    if let Some(size) = features.tb_cache_mib {
        element.push(
            Element::new("tcg").child(Element::with_text("tb-cache", size).attr("unit", "MiB")),
        );
    }
    if features.hyperv {
        element.push(hyperv(features.hide_hypervisor));
    }
    if features.vmcoreinfo {
        element.push(Element::new("vmcoreinfo"));
    }
    if features.hide_hypervisor {
        element.push(Element::new("kvm").child(Element::new("hidden").attr("state", "on")));
    }
    if let Some(pmu) = features.pmu {
        element.push(Element::new("pmu").attr("state", if pmu { "on" } else { "off" }));
    }
    // Kept firmware that wants system management mode; nova writes it as an element in itself.
    if spec.os.firmware.as_ref().and_then(|uefi| uefi.files.as_ref()).is_some_and(|files| files.smm)
    {
        element.push(Element::new("smm").attr("state", "on"));
    }
    element.has_children().then_some(element)
}

fn hyperv(hide_hypervisor: bool) -> Element {
    let on = |name| Element::new(name).attr("state", "on");
    Element::new("hyperv")
        .child(on("relaxed"))
        .child(on("vapic"))
        .child(on("spinlocks").attr("retries", 8191))
        .child_if(hide_hypervisor.then(|| on("vendor_id").attr("value", "1234567890ab")))
        .children(
            ["vpindex", "runtime", "synic", "reset", "frequencies", "tlbflush", "ipi"].map(on),
        )
}

fn cpu_tuning(spec: &DomainSpec) -> Option<Element> {
    let tuning = Element::new("cputune")
        .child_if(spec.cpu_shares.map(|shares| Element::with_text("shares", shares)))
        .child_if(spec.cpu_quota.map(|quota| Element::with_text("quota", quota)))
        .child_if(spec.cpu_period.map(|period| Element::with_text("period", period)));
    tuning.has_children().then_some(tuning)
}

/// nova: virt/libvirt/driver.py, `_set_clock`
fn clock(clock: &Clock) -> Element {
    let timer = |name| Element::new("timer").attr("name", name);
    let mut element = Element::new("clock").attr("offset", &clock.offset);
    if clock.kvm_timers {
        element.push(timer("pit").attr("tickpolicy", "delay"));
        element.push(timer("rtc").attr("tickpolicy", "catchup"));
    }
    if let Some(present) = clock.hpet {
        element.push(timer("hpet").attr("present", yes_no(present)));
    }
    if clock.hyperv_clock {
        element.push(timer("hypervclock").attr("present", "yes"));
    }
    element
}

fn cpu(cpu: &CpuSpec) -> Element {
    let mut features = cpu.features.clone();
    features.sort();
    Element::new("cpu")
        .attr_if("mode", cpu.mode.as_ref())
        .attr("match", "exact")
        .child_if(cpu.model.as_ref().map(|model| Element::with_text("model", model)))
        .child(
            Element::new("topology")
                .attr("sockets", cpu.sockets)
                .attr("cores", cpu.cores)
                .attr("threads", cpu.threads),
        )
        .child_if(cpu.max_phys_addr.as_ref().map(|(mode, bits)| {
            Element::new("maxphysaddr").attr("mode", mode).attr_if("bits", *bits)
        }))
        .children(features.iter().map(|(name, policy)| {
            Element::new("feature").attr("name", name).attr("policy", policy)
        }))
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
