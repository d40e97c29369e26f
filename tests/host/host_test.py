#!/usr/bin/env python3
"""Real requests to a real agent: oslo.messaging through RabbitMQ in, QEMU guests under libvirt out.

Run by tests/host/run, which starts the daemons.  usage: host_test.py [scenario …]

Each scenario is a function; its doc line says what it holds the agent to. A guest proves itself on its console
(tests/guest/init): the boot counter and the heartbeat live on its root disk. The console's log begins anew whenever
libvirt starts the domain, as it does under nova.
"""
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import uuid

from nova_client import Guest, error_name, image, run
from scenarios import PATIENCE, SCENARIOS, scenario
from world import World


def fails_with(names, action):
    """Runs `action`, which has to fail with one of the exception classes `names`."""
    try:
        answer = action()
    except Exception as error:
        assert error_name(error) in names, f"{error_name(error)} instead of {names}: {str(error)[:200]}"
        return error
    raise AssertionError(f"no failure, but {answer!r}; {names} was due")


# --- a guest's life

@scenario(600)
def life_of_a_guest(world):
    """Boots, pauses, reboots soft and hard, stops, starts, suspends, resumes, goes; its disk lives through it all."""
    guest = Guest(world, "life").build(world.file_image())
    own = guest.wait_boot(1)["own"]
    record = guest.wait_state("active")
    assert record.get("power_state") in (1, "running", "RUNNING"), record
    assert world.virsh("domstate", guest.uuid).strip() == "running"
    for name in ("disk", "disk.info", "console.log"):
        assert os.path.exists(os.path.join(world.instance_directory(guest), name)), name

    guest.pause()
    assert world.virsh("domstate", guest.uuid).strip() == "paused"
    guest.unpause()
    assert world.virsh("domstate", guest.uuid).strip() == "running"

    guest.reboot("SOFT")
    assert guest.wait_boot(2)["own"] == own
    guest.wait_state("active")

    guest.reboot("HARD")
    assert guest.wait_boot(3)["own"] == own
    guest.wait_state("active")

    guest.stop()
    assert world.virsh("domstate", guest.uuid).strip() == "shut off"
    guest.start()
    assert guest.wait_boot(4)["own"] == own

    boot, count = guest.wait_heartbeat_after(0)
    guest.suspend()
    assert world.virsh("domstate", guest.uuid).strip() == "shut off"
    assert "yes" in world.virsh("dominfo", guest.uuid).split("Managed save:")[1]
    guest.resume()
    assert world.virsh("domstate", guest.uuid).strip() == "running"
    boot_after, _ = guest.wait_heartbeat_after(count)
    assert (boot, boot_after) == (4, 4), "a resumed guest doesn't boot"

    guest.delete()


@scenario(200)
def stop_is_graceful(world):
    """stop_instance presses the ACPI button, and the guest says so before it goes."""
    guest = Guest(world, "stop").build(world.file_image())
    guest.wait_boot(1)
    guest.wait_state("active")
    guest.stop()
    log = os.path.join(world.instance_directory(guest), "console.log")
    with open(log, errors="replace") as file:
        assert "HYPERNOVA-GUEST power-button" in file.read()
    guest.delete()


@scenario(200)
def a_paused_guest_stands_still(world):
    """The heartbeat stops with pause and goes on where it was with unpause."""
    guest = Guest(world, "pause").build(world.file_image())
    guest.wait_boot(1)
    guest.wait_state("active")
    guest.wait_heartbeat_after(0)
    guest.pause()
    time.sleep(0.5)
    _, before = guest.heartbeat()
    time.sleep(5)
    _, after = guest.heartbeat()
    assert before == after, f"{before} -> {after} while paused"
    guest.unpause()
    guest.wait_heartbeat_after(after)
    guest.delete()


