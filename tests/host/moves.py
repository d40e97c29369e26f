"""What happens to a volume under its guest: swapped, extended, encrypted, kept through a rescue, a rebuild and a shelving.

Scenarios of host_test.py. The guest's shell is on a serial console over TCP; what it wrote has to be where it should be, and
nowhere else.
"""
import json
import os
import subprocess
import time

from disks import shell, targets
from nova_client import run
from rescue import medic
from scenarios import scenario
from volumes import a_file, agent_with_shells, attach, detach, read, records, running, sources, wait_disk, write


def at(path, length, offset=512):
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def sectors(world, guest, target):
    return int(shell(world, guest, f"cat /sys/block/{target}/size"))


def secrets(world):
    return world.virsh("secret-list").split()


@scenario(400)
def one_volume_for_another(world):
    """The guest goes on with another file while it writes: what it had is there, what it writes goes there alone, and
    that survives a hard reboot. A copy that can't be made leaves it where it was."""
    old, new, small = a_file(world, "old.raw"), a_file(world, "new.raw"), a_file(world, "small.raw", 8)
    with agent_with_shells(world):
        guest = running(world, "swaps")
        target = attach(world, guest, old)
        wait_disk(world, guest, target)
        write(world, guest, target, "from-the-old-one")
        shell(world, guest, f"( (while :; do date +%s | dd of=/dev/{target} bs=512 seek=2 conv=notrunc,fsync; sleep 0.2; done) >/dev/null 2>&1 & )")

        failed = subprocess.run([world.binary, "--socket", world.socket, "volume", "swap", guest.uuid, old, small],
                                capture_output=True, text=True, timeout=300)
        assert failed.returncode == 1, failed
        for inactive in (False, True):
            assert sources(world, guest, inactive)[target] == old, failed

        world.hypernova("volume", "swap", guest.uuid, old, new, timeout=300)
        for inactive in (False, True):
            assert sources(world, guest, inactive)[target] == new
        assert read(world, guest, target, 16) == "from-the-old-one"
        write(world, guest, target, "only-on-the-new1")
        assert at(new, 16) == b"only-on-the-new1" and at(old, 16) == b"from-the-old-one"

        guest.reboot("HARD")
        guest.wait_boot(2)
        guest.wait_state("active")
        assert sources(world, guest)[target] == new
        assert read(world, guest, target, 16) == "only-on-the-new1"
        events, _ = records(world, guest)
        assert ("compute_swap_volume", None) in events, events
        detach(world, guest, new)
        wait_disk(world, guest, target, there=False)
        guest.delete()
    assert at(new, 16) == b"only-on-the-new1"
    for path in (old, new, small):
        os.unlink(path)


