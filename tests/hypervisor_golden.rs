//! Domains for every case in `tests/golden/domain/cases.json`, against the XML that nova 33.0.2
//! itself made of the same case (`from_nova.py` there). `UPDATE_GOLDEN=1` writes ours over it, to be
//! read in the diff.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hypernova::agent::preview_settings;
use hypernova::config::Config;
use hypernova::config::files::Files;
use hypernova::hypervisor::guest::*;
use hypernova::hypervisor::libvirt::xml::domain_xml;
use hypernova::hypervisor::spec::*;
use hypernova::images::Disk;
use hypernova::model::object::{BlockDeviceMapping, Flavor, ImageMeta, Instance, VersionedObject};
use hypernova::workflow::Settings;
use hypernova::workflow::block_devices::{ec2_mapping, guest_disks, name_devices, note_defaults};
use hypernova::workflow::domain::GuestDisks;
use serde_json::{Value, json};

const UUID: &str = "c096fd3f-811e-4ddd-8fca-f0fd75012396";
const IMAGE: &str = "9ac5fd6a-073c-423e-8bb6-9593064b906d";

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let object = value.as_object().into_iter().flatten();
    object.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

fn file(name: &str, format: &str) -> Disk {
    let path = format!("/var/lib/nova/instances/{UUID}/{name}").into();
    Disk { path, format: format.into() }
}

/// The case's flavor and names on an instance's record.
fn instance(case: &Value) -> Instance {
    let mut flavor = Flavor::default();
    let number = |key: &str| Some(case["flavor"][key].as_i64().unwrap_or(0));
    flavor.ephemeral_gb.load(number("ephemeral_gb"));
    flavor.swap.load(number("swap"));
    for field in [&mut flavor.root_gb, &mut flavor.memory_mb, &mut flavor.vcpus] {
        field.load(Some(1));
    }
    let mut instance = Instance::default();
    instance.uuid.load(Some(UUID.parse().unwrap()));
    instance.id.load(Some(2));
    instance.root_device_name.load(Some(text(&case["root_device_name"])));
    instance.flavor.load(Some(flavor));
    let format = text(&case["image"]["disk_format"]).unwrap_or("qcow2".into());
    let metadata = BTreeMap::from([("image_disk_format".to_owned(), Some(format))]);
    instance.system_metadata.load(Some(metadata));
    instance
}

fn mappings(case: &Value) -> Vec<BlockDeviceMapping> {
    let mapping = |asked: &Value| {
        let mut mapping = BlockDeviceMapping::default();
        for (key, value) in [
            ("source_type", json!("blank")),
            ("destination_type", json!("local")),
            ("device_type", json!("disk")),
            ("boot_index", json!(-1)),
        ] {
            mapping.load_field(key, &value).unwrap();
        }
        for (key, value) in asked.as_object().unwrap() {
            mapping.load_field(key, value).unwrap();
        }
        mapping
    };
    case["bdms"].as_array().into_iter().flatten().map(mapping).collect()
}

fn settings(case: &Value) -> Settings {
    let mut settings = preview_settings(&Config::from_files(&Files::default()).unwrap()).unwrap();
    settings.guest = options(&case["options"]);
    settings.preallocate_space = case["options"]["preallocate_images"] == "space";
    settings
}

/// The image of a case that names devices.
fn image(case: &Value) -> ImageMeta {
    let mut image = json!({"id": IMAGE, "properties": case["image"]["properties"]});
    if let Some(format) = case["image"]["disk_format"].as_str() {
        image["disk_format"] = json!(format);
    }
    ImageMeta::from_image_dict(&image).unwrap()
}

/// The disks of a case, as the agent makes them of its mappings. Those that have no names yet get
/// them first, as in a build.
fn disks(case: &Value) -> Vec<GuestDisk> {
    let (mut instance, mut devices, settings) = (instance(case), mappings(case), settings(case));
    if !devices.is_empty() && case["named"] != true {
        name_devices(&mut instance, &image(case), &mut devices, &settings).unwrap();
    }
    let raw = case["options"]["images_type"] == "raw";
    let format = if raw { "raw" } else { "qcow2" };
    let blank = hypernova::workflow::block_devices::wanted(&instance, &devices).unwrap();
    let found = GuestDisks {
        root: Some(file("disk", format)),
        blank: blank.iter().map(|wanted| file(&wanted.file, format)).collect(),
        config_drive: (case["config_drive"] == true).then(|| file("disk.config", "raw")),
        ..GuestDisks::default()
    };
    guest_disks(&instance, &devices, &found, &settings).unwrap()
}

