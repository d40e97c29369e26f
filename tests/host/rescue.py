"""Rescues, rebuilds, shelvings and soft deletes of real guests: each proves itself by what the guest finds on its disks."""
import glob
import json
import os
import subprocess
import time

from disks import agent_with, backing, shell, targets
from nova_client import Guest, run
from scenarios import scenario

SYSLINUX = """SERIAL 0 115200
DEFAULT guest
PROMPT 0
TIMEOUT 0
LABEL guest
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0,115200 root={root} medic=yes quiet loglevel=4 tsc=unstable no_timer_check mitigations=off
"""


def medic(world, name, root):
    """An image whose loader says that it is the medic's, and whose guest takes `root` for its root disk."""
    path = os.path.join(world.images, world.fresh_copy(name, "guest.raw"))
    text = os.path.join(world.directory, "syslinux.cfg")
    with open(text, "w") as file:
        file.write(SYSLINUX.format(root=root))
    run("mcopy", "-o", "-i", f"{path}@@1M", text, "::syslinux.cfg")
    os.unlink(text)
    return path


def definition(world, guest):
    return world.virsh("dumpxml", "--inactive", guest.uuid)


def files(world, guest):
    return sorted(os.listdir(world.instance_directory(guest)))


def is_rescued_by(world, guest, own):
    """The guest that runs is another's disk, and knows that it is a rescue."""
    found = guest.wait_boot(1)
    assert found["own"] != own, "it runs from its own disk"
    assert "medic=yes" in shell(world, guest, "cat /proc/cmdline")


def finds(world, guest, partition, own, boots):
    """The rescued guest reads the instance's own disk, as it was left."""
    seen = shell(world, guest, f"mkdir -p /tmp/own && mount -t ext4 -o ro,noload {partition} /tmp/own && "
                               "cat /tmp/own/own /tmp/own/boot-count && umount /tmp/own")
    assert seen.split() == [own, str(boots)], seen