@scenario(200)
def questions_about_a_guest(world):
    """Console tail, diagnostics, the VNC endpoint, the host's uptime."""
    guest = Guest(world, "ask").build(world.file_image(), network="user")
    guest.wait_boot(1)
    guest.wait_state("active")
    assert len(guest.console(tail_length=2).splitlines()) <= 2
    assert guest.console(tail_length=0) == ""

    answer = world.nova.call("get_instance_diagnostics", instance=guest.instance())
    assert answer["nova_object.name"] == "Diagnostics", answer
    data = answer["nova_object.data"]
    assert data["state"] == "running" and data["driver"] == "libvirt", data
    assert len(data["disk_details"]) == 1 and len(data["cpu_details"]) == 1 and len(data["nic_details"]) == 1, data

    vnc = world.nova.call("get_vnc_console", instance=guest.instance(), console_type="novnc")
    assert vnc["token"] in vnc["access_url"], vnc
    with socket.create_connection((vnc["host"], int(vnc["port"])), 10) as connection:
        assert connection.recv(4) == b"RFB "
    fails_with({"ConsoleTypeInvalid"}, lambda: world.nova.call("get_vnc_console", instance=guest.instance(), console_type="xvpvnc9"))

    assert "load average" in world.nova.call("get_host_uptime")
    guest.delete()
    fails_with({"InstanceNotFound"}, lambda: guest.console())


@scenario(200)
def a_guest_with_a_network(world):
    """A NIC on the user-mode network: the guest gets an address by DHCP."""
    guest = Guest(world, "net").build(world.file_image(), network="user")
    guest.wait_boot(1)
    guest.wait_console(r"HYPERNOVA-GUEST dhcp dev=eth0 mac=[0-9a-f:]{17} ip=\d", 60)
    guest.delete()


@scenario(200)
def a_guest_with_a_config_drive(world):
    """The config drive says uuid and host name, and brings the user data byte for byte."""
    data = b"#!/bin/sh\necho \xc3\xa9\n"
    guest = Guest(world, "drive").build(world.file_image(), config_drive=True, user_data=data)
    seen = guest.wait_console(r"HYPERNOVA-GUEST config-drive dev=\S+ uuid=(\S+) hostname=(\S+) user_data=(\S+)")
    assert seen.groups() == (guest.uuid, "drive.novalocal", hashlib.sha256(data).hexdigest()), seen[0]
    guest.wait_boot(1)
    guest.delete()


@scenario(200)
def a_guest_from_kernel_and_ramdisk(world):
    """An ami image with an aki and an ari boots without a boot loader."""
    files = {name: f"file://{world.images}/{name}" for name in ("vmlinuz", "initrd")}
    guest = Guest(world, "ami").build(
        world.file_image("rootfs.img", disk_format="ami", container_format="ami"), kernel=files["vmlinuz"], ramdisk=files["initrd"])
    assert guest.wait_boot(1)["root"] == "/dev/vda"
    guest.delete()


# --- images

@scenario(300)
def one_download_for_many_guests(world):
    """Three builds of one image at once fetch it once."""
    world.fresh_copy("shared.qcow2")
    world.server.rate = 16 << 20
    shared = world.http_image("shared.qcow2")
    guests = [Guest(world, f"many{number}").build(dict(shared, properties={})) for number in range(3)]
    for guest in guests:
        guest.wait_boot(1, 180)
    assert len(world.server.gets("shared.qcow2")) == 1, world.server.requests
    for guest in guests:
        guest.terminate()
    for guest in guests:
        world.wait(lambda: not world.remains(guest), 60, lambda: world.remains(guest))


@scenario(200)
def a_broken_download_goes_on(world):
    """A server that breaks off is asked for the rest; the checksum is held over all of it."""
    world.fresh_copy("broken.qcow2")
    world.server.cut_after = 6 << 20
    guest = Guest(world, "resume").build(world.http_image("broken.qcow2"))
    guest.wait_boot(1, 120)
    gets = world.server.gets("broken.qcow2")
    assert len(gets) >= 3 and gets[1][2] and gets[1][2] != "bytes=0-", gets
    guest.delete()