fn vif(index: usize, kind: &str) -> GuestVif {
    let port = format!("ffb38c30-19bd-43a5-ab53-0ee090d0e75{index}");
    let source = match kind {
        "ovs" => InterfaceSource::Bridge { bridge: "br-int".into(), ovs_port: Some(port.clone()) },
        "bridge" => InterfaceSource::Bridge { bridge: "br-int".into(), ovs_port: None },
        _ => InterfaceSource::Ethernet,
    };
    GuestVif {
        source,
        mac_address: format!("fa:16:3e:32:64:{:02x}", 0x38 + index),
        mtu: Some(1442),
        target: Some(format!("tap{}", &port[..11])),
        unmanaged_target: kind == "tap",
        unlimited: kind == "tap",
        port: PortMetadata {
            uuid: port,
            ips: vec![("fixed".into(), format!("10.77.0.{}", 12 + index), 4)],
        },
    }
}

fn options(asked: &Value) -> GuestOptions {
    let number = |key: &str| asked[key].as_u64().map(|number| u32::try_from(number).unwrap());
    let on = |key: &str, default: bool| asked[key].as_bool().unwrap_or(default);
    GuestOptions {
        virt_type: text(&asked["virt_type"]).unwrap_or("kvm".into()),
        cpu_mode: text(&asked["cpu_mode"]),
        cpu_models: strings(&asked["cpu_models"]),
        cpu_model_extra_flags: strings(&asked["cpu_model_extra_flags"]),
        disk_cachemodes: strings(&asked["disk_cachemodes"]),
        hw_disk_discard: text(&asked["hw_disk_discard"]),
        disk_prefix: text(&asked["disk_prefix"]),
        config_drive_format: text(&asked["config_drive_format"]).unwrap_or("iso9660".into()),
        num_pcie_ports: number("num_pcie_ports").unwrap_or(0),
        mem_stats_period_seconds: number("mem_stats_period_seconds").unwrap_or(10),
        tb_cache_size: number("tb_cache_size"),
        rx_queue_size: number("rx_queue_size"),
        pointer_model: Some(text(&asked["pointer_model"]).unwrap_or("usbtablet".into())),
        vnc_listen: on("vnc", true).then(|| "10.66.0.11".into()),
        spice: on("spice", false).then(|| SpiceServer {
            listen: "127.0.0.1".into(),
            agent_enabled: true,
            options: SpiceOptions::default(),
        }),
        serial_console_address: on("serial_console", false).then(|| "127.0.0.1".into()),
        ..GuestOptions::default()
    }
}

