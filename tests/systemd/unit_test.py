#!/usr/bin/env python3
"""The agent as a service of a real systemd. Runs inside the machine that tests/systemd/run starts.

usage: unit_test.py [check …]

The checks follow one another: each finds the machine as the one before left it.
"""
import grp
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback

UNIT = "hypernova.service"
CONF = "/etc/hypernova/hypernova.conf"
IMAGE = "/var/lib/nova/images/guest.qcow2"
SYSUSERS = "/usr/lib/sysusers.d/hypernova.conf"
TMPFILES = "/usr/lib/tmpfiles.d/hypernova.conf"
CHECKS = []
# How many times as long as said everything may take, as on a slow or busy machine.
PATIENCE = max(1.0, float(os.environ.get("PATIENCE") or 1))


def check(function):
    CHECKS.append(function)
    return function


def run(*command, fails=False, **options):
    """A command's standard output; it must succeed, or with `fails` must not."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120 * PATIENCE, **options)
    told = f"{' '.join(command)}: exit {ran.returncode}\n{ran.stdout}{ran.stderr}"
    assert (ran.returncode != 0) == fails, told
    return ran.stdout + (ran.stderr if fails else "")


def until(seconds, what, question):
    """Asks `question` until its answer is true, and returns that."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
    return answer


def show(*properties):
    lines = run("systemctl", "show", UNIT, "-p", ",".join(properties)).splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return values[properties[0]] if len(properties) == 1 else [values[p] for p in properties]


def active():
    return show("ActiveState", "SubState") == ["active", "running"]


def main_pid():
    return int(show("MainPID"))


def restarted(since):
    """Whether the agent runs again, as another process than `since`."""
    state, pid = show("ActiveState", "MainPID")
    return state == "active" and int(pid) not in (0, since)


def agent(*words):
    return json.loads(run("hypernova", "--json", *words))


def journal(*words):
    """The unit's entries, as journald has their fields."""
    return [json.loads(line) for line in run("journalctl", "-q", "-o", "json", "-u", UNIT, *words).splitlines()]


def cursor():
    run("journalctl", "--sync")
    return re.search(r"-- cursor: (.*)", run("journalctl", "-q", "-n", "1", "--show-cursor"))[1]


def configure(debug=False):
    os.makedirs(os.path.dirname(CONF), exist_ok=True)
    with open(CONF, "w") as file:
        file.write(f"""[DEFAULT]
host = hypernova-test
compute_driver = libvirt.LibvirtDriver
debug = {debug}

[hypernova]
control_plane = standalone
socket_group = hypernova

[libvirt]
virt_type = qemu

[vnc]
server_listen = 127.0.0.1
server_proxyclient_address = 127.0.0.1
""")


def drop_in(name, text):
    directory = f"/etc/systemd/system/{UNIT}.d"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{name}.conf", "w") as file:
        file.write(text)
    run("systemctl", "daemon-reload")


def processes(name):
    """The processes of that name: pid -> their command lines."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == name:
            found[int(pid)] = words
    return found


def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def guest():
    """The pid of the guest's QEMU, of which there is one."""
    (pid,) = processes("qemu-system-x86_64")
    return pid


# --- what is installed

@check
def sysusers_and_tmpfiles_apply():
    """The group and the directories are made, with nothing to complain of, and a second time changes nothing."""
    for _ in range(2):
        for command in (["systemd-sysusers", SYSUSERS], ["systemd-tmpfiles", "--create", TMPFILES]):
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE)
            assert ran.returncode == 0, ran
            complaints = [l for l in ran.stderr.splitlines() if not l.startswith("Creating group")]
            assert not complaints, complaints
    group = grp.getgrnam("hypernova").gr_gid
    for path, mode, gid in (("/run/hypernova", 0o750, group), ("/var/lib/nova/hypernova", 0o700, 0),
                            ("/var/lib/nova/instances", 0o755, 0), ("/var/lib/nova/images", 0o755, 0)):
        made = os.stat(path)
        assert (made.st_mode & 0o7777, made.st_uid, made.st_gid) == (mode, 0, gid), f"{path}: {made}"
    run("cp", "/root/guest.qcow2", IMAGE)


@check
def the_unit_verifies():
    """systemd has no complaint about the unit, and finds it as closed as it was meant to be."""
    # The manual page isn't installed here.
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", f"/usr/lib/systemd/system/{UNIT}"],
                         capture_output=True, text=True, timeout=60 * PATIENCE)
    about_it = [line for line in (ran.stdout + ran.stderr).splitlines() if "hypernova" in line]
    assert not about_it, about_it
    rated = run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=55", f"/usr/lib/systemd/system/{UNIT}")
    print("     " + rated.strip().splitlines()[-1].strip())