def hostile_images(world):
    """(what it is, the image's dict)"""
    def path(name):
        return os.path.join(world.images, name)

    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", path("backing.qcow2"), "1M")
    yield "a backing file", world.file_image("backing.qcow2")

    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={path('data.bin')},data_file_raw=on", path("datafile.qcow2"), "1M")
    yield "a data file", world.file_image("datafile.qcow2")

    shutil.copy(path("guest.qcow2"), path("unknown.qcow2"))
    with open(path("unknown.qcow2"), "r+b") as file:
        file.seek(72)
        file.write((1 << 40).to_bytes(8, "big"))
    yield "an unknown incompatible feature", world.file_image("unknown.qcow2")

    with open(path("names.vmdk"), "w") as file:
        file.write('# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n'
                   'RW 2048 FLAT "/etc/passwd" 0\n')
    yield "a VMDK that names a file", world.file_image("names.vmdk", disk_format="vmdk")
    yield "the same declared raw", world.file_image("names.vmdk", disk_format="raw")

    with open(path("guest.qcow2"), "rb") as whole, open(path("short.qcow2"), "wb") as part:
        part.write(whole.read(3 << 20))
    yield "a truncated file", world.file_image("short.qcow2")

    yield "a wrong checksum", world.file_image("guest.qcow2", sha256="0" * 64)

    run("qemu-img", "create", "-q", "-f", "qcow2", path("large.qcow2"), "5G")
    yield "a virtual size above the flavor", world.file_image("large.qcow2")

    yield "a qcow2 declared raw", world.file_image("guest.qcow2", disk_format="raw")
    yield "a file outside the image directories", image("file:///etc/passwd", disk_format="raw")
    yield "a way out of the image directories", image(f"file://{world.images}/../../../../../../etc/passwd", disk_format="raw")
    os.symlink("/etc/passwd", path("link.raw"))
    yield "a link out of the image directories", world.file_image("link.raw")
    yield "a file that isn't there", world.file_image("nothing.qcow2")
    yield "an address where nobody listens", image("http://127.0.0.1:9/guest.qcow2")


@scenario(400)
def hostile_images_are_refused(world):
    """Each ends in error, without a domain, a directory or a file in the cache; the agent goes on."""
    pid = world.agent_pid()
    bases = world.base_files()
    wrong = []
    for what, picture in hostile_images(world):
        guest = Guest(world, "hostile").build(picture)
        try:
            guest.wait_state("error", 60)
            left = [thing for thing in world.remains(guest) if not thing.startswith("record")]
            assert not left, f"left: {left}"
        except AssertionError as error:
            wrong.append(f"{what}: {error}")
        guest.delete()
    assert not wrong, "\n".join(wrong)
    # A file refused after it was fetched and found sound in itself (too large for this flavor) may stay in the cache.
    extra = [name for name in world.base_files() if name not in bases]
    assert len(extra) <= 1, f"in the cache: {extra}"
    world.assert_alive(pid)


# --- crashes

@scenario(300)
def killed_while_fetching(world):
    """kill -9 in the middle of the image's download; the next start ends with a running guest."""
    world.fresh_copy("slow.qcow2")
    world.server.rate = 3 << 20
    guest = Guest(world, "killed").build(world.http_image("slow.qcow2"))
    world.wait(lambda: world.server.gets("slow.qcow2"), 30, lambda: "the download doesn't begin")
    time.sleep(1.5)
    world.kill_agent()
    world.server.rate = None
    world.start_agent()
    guest.wait_boot(1, 120)
    guest.wait_state("active")
    assert world.virsh("domstate", guest.uuid).strip() == "running"
    guest.delete()


@scenario(300)
def killed_with_the_domain_defined(world):
    """kill -9 as soon as libvirt knows the domain; the next start ends with one running guest."""
    guest = Guest(world, "defined").build(world.file_image())
    world.wait(lambda: guest.uuid in world.virsh("list", "--all", "--uuid"), 60, lambda: "no domain", interval=0)
    world.kill_agent()
    world.start_agent()
    guest.wait_console(r"HYPERNOVA-GUEST booted boot=[12] ")
    guest.wait_state("active")
    assert world.virsh("domstate", guest.uuid).strip() == "running"
    guest.delete()


@scenario(300)
def killed_with_a_guest_running(world):
    """A kill and a start don't touch a running guest."""
    guest = Guest(world, "steady").build(world.file_image())
    guest.wait_boot(1)
    guest.wait_state("active")
    _, count = guest.wait_heartbeat_after(0)
    world.kill_agent()
    world.start_agent()
    boot, _ = guest.wait_heartbeat_after(count)
    assert boot == 1
    guest.wait_state("active")
    guest.delete()


@scenario(200)
def a_delete_overtakes_a_build(world):
    """terminate_instance in the middle of a download ends the build, and nothing is left."""
    world.fresh_copy("overtaken.qcow2")
    world.server.rate = 1 << 20
    guest = Guest(world, "overtaken").build(world.http_image("overtaken.qcow2"))
    world.wait(lambda: world.server.gets("overtaken.qcow2"), 30, lambda: "the download doesn't begin")
    guest.terminate()
    time.sleep(1)
    world.server.rate = None
    world.wait(lambda: not world.remains(guest), 60, lambda: world.remains(guest))
    time.sleep(3)
    assert not world.remains(guest), world.remains(guest)


