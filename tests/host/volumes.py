"""Volumes that come to guests and go from them: files and block devices of the host.

Scenarios of host_test.py. The guest's shell is on a serial console over TCP; what it wrote to a volume has to be there
whenever the volume comes back.
"""
import contextlib
import json
import os
import re
import subprocess
import time

from disks import SERIAL, shell
from nova_client import Guest, run
from scenarios import scenario


@contextlib.contextmanager
def agent_with_shells(world, **config):
    world.stop_agent(60)
    world.write_config(serial_console=SERIAL, **config)
    try:
        world.start_agent()
        yield
    except BaseException:
        if world.agent_runs():
            world.kill_agent()
        raise
    finally:
        world.stop_agent(60)
        world.write_config()
        world.start_agent()


def a_file(world, name, mebibytes=32):
    path = os.path.join(world.directory, name)
    with open(path, "wb") as file:
        file.truncate(mebibytes << 20)
    return path


def running(world, name):
    guest = Guest(world, name).build(world.file_image())
    guest.wait_boot(1)
    guest.wait_state("active")
    return guest


def attach(world, guest, path, *options):
    shown = json.loads(world.hypernova("volume", "attach", guest.uuid, path, "--json", *options))
    assert shown["device"].startswith("/dev/"), shown
    return shown["device"][len("/dev/"):]


def detach(world, guest, path, check=True):
    return world.hypernova("volume", "detach", guest.uuid, path, check=check, timeout=120)


def sources(world, guest, inactive=False):
    """{target: path} of the domain's disks."""
    text = world.virsh("domblklist", guest.uuid, *(["--inactive"] if inactive else []))
    return dict(line.split(None, 1) for line in text.splitlines() if line.strip())


def write(world, guest, target, words):
    shell(world, guest, f"printf %s {words} | dd of=/dev/{target} bs=512 seek=1 conv=notrunc 2>/dev/null; sync")


def read(world, guest, target, length):
    return shell(world, guest, f"dd if=/dev/{target} bs=512 skip=1 count=1 2>/dev/null | head -c {length}; echo")


def wait_disk(world, guest, target, there=True):
    def look():
        found = shell(world, guest, "ls /sys/block")
        return (target in found.split()) == there
    world.wait(look, 30, lambda: f"{target} in the guest isn't {there}", interval=0.5)


def records(world, guest):
    shown = json.loads(world.hypernova("show", guest.uuid, "--json"))
    return [(event["event"], event.get("failure")) for event in shown["events"]], shown["faults"]


@scenario(400)
def a_file_comes_and_goes(world):
    """Attached while the guest runs, written to, detached, attached again: the data is there. It lives through stop, start
    and a hard reboot, and stays when the guest is deleted."""
    path = a_file(world, "volume.raw")
    with agent_with_shells(world):
        guest = running(world, "file")
        target = attach(world, guest, path)
        assert target == "vdb", target
        wait_disk(world, guest, target)
        for inactive in (False, True):
            assert sources(world, guest, inactive)[target] == path
        write(world, guest, target, "kept-by-the-guest")
        serial = shell(world, guest, f"cat /sys/block/{target}/serial")
        xml = world.virsh("dumpxml", guest.uuid)
        volume = re.search(r"<alias name='ua-([0-9a-f-]+)'/>", xml)[1]
        assert serial and volume.startswith(serial), (serial, volume)

        again = subprocess.run([world.binary, "--socket", world.socket, "volume", "attach", guest.uuid, path],
                               capture_output=True, text=True)
        assert again.returncode == 1 and "already attached" in again.stderr, again
        assert sources(world, guest)[target] == path

        detach(world, guest, path)
        wait_disk(world, guest, target, there=False)
        for inactive in (False, True):
            assert target not in sources(world, guest, inactive)
        with open(path, "rb") as file:
            file.seek(512)
            assert file.read(17) == b"kept-by-the-guest"

        assert attach(world, guest, path) == target
        wait_disk(world, guest, target)
        assert read(world, guest, target, 17) == "kept-by-the-guest"

        guest.reboot("HARD")
        guest.wait_boot(2)
        guest.wait_state("active")
        assert read(world, guest, target, 17) == "kept-by-the-guest"
        guest.stop()
        second = a_file(world, "second.raw")
        assert attach(world, guest, second) == "vdc"
        guest.start()
        guest.wait_boot(3)
        guest.wait_state("active")
        assert read(world, guest, target, 17) == "kept-by-the-guest"
        assert sources(world, guest)["vdc"] == second
        guest.stop()
        detach(world, guest, second)
        guest.start()
        guest.wait_boot(4)
        guest.wait_state("active")
        assert list(sources(world, guest)) == ["vda", "vdb"], sources(world, guest)
        events, faults = records(world, guest)
        assert ("compute_attach_volume", None) in events, events
        assert [fault for fault in faults if "already attached" not in fault["message"]] == [], faults
        guest.delete()
        with open(path, "rb") as file:
            file.seek(512)
            assert file.read(17) == b"kept-by-the-guest"
        os.unlink(path)
        os.unlink(second)