# --- the service's life

@check
def starts_once_libvirt_is_there():
    """Started before libvirt the unit waits; it is active when the agent is ready, and not before."""
    configure()
    with open("/etc/default/hypernova", "w") as file:
        file.write(f"HYPERNOVA_OPTIONS=--config-file {CONF}\n")
    # A watchdog's interval that a test can wait for; systemd's own default is shorter than it need be here.
    drop_in("watchdog", "[Service]\nWatchdogSec=4\n")
    run("systemctl", "stop", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service")
    run("systemctl", "enable", UNIT)
    assert os.path.islink(f"/etc/systemd/system/multi-user.target.wants/{UNIT}")
    run("systemctl", "start", "--no-block", UNIT)
    until(10, "the agent's process", lambda: main_pid() and show("SubState") == "start")
    time.sleep(3)
    assert show("ActiveState") == "activating"
    run("systemctl", "start", "libvirtd.socket")
    until(60, "readiness", active)
    assert show("StatusText") == "running" and show("NRestarts") == "0"
    assert agent("node")


@check
def is_hardened():
    """The process has the limits that the unit asks for."""
    of = status(main_pid())
    assert of["NoNewPrivs"] == "1" and of["Seccomp"] == "2", of
    # chown, dac_override, dac_read_search, fowner, fsetid, kill, setgid, setuid, net_admin, sys_admin
    allowed = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7, 12, 21))
    assert int(of["CapBnd"], 16) & ~allowed == 0, of["CapBnd"]
    assert os.readlink(f"/proc/{main_pid()}/ns/mnt") == os.readlink("/proc/1/ns/mnt"), "it has mounts of its own"


@check
def boots_a_guest():
    """The hardening lets qemu-img, genisoimage and libvirt work; the guest is in no control group of the agent's."""
    agent("boot", "first", "--image", IMAGE, "--memory", "128", "--disk", "1", "--network", "user", "--config-drive")
    until(120, "the guest's marker", lambda: "HYPERNOVA-GUEST booted" in run("hypernova", "console", "first"))
    (shown,) = agent("list")
    assert shown["vm_state"] == "active", shown
    directory = f"/var/lib/nova/instances/{shown['uuid']}"
    assert json.loads(run("qemu-img", "info", "-U", "--output=json", f"{directory}/disk"))["backing-filename"]
    assert os.path.getsize(f"{directory}/disk.config") > 0
    with open(f"/proc/{guest()}/cgroup") as file:
        assert UNIT not in file.read()
    assert os.stat(f"/proc/{guest()}").st_uid != 0, "QEMU runs as root"


@check
def journald_has_the_fields():
    """An entry of a workflow's step says whose it is and how it went, in fields of its own."""
    (shown,) = agent("list")
    run("journalctl", "--sync")
    entries = journal(f"INSTANCE_UUID={shown['uuid']}")
    done = [entry for entry in entries if entry["MESSAGE"].startswith("step done ")]
    assert done, [entry["MESSAGE"] for entry in entries]
    for entry in done:
        assert entry["WORKFLOW"] == "spawn" and entry["STEP"] and int(entry["ELAPSED_MS"]) >= 0, entry
        assert entry["REQUEST_ID"].startswith("req-"), entry
        assert entry["SYSLOG_IDENTIFIER"] == "hypernova" and entry["_SYSTEMD_UNIT"] == UNIT, entry
        assert entry["PRIORITY"] == "6", entry
        # What `journalctl` shows without being asked for fields.
        assert f"step={entry['STEP']}" in entry["MESSAGE"] and shown["uuid"] in entry["MESSAGE"], entry
    steps = [entry["STEP"] for entry in done]
    assert len(steps) == len(set(steps)) > 3, steps


@check
def a_reload_changes_the_level():
    """`systemctl reload` takes over [DEFAULT] debug, both ways, and a configuration that is wrong changes nothing."""
    def debug_entries(since):
        agent("node")
        run("journalctl", "--sync")
        return [entry for entry in journal("--after-cursor", since) if entry["PRIORITY"] == "7"]

    pid, since = main_pid(), cursor()
    assert not debug_entries(since)
    configure(debug=True)
    run("systemctl", "reload", UNIT)
    until(10, "debug entries", lambda: debug_entries(since))
    with open(CONF, "a") as file:
        file.write("this is no configuration\n")
    since = cursor()
    run("systemctl", "reload", UNIT)
    until(10, "a complaint", lambda: [e for e in journal("--after-cursor", since) if e["PRIORITY"] == "3"])
    assert active() and debug_entries(since)
    configure(debug=False)
    run("systemctl", "reload", UNIT)
    time.sleep(1)
    since = cursor()
    assert not debug_entries(since)
    until(10, "an active unit", active)
    assert main_pid() == pid