@scenario(300)
def libvirtd_goes_and_comes(world):
    """A restart of libvirtd loses no request: the guest runs on and can be paused afterwards."""
    pid = world.agent_pid()
    guest = Guest(world, "libvirtd").build(world.file_image())
    guest.wait_boot(1)
    guest.wait_state("active")
    _, count = guest.wait_heartbeat_after(0)
    world.daemons("_stop libvirtd; host_libvirtd_start")
    guest.pause()
    guest.unpause()
    boot, _ = guest.wait_heartbeat_after(count)
    assert boot == 1
    world.assert_alive(pid)
    guest.delete()


@scenario(300)
def the_broker_goes_and_comes(world):
    """The agent finds a restarted broker by itself and declares its queues again."""
    pid = world.agent_pid()
    world.daemons("rabbit_halt; rabbit_start")
    world.wait(lambda: world.nova.ping(timeout=5), 60, lambda: world.log_tail())
    world.assert_alive(pid)
    assert world.nova.ping(topic="compute-alt")


# --- bad messages

@scenario(120)
def bad_messages(world):
    """Whatever is wrong with a message, the caller gets nova's exception class and the agent goes on."""
    pid = world.agent_pid()
    nova = world.nova
    guest = Guest(world, "bad")
    instance = guest.instance()
    wrong = []

    def expect(what, names, action):
        try:
            fails_with(names, action)
        except AssertionError as error:
            wrong.append(f"{what}: {error}")

    expect("unknown method", {"NoSuchMethod"}, lambda: nova.call("no_such_method", timeout=15))
    expect("a private name", {"NoSuchMethod"}, lambda: nova.call("_private", timeout=15))
    expect("newer major", {"UnsupportedVersion"}, lambda: nova.call("get_host_uptime", timeout=15, version="7.0"))
    expect("newer minor", {"UnsupportedVersion"}, lambda: nova.call("get_host_uptime", timeout=15, version="6.99"))
    expect("unknown namespace", {"UnsupportedVersion", "NoSuchMethod"}, lambda: nova.call("ping", timeout=15, namespace="no", arg=1))
    expect("missing arguments", {"TypeError"}, lambda: nova.call("get_console_output", timeout=15))
    expect("an argument of another type", {"TypeError", "ValueError", "AttributeError"},
           lambda: nova.call("get_console_output", timeout=15, instance="no object", tail_length=None))
    other_major = {**instance, "nova_object.version": "3.0"}
    expect("an object of another major version", {"IncompatibleObjectVersion"},
           lambda: nova.call("get_console_output", timeout=15, instance=other_major, tail_length=None))
    expect("an object of another kind", {"TypeError", "ValueError", "AttributeError", "UnsupportedObjectError"},
           lambda: nova.call("get_console_output", timeout=15, tail_length=None,
                             instance={"nova_object.name": "NoSuchObject", "nova_object.namespace": "nova", "nova_object.version": "1.0",
                                       "nova_object.data": {}}))
    expect("an instance that isn't here", {"InstanceNotFound"},
           lambda: nova.call("get_console_output", timeout=15, instance=instance, tail_length=None))
    expect("a path for a uuid", {"ValueError", "InstanceNotFound", "InvalidUUID", "TypeError"},
           lambda: nova.call("get_console_output", timeout=15, instance=guest.instance(uuid="../../../../etc"), tail_length=None))

    request = {"method": "get_host_uptime", "args": {}, "version": "6.0", "_unique_id": uuid.uuid4().hex}
    for body in (b"{", b"", b"\xff\xfe\x00", b"[]", b"null", b'"text"', b"[" * 100_000, b'{"oslo.version": "2.0"}',
                 json.dumps({"oslo.version": "2.0", "oslo.message": "{"}),
                 json.dumps({"oslo.version": "2.0", "oslo.message": 7}),
                 nova.envelope(request, version="9.0"), nova.envelope(request, version="text"),
                 nova.envelope([]), nova.envelope({}), nova.envelope({"method": 7, "args": []}),
                 nova.envelope({**request, "args": None}), nova.envelope({**request, "version": "six"}),
                 nova.envelope({**request, "_unique_id": 7})):
        for topic in ("compute", "compute-alt"):
            nova.publish_raw(body, topic=topic)
    nova.publish_raw(b"\x80\x04K\x01.", content_type="application/x-python-serialize")

    world.assert_alive(pid)
    assert not wrong, "\n".join(wrong)


