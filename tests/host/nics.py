"""Network interfaces that come to guests and go from them.

Scenarios of host_test.py. The guest's shell is on a serial console over TCP: it says which interfaces it has, and which
address the network gave them.
"""
import json
import re
import subprocess
import time

from disks import agent_with, shell
from nova_client import Guest, error_name
from scenarios import scenario


def attach(world, guest, *options):
    return json.loads(world.hypernova("interface", "attach", guest.uuid, *options, "--json", timeout=120))


def detach(world, guest, name):
    return json.loads(world.hypernova("interface", "detach", guest.uuid, name, "--json", timeout=300))


def addresses(world, guest, inactive=False):
    """MAC addresses of the domain's interfaces."""
    text = world.virsh("domiflist", guest.uuid, *(["--inactive"] if inactive else []))
    return sorted(re.findall(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", text))


def wait_nic(world, guest, mac, there=True):
    def look():
        return (mac in shell(world, guest, "cat /sys/class/net/*/address").split()) == there
    world.wait(look, 30, lambda: f"{mac} in the guest isn't {there}", interval=0.5)


def described(world, guest):
    """Ports that the metadata of the running domain and of its definition name."""
    both = [world.virsh("dumpxml", guest.uuid, *options) for options in ([], ["--inactive"])]
    return [re.findall(r"<nova:port uuid=['\"]([0-9a-f-]+)", text) for text in both]


def running(world, name):
    guest = Guest(world, name).build(world.file_image(), network="user")
    guest.wait_boot(1)
    guest.wait_state("active")
    return guest


def settled(world):
    world.wait(lambda: not json.loads(world.hypernova("workflows", "--json")), 60, lambda: world.hypernova("workflows"))


@scenario(300)
def an_interface_comes_and_goes(world):
    """Attached while the guest runs, with an address by DHCP; detached; attached again; there after a hard reboot, and gone
    after a detach while the guest is off."""
    with agent_with(world):
        guest = running(world, "nics")
        first = addresses(world, guest)
        assert len(first) == 1, first
        given = attach(world, guest, "user")
        mac, port = given["mac_address"], given["port_id"]
        assert mac not in first and given["network"] == "user", given
        wait_nic(world, guest, mac)
        for inactive in (False, True):
            assert addresses(world, guest, inactive) == sorted([*first, mac])
        running_ports, defined_ports = described(world, guest)
        assert port in running_ports and running_ports == defined_ports, (running_ports, defined_ports)
        device = shell(world, guest, f"basename $(dirname $(grep -l {mac} /sys/class/net/*/address))")
        world.wait(lambda: "inet 10.0.2." in shell(world, guest, f"ip -4 addr show dev {device}"), 40,
                   lambda: "no address by DHCP", interval=1)

        detach(world, guest, mac)
        wait_nic(world, guest, mac, there=False)
        for inactive in (False, True):
            assert addresses(world, guest, inactive) == first
        assert all(port not in ports for ports in described(world, guest))

        # The same place is given again: the same port.
        assert attach(world, guest, "user")["port_id"] == port
        wait_nic(world, guest, mac)
        guest.reboot("HARD")
        guest.wait_boot(2)
        wait_nic(world, guest, mac)
        assert addresses(world, guest) == sorted([*first, mac])

        guest.stop()
        guest.wait_state("stopped")
        detach(world, guest, port)
        assert addresses(world, guest, inactive=True) == first
        third = attach(world, guest, "user", "--tag", "data")["mac_address"]
        assert addresses(world, guest, inactive=True) == sorted([*first, third])
        guest.start()
        guest.wait_boot(3)
        wait_nic(world, guest, third)

        try:
            world.nova.call("attach_interface", instance=guest.instance(), network_id="nonsense", port_id=None, requested_ip=None, tag=None)
        except Exception as error:
            assert error_name(error) == "InvalidInput", error_name(error)
        else:
            raise AssertionError("a network that there can't be")
        assert addresses(world, guest) == addresses(world, guest, True) == sorted([*first, third])
        guest.delete()


def port_deleted(world, guest, port):
    """What nova-api sends when neutron says that a port was deleted."""
    event = {"instance_uuid": guest.uuid, "name": "network-vif-deleted", "status": "completed", "tag": port}
    world.nova.cast("external_instance_event", instances=[guest.instance()], events=[{
        "nova_object.name": "InstanceExternalEvent", "nova_object.namespace": "nova", "nova_object.version": "1.5",
        "nova_object.data": event}])


@scenario(300)
def an_interface_whose_port_is_deleted(world):
    """The guest loses it, its definition and the record too; another's port, and what is no port, are no matter."""
    with agent_with(world):
        guest = running(world, "portless")
        first = addresses(world, guest)
        given = attach(world, guest, "user")
        mac, port = given["mac_address"], given["port_id"]
        wait_nic(world, guest, mac)
        for name in ("00000000-0000-0000-0000-000000000001", "<no port>", port, port):
            port_deleted(world, guest, name)
        wait_nic(world, guest, mac, there=False)

        def gone():
            left = (addresses(world, guest), addresses(world, guest, True))
            return left == (first, first) and not any(port in ports for ports in described(world, guest))
        world.wait(gone, 30, lambda: "it isn't gone everywhere", interval=0.5)
        assert attach(world, guest, "user")["port_id"] == port, "the record doesn't follow"
        guest.delete()


@scenario(300)
def a_guest_that_keeps_its_interface(world):
    """A stopped processor lets go of nothing: the detach is pending, is taken up by the next agent after kill -9, and ends
    when the guest goes on."""
    with agent_with(world):
        guest = running(world, "keeps")
        mac = attach(world, guest, "user")["mac_address"]
        wait_nic(world, guest, mac)
        world.virsh("suspend", guest.uuid)
        asking = subprocess.Popen([world.binary, "--socket", world.socket, "interface", "detach", guest.uuid, mac],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        world.wait(lambda: mac not in addresses(world, guest, True), 20, lambda: "the detach doesn't begin")
        assert mac in addresses(world, guest)
        world.kill_agent()
        asking.wait(60)
        world.virsh("resume", guest.uuid)
        world.start_agent()
        world.wait(lambda: mac not in addresses(world, guest), 60, lambda: "the pending detach isn't taken up")
        settled(world)
        wait_nic(world, guest, mac, there=False)
        guest.delete()


@scenario(500)
def killed_while_interfaces_come_and_go(world):
    """kill -9 at many moments of attaches and detaches: each is taken up, and ends attached or detached in every respect."""
    with agent_with(world):
        guest = running(world, "killed-nics")
        first = addresses(world, guest)
        mac = None
        for number in range(6):
            delay = 0.02 + 0.05 * number
            for command, name in (("attach", "user"), ("detach", None)):
                process = subprocess.Popen([world.binary, "--socket", world.socket, "interface", command, guest.uuid, name or mac],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(delay)
                world.kill_agent()
                process.wait(60)
                world.start_agent()
                settled(world)
                live, defined = (addresses(world, guest, inactive) for inactive in (False, True))
                assert live == defined, (number, command, live, defined)
                # It may have died before it knew of it: then the command is given again.
                if command == "attach" and live == first:
                    attach(world, guest, "user")
                if command == "detach" and live != first:
                    detach(world, guest, mac)
                live = addresses(world, guest)
                assert (len(live) == 2) == (command == "attach"), (number, command, live)
                mac = next((one for one in live if one not in first), mac)
        assert [len(ports) for ports in described(world, guest)] == [1, 1]
        guest.delete()
