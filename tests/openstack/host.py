"""A compute host: mount, network and UTS namespaces of its own, with Open vSwitch, ovn-controller and libvirt."""
import os
import re
import subprocess
import uuid

from plane import CONTROLLER, ROOT, Failed, run, until

HOSTS = {"compute1": "10.66.0.11", "compute2": "10.66.0.12"}

LIBVIRTD = """
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
host_uuid = "{uuid}"
log_level = 3
max_clients = 200
"""

# No security labels and no cgroup controllers: a container has neither.
QEMU = """
user = "root"
group = "root"
dynamic_ownership = 1
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "logd"
vnc_listen = "{address}"
"""

# What the host's programs see at their usual paths is the host's own; /sys too, which shows the network namespace it was
# mounted in. The process stays, and holds the namespaces open.
ANCHOR = """
set -e
hostname "$2"
cp -r /etc/libvirt/. "$1/etc-libvirt"
cp "$1/libvirtd.conf" "$1/qemu.conf" "$1/etc-libvirt"
rm -rf "$1/etc-libvirt/qemu/networks/autostart"
exec 6</run/plane 7</run/suite
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/plane /run/suite /run/lock /run/openvswitch /run/ovn
mount --no-canonicalize --rbind /proc/self/fd/6 /run/plane
mount --no-canonicalize --rbind /proc/self/fd/7 /run/suite
exec 6<&- 7<&-
mount --bind "$1/etc-libvirt" /etc/libvirt
mount --bind "$1/etc-hosts" /etc/hosts
mount --bind "$1/log" /var/log
mount --bind "$1/lib" /var/lib
mount -t tmpfs tmpfs /var/cache
mount -t sysfs sysfs /sys
touch "$1/ready"
exec sleep infinity
"""


class Host:
    def __init__(self, daemons, name):
        self.daemons = daemons
        self.name = name
        self.address = HOSTS[name]
        self.directory = f"{ROOT}/hosts/{name}"
        # What the host has at /var/lib, seen from outside.
        self.lib = f"{self.directory}/lib"
        self.instances = f"{self.lib}/nova/instances"

    def enter(self):
        return "nsenter", "--target", str(self.daemons.pid(f"{self.name}-anchor")), "--mount", "--net", "--uts", "--wd=/", "--"

    def run(self, *command):
        return run(*self.enter(), *command)

    def start(self, name, *command, env=None):
        """Starts a daemon on the host; it is known as HOST-NAME."""
        return self.daemons.start(f"{self.name}-{name}", *self.enter(), *command, env=env)

    def virsh(self, *arguments):
        return self.run("virsh", "-q", "-c", "qemu:///system", *arguments)

    def domains(self):
        return self.virsh("list", "--all", "--name").split()

    def up(self):
        self.namespaces()
        self.switch()
        self.libvirt()

    def namespaces(self):
        for part in ("etc-libvirt", "log/libvirt/qemu", "log/openvswitch", "log/ovn", "lib/libvirt", "lib/openvswitch",
                     "lib/nova/instances", "lib/nova/lock"):
            os.makedirs(f"{self.directory}/{part}", exist_ok=True)
        for name, text in (("libvirtd.conf", LIBVIRTD), ("qemu.conf", QEMU)):
            with open(f"{self.directory}/{name}", "w") as file:
                file.write(text.format(uuid=uuid.uuid4(), address=self.address))
        with open(f"{self.directory}/etc-hosts", "w") as file:
            file.write(f"127.0.0.1 localhost\n{CONTROLLER} controller\n")
            file.writelines(f"{address} {name}\n" for name, address in HOSTS.items())
        anchor = self.daemons.start(f"{self.name}-anchor", "unshare", "--mount", "--net", "--uts", "--propagation", "private",
                                    "bash", "-c", ANCHOR, "anchor", self.directory, self.name)
        self.daemons.wait(f"{self.name}-anchor", 10, lambda: os.path.exists(f"{self.directory}/ready"))
        run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", str(anchor.pid))
        run("ip", "link", "set", self.name, "master", "plane", "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def switch(self):
        """Open vSwitch with the userspace datapath, which needs no kernel module, and OVN's agent on it."""
        database = "/var/lib/openvswitch/conf.db"
        self.run("ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema")
        self.start("ovsdb", "ovsdb-server", "--remote=punix:/run/openvswitch/db.sock",
                   "--remote=db:Open_vSwitch,Open_vSwitch,manager_options", "--unixctl=/run/openvswitch/ovsdb.ctl", database)
        until(10, "ovsdb", lambda: self.run("ovs-vsctl", "--no-wait", "--timeout=2", "init") == "")
        ids = {"system-id": self.name, "hostname": self.name, "ovn-remote": f"tcp:{CONTROLLER}:6642",
               "ovn-encap-type": "geneve", "ovn-encap-ip": self.address, "ovn-bridge-datapath-type": "netdev",
               "ovn-monitor-all": "false"}
        # os-vif speaks to OVSDB over TCP.
        self.run("ovs-vsctl", "--no-wait", "set-manager", "ptcp:6640:127.0.0.1", "--", "set", "open", ".",
                 *(f"external-ids:{key}={value}" for key, value in ids.items()))
        self.start("vswitchd", "ovs-vswitchd", "unix:/run/openvswitch/db.sock", "--unixctl=/run/openvswitch/vswitchd.ctl",
                   "--pidfile=/run/openvswitch/ovs-vswitchd.pid")
        self.run("ovs-vsctl", "--timeout=20", "--may-exist", "add-br", "br-int", "--",
                 "set", "bridge", "br-int", "datapath_type=netdev", "fail-mode=secure")
        self.start("ovn-controller", "ovn-controller", "unix:/run/openvswitch/db.sock")

    def libvirt(self):
        self.start("virtlogd", "virtlogd")
        until(10, "virtlogd", lambda: self.run("test", "-S", "/run/libvirt/virtlogd-sock") == "")
        self.start("libvirtd", "libvirtd")
        until(20, "libvirtd", lambda: self.virsh("version"))

    def ports(self):
        """The interfaces that guests have on the integration bridge."""
        return [port for port in self.run("ovs-vsctl", "list-ports", "br-int").split() if re.match("tap|vhu", port)]

    def type(self, domain, text):
        """Types a line on the serial console of a guest."""
        match = re.search(r"<console type='pty' tty='([^']+)'", self.virsh("dumpxml", domain))
        if not match:
            raise Failed(f"{domain} has no pty")
        # QEMU reads its pty only while somebody has it open.
        subprocess.run([*self.enter(), "sh", "-c", 'exec 3<>"$0"; sleep 1; printf "\\n%s\\n" "$1" >&3; sleep 1', match[1], text],
                       check=True)