@scenario(120)
def a_build_with_a_bad_name(world):
    """A uuid that is a path leaves no trace outside the instances directory, nor in it."""
    pid = world.agent_pid()
    before = sorted(os.listdir(world.state)), sorted(os.listdir(world.directory))
    guest = Guest(world, "evil")
    args = guest.build_arguments(world.file_image())
    args["instance"]["nova_object.data"]["uuid"] = "../../evil"
    world.nova.cast("build_and_run_instance", **args)
    time.sleep(3)
    world.assert_alive(pid)
    assert (sorted(os.listdir(world.state)), sorted(os.listdir(world.directory))) == before
    assert "evil" not in world.virsh("list", "--all", "--name")


@scenario(60)
def an_extra_argument_is_no_accident(world):
    """A newer client's extra argument is either refused as nova does (TypeError) or left aside; the agent goes on."""
    pid = world.agent_pid()
    try:
        assert "load average" in world.nova.call("get_host_uptime", timeout=15, brand_new=True)
    except Exception as error:
        assert error_name(error) == "TypeError", error
    world.assert_alive(pid)


# --- standalone mode

@scenario(300)
def the_commands(world):
    """boot, list, show, console, stop, start, reboot, pause, suspend, workflows, node, delete over the socket."""
    key = os.path.join(world.directory, "key.pub")
    with open(key, "w") as file:
        file.write("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0t test\n")
    world.hypernova("boot", "by-hand", "--image", f"{world.images}/guest.qcow2", "--memory", "128", "--vcpus", "1", "--disk", "1",
                    "--network", "none", "--ssh-key", key, "--config-drive", "--wait", timeout=120)
    record = json.loads(world.hypernova("show", "by-hand", "--json"))["instance"]
    guest = Guest(world, "by-hand")
    guest.uuid = record["uuid"]
    assert record["vm_state"] == "active", record
    assert any(item["uuid"] == guest.uuid for item in json.loads(world.hypernova("list", "--json")))

    def console():
        return world.hypernova("console", "by-hand", "--lines", "200")

    world.wait(lambda: "booted boot=1" in console(), 90, console)
    assert re.search(rf"config-drive \S+ uuid={guest.uuid} hostname=by-hand.novalocal user_data=none keys=[1-9]", console()), console()
    for command, state in ((["stop"], "stopped"), (["start"], "active"), (["reboot", "--hard"], "active"), (["pause"], "paused"),
                           (["unpause"], "active"), (["suspend"], "suspended"), (["resume"], "active")):
        world.hypernova(command[0], "by-hand", *command[1:], timeout=120)
        guest.wait_state(state)
        if command == ["start"]:
            # The guest counts its boots on its disk: the next one must not cut this one off.
            world.wait(lambda: "booted boot=2" in console(), 90, console)
    world.wait(lambda: "booted boot=3" in console(), 90, console)
    json.loads(world.hypernova("node", "--json"))
    json.loads(world.hypernova("workflows", "--json"))
    world.hypernova("delete", "by-hand", timeout=60)
    world.wait(lambda: not world.remains(guest), 60, lambda: world.remains(guest))
    refused = subprocess.run([world.binary, "--socket", world.socket, "show", "by-hand"], capture_output=True, text=True)
    assert refused.returncode != 0 and refused.stderr.strip(), refused


@scenario(60)
def check_finds_what_is_wrong(world):
    """`hypernova check` passes on this host, and fails with a line that says so when a path can't be used."""
    good = subprocess.run([*world.enter(), world.binary, "check", "--config-file", world.config], capture_output=True, text=True, timeout=60 * PATIENCE)
    assert good.returncode == 0, good.stdout + good.stderr
    config = world.config
    try:
        world.config += ".bad"
        world.write_config(DEFAULT="instances_path = /proc/no-such/instances", libvirt="connection_uri = qemu+unix:///system?socket=/no/such")
        bad = subprocess.run([*world.enter(), world.binary, "check", "--config-file", world.config], capture_output=True, text=True, timeout=60 * PATIENCE)
    finally:
        os.unlink(world.config)
        world.config = config
    assert bad.returncode != 0
    assert "instances_path" in bad.stdout + bad.stderr and "libvirt" in bad.stdout + bad.stderr, bad.stdout + bad.stderr


