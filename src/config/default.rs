//! `[DEFAULT]`: who this host is, where things are, how builds behave.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::opt::{Opt, choices, section};
use crate::config::value::Kind;
use crate::model::secret::Secret;

choices! {
    /// What a config drive is.
    ConfigDriveFormat:
    Iso9660 = "iso9660",
    Vfat = "vfat",
}

choices! {
    /// Whether a disk's space is taken when it is made.
    Preallocate:
    /// As the guest writes.
    None = "none",
    /// At once.
    Space = "space",
}

choices! {
    /// The pointer that a guest with a graphical console gets.
    PointerModel:
    Ps2Mouse = "ps2mouse",
    UsbTablet = "usbtablet",
}

choices! {
    /// What is done with the domain of an instance that is deleted.
    RunningDeletedAction:
    /// Nothing.
    Noop = "noop",
    /// It is logged.
    Log = "log",
    /// Its power is cut.
    Shutdown = "shutdown",
    /// Everything of it is removed from this host.
    Reap = "reap",
}

section! {
    /// The agent as a whole.
    DefaultSection in "DEFAULT":

    /// The compute service's name on the message bus and in nova's records. Changing it on a
    /// host with instances orphans them.
    host: String = Opt::kind(Kind::HostDomain).of_host(host_name, "this machine's host name");

    /// This host's address on the management network, for `$my_ip` in other options.
    my_ip: String = Opt::text().of_host(first_ipv4, "the IPv4 address of the default route");

    /// This host's address on the storage network, which volume services are told.
    my_block_storage_ip: String = Opt::text().default("$my_ip");

    /// Where the agent keeps its state.
    state_path: PathBuf = Opt::text().default("/var/lib/nova");

    /// The instance directories, with the image cache and its locks.
    instances_path: PathBuf = Opt::text().default("$state_path/instances");

    /// The hypervisor: libvirt, or `fake.FakeDriver`, which keeps its guests in memory.
    compute_driver: String = Opt::text().default("libvirt.LibvirtDriver");

    /// The RabbitMQ servers, with user and password:
    /// rabbit://user:password@host:5672,user:password@host2:5672/virtual_host
    transport_url: Secret = Opt::text().default("rabbit://").secret();

    /// How often what this host has is looked at and reported. 0: every minute; negative: never.
    update_resources_interval: i64 = Opt::integer(-1, 1 << 30).default("0").unit("seconds");

    /// The topic exchange that the control plane publishes to.
    control_exchange: String = Opt::text().default("nova");

    /// How long nova-conductor may take over an answer.
    rpc_response_timeout: Duration = Opt::seconds(1).default("60");

    /// How often the control plane is told that this host is alive; 0: never. Its own
    /// service_down_time should be several times as long.
    report_interval: Duration = Opt::seconds(0).default("10");

    /// Whether to answer `oslo_rpc_server_ping`.
    rpc_ping_enabled: bool = Opt::boolean().default("false");

    /// After a stop signal the agent ends within this time, whatever still runs. What was cut
    /// off is resumed at the next start.
    graceful_shutdown_timeout: Duration = Opt::seconds(0).default("180");

    /// How long running workflows may go on after a stop signal before they are parked. It
    /// should be less than graceful_shutdown_timeout.
    manager_shutdown_timeout: Duration = Opt::seconds(0).default("160");

    /// How a domain is named from the instance's number: a printf format as nova has it, with
    /// %d or %x of the number, or %(uuid)s, %(name)s and %(hostname)s.
    instance_name_template: String = Opt::text().default("instance-%08x");

    /// Whether every guest gets a config drive, asked for or not.
    force_config_drive: bool = Opt::boolean().default("false");

    /// What a config drive is.
    config_drive_format: ConfigDriveFormat =
        Opt::choice(ConfigDriveFormat::CHOICES).default("iso9660");

    /// The program that makes an ISO.
    mkisofs_cmd: String = Opt::text().default("genisoimage");

    /// Whether `[libvirt] images_type = default` means qcow2 overlays over the cached image
    /// (true) or whole raw copies (false).
    use_cow_images: bool = Opt::boolean().default("true");

    /// Whether images become raw in the cache.
    force_raw_images: bool = Opt::boolean().default("true");

    /// The file system of ephemeral disks: ext2, ext3, ext4, xfs, vfat, ntfs. Unset: by the image's
    /// os_type, ext4 for linux, ntfs for windows, vfat for others.
    default_ephemeral_format: Option<String> = Opt::text();

    /// A command that formats ephemeral disks, for an os_type or `default`: linux=mkfs.ext4 -L
    /// %(fs_label)s -F %(target)s. May be given more than once; no shell reads it.
    virt_mkfs: Vec<String> = Opt::text().multiple();

    /// Whether a disk's space is taken when it is made.
    preallocate_images: Preallocate = Opt::choice(Preallocate::CHOICES).default("none");

    /// The pointer of guests with a graphical console. Unset can't be asked for in a file.
    pointer_model: PointerModel = Opt::choice(PointerModel::CHOICES).default("usbtablet");

    /// How long Neutron may take to report that a new guest's ports are plugged, before which the
    /// guest doesn't run. 0: it is not awaited.
    vif_plugging_timeout: Duration = Opt::seconds(0).default("300");

    /// Whether a guest whose ports aren't reported in time is a failed build; otherwise it runs.
    vif_plugging_is_fatal: bool = Opt::boolean().default("true");

    /// How often a network set-up that failed is tried again.
    network_allocate_retries: u32 = Opt::integer(0, 100).default("0");

    /// What instances' recorded networks say of `injected`.
    flat_injected: bool = Opt::boolean().default("false");

    /// How many builds run at once; 0: any number.
    max_concurrent_builds: u32 = Opt::integer(0, u32::MAX as i64).default("10");

    /// How often a build looks again at a volume that is being made for it.
    block_device_allocate_retries: u32 = Opt::integer(0, u32::MAX as i64).default("60");

    /// How long it waits in between.
    block_device_allocate_retries_interval: Duration = Opt::seconds(0).default("3");

    /// How many snapshots are made at once; 0: any number.
    max_concurrent_snapshots: u32 = Opt::integer(0, u32::MAX as i64).default("5");

    /// How many guest CPUs a host CPU counts for. Unset: as placement has it.
    cpu_allocation_ratio: Option<f64> = Opt::float(0.0, f64::MAX);

    /// How often host memory is given out. Unset: as placement has it.
    ram_allocation_ratio: Option<f64> = Opt::float(0.0, f64::MAX);

    /// How often disk space is given out. Unset: as placement has it.
    disk_allocation_ratio: Option<f64> = Opt::float(0.0, f64::MAX);

    /// cpu_allocation_ratio of a node that placement doesn't know yet.
    initial_cpu_allocation_ratio: f64 = Opt::float(0.0, f64::MAX).default("4.0");

    /// ram_allocation_ratio of a node that placement doesn't know yet.
    initial_ram_allocation_ratio: f64 = Opt::float(0.0, f64::MAX).default("1.0");

    /// disk_allocation_ratio of a node that placement doesn't know yet.
    initial_disk_allocation_ratio: f64 = Opt::float(0.0, f64::MAX).default("1.0");

    /// CPUs that guests don't get.
    reserved_host_cpus: u32 = Opt::integer(0, u32::MAX as i64).default("0");

    /// Memory that guests don't get.
    reserved_host_memory_mb: u32 = Opt::integer(0, u32::MAX as i64).default("512").unit("MiB");

    /// Disk space that guests don't get.
    reserved_host_disk_mb: u32 = Opt::integer(0, u32::MAX as i64).default("0").unit("MiB");

    /// How long a guest may take to shut down before its power is cut. An image's
    /// os_shutdown_timeout wins.
    shutdown_timeout: Duration = Opt::seconds(0).default("60");

    /// Whether periodic tasks run.
    periodic_enable: bool = Opt::boolean().default("true");

    /// The longest random delay before periodic tasks run first: hosts that start together must
    /// not ask the control plane together.
    periodic_fuzzy_delay: Duration = Opt::seconds(0).default("60");

    /// How often power states are compared with the records. 0: once a minute; negative: never.
    sync_power_state_interval: i64 = Opt::spacing().default("600");

    /// How many instances that differ are looked at at once.
    sync_power_state_pool_size: usize = Opt::integer(1, 1000).default("5");

    /// How often domains of deleted instances are looked for. 0: once a minute; negative: never.
    running_deleted_instance_poll_interval: i64 = Opt::spacing().default("1800");

    /// What is done with them.
    running_deleted_instance_action: RunningDeletedAction =
        Opt::choice(RunningDeletedAction::CHOICES).default("reap");

    /// How long after its deletion an instance's domain is left alone.
    running_deleted_instance_timeout: Duration = Opt::seconds(0).default("0");

    /// How often files of deleted instances, and consoles' tokens that are over, are looked for.
    /// 0: once a minute; negative: never.
    instance_delete_interval: i64 = Opt::spacing().default("300");

    /// How often the removal of a deleted instance's files is tried.
    maximum_instance_delete_attempts: u32 = Opt::integer(1, u32::MAX as i64).default("5");

    /// How often the network on record of an instance is compared with Neutron's ports, one instance
    /// at a time. 0 or negative: never.
    heal_instance_info_cache_interval: i64 = Opt::spacing().default("-1");

    /// How often the schedulers compare their lists of instances with this host's. 0: once a minute;
    /// negative: never.
    scheduler_instance_sync_interval: i64 = Opt::spacing().default("120");

    /// How often the use of volumes is counted and told of. 0 or negative: never.
    volume_usage_poll_interval: i64 = Opt::spacing().default("0");

    /// How long a soft-deleted instance can be restored. 0: it is deleted at once, by nova-api.
    reclaim_instance_interval: Duration = Opt::seconds(0).default("0");

    /// How long a guest may stay rescued before it is unrescued. 0: as long as it likes.
    rescue_timeout: Duration = Opt::seconds(0).default("0");

    /// How long a shelved instance stays on its host. 0: it leaves at once; negative: it stays.
    shelved_offload_time: i64 = Opt::integer(i64::MIN, i64::MAX).default("0").unit("seconds");

    /// How often shelved instances are looked at. 0: once a minute; negative: never.
    shelved_poll_interval: i64 = Opt::spacing().default("3600");

    /// The periods in which use is counted, with where they begin: hour, day@18, month@15, year.
    instance_usage_audit_period: String = Opt::text().default("month");

    /// How long a build may take before its instance is an error. 0: as long as it takes.
    instance_build_timeout: Duration = Opt::seconds(0).default("0");

    /// Whether guests that ran before the host was booted are started again.
    resume_guests_state_on_host_boot: bool = Opt::boolean().default("false");

    /// Whether to log what happens inside each request.
    debug: bool = Opt::boolean().default("false");

    /// A file to log to. Relative: in log_dir.
    log_file: Option<PathBuf> = Opt::text().formerly(&[("DEFAULT", "logfile")]);

    /// A directory to log to: `hypernova.log` in it, or log_file.
    log_dir: Option<PathBuf> = Opt::text().formerly(&[("DEFAULT", "logdir")]);

    /// Whether to log to journald. `[hypernova] log_format` wins.
    use_journal: bool = Opt::boolean().default("false");
}

/// nova: conf/netconf.py, `socket.gethostname()`.
fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// The address that packets to the world would leave from; nothing is sent to find it.
/// oslo.utils: netutils.py, `get_my_ipv4`.
fn first_ipv4() -> String {
    let address = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("8.8.8.8:80")?;
        socket.local_addr()
    };
    address().map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::config::files::Files;

    #[test]
    fn the_host_is_asked_for_its_name_and_address() {
        assert!(!host_name().is_empty());
        assert!(first_ipv4().parse::<std::net::Ipv4Addr>().is_ok());
    }

    #[test]
    fn my_ip_stands_in_other_options_set_or_not() {
        let load = |text: &str| {
            let mut files = Files::default();
            files.add(Path::new("nova.conf"), text).unwrap();
            Config::from_files(&files).unwrap()
        };
        let config = load("[DEFAULT]\nmy_ip = 10.0.0.31\n[vnc]\nserver_listen = $my_ip");
        assert_eq!(config.vnc.server_listen, "10.0.0.31");
        let config = load("[vnc]\nserver_listen = $my_ip");
        assert_eq!(config.vnc.server_listen, config.default_.my_ip);
    }
}