fn input(case: &Value) -> GuestInput {
    let (flavor, image) = (&case["flavor"], &case["image"]);
    let number = |key: &str, default: u64| flavor[key].as_u64().unwrap_or(default);
    let flavor = FlavorMetadata {
        id: "tb.tiny".into(),
        name: text(&flavor["name"]).unwrap_or("tb.tiny".into()),
        memory_mib: 128,
        disk_gib: 1,
        swap_mib: number("swap", 0),
        ephemeral_gib: number("ephemeral_gb", 0),
        vcpus: number("vcpus", 1),
        extra_specs: pairs(&flavor["extra_specs"]),
    };
    let file = |name: &str| file(name, "").path;
    let kinds = match &case["vifs"] {
        Value::Null => vec!["ethernet".to_owned()],
        kinds => strings(kinds),
    };
    let image_id = text(&image["id"]).unwrap_or(IMAGE.into());
    GuestInput {
        uuid: UUID.parse().unwrap(),
        name: "instance-00000002".into(),
        display_name: text(&case["display_name"]).unwrap_or("many-1".into()),
        creation_time: "2026-11-20 23:06:06".into(),
        package_version: "33.0.2".into(),
        flavor,
        image: GuestImage {
            id: Some(image_id).filter(|id| !id.is_empty()),
            container_format: Some("bare".into()),
            disk_format: Some(text(&image["disk_format"]).unwrap_or("qcow2".into())),
            min_disk_gib: 1,
            min_ram_mib: 0,
            properties: pairs(&image["properties"]).into_iter().collect::<BTreeMap<_, _>>(),
            recorded: None,
        },
        os_type: text(&case["os_type"]),
        user: Some(("2c54c6dfca9049f897e04257c950bf4c".into(), "admin".into())),
        project: Some(("1636986d9ad64a04986c679176c6d90f".into(), "admin".into())),
        disks: disks(case),
        root_device_name: text(&case["root_device_name"]),
        rescue: None,
        kernel: (case["kernel"] == true)
            .then(|| GuestKernel { kernel: file("kernel"), ramdisk: Some(file("ramdisk")) }),
        vifs: kinds.iter().enumerate().map(|(index, kind)| vif(index, kind)).collect(),
        console_log: Some(file("console.log")),
        serial_ports: vec![10000, 10001],
        firmware: None,
        options: options(&case["options"]),
        host: GuestHost {
            architecture: "x86_64".into(),
            machines: ["pc", "q35"].map(str::to_owned).to_vec(),
            supports_uefi: true,
            cpu_control: true,
            ..GuestHost::default()
        },
    }
}

/// nova writes properties in the order of its class; the order says nothing.
fn sorted_properties(xml: &str) -> String {
    let mut lines: Vec<&str> = xml.lines().collect();
    let mut start = 0;
    while start < lines.len() {
        let run = lines[start..].iter().take_while(|l| l.contains("<nova:property ")).count();
        lines[start..start + run].sort_unstable();
        start += run + 1;
    }
    lines.join("\n")
}

