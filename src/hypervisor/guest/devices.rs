//! The rest of the guest's devices, each by the flavor's and the image's wish within the host's
//! configuration.

use super::asked::{Asked, truth};
use super::{GuestError, GuestInput, GuestOptions};
use crate::hypervisor::spec::{GraphicsSpec, RngSpec, SerialSpec, VideoSpec};

/// QEMU's serial ports.
const MAX_SERIAL_PORTS: u32 = 4;

const VIDEO_MODELS: [&str; 9] =
    ["cirrus", "qxl", "vga", "vmvga", "xen", "virtio", "gop", "none", "bochs"];

const SOUND_MODELS: [&str; 8] =
    ["sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "virtio"];

/// What an xHCI controller has.
const MAX_REDIRECTED_PORTS: i64 = 15;

/// How many serial consoles the guest has when `[serial_console]` is enabled.
///
/// nova: virt/hardware.py, `get_number_of_serial_ports`
pub fn serial_port_count(
    extra_specs: &[(String, String)],
    properties: &std::collections::BTreeMap<String, String>,
) -> Result<u32, GuestError> {
    let asked = Asked::new(extra_specs, properties);
    let flavor = asked.spec_number("hw:serial_port_count").map_err(|_| {
        GuestError::invalid("ImageSerialPortNumberInvalid", "hw:serial_port_count is no number")
    })?;
    let image: Option<u32> = asked.property_number("hw_serial_port_count")?;
    let count = match (flavor.unwrap_or(0), image.unwrap_or(0)) {
        (0, 0) => 1,
        (flavor, 0) => flavor,
        (0, image) => image,
        (flavor, image) if image > flavor => {
            return Err(GuestError::invalid(
                "ImageSerialPortNumberExceedFlavorValue",
                "the image asks for more serial ports than the flavor allows",
            ));
        }
        (_, image) => image,
    };
    match count > MAX_SERIAL_PORTS {
        true => Err(GuestError::invalid(
            "SerialPortNumberLimitExceeded",
            format!("a guest has {MAX_SERIAL_PORTS} serial ports at most"),
        )),
        false => Ok(count),
    }
}

/// nova: virt/libvirt/driver.py, `_create_consoles_qemu_kvm`
pub fn serials(input: &GuestInput) -> Result<Vec<SerialSpec>, GuestError> {
    let log = input.console_log.clone();
    let Some(address) = &input.options.serial_console_address else {
        return Ok(vec![SerialSpec::Pty { log }]);
    };
    let properties = input.asked_of_image();
    let count = serial_port_count(&input.flavor.extra_specs, properties)? as usize;
    if input.serial_ports.len() < count {
        let message = format!("{count} serial ports were asked for and not reserved");
        return Err(GuestError::host("SocketPortRangeExhaustedException", message));
    }
    let ports = input.serial_ports.iter().take(count).enumerate();
    Ok(ports
        .map(|(index, port)| SerialSpec::Tcp {
            address: address.clone(),
            port: *port,
            // Only the first gets the boot messages.
            log: log.clone().filter(|_| index == 0),
        })
        .collect())
}

type Display = (Vec<GraphicsSpec>, Option<VideoSpec>, Vec<(String, String)>);

/// Screens, and what is only there with one: the video card, pointer and keyboard.
///
/// nova: virt/libvirt/driver.py, `_guest_add_video_device`, `_add_video_driver`
pub fn display(input: &GuestInput, asked: &Asked<'_>, arch: &str) -> Result<Display, GuestError> {
    let options = &input.options;
    let mut graphics = Vec::new();
    if let Some(listen) = &options.vnc_listen {
        graphics.push(GraphicsSpec::Vnc { listen: listen.clone() });
    }
    if let Some(spice) = &options.spice {
        let (listen, options) = (spice.listen.clone(), spice.options.clone());
        graphics.push(GraphicsSpec::Spice { listen, options });
    }
    if graphics.is_empty() {
        return Ok((graphics, None, Vec::new()));
    }
    let mut inputs = Vec::new();
    if let Some(bus) = pointer_bus(options, asked) {
        inputs.push(("tablet".to_owned(), bus));
    }
    let keyboard = asked.property("hw_input_bus").or((arch == "aarch64").then_some("usb"));
    if let Some(bus) = keyboard {
        inputs.push(("keyboard".to_owned(), bus.to_owned()));
    }
    Ok((graphics, Some(video(asked, arch)?), inputs))
}

pub fn video(asked: &Asked<'_>, arch: &str) -> Result<VideoSpec, GuestError> {
    let default = if arch.starts_with("ppc") { "vga" } else { "virtio" };
    let model = asked.property("hw_video_model").unwrap_or(default);
    if !VIDEO_MODELS.contains(&model) {
        let message = format!("{model:?} is no video model");
        return Err(GuestError::invalid("InvalidVideoMode", message));
    }
    let ram: u64 = asked.property_number("hw_video_ram")?.unwrap_or(0);
    let most: u64 = asked.spec_number("hw_video:ram_max_mb")?.unwrap_or(0);
    if ram > most {
        let message = format!("{ram} MiB of video memory exceed the flavor's {most}");
        return Err(GuestError::invalid("RequestedVRamTooHigh", message));
    }
    Ok(VideoSpec { model: model.to_owned(), vram_kib: (ram > 0).then_some(ram * 1024) })
}

/// nova: virt/libvirt/driver.py, `_get_pointer_bus_and_model`
pub fn pointer_bus(options: &GuestOptions, asked: &Asked<'_>) -> Option<String> {
    let bus = match asked.property("hw_input_bus") {
        Some(bus) => bus,
        None if asked.property("hw_pointer_model").is_some() => "usb",
        None if options.pointer_model.as_deref() == Some("usbtablet") => "usb",
        None => return None,
    };
    // The SPICE agent brings a mouse of its own; VNC needs the tablet all the same.
    let agent = options.spice.as_ref().is_some_and(|spice| spice.agent_enabled);
    (!agent || options.vnc_listen.is_some()).then(|| bus.to_owned())
}

/// nova: virt/libvirt/driver.py, `_guest_add_usb_root_controller`
pub fn usb_model(
    asked: &Asked<'_>,
    needs_usb: bool,
    arch: &str,
) -> Result<Option<String>, GuestError> {
    let model = asked.agreed("hw", "usb_model")?;
    Ok(match (needs_usb || arch.starts_with("ppc"), model) {
        (true, _) => None,
        (false, Some(model)) => Some(model.to_owned()),
        (false, None) => Some("none".into()),
    })
}

/// nova: virt/libvirt/driver.py, `_add_rng_device`
pub fn rng(asked: &Asked<'_>, options: &GuestOptions) -> Result<Option<RngSpec>, GuestError> {
    if !asked.spec("hw_rng:allowed").is_none_or(truth) {
        return Ok(None);
    }
    let bytes: u64 = asked.spec_number("hw_rng:rate_bytes")?.unwrap_or(0);
    let period: u64 = asked.spec_number("hw_rng:rate_period")?.unwrap_or(0);
    let rate = (bytes > 0 && period > 0).then_some((bytes, period));
    Ok(Some(RngSpec { device: options.rng_dev_path.clone(), rate }))
}

/// nova: virt/libvirt/driver.py, `_guest_add_watchdog_action`
pub fn watchdog(asked: &Asked<'_>) -> Result<Option<String>, GuestError> {
    let flavor = asked.spec("hw:watchdog_action").filter(|action| !action.is_empty());
    match asked.property("hw_watchdog_action").or(flavor) {
        None | Some("disabled") => Ok(None),
        Some(action @ ("none" | "pause" | "poweroff" | "reset")) => Ok(Some(action.to_owned())),
        Some(other) => {
            let message = format!("{other:?} is no watchdog action");
            Err(GuestError::invalid("InvalidWatchdogAction", message))
        }
    }
}

pub fn sound_model(asked: &Asked<'_>) -> Result<Option<String>, GuestError> {
    match asked.agreed("hw", "sound_model")? {
        Some(model) if !SOUND_MODELS.contains(&model) => {
            Err(GuestError::invalid("Invalid", format!("{model:?} is no sound model")))
        }
        model => Ok(model.map(str::to_owned)),
    }
}

/// nova: virt/hardware.py, `get_redirected_usb_ports`
pub fn redirected_usb_ports(asked: &Asked<'_>) -> Result<u32, GuestError> {
    let Some(text) = asked.agreed("hw", "redirected_usb_ports")? else { return Ok(0) };
    let count = text.trim().parse::<i64>().ok().filter(|n| (0..=MAX_REDIRECTED_PORTS).contains(n));
    count.and_then(|count| u32::try_from(count).ok()).ok_or_else(|| {
        GuestError::invalid("Invalid", format!("{text:?} is no number of USB ports"))
    })
}

/// nova: virt/libvirt/driver.py, `_guest_needs_pcie`
pub fn pcie_root_ports(options: &GuestOptions, host_arch: &str, machine: Option<&str>) -> u32 {
    let machine = machine.unwrap_or_default();
    match host_arch {
        "aarch64" if machine.starts_with("virt") => options.num_pcie_ports,
        "x86_64" if machine.contains("q35") => options.num_pcie_ports,
        _ => 0,
    }
}
