//! The state of a running guest, in words all hypervisors share. nova: objects/diagnostics.py. Built by
//! [`crate::model::diagnostics`].

use crate::versioned_object;

versioned_object! {
    /// Everything at once. `uptime` in seconds.
    Diagnostics "1.0" {
        /// `pending`, `running`, `_unused`, `paused`, `shutdown`, `_unused`, `crashed`, `suspended`
        state: String,
        /// `libvirt`, `xenapi`, `vmwareapi`, `ironic`, `hyperv`
        driver: String,
        hypervisor: Option<String>,
        hypervisor_os: Option<String>,
        uptime: Option<i64>,
        config_drive: bool,
        memory_details: MemoryDiagnostics,
        cpu_details: Vec<CpuDiagnostics>,
        nic_details: Vec<NicDiagnostics>,
        disk_details: Vec<DiskDiagnostics>,
        num_cpus: i64,
        num_nics: i64,
        num_disks: i64,
    }
}

versioned_object! {
    /// One virtual CPU: `time` in nanoseconds, `utilisation` in per cent.
    CpuDiagnostics "1.0" {
        id: Option<i64>,
        time: Option<i64>,
        utilisation: Option<i64>,
    }
}

versioned_object! {
    /// One NIC: octets, packets, and rates in octets a second.
    NicDiagnostics "1.0" {
        mac_address: Option<String>,
        rx_octets: Option<i64>,
        rx_errors: Option<i64>,
        rx_drop: Option<i64>,
        rx_packets: Option<i64>,
        rx_rate: Option<i64>,
        tx_octets: Option<i64>,
        tx_errors: Option<i64>,
        tx_drop: Option<i64>,
        tx_packets: Option<i64>,
        tx_rate: Option<i64>,
    }
}

versioned_object! {
    /// One disk.
    DiskDiagnostics "1.0" {
        read_bytes: Option<i64>,
        read_requests: Option<i64>,
        write_bytes: Option<i64>,
        write_requests: Option<i64>,
        errors_count: Option<i64>,
    }
}

versioned_object! {
    /// Memory in MiB.
    MemoryDiagnostics "1.0" {
        maximum: Option<i64>,
        used: Option<i64>,
    }
}