@scenario(300)
def a_block_device_comes_and_goes(world):
    """A loop device, as a block device of its host is: attached on another bus, read-only once, and left as it was."""
    path = a_file(world, "loop.raw")
    loop = run(*world.enter(), "losetup", "--find", "--show", path).strip()
    try:
        with agent_with_shells(world):
            guest = running(world, "block")
            target = attach(world, guest, loop)
            wait_disk(world, guest, target)
            xml = world.virsh("dumpxml", guest.uuid)
            assert f"<source dev='{loop}'" in xml, xml
            write(world, guest, target, "on-a-device")
            detach(world, guest, loop)
            target = attach(world, guest, loop, "--read-only")
            wait_disk(world, guest, target)
            assert read(world, guest, target, 11) == "on-a-device"
            assert shell(world, guest, f"cat /sys/block/{target}/ro") == "1"
            detach(world, guest, loop)
            guest.delete()
    finally:
        run(*world.enter(), "losetup", "--detach", loop)
    with open(path, "rb") as file:
        file.seek(512)
        assert file.read(11) == b"on-a-device"
    os.unlink(path)


@scenario(300)
def what_is_another_guest_s_is_refused(world):
    """Another guest's volume, its root disk, and what is no disk: refused, and nothing of the attempt is left."""
    path = a_file(world, "mine.raw")
    first, second = running(world, "first"), running(world, "second")
    attach(world, first, path)
    root = os.path.join(world.instance_directory(first), "disk")
    for wrong in (path, root, world.directory):
        failed = subprocess.run([world.binary, "--socket", world.socket, "volume", "attach", second.uuid, wrong],
                                capture_output=True, text=True)
        assert failed.returncode == 1, failed
        assert list(sources(world, second)) == ["vda"], failed
    assert sources(world, first)["vdb"] == path
    # Over the bus nobody names a file of this host.
    device = second.nova.call("reserve_block_device_name", instance=second.instance(), device=None, volume_id="v", disk_bus=None,
                              device_type=None, tag=None, multiattach=False)
    assert device["nova_object.data"]["device_name"] == "/dev/vdb", device
    other = a_file(world, "other.raw")
    info = {"driver_volume_type": "local", "data": {"device_path": other}, "serial": "v"}
    device["nova_object.data"]["connection_info"] = json.dumps(info)
    second.nova.cast("attach_volume", instance=second.instance(), bdm=device)
    time.sleep(3)
    assert list(sources(world, second)) == ["vda"], sources(world, second)
    detach(world, first, path)
    attach(world, second, path)
    first.delete()
    second.delete()
    assert os.path.getsize(path) == 32 << 20


@scenario(400)
def a_guest_that_ignores_the_detach(world):
    """A paused guest can't let go: the detach fails in time, the volume stays attached in every respect, and goes once the
    guest runs. An agent that is killed meanwhile waits on after its restart."""
    path = a_file(world, "ignored.raw")
    with agent_with_shells(world, libvirt="device_detach_attempts = 2\ndevice_detach_timeout = 3"):
        guest = running(world, "ignores")
        target = attach(world, guest, path)
        wait_disk(world, guest, target)
        write(world, guest, target, "still-mine")
        world.virsh("suspend", guest.uuid)
        begun = time.monotonic()
        failed = subprocess.run([world.binary, "--socket", world.socket, "volume", "detach", guest.uuid, path],
                                capture_output=True, text=True)
        assert failed.returncode == 1 and "detach failed" in failed.stderr, failed
        assert 5 < time.monotonic() - begun < 30
        for inactive in (False, True):
            assert sources(world, guest, inactive)[target] == path
        events, faults = records(world, guest)
        assert faults and "detach failed" in faults[0]["message"], faults
        world.virsh("resume", guest.uuid)
        # What it was asked it may do now: the disk is gone, or goes when it is asked again.
        detach(world, guest, path)
        wait_disk(world, guest, target, there=False)

        assert attach(world, guest, path) == target
        wait_disk(world, guest, target)
        world.virsh("suspend", guest.uuid)
        asking = subprocess.Popen([world.binary, "--socket", world.socket, "volume", "detach", guest.uuid, path],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        world.wait(lambda: target not in sources(world, guest, True), 20, lambda: "the detach doesn't begin")
        world.kill_agent()
        asking.wait(60)
        world.virsh("resume", guest.uuid)
        world.start_agent()
        world.wait(lambda: target not in sources(world, guest), 60, lambda: "the pending detach isn't taken up")
        world.wait(lambda: not json.loads(world.hypernova("workflows", "--json")), 30, lambda: world.hypernova("workflows"))
        assert attach(world, guest, path) == target
        assert read(world, guest, target, 10) == "still-mine"
        guest.delete()
    os.unlink(path)


@scenario(500)
def killed_while_volumes_come_and_go(world):
    """kill -9 at many moments of attaches and detaches: each is taken up, and ends attached or detached in every respect."""
    path = a_file(world, "killed.raw")
    with agent_with_shells(world):
        guest = running(world, "killed")
        for number in range(8):
            delay = 0.02 + 0.05 * number
            for command in ("attach", "detach"):
                process = subprocess.Popen([world.binary, "--socket", world.socket, "volume", command, guest.uuid, path],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(delay)
                world.kill_agent()
                process.wait(60)
                world.start_agent()
                world.wait(lambda: not json.loads(world.hypernova("workflows", "--json")), 60, lambda: world.hypernova("workflows"))
                live, defined = ("vdb" in sources(world, guest, inactive) for inactive in (False, True))
                assert live == defined, (number, command, live, defined)
                # It may have died before it knew of it: then the command is given again. A name that was only reserved goes with a detach.
                if command == "attach" and not live:
                    detach(world, guest, path, check=False)
                    attach(world, guest, path)
                if command == "detach" and live:
                    detach(world, guest, path)
                assert ("vdb" in sources(world, guest)) == (command == "attach"), (number, command)
        attach(world, guest, path)
        write(world, guest, "vdb", "after-all")
        assert read(world, guest, "vdb", 9) == "after-all"
        guest.delete()
    assert os.path.getsize(path) == 32 << 20
    os.unlink(path)
