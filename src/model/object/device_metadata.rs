//! Tagged devices of an instance, for its metadata. nova: objects/instance_device_metadata.py,
//! virt_device_metadata.py

use super::field_types::SubclassOf;
use crate::versioned_object;

versioned_object! {
    /// All tagged devices of an instance.
    InstanceDeviceMetadata "1.0" {
        devices: Vec<SubclassOf<DeviceMetadata>>,
    }
}

versioned_object! {
    /// A tagged device of no particular kind: the base of the others.
    DeviceMetadata "1.0" {
        bus: SubclassOf<DeviceBus>,
        tags: Vec<String>,
    }
}

versioned_object! {
    /// A tagged NIC.
    NetworkInterfaceMetadata "1.2" {
        mac: String,
        vlan: i64,
        vf_trusted: bool,
        bus: SubclassOf<DeviceBus>,
        tags: Vec<String>,
    }
}

versioned_object! {
    /// A tagged disk.
    DiskMetadata "1.0" {
        serial: Option<String>,
        path: Option<String>,
        bus: SubclassOf<DeviceBus>,
        tags: Vec<String>,
    }
}

versioned_object! {
    /// A tagged share.
    ShareMetadata "1.0" {
        share_id: Option<String>,
        tag: Option<String>,
        bus: SubclassOf<DeviceBus>,
        tags: Vec<String>,
    }
}

versioned_object! {
    /// Where a device sits: the base of the others.
    DeviceBus "1.0" {}
}

versioned_object! {
    /// `0000:00:02.0`
    PCIDeviceBus "1.0" {
        address: String,
    }
}

versioned_object! {
    /// `0:0`
    USBDeviceBus "1.0" {
        address: String,
    }
}

versioned_object! {
    /// `0:0:0:0`
    SCSIDeviceBus "1.0" {
        address: String,
    }
}

versioned_object! {
    /// `0:0`
    IDEDeviceBus "1.0" {
        address: String,
    }
}

versioned_object! {
    /// `00000A`
    XenDeviceBus "1.0" {
        address: String,
    }
}