def refused(world, *command):
    done = subprocess.run([world.binary, "--socket", world.socket, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    return done.stderr


@scenario(500)
def rescue_and_unrescue(world):
    """The medic's disk first, its own second and unharmed; then the very definition from before, and its own disk."""
    path = medic(world, "medic.raw", "/dev/vda2")
    with agent_with(world):
        guest = Guest(world, "patient").build(world.file_image(), config_drive=True)
        own = guest.wait_boot(1)["own"]
        guest.wait_state("active")
        before, left = definition(world, guest), files(world, guest)

        world.hypernova("rescue", "patient", "--image", path, timeout=120)
        guest.wait_state("rescued")
        is_rescued_by(world, guest, own)
        expected = {"vda": "disk.rescue", "vdb": "disk", "hda": "disk.config.rescue"}
        assert targets(world, guest) == expected, targets(world, guest)
        finds(world, guest, "/dev/vdb2", own, 1)
        with open(os.path.join(world.instance_directory(guest), "unrescue.xml")) as file:
            assert file.read() == before
        for command in ("stop", "reboot", "pause", "suspend"):
            assert "rescued" in refused(world, command, "patient"), command
        guest.wait_state("rescued")

        world.hypernova("unrescue", "patient", timeout=120)
        assert guest.wait_boot(2)["own"] == own
        guest.wait_state("active")
        assert definition(world, guest) == before
        assert files(world, guest) == left, files(world, guest)

        # Over the bus, with the image that it was built from; and one that was off comes back running, as nova's does.
        guest.stop()
        guest.request("rescue_instance", "rescuing", "rescued", rescue_password="s3cret for you", rescue_image_ref=None,
                      clean_shutdown=True)
        assert guest.wait_boot(1)["own"] != own
        assert "s3cret for you" in shell(world, guest, "mkdir -p /tmp/c && mount -t iso9660 /dev/sr0 /tmp/c && "
                                                       "cat /tmp/c/openstack/latest/meta_data.json; umount /tmp/c")
        with open(world.log, errors="replace") as log:
            assert "s3cret" not in log.read()
        guest.request("unrescue_instance", "unrescuing", "active")
        assert guest.wait_boot(3)["own"] == own
        assert definition(world, guest) == before
        guest.delete()


@scenario(400)
def a_rescue_in_place(world):
    """Every disk stays what it was, and the medic's is added and booted."""
    path = medic(world, "medic-c.raw", "/dev/vdc2")
    with agent_with(world):
        guest = Guest(world, "in-place", ephemeral_gb=1).build(world.file_image())
        own = guest.wait_boot(1)["own"]
        guest.wait_state("active")
        before = definition(world, guest)
        assert targets(world, guest) == {"vda": "disk", "vdb": "disk.local"}
        world.hypernova("rescue", "in-place", "--image", path, "--device", "disk", "--bus", "virtio", timeout=120)
        is_rescued_by(world, guest, own)
        assert targets(world, guest) == {"vda": "disk", "vdb": "disk.local", "vdc": "disk.rescue"}
        finds(world, guest, "/dev/vda2", own, 1)
        world.hypernova("unrescue", "in-place", timeout=120)
        assert guest.wait_boot(2)["own"] == own
        assert definition(world, guest) == before
        guest.delete()


@scenario(400)
def a_rescue_with_its_own_kernel(world):
    """[libvirt] rescue_kernel_id and rescue_ramdisk_id: the medic's disk is booted by them."""
    kernel = f"rescue_kernel_id = file://{world.images}/vmlinuz\nrescue_ramdisk_id = file://{world.images}/initrd"
    with agent_with(world, libvirt=kernel, hypernova=f"image_directories = {world.images}"):
        guest = Guest(world, "kernel").build(world.file_image())
        own = guest.wait_boot(1)["own"]
        guest.wait_state("active")
        world.hypernova("rescue", "kernel", timeout=120)
        assert guest.wait_boot(1)["own"] != own
        xml = definition(world, guest)
        assert "/kernel.rescue</kernel>" in xml and "/ramdisk.rescue</initrd>" in xml, xml
        world.hypernova("unrescue", "kernel", timeout=120)
        assert guest.wait_boot(2)["own"] == own
        assert "<kernel>" not in definition(world, guest)
        guest.delete()


@scenario(300)
def a_rescue_that_fails(world):
    """An image that isn't there, or isn't one, costs the guest nothing: it never stops."""
    guest = Guest(world, "unharmed").build(world.file_image())
    guest.wait_boot(1)
    guest.wait_state("active")
    bad = os.path.join(world.images, "bad.qcow2")
    with open(bad, "wb") as file:
        file.write(b"QFI\xfb" + b"\0" * 4096)
    before = files(world, guest)
    for image in ({"id": "0" * 32, "direct_url": f"file://{world.images}/none.raw", "properties": {}},
                  {"id": "1" * 32, "direct_url": f"file://{bad}", "disk_format": "qcow2", "properties": {}}):
        _, count = guest.wait_heartbeat_after(0)
        guest.request("rescue_instance", "rescuing", "active", rescue_password="x", rescue_image_ref=image, clean_shutdown=True)
        boot, _ = guest.wait_heartbeat_after(count)
        assert boot == 1
        assert files(world, guest) == before, files(world, guest)
    faults = json.loads(world.hypernova("show", guest.uuid, "--json"))["faults"]
    assert len(faults) == 2 and all("cannot be rescued: Driver Error: " in fault["message"] for fault in faults), faults
    guest.delete()


@scenario(400)
def a_rescue_is_killed(world):
    """kill -9 of the agent at any moment of a rescue or an unrescue: it ends as if nothing had been."""
    path = medic(world, "medic-k.raw", "/dev/vda2")
    guest = Guest(world, "survivor").build(world.file_image())
    own = guest.wait_boot(1)["own"]
    guest.wait_state("active")
    before = definition(world, guest)
    for round_, delay in enumerate((0.3, 1.5, 3.0)):
        image = {"id": f"{round_}" * 32, "direct_url": f"file://{path}", "properties": {}}
        guest.nova.cast("rescue_instance", instance=guest.instance("rescuing"), rescue_password="x", rescue_image_ref=image,
                        clean_shutdown=True)
        time.sleep(delay)
        world.kill_agent()
        world.start_agent()
        guest.wait_state("rescued")
        assert targets(world, guest) == {"vda": "disk.rescue", "vdb": "disk"}
        guest.nova.cast("unrescue_instance", instance=guest.instance("unrescuing"))
        time.sleep(delay / 3)
        world.kill_agent()
        world.start_agent()
        guest.wait_state("active")
        assert definition(world, guest) == before
        assert not glob.glob(f"{world.instance_directory(guest)}/*rescue*")
        assert guest.wait_boot(round_ + 2)["own"] == own
    guest.delete()


@scenario(500)
def rebuild(world):
    """A fresh root disk; the ephemeral is fresh too, or keeps what is on it when it is asked to; off stays off."""
    world.fresh_copy("second.qcow2")
    with agent_with(world):
        guest = Guest(world, "again", ephemeral_gb=1).build(world.file_image(), config_drive=True)
        own = guest.wait_boot(1)["own"]
        guest.wait_state("active")

        def marker(write=None):
            seen = shell(world, guest, "mkdir -p /tmp/e && mount /dev/vdb /tmp/e && cat /tmp/e/marker || true")
            if write:
                shell(world, guest, f"echo {write} >/tmp/e/marker; sync")
            shell(world, guest, "umount /tmp/e")
            return [line for line in seen.splitlines() if line.startswith("m-")]

        assert marker("m-one") == []
        world.hypernova("rebuild", "again", "--image", f"{world.images}/second.qcow2", timeout=120)
        second = guest.wait_boot(1)["own"]
        assert second != own
        assert backing(f"{world.instance_directory(guest)}/disk") in world.base_files()
        assert targets(world, guest) == {"vda": "disk", "vdb": "disk.local", "hda": "disk.config"}
        assert marker("m-two") == []
        # The same image once more, with the ephemeral kept.
        world.hypernova("rebuild", "again", "--preserve-ephemeral", timeout=120)
        third = guest.wait_boot(1)["own"]
        assert third not in (own, second)
        assert marker() == ["m-two"]
        guest.stop()
        world.hypernova("rebuild", "again", timeout=120)
        guest.wait_state("stopped")
        assert world.virsh("domstate", guest.uuid).strip() == "shut off"
        guest.start()
        assert guest.wait_console(r"HYPERNOVA-GUEST booted boot=\d+ \S+ \S+ own=(\S+)")[1] not in (own, second, third)
        guest.delete()


@scenario(300)
def a_rebuild_without_its_image(world):
    """It is an error, as nova has it; the guest runs on, and the next rebuild works."""
    guest = Guest(world, "no-image").build(world.file_image())
    own = guest.wait_boot(1)["own"]
    guest.wait_state("active")
    os.truncate(os.path.join(world.images, world.fresh_copy("cut.qcow2")), 100_000)
    assert refused(world, "rebuild", "no-image", "--image", f"{world.images}/cut.qcow2")
    guest.wait_state("error")
    _, count = guest.wait_heartbeat_after(0)
    guest.wait_heartbeat_after(count)
    world.hypernova("rebuild", "no-image", "--image", f"{world.images}/guest.qcow2", timeout=120)
    assert guest.wait_boot(1)["own"] != own
    guest.delete()


@scenario(500)
def a_rebuild_is_killed(world):
    """kill -9 of the agent at any moment of a rebuild: the next start ends it, with the new disk and the kept one."""
    with agent_with(world):
        guest = Guest(world, "cut-off", ephemeral_gb=1).build(world.file_image())
        seen = {guest.wait_boot(1)["own"]}
        guest.wait_state("active")
        shell(world, guest, "mkdir -p /tmp/e && mount /dev/vdb /tmp/e && echo m-kept >/tmp/e/marker && sync && umount /tmp/e")
        for number, delay in enumerate((0.2, 1.0, 2.5, 4.0)):
            name = world.fresh_copy(f"new-{number}.qcow2")
            world.hypernova("rebuild", "cut-off", "--image", f"{world.images}/{name}", "--preserve-ephemeral", "--no-wait")
            time.sleep(delay)
            world.kill_agent()
            world.start_agent()
            guest.wait_state("active")
            own = guest.wait_boot(1)["own"]
            assert own not in seen, f"after {delay} s"
            seen.add(own)
            kept = shell(world, guest, "mkdir -p /tmp/e && mount /dev/vdb /tmp/e && cat /tmp/e/marker && umount /tmp/e")
            assert "m-kept" in kept, f"after {delay} s: {kept}"
        guest.delete()


@scenario(500)
def shelve_and_unshelve(world):
    """Nothing of it is left on the host but an image; unshelved, it goes on with its disk, on the base it had."""
    guest = Guest(world, "shelf").build(world.file_image(), config_drive=True)
    own = guest.wait_boot(1)["own"]
    guest.wait_state("active")
    base = backing(f"{world.instance_directory(guest)}/disk")
    path = os.path.join(world.images, "shelf.qcow2")
    world.hypernova("shelve", "shelf", "--to", path, timeout=120)
    guest.wait_state("shelved_offloaded")
    assert guest.uuid not in world.domains() and not os.path.exists(world.instance_directory(guest))
    assert os.path.getsize(path) > 1 << 20
    assert "shelved" in refused(world, "start", "shelf")
    world.hypernova("unshelve", "shelf", timeout=120)
    assert guest.wait_boot(2)["own"] == own
    guest.wait_state("active")
    assert not os.path.exists(path)
    assert backing(f"{world.instance_directory(guest)}/disk") == base, "it stands on the shelved image"
    guest.stop()
    guest.start()
    assert guest.wait_boot(3)["own"] == own
    guest.delete()


@scenario(500)
def shelved_on_its_host(world):
    """Where it may stay it stays: it is started again, or leaves when it is told to, or when its time is over."""
    with agent_with(world, DEFAULT="shelved_offload_time = 3600"):
        guest = Guest(world, "stays").build(world.file_image())
        own = guest.wait_boot(1)["own"]
        guest.wait_state("active")
        path = os.path.join(world.images, "stays.qcow2")
        world.hypernova("shelve", "stays", "--to", path, timeout=120)
        guest.wait_state("shelved")
        assert world.virsh("domstate", guest.uuid).strip() == "shut off"
        world.hypernova("unshelve", "stays", timeout=120)
        assert guest.wait_boot(2)["own"] == own
        assert not os.path.exists(path)

        world.hypernova("shelve", "stays", "--to", path, timeout=120)
        world.hypernova("offload", "stays", timeout=120)
        guest.wait_state("shelved_offloaded")
        assert guest.uuid not in world.domains() and os.path.exists(path)
        world.hypernova("unshelve", "stays", timeout=120)
        assert guest.wait_boot(3)["own"] == own
        guest.wait_state("active")
        world.hypernova("shelve", "stays", "--to", path, timeout=120)
        guest.wait_state("shelved")
    with agent_with(world, DEFAULT="shelved_offload_time = 1\nshelved_poll_interval = 2\nperiodic_fuzzy_delay = 0"):
        guest.wait_state("shelved_offloaded", 60)
        world.hypernova("unshelve", "stays", timeout=120)
        assert guest.wait_boot(4)["own"] == own
        guest.delete()


@scenario(500)
def a_shelving_is_killed(world):
    """kill -9 of the agent at any moment of a shelving or an unshelving: no byte of the guest's is lost."""
    guest = Guest(world, "kept").build(world.file_image())
    own = guest.wait_boot(1)["own"]
    guest.wait_state("active")
    for number, delay in enumerate((0.3, 2.0, 4.0)):
        path = os.path.join(world.images, f"kept-{number}.qcow2")
        world.hypernova("shelve", "kept", "--to", path, "--no-wait")
        time.sleep(delay)
        world.kill_agent()
        world.start_agent()
        guest.wait_state("shelved_offloaded")
        world.hypernova("unshelve", "kept", "--no-wait")
        time.sleep(delay / 2)
        world.kill_agent()
        world.start_agent()
        guest.wait_state("active")
        assert guest.wait_boot(number + 2)["own"] == own
        if os.path.exists(path):
            os.unlink(path)
    guest.delete()


@scenario(400)
def soft_delete_and_restore(world):
    """Off, with everything kept; restored it boots its own disk; reclaimed it is gone."""
    guest = Guest(world, "bin").build(world.file_image())
    own = guest.wait_boot(1)["own"]
    guest.wait_state("active")
    world.hypernova("delete", "--soft", "bin", timeout=120)
    guest.wait_state("soft-delete")
    assert world.virsh("domstate", guest.uuid).strip() == "shut off"
    world.hypernova("restore", "bin", timeout=120)
    assert guest.wait_boot(2)["own"] == own
    guest.wait_state("active")
    world.hypernova("delete", "--soft", "bin", timeout=120)
    world.stop_agent(60)
    world.write_config(DEFAULT="reclaim_instance_interval = 1\nperiodic_fuzzy_delay = 0")
    try:
        world.start_agent()
        world.wait(lambda: not world.remains(guest), 120, lambda: f"left of it: {world.remains(guest)}")
    finally:
        world.stop_agent(60)
        world.write_config()
        world.start_agent()
