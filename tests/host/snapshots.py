"""Snapshots of real guests: live, cold, cut off in the middle. Each proves itself by a second guest that boots from it and
finds the first one's file."""
import contextlib
import json
import os
import re
import subprocess
import time

from nova_client import Guest, run
from scenarios import PATIENCE, scenario


@contextlib.contextmanager
def configured(world, **sections):
    """The agent with more configuration."""
    world.stop_agent(60)
    world.write_config(**sections)
    try:
        world.start_agent()
        yield
    except BaseException:
        # A copy that a failed scenario made slow holds up a stop.
        if world.agent_runs():
            world.kill_agent()
        raise
    finally:
        world.stop_agent(60)
        world.write_config()
        world.start_agent()


def running(world, name, image=None):
    guest = Guest(world, name).build(image or world.file_image())
    own = guest.wait_boot(1)["own"]
    guest.wait_state("active")
    return guest, own


def info(path):
    return json.loads(run("qemu-img", "info", "--output=json", path))


def nothing_is_left_of_it(world, guest):
    directory = os.path.join(world.instances, "snapshots")
    assert not os.path.isdir(directory) or os.listdir(directory) == [], os.listdir(directory)
    assert not block_job(world, guest)
    assert "mirror" not in world.virsh("dumpxml", guest.uuid)
    assert not [name for name in os.listdir(world.images) if "part" in name], os.listdir(world.images)


def boots_with_its_file(world, name, own, boot):
    """A guest of that image goes on where the first one's disk was."""
    copy = Guest(world, "copy").build(world.file_image(name))
    assert copy.wait_boot(boot)["own"] == own
    copy.delete()


def block_job(world, guest):
    return "Block Copy" in world.virsh("blockjob", guest.uuid, "vda", "--raw", check=False)


def slow_copy(world, name):
    """An image whose copy can be caught: most of it is no guest's file system."""
    path = os.path.join(world.images, world.fresh_copy(name, "guest.raw"))
    with open(path, "ab") as file:
        for _ in range(600):
            file.write(os.urandom(1 << 20))
    return world.file_image(name)


def catch_copy(world, guest, command):
    """Waits until the block copy runs, and makes it so slow that it doesn't end."""
    def caught():
        assert command.poll() is None, f"it ended: {command.communicate()}"
        return subprocess.run([*world.enter(), "virsh", "-q", "blockjob", guest.uuid, "vda", "--bandwidth", "1"],
                              capture_output=True).returncode == 0

    world.wait(caught, 60, lambda: "no block copy begins", interval=0)
    assert block_job(world, guest)