#[test]
fn domains_are_novas_own() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/domain");
    let cases: Value =
        serde_json::from_str(&fs::read_to_string(directory.join("cases.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let spec = domain_spec(&input(case)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let ours = domain_xml(&spec);
        let path = directory.join(format!("{name}.xml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &ours).unwrap();
            continue;
        }
        let golden = fs::read_to_string(&path).unwrap();
        let (ours, golden) = (sorted_properties(&ours), sorted_properties(&golden));
        if ours != golden {
            let ours_lines: Vec<&str> = ours.lines().collect();
            let differs = golden.lines().enumerate().find(|(i, l)| ours_lines.get(*i) != Some(l));
            let (line, golden) = differs.unwrap_or((golden.lines().count(), "(end)"));
            let ours = ours_lines.get(line).unwrap_or(&"(end)");
            wrong.push(format!("{name}, line {}\n  nova {golden}\n  ours {ours}", line + 1));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What nova writes back to block device mappings, and tells guests of them.
#[test]
fn device_names_are_novas_own() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/domain");
    let cases: Value =
        serde_json::from_str(&fs::read_to_string(directory.join("cases.json")).unwrap()).unwrap();
    let mut seen = 0;
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let Ok(golden) = fs::read_to_string(directory.join(format!("{name}.json"))) else {
            continue;
        };
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let (mut instance, mut devices, settings) =
            (instance(case), mappings(case), settings(case));
        name_devices(&mut instance, &image(case), &mut devices, &settings).unwrap();
        assert_eq!(text(&golden["root_device_name"]).as_ref(), instance.root_device_name.value());
        let named: Vec<Value> = devices
            .iter()
            .map(|device| {
                json!({
                    "device_name": device.device_name.value(),
                    "disk_bus": device.disk_bus.value(),
                    "device_type": device.device_type.value().map(|kind| kind.as_str()),
                })
            })
            .collect();
        assert_eq!(golden["bdms"], Value::Array(named), "{name}");
        let input = input(case);
        note_defaults(&mut instance, &input.disks, &domain_spec(&input).unwrap().disks);
        let ec2: BTreeMap<String, String> = ec2_mapping(&instance, &devices).into_iter().collect();
        assert_eq!(golden["ec2"], json!(ec2), "{name}");
        seen += 1;
    }
    assert!(seen >= 7, "only {seen} cases have names");
}

/// Each thing not done here is refused with nova's name for it.
#[test]
fn what_is_not_done_is_refused_and_never_left_out() {
    for (flavor, image, exception) in [
        (Some(("hw:cpu_policy", "dedicated")), None, "CPUPinningInvalid"),
        (None, Some(("hw_cpu_policy", "mixed")), "CPUPinningInvalid"),
        (Some(("hw:cpu_policy", "nonsense")), None, "InvalidCPUAllocationPolicy"),
        (Some(("hw:numa_nodes", "2")), None, "NUMATopologyUnsupported"),
        (None, Some(("hw_numa_nodes", "2")), "NUMATopologyUnsupported"),
        (Some(("hw:mem_page_size", "large")), None, "MemoryPageSizeNotSupported"),
        (Some(("hw:tpm_version", "2.0")), None, "Invalid"),
        (Some(("pci_passthrough:alias", "gpu:1")), None, "PciDeviceUnsupportedHypervisor"),
        (None, Some(("hw_machine_type", "pdp-11")), "InvalidMachineType"),
        (None, Some(("hw_disk_bus", "xen")), "UnsupportedHardware"),
        (None, Some(("hw_vif_model", "netfront")), "UnsupportedHardware"),
        (None, Some(("hw_video_model", "cga")), "InvalidVideoMode"),
        (None, Some(("hw_video_ram", "64")), "RequestedVRamTooHigh"),
        (None, Some(("hw_watchdog_action", "bark")), "InvalidWatchdogAction"),
        (None, Some(("hw_vm_mode", "exe")), "InvalidVirtualMachineMode"),
        (Some(("hw:redirected_usb_ports", "16")), None, "Invalid"),
        (Some(("quota:cpu_shares", "many")), None, "InvalidRequest"),
        (
            Some(("hw:cpu_max_sockets", "1")),
            Some(("hw_cpu_max_sockets", "2")),
            "ImageVCPULimitsRangeExceeded",
        ),
    ] {
        let mut input = input(&Value::Null);
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        input.flavor.extra_specs.extend(flavor.map(own));
        input.image.properties.extend(image.map(own));
        let error = domain_spec(&input).expect_err(exception);
        assert_eq!(error.exception(), exception, "{error}");
    }
}

#[test]
fn what_says_no_is_not_a_request() {
    let mut input = input(&Value::Null);
    for (key, value) in [
        ("hw:cpu_policy", "shared"),
        ("hw:mem_encryption", "false"),
        ("hw:locked_memory", "no"),
        ("resources:VCPU", "1"),
        ("trait:HW_CPU_X86_AVX2", "required"),
        ("aggregate_instance_extra_specs:ssd", "true"),
    ] {
        input.flavor.extra_specs.push((key.into(), value.into()));
    }
    assert!(domain_spec(&input).is_ok());
}

#[test]
fn a_hard_reboot_keeps_the_firmware_files() {
    let mut input = input(&serde_json::json!({
        "image": {"properties": {"hw_firmware_type": "uefi", "hw_machine_type": "q35"}}
    }));
    input.firmware = Some(FirmwareFiles {
        loader: Some("/usr/share/OVMF/OVMF_CODE.fd".into()),
        loader_type: Some("pflash".into()),
        loader_readonly: Some(true),
        nvram: Some("/var/lib/libvirt/qemu/nvram/i_VARS.fd".into()),
        nvram_template: Some("/usr/share/OVMF/OVMF_VARS.fd".into()),
        secure: Some(false),
        smm: true,
    });
    let xml = domain_xml(&domain_spec(&input).unwrap());
    assert!(!xml.contains("firmware=\"efi\""), "libvirt would choose again: {xml}");
    let facts = hypernova::hypervisor::libvirt::xml::read::domain_facts(&xml).unwrap();
    assert_eq!(Some(facts.firmware), input.firmware);

    input.image.properties.insert("os_secure_boot".into(), "required".into());
    assert_eq!(domain_spec(&input).unwrap_err().exception(), "SecureBootNotSupported");
    input.host.supports_secure_boot = true;
    let xml = domain_xml(&domain_spec(&input).unwrap());
    assert!(xml.contains("firmware=\"efi\"") && !xml.contains("OVMF_CODE.fd"), "{xml}");
}
