"""Interfaces that come to servers, and go: by network, by port, by address; and addresses of ports."""
import uuid

from cloud import Answered
from plane import Failed, until
from world import scenario

NOBODY = str(uuid.UUID(int=1))


def attach(world, server, name, **wanted):
    """Attaches an interface, learns its port's name, and waits until nova shows it."""
    answer = world.cloud.compute.post(f"/servers/{server.id}/os-interface", {"interfaceAttachment": wanted})
    port = answer["interfaceAttachment"]["port_id"]
    world.names.learn(port, name)
    return port


def detach(world, server, port):
    world.cloud.compute.delete(f"/servers/{server.id}/os-interface/{port}")

    def gone():
        shown = world.cloud.compute.get(f"/servers/{server.id}/os-interface")["interfaceAttachments"]
        return port not in {one["port_id"] for one in shown}
    until(60, "the interface to go", gone)


def recorded(world, server, count):
    """Waits until nova's own record shows so many addresses."""
    def shown():
        return sum(map(len, world.cloud.server(server.id)["addresses"].values())) == count
    until(30, f"{count} addresses on record", shown)


def refused(world, server, step, **wanted):
    """Asks for an interface that there can't be, and notes what the user is told, and what there is then."""
    try:
        world.cloud.compute.post(f"/servers/{server.id}/os-interface", {"interfaceAttachment": wanted})
    except Answered as answer:
        world.note_value(f"{step}: answer", {"status": answer.status, "body": str(answer).partition("os-interface: ")[2]})
    else:
        raise Failed(f"{wanted} is given an interface")
    world.note(step)


def events(world, server, name):
    """Events of that name among the server's actions that have ended."""
    base = f"/servers/{server.id}/os-instance-actions"
    actions = world.cloud.compute.get(base)["instanceActions"]
    found = [world.cloud.compute.get(f"{base}/{one['request_id']}")["instanceAction"]["events"] for one in actions]
    return [event for action in found for event in action if event["event"] == name and event["finish_time"]]


@scenario
def interface_by_network(world):
    """An interface on a network comes to a running server, which sees it and gets its address; and goes again."""
    server = world.running()
    port = attach(world, server, "second port", net_id=world.cloud.network_id())
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    recorded(world, server, 2)
    world.note("attached")
    detach(world, server, port)
    server.wait_console("HYPERNOVA-GUEST nic-gone dev=eth1")
    recorded(world, server, 1)
    world.note("detached")


@scenario
def interface_by_port(world):
    """The user's port comes to a running server, and is there, unbound, when it has gone."""
    network = world.cloud.network
    mine = network.post("/v2.0/ports", {"port": {"network_id": world.cloud.network_id(), "name": "mine"}})["port"]["id"]
    world.names.learn(mine, "my port")
    try:
        server = world.running()
        attach(world, server, "my port", port_id=mine)
        server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
        recorded(world, server, 2)
        world.note("attached")
        detach(world, server, mine)
        server.wait_console("HYPERNOVA-GUEST nic-gone dev=eth1")

        def unbound():
            found = network.get(f"/v2.0/ports/{mine}")["port"]
            return found if not found["device_id"] and found["status"] == "DOWN" else None
        until(15, "the port to be unbound", unbound)
        recorded(world, server, 1)
        world.note("detached")
    finally:
        network.delete(f"/v2.0/ports/{mine}")


@scenario
def interface_by_address(world):
    """The address is the user's choice."""
    server = world.running()
    attach(world, server, "second port", net_id=world.cloud.network_id(), fixed_ips=[{"ip_address": "10.77.0.200"}])
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    recorded(world, server, 2)
    shown = {one["addr"] for all_ in world.cloud.server(server.id)["addresses"].values() for one in all_}
    world.check([] if "10.77.0.200" in shown else [f"the addresses are {shown}"])
    world.note("attached")


@scenario
def interface_of_a_paused_server(world):
    """It comes while the guest stands still, which finds it when it goes on; it outlives a hard reboot."""
    server = world.running()
    server.act("pause")
    server.wait("PAUSED")
    world.begin_here()
    attach(world, server, "second port", net_id=world.cloud.network_id())
    recorded(world, server, 2)
    world.note("attached")
    server.act("unpause")
    server.wait()
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    world.begin_here()
    server.act("reboot", {"type": "HARD"})
    server.wait()
    server.wait_boot(2)
    server.wait_console(r"boot=2 [^$]*HYPERNOVA-GUEST nic dev=eth1")
    world.note("rebooted")