@scenario(300)
def a_swap_is_killed(world):
    """kill -9 at many moments of a swap: the guest is on the one or on the other, in its definition too, and has its data."""
    paths = [a_file(world, f"turn-{number}.raw", 64) for number in (0, 1)]
    with agent_with_shells(world):
        guest = running(world, "turns")
        target = attach(world, guest, paths[0])
        wait_disk(world, guest, target)
        write(world, guest, target, "through-it-all")
        now = 0
        for delay in (0.05, 0.2, 0.5, 1.0):
            asking = subprocess.Popen([world.binary, "--socket", world.socket, "volume", "swap", guest.uuid, paths[now],
                                       paths[1 - now]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            world.kill_agent()
            asking.wait(60)
            world.start_agent()
            world.wait(lambda: not json.loads(world.hypernova("workflows", "--json")), 120, lambda: world.hypernova("workflows"))
            live, defined = (sources(world, guest, inactive)[target] for inactive in (False, True))
            assert live == defined and live in paths, (delay, live, defined)
            assert read(world, guest, target, 14) == "through-it-all", delay
            now = paths.index(live)
        detach(world, guest, paths[now])
        guest.delete()
    for path in paths:
        os.unlink(path)


@scenario(300)
def a_volume_grows(world):
    """A file and a block device are made larger: the guest sees the new size as it runs, and can use it."""
    file, device = a_file(world, "grows.raw"), a_file(world, "loop-grows.raw")
    loop = run(*world.enter(), "losetup", "--find", "--show", device).strip()
    try:
        with agent_with_shells(world):
            guest = running(world, "grows")
            for path, behind in ((file, file), (loop, device)):
                target = attach(world, guest, path)
                wait_disk(world, guest, target)
                assert sectors(world, guest, target) == 32 << 11
                os.truncate(behind, 64 << 20)
                if behind != path:
                    run(*world.enter(), "losetup", "--set-capacity", loop)
                world.hypernova("volume", "grown", guest.uuid, path)
                world.wait(lambda: sectors(world, guest, target) == 64 << 11, 30, lambda: sectors(world, guest, target))
                shell(world, guest, f"printf at-its-end | dd of=/dev/{target} bs=1M seek=63 conv=notrunc 2>/dev/null; sync")
                assert at(behind, 10, 63 << 20) == b"at-its-end"
                detach(world, guest, path)
            guest.delete()
    finally:
        run(*world.enter(), "losetup", "--detach", loop)
    os.unlink(file)
    os.unlink(device)


@scenario(400)
def an_encrypted_volume(world):
    """LUKS: the guest sees what is inside, nobody else does. libvirt has the passphrase as long as the guest has the volume, and
    the wrong one opens nothing."""
    key, wrong = (os.path.join(world.directory, name) for name in ("key", "wrong"))
    for path, text in ((key, "open sesame"), (wrong, "open barley")):
        with open(path, "w") as file:
            file.write(text)
    path = os.path.join(world.directory, "luks.raw")
    run("qemu-img", "create", "-q", "-f", "luks", "--object", f"secret,id=s,file={key}", "-o", "key-secret=s,iter-time=10", path, "16M")
    with agent_with_shells(world):
        guest = running(world, "locked")
        failed = subprocess.run([world.binary, "--socket", world.socket, "volume", "attach", guest.uuid, path, "--key-file", wrong],
                                capture_output=True, text=True, timeout=120)
        assert failed.returncode == 1, failed
        assert list(sources(world, guest)) == ["vda"] and secrets(world) == [], (failed, secrets(world))

        target = attach(world, guest, path, "--key-file", key)
        wait_disk(world, guest, target)
        assert sectors(world, guest, target) == 16 << 11, "the guest sees what is inside"
        assert len(secrets(world)) > 0
        write(world, guest, target, "nobody-else-reads-this")
        with open(path, "rb") as file:
            content = file.read()
        assert content[:4] == b"LUKS" and b"nobody-else-reads-this" not in content
        guest.reboot("HARD")
        guest.wait_boot(2)
        guest.wait_state("active")
        assert read(world, guest, target, 22) == "nobody-else-reads-this"
        # A host that has lost its secrets has them again for the next start.
        guest.stop()
        uuid = secrets(world)[0]
        world.virsh("secret-undefine", uuid)
        guest.start()
        guest.wait_boot(3)
        guest.wait_state("active")
        assert read(world, guest, target, 22) == "nobody-else-reads-this"
        detach(world, guest, path)
        wait_disk(world, guest, target, there=False)
        assert secrets(world) == [], secrets(world)
        guest.delete()
    with open(world.log, errors="replace") as log:
        assert "open sesame" not in log.read()
    for left in (path, key, wrong):
        os.unlink(left)


@scenario(900)
def volumes_stay_with_their_guest(world):
    """Through both rescues, a rebuild, a shelving and a soft delete: the volume is in the domain again, with what is on it."""
    path = a_file(world, "stays.raw")
    first, beside = medic(world, "medic-v.raw", "/dev/vda2"), medic(world, "medic-w.raw", "/dev/vdc2")
    with agent_with_shells(world):
        guest = running(world, "keeper")
        target = attach(world, guest, path)
        assert target == "vdb"
        wait_disk(world, guest, target)
        write(world, guest, target, "mine-all-along")

        def has_it(name=target):
            for inactive in (False, True):
                assert sources(world, guest, inactive).get(name) == path, (inactive, sources(world, guest, inactive))
            wait_disk(world, guest, name)
            assert read(world, guest, name, 14) == "mine-all-along"

        world.hypernova("rescue", "keeper", "--image", first, timeout=120)
        guest.wait_state("rescued")
        guest.wait_boot(1)
        assert path not in sources(world, guest).values()
        world.hypernova("unrescue", "keeper", timeout=120)
        guest.wait_boot(2)
        guest.wait_state("active")
        has_it()

        world.hypernova("rescue", "keeper", "--image", beside, "--device", "disk", "--bus", "virtio", timeout=120)
        guest.wait_state("rescued")
        guest.wait_boot(1)
        assert targets(world, guest) == {"vda": "disk", "vdb": "stays.raw", "vdc": "disk.rescue"}, targets(world, guest)
        has_it()
        world.hypernova("unrescue", "keeper", timeout=120)
        guest.wait_boot(3)
        guest.wait_state("active")
        has_it()

        world.hypernova("rebuild", "keeper", "--image", f"{world.images}/guest.qcow2", timeout=120)
        own = guest.wait_boot(1)["own"]
        guest.wait_state("active")
        has_it()

        world.hypernova("shelve", "keeper", "--to", f"{world.images}/keeper.qcow2", timeout=120)
        guest.wait_state("shelved_offloaded")
        assert guest.uuid not in world.domains()
        assert at(path, 14) == b"mine-all-along"
        world.hypernova("unshelve", "keeper", timeout=120)
        assert guest.wait_boot(2)["own"] == own
        guest.wait_state("active")
        has_it()

        world.hypernova("delete", "--soft", "keeper", timeout=120)
        guest.wait_state("soft-delete")
        world.hypernova("restore", "keeper", timeout=120)
        assert guest.wait_boot(3)["own"] == own
        guest.wait_state("active")
        has_it()
        guest.suspend()
        guest.resume()
        has_it()
        guest.delete()
    assert at(path, 14) == b"mine-all-along"
    os.unlink(path)


@scenario(300)
def libvirtd_is_killed_in_an_attach(world):
    """kill -9 of libvirtd at many moments of attaches and detaches: each ends attached or detached in every respect."""
    path = a_file(world, "torn.raw")
    with agent_with_shells(world):
        guest = running(world, "torn")
        target = "vdb"
        for number, delay in enumerate((0.02, 0.08, 0.2, 0.4)):
            for command in ("attach", "detach"):
                asking = subprocess.Popen([world.binary, "--socket", world.socket, "volume", command, guest.uuid, path],
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(delay)
                world.daemons("_stop libvirtd KILL; host_libvirtd_start")
                asking.wait(180)
                world.wait(lambda: not json.loads(world.hypernova("workflows", "--json")), 120, lambda: world.hypernova("workflows"))
                live, defined = (target in sources(world, guest, inactive) for inactive in (False, True))
                assert live == defined, (number, command, live, defined)
                if live != (command == "attach"):
                    if command == "attach":
                        # A name that was only reserved goes with a detach.
                        detach(world, guest, path, check=False)
                        attach(world, guest, path)
                    else:
                        detach(world, guest, path)
        attach(world, guest, path)
        wait_disk(world, guest, target)
        write(world, guest, target, "in-one-piece")
        assert read(world, guest, target, 12) == "in-one-piece"
        guest.delete()
    os.unlink(path)
