"""Disks beside the root disk, as guests see them: ephemerals, swap, config drives, buses, kernels with arguments.

Scenarios of host_test.py. The guest's shell is on a serial console over TCP, which the agent is configured for meanwhile.
"""
import contextlib
import json
import os
import re
import socket
import time

from nova_client import Guest, run
from scenarios import PATIENCE, scenario

SERIAL = "enabled = true\nport_range = 21100:21140\nproxyclient_address = 127.0.0.1"


@contextlib.contextmanager
def agent_with(world, **config):
    """The agent anew, with serial consoles and `config`, as long as the block runs."""
    world.stop_agent(60)
    world.write_config(serial_console=SERIAL, **config)
    try:
        world.start_agent()
        yield
    finally:
        world.stop_agent(60)
        world.write_config()
        world.start_agent()


def shell(world, guest, command, timeout=60):
    """What a command in the guest prints; it has to succeed."""
    console = world.nova.call("get_serial_console", instance=guest.instance(), console_type="serial")
    number, seen, deadline = time.monotonic_ns(), b"", time.monotonic() + timeout * PATIENCE
    end = re.compile(rb"ended-(\d+)-%d" % number)
    with socket.create_connection((console["host"], int(console["port"])), 10) as connection:
        connection.settimeout(2)
        # The echo of the line has quotes where the answer has the status.
        connection.sendall(f'echo begun"-"{number}; {{ {command}; }} 2>&1; echo "ended-$?-"{number}\n'.encode())
        while not (found := end.search(seen)) and time.monotonic() < deadline:
            try:
                seen += connection.recv(4096)
            except TimeoutError:
                pass
    assert found, f"no end of {command!r}: {seen[-800:]}"
    # The guest's heartbeat may come in the middle of a line.
    text = re.sub(r"HYPERNOVA-GUEST [^\n]*\n", "", seen[:found.start()].decode(errors="replace")).partition(f"begun-{number}")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert found[1] == b"0", f"{command!r} ended with {found[1].decode()}: {lines}"
    return "\n".join(lines)


def targets(world, guest):
    """{target: file name} of the domain's disks."""
    lines = [line.split() for line in world.virsh("domblklist", guest.uuid).splitlines() if line.strip()]
    return {target: os.path.basename(path) for target, path in lines}


def tag(world, guest, device):
    """(type, label) of a file system in the guest, by the superblocks it reads there."""
    text = shell(world, guest, f"dd if={device} bs=2048 count=1 2>/dev/null | hexdump -v -e '32/1 \"%02x\" \"\\n\"'")
    head = bytes.fromhex(text.replace("\n", ""))

    def label(start, length):
        return head[start:start + length].rstrip(b" \0").decode().lower()

    if head[1080:1082] == b"\x53\xef":
        journal, extents = head[0x45c] & 4, head[0x460] & 0x40
        return ("ext4" if extents else "ext3" if journal else "ext2"), label(0x478, 16)
    for start, name in ((54, 43), (82, 71)):
        if head[start:start + 3] == b"FAT":
            return "vfat", label(name, 11)
    return None, None


def backing(path):
    return os.path.basename(json.loads(run("qemu-img", "info", "-U", "--output=json", path)).get("backing-filename", ""))