@check
def members_of_the_group_use_the_socket():
    """With socket_group the group that sysusers makes may use the socket; nobody else may."""
    run("useradd", "--system", "--no-create-home", "--groups", "hypernova", "operator-test")
    run("useradd", "--system", "--no-create-home", "stranger-test")

    def list_as(user, **how):
        return run("setpriv", "--reuid", user, "--regid", user, "--init-groups", "hypernova", "list", **how)

    assert "first" in list_as("operator-test")
    assert "ermission" in list_as("stranger-test", fails=True)


@check
def the_watchdog_is_fed():
    """Signs of life come twice in the interval; an agent that stops giving them is restarted, and its guest runs on."""
    assert show("WatchdogUSec") == "4s"
    signs = set()
    end = time.monotonic() + 7
    while time.monotonic() < end:
        signs.add(show("WatchdogTimestampMonotonic"))
        time.sleep(0.2)
    assert len(signs) >= 3, signs
    pid, machine, since = main_pid(), guest(), cursor()
    os.kill(pid, signal.SIGSTOP)
    until(30, "a restart", lambda: restarted(pid))
    assert show("NRestarts") == "1"
    told = [entry["MESSAGE"] for entry in journal("--after-cursor", since)]
    assert any("atchdog" in message for message in told), told
    assert guest() == machine
    assert agent("list")[0]["vm_state"] == "active"


@check
def is_restarted_after_a_crash():
    """A killed agent comes back, and its guest doesn't notice."""
    pid, machine = main_pid(), guest()
    os.kill(pid, signal.SIGKILL)
    until(30, "a restart", lambda: restarted(pid))
    assert show("NRestarts") == "2" and guest() == machine


@check
def a_stop_leaves_the_guests():
    """`systemctl stop` ends in time and well, with the guest running; after a start the agent knows it again."""
    machine, started = guest(), time.monotonic()
    run("systemctl", "stop", UNIT)
    assert time.monotonic() - started < 20 * PATIENCE
    assert show("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"]
    assert not os.path.exists("/run/hypernova/hypernova.sock") and os.path.isdir("/run/hypernova")
    assert guest() == machine
    run("systemctl", "start", UNIT)
    assert active(), "start returned before the unit was active"
    (shown,) = agent("list")
    assert shown["vm_state"] == "active" and guest() == machine


@check
def survives_libvirts_restart():
    """systemd restarts libvirtd under the agent: no restart of the agent, and the guest is seen on."""
    pid = main_pid()
    run("systemctl", "restart", "libvirtd.service")
    run("hypernova", "pause", "first")
    run("hypernova", "unpause", "first")
    assert main_pid() == pid and active()


@check
def a_wrong_configuration_is_told():
    """A start that can't succeed fails with the reason in the journal."""
    run("systemctl", "stop", UNIT)
    with open(CONF, "a") as file:
        file.write("[libvirt]\nvirt_type = abacus\n")
    since = cursor()
    run("systemctl", "start", UNIT, fails=True)
    until(10, "the reason", lambda: [e for e in journal("--after-cursor", since) if "virt_type" in str(e["MESSAGE"])])
    run("systemctl", "stop", UNIT)
    run("systemctl", "reset-failed", UNIT)
    configure()
    run("systemctl", "start", UNIT)


@check
def a_delete_leaves_nothing():
    run("hypernova", "delete", "first")
    assert not processes("qemu-system-x86_64") and not agent("list")
    left = [name for name in os.listdir("/var/lib/nova/instances") if name not in ("_base", "locks", "compute_nodes")]
    assert not left, left
    run("systemctl", "stop", UNIT)


def main():
    wanted = sys.argv[1:]
    passed = failed = 0
    for function in CHECKS:
        if wanted and function.__name__ not in wanted:
            continue
        started = time.monotonic()
        try:
            function()
        except Exception:
            failed += 1
            print(f"FAIL {function.__name__} ({time.monotonic() - started:.1f} s)")
            print("     " + "     ".join(traceback.format_exc().splitlines(keepends=True)[-14:]))
            tail = run("journalctl", "-q", "-n", "20", "--no-pager", "-u", UNIT)
            print("     | " + "     | ".join(tail.splitlines(keepends=True)), flush=True)
        else:
            passed += 1
            print(f"ok   {function.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
