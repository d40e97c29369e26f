#!/usr/bin/env python3
"""Boots the guest image with QEMU alone, without libvirt and without the agent, and holds it to what
tests/guest/init promises.  usage: boot_test.py DIR [--kvm]

A guest that doesn't do what the tests take for granted would make the agent look broken.
"""
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

GUEST = os.path.abspath(sys.argv[1])
USER_DATA = b"#!/bin/sh\n"
UUID = "5f0c0d2e-9a53-4a5b-b2ad-6a1e2f6f5d11"
# How many times as long as said everything may take, as on a slow or busy machine.
PATIENCE = max(1.0, float(os.environ.get("PATIENCE") or 1))
ACCEL = "kvm" if "--kvm" in sys.argv else "tcg"


class Machine:
    """A QEMU process with its serial console on our pipe and its monitor on a socket."""

    def __init__(self, work, *arguments):
        self.monitor = os.path.join(work, "monitor")
        self.started = time.monotonic()
        self.text = ""
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", ACCEL, "-machine", "pc", "-m", "128", "-display", "none", "-no-user-config",
             "-serial", "stdio", "-uuid", UUID, "-monitor", f"unix:{self.monitor},server=on,wait=off", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while chunk := os.read(self.process.stdout.fileno(), 4096):
            self.text += chunk.decode("ascii", "replace")

    def wait_for(self, pattern, timeout=60):
        """The match, and the seconds since the process started."""
        end = time.monotonic() + timeout * PATIENCE
        while time.monotonic() < end:
            if found := re.search(pattern, self.text):
                return found, time.monotonic() - self.started
            if self.process.poll() is not None and not re.search(pattern, self.text):
                break
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"{pattern!r} did not come; the console says:\n{self.text[-3000:]}")

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def command(self, line):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.monitor)
            connection.recv(4096)
            connection.sendall(line.encode() + b"\n")
            time.sleep(0.2)

    def power_button(self):
        """Seconds from the ACPI button to the end of the process."""
        pressed = time.monotonic()
        self.command("system_powerdown")
        self.wait_for(r"HYPERNOVA-GUEST power-button", 20)
        if self.process.wait(20 * PATIENCE):
            raise AssertionError("QEMU failed")
        return time.monotonic() - pressed


def config_drive(work):
    """An ISO in nova's layout."""
    latest = os.path.join(work, "drive", "openstack", "latest")
    os.makedirs(latest)
    with open(os.path.join(latest, "meta_data.json"), "w") as file:
        file.write('{"uuid": "0b6a5a3e-58f8-4e1c-8f0d-6f27d5b7a001", "hostname": "from-drive", '
                   '"public_keys": {"k": "ssh-ed25519 AAAA x"}, "keys": [{"name": "k", "data": "ssh-ed25519 AAAA x"}]}')
    with open(os.path.join(latest, "user_data"), "wb") as file:
        file.write(USER_DATA)
    iso = os.path.join(work, "disk.config")
    subprocess.run(["genisoimage", "-quiet", "-o", iso, "-ldots", "-allow-lowercase", "-allow-multidot", "-l", "-V", "config-2",
                    "-r", "-J", os.path.join(work, "drive")], check=True)
    return iso


def main():
    work = tempfile.mkdtemp(prefix="hypernova-guest.")
    machines = []

    def machine(*arguments):
        machines.append(Machine(work, *arguments))
        return machines[-1]

    try:
        disk = os.path.join(work, "disk.qcow2")
        shutil.copy(os.path.join(GUEST, "guest.qcow2"), disk)
        drive = ["-drive", f"file={disk},if=virtio,cache=unsafe"]

        first = machine(*drive, "-nic", "user,model=virtio-net-pci", "-device", "virtio-rng-pci")
        booted, seconds = first.wait_for(rf"HYPERNOVA-GUEST booted boot=1 uptime=(\S+) root=/dev/vda2 own=(\S+) kernel=\S+ uuid={UUID}")
        own = booted[2]
        print(f"{ACCEL}: to the marker {seconds:.2f} s, of them kernel and init {booted[1]} s")
        first.wait_for(r"HYPERNOVA-GUEST no-config-drive")
        first.wait_for(r"HYPERNOVA-GUEST dhcp dev=eth0 .*ip=10\.0\.2\.")
        first.wait_for(r"HYPERNOVA-GUEST heartbeat boot=1 count=2")
        first.type("echo typed-$((6 * 7))")
        first.wait_for("typed-42")
        print(f"power button to power off {first.power_button():.2f} s")

        second = machine(*drive, "-cdrom", config_drive(work))
        second.wait_for(rf"HYPERNOVA-GUEST booted boot=2 .* own={own}")
        second.wait_for(r"config-drive dev=/dev/sr0 uuid=0b6a5a3e-58f8-4e1c-8f0d-6f27d5b7a001 hostname=from-drive "
                        rf"user_data={hashlib.sha256(USER_DATA).hexdigest()} keys=2")
        beat, _ = second.wait_for(r"heartbeat boot=2 count=(\d+)")
        assert int(beat[1]) >= 3, "the heartbeat began anew"
        second.process.kill()
        second.process.wait()

        rootfs = os.path.join(work, "rootfs.img")
        shutil.copy(os.path.join(GUEST, "rootfs.img"), rootfs)
        direct = machine("-drive", f"file={rootfs},if=virtio,format=raw,cache=unsafe", "-kernel", f"{GUEST}/vmlinuz",
                         "-initrd", f"{GUEST}/initrd", "-append", "root=/dev/vda console=tty0 console=ttyS0 no_timer_check")
        _, seconds = direct.wait_for(r"HYPERNOVA-GUEST booted boot=1 .* root=/dev/vda ")
        print(f"{ACCEL}: kernel and ramdisk given, to the marker {seconds:.2f} s")
        direct.power_button()

        third = machine(*drive)
        third.wait_for(rf"HYPERNOVA-GUEST booted boot=3 .* own={own}")
        third.power_button()
    finally:
        for each in machines:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()
        shutil.rmtree(work)
    print("guest image: passed")


main()