@scenario
def delete_with_interfaces(world):
    """A server goes with the interface that it was given later; the user's port stays, unbound."""
    network = world.cloud.network
    mine = network.post("/v2.0/ports", {"port": {"network_id": world.cloud.network_id(), "name": "mine"}})["port"]["id"]
    world.names.learn(mine, "my port")
    try:
        server = world.running()
        attach(world, server, "second port", net_id=world.cloud.network_id())
        attach(world, server, "my port", port_id=mine)
        recorded(world, server, 3)
        world.begin_here()
        server.delete()
        world.deleted(server)
        world.note("deleted")
        left = network.get(f"/v2.0/ports/{mine}")["port"]
        world.check([] if not left["device_id"] else [f"the user's port is still {left['device_id']}'s"])
    finally:
        network.delete(f"/v2.0/ports/{mine}")


@scenario
def port_deleted_under_its_server(world):
    """neutron says that a port is gone: the guest loses the interface, and the record follows."""
    server = world.running()
    port = attach(world, server, "second port", net_id=world.cloud.network_id())
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    recorded(world, server, 2)
    world.begin_here()
    world.cloud.network.delete(f"/v2.0/ports/{port}")
    server.wait_console("HYPERNOVA-GUEST nic-gone dev=eth1")
    recorded(world, server, 1)
    host = server.host()
    until(20, "its definition to be without it", lambda: host.virsh("domiflist", server.id, "--inactive").count("tap") == 1)
    world.note("gone")


@scenario
def interfaces_that_there_cannot_be(world):
    """Refused, each in nova's words, and nothing is left of them."""
    server = world.running()
    network = world.cloud.network_id()
    taken = next(one["addr"] for all_ in world.cloud.server(server.id)["addresses"].values() for one in all_)
    refused(world, server, "no such network", net_id=NOBODY)
    refused(world, server, "no such port", port_id=NOBODY)
    refused(world, server, "a port that it has", port_id=world.cloud.network.get(
        "/v2.0/ports", params={"device_id": server.id})["ports"][0]["id"])
    refused(world, server, "an address that it has", net_id=network, fixed_ips=[{"ip_address": taken}])
    refused(world, server, "an address of another network", net_id=network, fixed_ips=[{"ip_address": "192.0.2.7"}])


@scenario
def detach_of_a_port_that_it_has_not(world):
    """The API takes the request, and its event tells."""
    server = world.running()
    world.cloud.compute.delete(f"/servers/{server.id}/os-interface/{NOBODY}")
    until(30, "the detach to end", lambda: events(world, server, "compute_detach_interface"))
    world.note("refused")


@scenario(proxied=True)
def interface_without_neutron(world):
    """neutron answers 500 to the port's creation: the server stays as it is."""
    server = world.running()
    world.proxy.fault("neutron", method="POST", path="/v2.0/ports", status=500, body="oops")
    refused(world, server, "failed", net_id=world.cloud.network_id())


@scenario(proxied=True)
def detach_without_neutron(world):
    """neutron answers 500 to the port's deletion: the detach fails, and done again it ends."""
    server = world.running()
    port = attach(world, server, "second port", net_id=world.cloud.network_id())
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    recorded(world, server, 2)
    fault = world.proxy.fault("neutron", method="DELETE", path="/v2.0/ports", status=500, body="oops")
    world.cloud.compute.delete(f"/servers/{server.id}/os-interface/{port}")
    server.wait_console("HYPERNOVA-GUEST nic-gone dev=eth1")
    until(30, "neutron to be asked", lambda: fault.hit)
    # How often it is asked is an agent's own affair, and so is whether a detach is given up.
    world.begin_here()
    world.proxy.heal()
    ended = until(90, "the detach to end", lambda: events(world, server, "compute_detach_interface"))
    if ended[0]["result"] == "Error":
        detach(world, server, port)
    recorded(world, server, 1)
    world.begin_here()


@scenario
def interface_of_a_stopped_server(world):
    """It comes while the server is off, is there at its start, and goes while it is off again."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    port = attach(world, server, "second port", net_id=world.cloud.network_id(), tag="data")
    recorded(world, server, 2)
    world.note("attached")
    server.act("os-start")
    server.wait()
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    detach(world, server, port)
    recorded(world, server, 1)
    world.note("detached")


@scenario
def more_addresses(world):
    """An address more on the port that the server has, and one less."""
    server = world.running()
    before = {one["addr"] for all_ in world.cloud.server(server.id)["addresses"].values() for one in all_}
    old = {"microversion": "2.43"}
    server.act("addFixedIp", {"networkId": world.cloud.network_id()}, **old)
    recorded(world, server, 2)
    world.note("added")
    now = {one["addr"] for all_ in world.cloud.server(server.id)["addresses"].values() for one in all_}
    [new] = now - before
    server.act("removeFixedIp", {"address": new}, **old)
    recorded(world, server, 1)
    world.note("removed")
    # nova knows no action of this request: the notification that it begins is all that is told of it.
    server.act("removeFixedIp", {"address": "10.77.0.250"}, **old)

    def begun():
        heard = world.notifications.about({server.id})
        return sum(one["event"] == "compute.instance.delete_ip.start" for one in heard) == 2
    until(30, "the request to be taken", begun)
    world.notifications.quiet()
    world.note("an address that it has not")