@scenario(600)
def ephemerals_and_swap(world):
    """The guest has each with its file system and label; what it writes lives through stop, start and a hard reboot."""
    disks = [{"volume_size": 1, "guest_format": "ext4"}, {"volume_size": 1}, {"volume_size": 64, "guest_format": "swap"}]
    with agent_with(world):
        guest = Guest(world, "eph", ephemeral_gb=2, swap=64).build(world.file_image(), disks=disks, config_drive=True)
        guest.wait_boot(1)
        guest.wait_state("active")
        expected = {"vda": "disk", "vdb": "disk.eph0", "vdc": "disk.eph1", "vdd": "disk.swap", "hda": "disk.config"}
        assert targets(world, guest) == expected, targets(world, guest)
        assert tag(world, guest, "/dev/vdb") == ("ext4", "ephemeral0")
        assert tag(world, guest, "/dev/vdc") == ("vfat", "ephemeral1")
        directory = world.instance_directory(guest)
        bases = [backing(f"{directory}/{name}") for name in ("disk.eph0", "disk.eph1", "disk.swap")]
        assert bases[0] == "ephemeral_1_40d1d2c" and bases[2] == "swap_64", bases
        assert set(bases) <= set(world.base_files()), world.base_files()

        def use(marker):
            shell(world, guest, "mkdir -p /tmp/a /tmp/b && mount -t ext4 /dev/vdb /tmp/a && mount -t vfat /dev/vdc /tmp/b")
            shell(world, guest, "swapon /dev/vdd && grep -q '^/dev/vdd.*65532' /proc/swaps")
            seen = shell(world, guest, "cat /tmp/a/marker /tmp/b/marker || true")
            shell(world, guest, f"echo {marker} >/tmp/a/marker; echo {marker} >/tmp/b/marker; sync; swapoff /dev/vdd; umount /tmp/a /tmp/b")
            return [line for line in seen.splitlines() if line.startswith("m-")]

        assert use("m-one") == []
        guest.stop()
        guest.start()
        guest.wait_boot(2)
        assert use("m-two") == ["m-one", "m-one"]
        guest.reboot("HARD")
        guest.wait_boot(3)
        guest.wait_state("active")
        assert targets(world, guest) == expected, targets(world, guest)
        assert use("m-three") == ["m-two", "m-two"]

        # Another one has the same bases, and nothing of the first one's.
        before = world.base_files()
        other = Guest(world, "eph2", ephemeral_gb=2, swap=64).build(world.file_image(), disks=disks)
        other.wait_boot(1)
        # Its image is one more in the cache: it has an id of its own.
        blank = [name for name in world.base_files() if name.startswith(("ephemeral_", "swap_"))]
        assert blank == [name for name in before if name.startswith(("ephemeral_", "swap_"))], world.base_files()
        assert "marker" not in shell(world, other, "mkdir -p /tmp/a && mount -t ext4 /dev/vdb /tmp/a && ls /tmp/a")
        other.delete()
        guest.delete()


@scenario(600)
def disks_on_every_bus(world):
    """SCSI and IDE disks, and an ephemeral on a bus of its own: each is where nova would have it, and works."""
    with agent_with(world):
        for bus, properties, own, expected in [
                ("scsi", {"hw_scsi_model": "virtio-scsi"}, None, {"sda": "disk", "sdb": "disk.eph0", "sdc": "disk.swap"}),
                ("ide", {}, None, {"hda": "disk", "hdb": "disk.eph0", "hdc": "disk.swap"}),
                ("virtio", {}, "ide", {"vda": "disk", "hda": "disk.eph0", "vdb": "disk.swap"})]:
            picture = world.file_image(hw_disk_bus=bus, **properties)
            disks = [{"volume_size": 1, "guest_format": "ext3", "disk_bus": own}, {"volume_size": 32, "guest_format": "swap"}]
            guest = Guest(world, f"on-{bus}", ephemeral_gb=1, swap=32).build(picture, disks=disks)
            root = guest.wait_boot(1, 120)["root"]
            assert re.fullmatch("/dev/vda2" if own else "/dev/sd[abc]2", root), (bus, root)
            guest.wait_state("active")
            assert targets(world, guest) == expected, (bus, targets(world, guest))
            # Linux names SCSI disks in the order in which it happens to find them.
            devices = ["/dev/sda"] if own else ["/dev/sda", "/dev/sdb", "/dev/sdc"]
            seen = [tag(world, guest, device) for device in devices]
            assert seen.count(("ext3", "ephemeral0")) == 1, (bus, seen)
            guest.reboot("HARD")
            guest.wait_boot(2, 120)
            guest.wait_state("active")
            assert targets(world, guest) == expected, (bus, targets(world, guest))
            guest.delete()


@scenario(400)
def a_kernel_with_arguments(world):
    """The image's command line reaches the kernel, also after a hard reboot; the flavor's own ephemeral is disk.local."""
    files = {name: f"file://{world.images}/{name}" for name in ("vmlinuz", "initrd")}
    line = "root=/dev/vda console=ttyS0 quiet no_timer_check hypernova.marker=17"
    with agent_with(world):
        picture = world.file_image("rootfs.img", disk_format="ami", container_format="ami", os_command_line=line, os_type="linux")
        guest = Guest(world, "args", ephemeral_gb=1, swap=16).build(picture, kernel=files["vmlinuz"], ramdisk=files["initrd"])
        for boot in (1, 2):
            guest.wait_boot(boot)
            guest.wait_state("active")
            assert shell(world, guest, "cat /proc/cmdline") == line
            assert targets(world, guest) == {"vda": "disk", "vdb": "disk.local", "vdc": "disk.swap"}, targets(world, guest)
            assert tag(world, guest, "/dev/vdb")[1] == "ephemeral0"
            if boot == 1:
                guest.reboot("HARD")
        guest.delete()