def snapshot_command(world, guest, path):
    return subprocess.Popen([world.binary, "--socket", world.socket, "snapshot", guest.uuid, "--to", path],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@scenario(300)
def a_live_snapshot(world):
    """The guest runs on, its definition is as it was, and a guest from the image has its file. Also over the bus."""
    guest, own = running(world, "live")
    before = world.virsh("dumpxml", "--inactive", guest.uuid)
    path = os.path.join(world.images, "live-copy.qcow2")
    _, count = guest.wait_heartbeat_after(0)
    made = json.loads(world.hypernova("snapshot", "live", "--to", path, "--json", timeout=120))
    assert made["size"] == os.path.getsize(path) > 1 << 20, made
    boot, _ = guest.wait_heartbeat_after(count)
    assert boot == 1
    assert world.virsh("dumpxml", "--inactive", guest.uuid) == before
    nothing_is_left_of_it(world, guest)
    image = info(path)
    assert image["format"] == "qcow2" and "backing-filename" not in image, image
    boots_with_its_file(world, "live-copy.qcow2", own, 2)
    record = json.loads(world.hypernova("show", guest.uuid, "--json"))
    events = [event["event"] for event in record["events"]]
    assert "compute_snapshot_instance" in events, events

    # What was there before is not touched, and the bus writes nowhere else.
    refused = subprocess.run([world.binary, "--socket", world.socket, "snapshot", "live", "--to", path], capture_output=True, text=True)
    assert refused.returncode == 1 and "already" in refused.stderr, refused
    for url, name in ((f"file://{path}", None), (f"file://{world.directory}/elsewhere.qcow2", "elsewhere.qcow2")):
        size = os.path.getsize(path)
        guest.nova.cast("snapshot_instance", instance=guest.instance("image_snapshot_pending"), image_id=url)
        time.sleep(2)
        guest.wait_state("active")
        assert os.path.getsize(path) == size and not (name and os.path.exists(os.path.join(world.directory, name)))
    bus = os.path.join(world.images, "bus-copy.qcow2")
    guest.nova.cast("snapshot_instance", instance=guest.instance("image_snapshot_pending"), image_id=f"file://{bus}")
    world.wait(lambda: os.path.exists(bus) and os.path.getsize(bus) > 1 << 20, 60, lambda: "no snapshot over the bus")
    guest.wait_state("active")
    nothing_is_left_of_it(world, guest)
    guest.delete()


@scenario(300)
def a_snapshot_of_a_stopped_guest(world):
    """It stays off; every format is what it says, and compression makes it smaller."""
    guest, own = running(world, "stopped")
    guest.stop()
    for options, suffix, shown in (("", "qcow2", "qcow2"), ("snapshot_image_format = raw", "raw", "raw"),
                                   ("snapshot_image_format = vmdk", "vmdk", "vmdk"), ("snapshot_image_format = vdi", "vdi", "vdi"),
                                   ("snapshot_compression = true", "small.qcow2", "qcow2")):
        with configured(world, libvirt=options):
            path = os.path.join(world.images, f"stopped-copy.{suffix}")
            world.hypernova("snapshot", guest.uuid, "--to", path, timeout=120)
            guest.wait_state("stopped")
            assert world.virsh("domstate", guest.uuid).strip() == "shut off"
            image = info(path)
            assert image["format"] == shown and image["virtual-size"] == 1 << 30, image
            nothing_is_left_of_it(world, guest)
    plain, small = (os.path.getsize(os.path.join(world.images, f"stopped-copy.{name}")) for name in ("qcow2", "small.qcow2"))
    assert small < plain, (small, plain)
    boots_with_its_file(world, "stopped-copy.small.qcow2", own, 2)
    boots_with_its_file(world, "stopped-copy.raw", own, 2)
    guest.delete()


@scenario(300)
def a_cold_snapshot_of_a_running_guest(world):
    """Where live snapshots are off, its memory is saved meanwhile: it doesn't boot, and goes on with its count."""
    with configured(world, workarounds="disable_libvirt_livesnapshot = true"):
        guest, own = running(world, "cold")
        _, count = guest.wait_heartbeat_after(0)
        path = os.path.join(world.images, "cold-copy.qcow2")
        world.hypernova("snapshot", guest.uuid, "--to", path, timeout=120)
        guest.wait_state("active")
        assert world.virsh("domstate", guest.uuid).strip() == "running"
        boot, _ = guest.wait_heartbeat_after(count)
        assert boot == 1
        nothing_is_left_of_it(world, guest)
        boots_with_its_file(world, "cold-copy.qcow2", own, 2)
        guest.delete()


@scenario(400)
def killed_while_copying(world):
    """kill -9 in the middle of a block copy: the next start ends the job, and the snapshot is whole."""
    with configured(world, libvirt="images_type = raw"):
        guest, own = running(world, "cut-off", slow_copy(world, "cut-off.raw"))
        path = os.path.join(world.images, "cut-off-copy.raw")
        command = snapshot_command(world, guest, path)
        catch_copy(world, guest, command)
        world.kill_agent()
        assert block_job(world, guest)
        world.start_agent()
        out, err = command.communicate(timeout=120 * PATIENCE)
        assert command.returncode == 0, out + err
        guest.wait_state("active")
        nothing_is_left_of_it(world, guest)
        boot, _ = guest.wait_heartbeat_after(0)
        assert boot == 1
        boots_with_its_file(world, "cut-off-copy.raw", own, 2)
        guest.delete()


@scenario(400)
def a_delete_overtakes_a_snapshot(world):
    """terminate_instance in the middle of a copy: the job, the files and the guest are gone."""
    with configured(world, libvirt="images_type = raw"):
        guest, _ = running(world, "overtaken", slow_copy(world, "overtaken.raw"))
        path = os.path.join(world.images, "overtaken-copy.raw")
        command = snapshot_command(world, guest, path)
        catch_copy(world, guest, command)
        guest.delete()
        command.communicate(timeout=60 * PATIENCE)
        assert command.returncode == 1
        assert not os.path.exists(path)
        assert os.listdir(os.path.join(world.instances, "snapshots")) == []


@scenario(400)
def a_full_disk_under_a_snapshot(world):
    """No room for it: refused or broken off, with nothing left, and the guest writes on."""
    directory = os.path.join(world.directory, "small")
    os.makedirs(directory, exist_ok=True)
    run(*world.enter(), "mount", "-t", "tmpfs", "-o", "size=24m", "none", directory)
    try:
        with configured(world, libvirt=f"snapshots_directory = {directory}"):
            guest, _ = running(world, "no-room")
            path = os.path.join(world.images, "no-room-copy.qcow2")
            for size in ("24m", "14m", "2m"):
                run(*world.enter(), "mount", "-o", f"remount,size={size}", directory)
                _, count = guest.wait_heartbeat_after(0)
                refused = subprocess.run([world.binary, "--socket", world.socket, "snapshot", guest.uuid, "--to", path],
                                         capture_output=True, text=True, timeout=120 * PATIENCE)
                left = run(*world.enter(), "ls", "-A", directory).split()
                assert left == [], left
                if refused.returncode == 0:
                    assert size == "24m"
                    os.unlink(path)
                    continue
                assert not os.path.exists(path), size
                guest.wait_state("active")
                nothing_is_left_of_it(world, guest)
                boot, _ = guest.wait_heartbeat_after(count)
                assert boot == 1
            assert refused.returncode == 1 and re.search("full|copy of disk", refused.stderr), refused.stderr
            guest.delete()
    finally:
        run(*world.enter(), "umount", directory)


@scenario(300)
def a_crash_dump_and_a_guest_without_an_agent(world):
    """An NMI reaches the guest; a password and a quiesce say that there is no guest agent."""
    guest, _ = running(world, "nmi")
    _, count = guest.wait_heartbeat_after(0)
    guest.nova.cast("trigger_crash_dump", instance=guest.instance())
    guest.wait_console(r"[Uu]nknown NMI|NMI received|[Dd]o you have a strange power saving mode", 30)
    guest.wait_heartbeat_after(count)
    for method, more in (("quiesce_instance", {}), ("set_admin_password", {"new_pass": "x"})):
        task = "updating_password" if more else None
        try:
            guest.nova.call(method, instance=guest.instance(task), **more)
        except Exception as error:
            assert type(error).__name__.startswith("QemuGuestAgentNotEnabled"), error
        else:
            raise AssertionError(f"{method} succeeded")
        guest.wait_state("active")
    guest.delete()


def wait_agent(world, guest):
    """The guest has opened its agent's channel, and libvirt knows."""
    guest.wait_console(r"HYPERNOVA-GUEST agent /dev/vport")
    world.wait(lambda: "state='connected'" in world.virsh("dumpxml", guest.uuid), 20, lambda: "the guest agent isn't connected")


@scenario(400)
def a_guest_with_an_agent(world):
    """Its file systems are frozen for the moment of a snapshot, and thawed; by request as well; its password is set."""
    image = world.file_image(hw_qemu_guest_agent="yes", os_require_quiesce="yes")
    guest, own = running(world, "agent", image)
    wait_agent(world, guest)

    def said(word):
        return len(re.findall(rf"HYPERNOVA-GUEST {word}", guest.console_or_nothing()))

    path = os.path.join(world.images, "agent-copy.qcow2")
    world.hypernova("snapshot", guest.uuid, "--to", path, timeout=120)
    world.wait(lambda: said("thawed") == 1, 20, lambda: f"not thawed: {guest.console()[-500:]}")
    assert said("frozen") == 1
    nothing_is_left_of_it(world, guest)
    _, count = guest.wait_heartbeat_after(0)
    guest.wait_heartbeat_after(count)
    boots_with_its_file(world, "agent-copy.qcow2", own, 2)

    assert guest.nova.call("quiesce_instance", instance=guest.instance()) is None
    guest.wait_console("frozen")
    time.sleep(3)
    _, before = guest.heartbeat()
    time.sleep(5)
    assert guest.heartbeat()[1] <= before + 1, "what it writes waits"
    guest.nova.cast("unquiesce_instance", instance=guest.instance(), mapping=None)
    guest.wait_heartbeat_after(before + 1)
    assert (said("frozen"), said("thawed")) == (2, 2)

    guest.nova.call("set_admin_password", instance=guest.instance("updating_password"), new_pass="s3cret for you")
    guest.wait_console("password user=root text=s3cret for you")
    guest.wait_state("active")
    with open(world.log, errors="replace") as log:
        assert "s3cret" not in log.read()

    # The agent dies with the guest frozen in the middle of a snapshot: the next start thaws it.
    guest.nova.call("quiesce_instance", instance=guest.instance())
    world.kill_agent()
    world.start_agent()
    path = os.path.join(world.images, "agent-copy2.qcow2")
    world.hypernova("snapshot", guest.uuid, "--to", path, timeout=120)
    world.wait(lambda: said("thawed") >= 3, 20, lambda: f"not thawed: {guest.console()[-500:]}")
    _, count = guest.wait_heartbeat_after(0)
    guest.wait_heartbeat_after(count)
    guest.delete()


@scenario(400)
def a_guest_whose_agent_goes(world):
    """One that hangs or is gone: a snapshot that needs it fails in time, and one that doesn't is made without."""
    for required in ("yes", "no"):
        image = world.file_image(hw_qemu_guest_agent="yes", os_require_quiesce=required)
        guest, own = running(world, f"hangs-{required}", image)
        wait_agent(world, guest)
        # The channel is open, and nobody reads it: a paused guest's agent.
        world.virsh("suspend", guest.uuid)
        path = os.path.join(world.images, f"hangs-{required}.qcow2")
        begun = time.monotonic()
        made = subprocess.run([world.binary, "--socket", world.socket, "snapshot", guest.uuid, "--to", path],
                              capture_output=True, text=True, timeout=200 * PATIENCE)
        assert time.monotonic() - begun < 120 * PATIENCE
        assert os.path.exists(path) == (required == "no"), made
        if required == "yes":
            assert "quiesce" in made.stderr, made.stderr
        nothing_is_left_of_it(world, guest)
        world.virsh("resume", guest.uuid)
        _, count = guest.wait_heartbeat_after(0)
        guest.wait_heartbeat_after(count)
        if required == "no":
            boots_with_its_file(world, f"hangs-{required}.qcow2", own, 2)
        guest.delete()