@scenario(120)
def a_clean_stop(world):
    """SIGTERM: the agent ends by itself with status 0, takes its fanout queues along, and leaves guests running."""
    guest = Guest(world, "left").build(world.file_image())
    guest.wait_boot(1)
    guest.wait_state("active")
    status = world.stop_agent(60)
    assert status == 0, f"exit status {status}"
    assert world.virsh("domstate", guest.uuid).strip() == "running"
    assert not os.path.exists(world.socket), "the socket is still there"
    world.start_agent()
    guest.delete()


# --- the runner

# Their scenarios come after these.
import consoles  # noqa: E402,F401
import disks  # noqa: E402,F401
import moves  # noqa: E402,F401
import nics  # noqa: E402,F401
import rescue  # noqa: E402,F401
import snapshots  # noqa: E402,F401
import volumes  # noqa: E402,F401

class TooSlow(Exception):
    pass


def leftovers(world):
    """What the whole suite left behind: domains, processes, mounts, files."""
    left = [f"domain {name}" for name in world.domains().values()]
    left += [f"process {line}" for line in run("pgrep", "-af", f"{world.directory}/nova", check=False).splitlines()
             if not line.startswith(f"{os.getpid()} ")]
    for mounts in ("/proc/self/mounts", f"/proc/{world.enter()[2]}/mounts"):
        with open(mounts) as file:
            left += [f"mount {line.split()[1]}" for line in file if f"{world.directory}/nova" in line or "/nova/mnt" in line]
    left += [f"instance file {name}" for name in os.listdir(world.instances)
             if name not in ("_base", "locks", "compute_nodes", "snapshots")]
    snapshots_left = os.path.join(world.instances, "snapshots")
    left += [f"snapshot {name}" for name in (os.listdir(snapshots_left) if os.path.isdir(snapshots_left) else [])]
    left += [f"temporary file {name}" for name in os.listdir(world.tmp)]
    saved = os.path.join(world.directory, "host", "lib", "qemu", "save")
    left += [f"saved state {name}" for name in (os.listdir(saved) if os.path.isdir(saved) else [])]
    return left


def main():
    wanted = sys.argv[1:]
    unknown = set(wanted) - {function.__name__ for function, _ in SCENARIOS}
    if unknown:
        sys.exit(f"no such scenario: {', '.join(unknown)}; there are: {' '.join(f.__name__ for f, _ in SCENARIOS)}")
    world = World()
    passed, failed = 0, 0

    def too_slow(*_):
        raise TooSlow

    def attempt(name, timeout, action):
        nonlocal passed, failed
        started = time.monotonic()
        signal.signal(signal.SIGALRM, too_slow)
        signal.alarm(round(timeout))
        try:
            action()
        except Exception as error:
            signal.alarm(0)
            failed += 1
            why = f"took longer than {timeout} s" if isinstance(error, TooSlow) else f"{error_name(error)}: {error}"
            print(f"FAIL {name} ({time.monotonic() - started:.1f} s): {why}")
            print("     " + "     ".join(traceback.format_exc().splitlines(keepends=True)[-12:]))
            print("     agent's log:\n" + "".join(f"     | {line}" for line in world.log_tail(25).splitlines(keepends=True)), flush=True)
            return False
        else:
            passed += 1
            print(f"ok   {name} ({time.monotonic() - started:.1f} s)", flush=True)
            return True
        finally:
            signal.alarm(0)

    try:
        if attempt("the agent starts", 60 * PATIENCE, world.start_agent):
            for function, timeout in SCENARIOS:
                if wanted and function.__name__ not in wanted:
                    continue
                world.server.reset()
                attempt(function.__name__, timeout, lambda: function(world))
                if not world.agent_runs():
                    world.start_agent(ready=False)
                world.forget_guests()

        def nothing_is_left():
            assert world.stop_agent(60) in (0, None), "the agent's exit status"
            left = leftovers(world)
            assert not left, "\n".join(left)

        attempt("nothing is left", 120 * PATIENCE, nothing_is_left)
    finally:
        if world.agent_runs():
            world.kill_agent()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