@scenario(400)
def raw_disks_and_a_fat_config_drive(world):
    """images_type = raw with its space taken; a FAT drive with personality, password and the operator's data."""
    vendor = os.path.join(world.directory, "vendor.json")
    with open(vendor, "w") as file:
        json.dump({"operator": "says-so"}, file)
    options = {"DEFAULT": "preallocate_images = space\nconfig_drive_format = vfat\ndefault_ephemeral_format = ext2",
               "libvirt": "images_type = raw", "api": f"vendordata_jsonfile_path = {vendor}"}
    with agent_with(world, **options):
        before = world.base_files()
        guest = Guest(world, "raw", ephemeral_gb=1, swap=16).build(
            world.file_image(), disks=[{"volume_size": 1}, {"volume_size": 16, "guest_format": "swap"}],
            config_drive=True, files=[("/etc/motd", b"hello there\n")], admin_password="pass-17")
        guest.wait_boot(1)
        guest.wait_state("active")
        assert not [name for name in set(world.base_files()) - set(before) if name.startswith(("ephemeral", "swap"))]
        directory = world.instance_directory(guest)
        for name, size in (("disk", 1 << 30), ("disk.eph0", 1 << 30), ("disk.swap", 16 << 20)):
            found = os.stat(f"{directory}/{name}")
            assert (found.st_size, found.st_blocks * 512 >= size) == (size, True), (name, found)
        with open(f"{directory}/disk.info") as file:
            formats = {os.path.basename(path): kind for path, kind in json.load(file).items()}
        assert formats == dict.fromkeys(["disk", "disk.eph0", "disk.swap"], "raw"), formats
        assert targets(world, guest) == {"vda": "disk", "vdb": "disk.eph0", "vdc": "disk.swap", "vdd": "disk.config"}
        assert tag(world, guest, "/dev/vdb") == ("ext2", "ephemeral0")
        assert tag(world, guest, "/dev/vdd") == ("vfat", "config-2")
        shell(world, guest, "mkdir -p /tmp/c && mount -t vfat -o ro /dev/vdd /tmp/c")
        meta = json.loads(shell(world, guest, "cat /tmp/c/openstack/latest/meta_data.json"))
        assert meta["admin_pass"] == "pass-17" and meta["files"] == [{"path": "/etc/motd", "content_path": "/content/0000"}], meta
        assert shell(world, guest, "cat /tmp/c/openstack/content/0000") == "hello there"
        assert json.loads(shell(world, guest, "cat /tmp/c/openstack/latest/vendor_data.json")) == {"operator": "says-so"}
        with open(world.log, errors="replace") as log:
            assert "pass-17" not in log.read(), "the password is in the log"
        guest.reboot("HARD")
        guest.wait_boot(2)
        guest.wait_state("active")
        guest.delete()


@scenario(200)
def blank_disks_that_nobody_may_have(world):
    """Formats, sizes and names that a request may not ask for end in error, and nothing is made."""
    pid, bases = world.agent_pid(), world.base_files()
    wrong = []
    for what, disks, sizes in [
            ("a format of the operator's", [{"volume_size": 1, "guest_format": "ntfs"}], {"ephemeral_gb": 1}),
            ("a format with arguments", [{"volume_size": 1, "guest_format": "ext4 -d /etc"}], {"ephemeral_gb": 1}),
            ("a format that is a command", [{"volume_size": 1, "guest_format": "$(reboot)"}], {"ephemeral_gb": 1}),
            ("more than the flavor's", [{"volume_size": 2}], {"ephemeral_gb": 1}),
            ("more swap than the flavor's", [{"volume_size": 1 << 20, "guest_format": "swap"}], {"swap": 1}),
            ("a size below nothing", [{"volume_size": -1}], {"ephemeral_gb": 1}),
            ("two swap disks", [{"volume_size": 1, "guest_format": "swap"}] * 2, {"swap": 2}),
            ("a disk from a volume", [{"destination_type": "volume", "volume_size": 1}], {})]:
        guest = Guest(world, "hostile", **sizes).build(world.file_image(), disks=disks)
        try:
            guest.wait_state("error", 60)
            left = [thing for thing in world.remains(guest) if not thing.startswith("record")]
            assert not left, f"left: {left}"
        except AssertionError as error:
            wrong.append(f"{what}: {error}")
        guest.delete()
    assert not wrong, "\n".join(wrong)
    assert world.base_files() == bases, world.base_files()
    world.assert_alive(pid)
