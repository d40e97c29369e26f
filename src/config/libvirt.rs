//! `[libvirt]`: the hypervisor, guests' virtual hardware and disks.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::opt::{Opt, choices, section};
use crate::config::value::Kind;

choices! {
    /// What runs the guests.
    VirtType:
    Kvm = "kvm",
    Lxc = "lxc",
    /// Software emulation.
    Qemu = "qemu",
    Parallels = "parallels",
}

choices! {
    /// The guest's CPU.
    CpuMode:
    HostModel = "host-model",
    HostPassthrough = "host-passthrough",
    /// One of `cpu_models`.
    Custom = "custom",
    /// The hypervisor's default.
    None = "none",
}

choices! {
    /// What instances' disks are.
    ImagesType:
    Raw = "raw",
    Flat = "flat",
    Qcow2 = "qcow2",
    Lvm = "lvm",
    Rbd = "rbd",
    Ploop = "ploop",
    /// qcow2 or flat, as `[DEFAULT] use_cow_images` says.
    Default = "default",
}

choices! {
    /// What becomes of a guest's discard.
    DiskDiscard:
    Ignore = "ignore",
    Unmap = "unmap",
}

choices! {
    /// Where a guest's SMBIOS serial number comes from.
    SysinfoSerial:
    None = "none",
    /// The host's machine id.
    Os = "os",
    /// The host's UUID as libvirt has it.
    Hardware = "hardware",
    /// `os`, or else `hardware`.
    Auto = "auto",
    /// The instance's UUID.
    Unique = "unique",
}

choices! {
    /// What a snapshot becomes.
    SnapshotImageFormat:
    Raw = "raw",
    Qcow2 = "qcow2",
    Vmdk = "vmdk",
    Vdi = "vdi",
}

/// nova: conf/libvirt.py, `QueueSizeType`.
const QUEUE_SIZES: Kind = Kind::IntegerChoice(&[256, 512, 1024]);

section! {
    /// The hypervisor, guests' virtual hardware and disks.
    Libvirt in "libvirt":

    /// What runs the guests.
    virt_type: VirtType = Opt::choice(VirtType::CHOICES).default("kvm");

    /// libvirt's address. Empty: the usual one of virt_type.
    connection_uri: Option<String> = Opt::text().default("");

    /// The guest's CPU. Unset: host-model for kvm and qemu (host-passthrough on aarch64), none
    /// for the others.
    cpu_mode: Option<CpuMode> = Opt::choice(CpuMode::CHOICES);

    /// CPU models for cpu_mode = custom, plain ones first: the first that has the flags asked
    /// for is taken.
    cpu_models: Vec<String> = Opt::list().default("").formerly(&[("libvirt", "cpu_model")]);

    /// CPU flags to add (pcid, +pcid) or to take away (-vmx).
    cpu_model_extra_flags: Vec<String> = Opt::list().default("");

    /// Machine types by architecture: x86_64=q35,aarch64=virt. Unset: pc on x86_64, virt on
    /// aarch64, libvirt's choice elsewhere.
    hw_machine_type: Option<Vec<String>> = Opt::list();

    /// What instances' disks are.
    images_type: ImagesType = Opt::choice(ImagesType::CHOICES).default("default");

    /// What a snapshot becomes. Unset: what the disk is.
    snapshot_image_format: Option<SnapshotImageFormat> =
        Opt::choice(SnapshotImageFormat::CHOICES);

    /// Where snapshots are made before they are uploaded. Each needs as much space as the disk has
    /// on the host, and one of a running guest the guest's part of that again.
    snapshots_directory: PathBuf = Opt::text().default("$instances_path/snapshots");

    /// Whether snapshots that are qcow2 are compressed: smaller, and much slower to make.
    snapshot_compression: bool = Opt::boolean().default("false");

    /// Cache modes by kind of disk: file=directsync,block=none.
    disk_cachemodes: Vec<String> = Opt::list().default("");

    /// What becomes of a guest's discard. Unset: the hypervisor's default.
    hw_disk_discard: Option<DiskDiscard> = Opt::choice(DiskDiscard::CHOICES);

    /// The image that guests are rescued with where neither the request nor the instance names one.
    rescue_image_id: Option<String> = Opt::text();

    /// The kernel that rescued guests boot. Unset: the instance's own.
    rescue_kernel_id: Option<String> = Opt::text();

    /// The ramdisk that rescued guests boot with. Unset: the instance's own.
    rescue_ramdisk_id: Option<String> = Opt::text();

    /// The start of disks' names in the guest (vd). Unset: as the bus has it.
    disk_prefix: Option<String> = Opt::text();

    /// How long a guest may take to shut down in a soft reboot before it becomes a hard one.
    wait_soft_reboot_seconds: Duration = Opt::seconds(0).default("120");

    /// How often guests report their memory; 0 or less: never.
    mem_stats_period_seconds: i64 = Opt::integer(i32::MIN as i64, i32::MAX as i64).default("10")
        .unit("seconds");

    /// The host's source of guests' random numbers.
    rng_dev_path: PathBuf = Opt::text().default("/dev/urandom");

    /// Where a guest's SMBIOS serial number comes from.
    sysinfo_serial: SysinfoSerial = Opt::choice(SysinfoSerial::CHOICES).default("unique");

    /// The translation cache of software emulation. Unset or 0: the hypervisor's choice.
    tb_cache_size: Option<u32> = Opt::integer(0, u32::MAX as i64).unit("MiB");

    /// PCIe ports of q35 and virt machines, for hot plug; 0: libvirt's choice.
    num_pcie_ports: u32 = Opt::integer(0, 28).default("0");

    /// The receive queue of virtio interfaces. Unset: the hypervisor's default.
    rx_queue_size: Option<u32> = Opt::kind(QUEUE_SIZES).unit("packets");

    /// The most queues of a virtio interface. Unset: what the kernel allows.
    max_queues: Option<u32> = Opt::integer(1, u32::MAX as i64);

    /// How often a guest is asked to let go of a device.
    device_detach_attempts: u32 = Opt::integer(1, u32::MAX as i64).default("8");

    /// How long each such request waits for the guest.
    device_detach_timeout: Duration = Opt::seconds(1).default("20");

    /// Where NFS exports with volumes are mounted.
    nfs_mount_point_base: PathBuf = Opt::text().default("$state_path/mnt");

    /// Options of such mounts, as mount takes them: vers=4,nolock.
    nfs_mount_options: Option<String> = Opt::text();

    /// Leave it to QEMU how volumes are read, instead of native AIO.
    use_default_aio_mode_for_volumes: bool = Opt::boolean().default("false");

    /// Whether volumes are reached over all their paths, through multipathd.
    volume_use_multipath: bool =
        Opt::boolean().default("false").formerly(&[("libvirt", "iscsi_use_multipath")]);

    /// Whether a volume isn't attached where multipathd doesn't run, instead of over one path.
    volume_enforce_multipath: bool = Opt::boolean().default("false");

    /// How often a host is scanned for a volume's device.
    num_volume_scan_tries: u32 = Opt::integer(0, u32::MAX as i64)
        .default("5")
        .formerly(&[("libvirt", "num_iscsi_scan_tries")]);

    /// The interface of open-iscsi to reach targets through. Unset: the default one.
    iscsi_iface: Option<String> = Opt::text().formerly(&[("libvirt", "iscsi_transport")]);

    /// The user of Ceph for volumes whose service names none.
    rbd_user: Option<String> = Opt::text();

    /// libvirt's secret of that user.
    rbd_secret_uuid: Option<String> = Opt::text();
}
